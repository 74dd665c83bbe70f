"""A real Dask scheduler, real workers and step 1, as processes on addresses of this machine alone.

They are forked from a process that has imported the libraries. A worker may be told to wait in the
middle of its tasks, to write little, to be of another version, or to die.
"""

import contextlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.forking import begin, forked
from helpers.paths import ROOT
from helpers.scripts import load_script
from mimic_qlora.step import command_line
from mimic_qlora.subjects import buckets, conversion, nesting, partition, quality
from mimic_qlora.work import cluster as clusters
from mimic_qlora.work import remote

PRELOADED = [
    "distributed.cli.dask_scheduler",
    "distributed.cli.dask_worker",
    "helpers.dask_cluster",
    conversion.__name__,
]


class Worker(NamedTuple):
    """What is special about a worker."""

    file_bytes: int = -1  # a file may have so many at most
    package: Path | None = None  # its version of this software
    orjson: str = ""  # its version of a library
    dies_at: int = -1  # a bucket


USUAL = Worker()


def run_dask(kind: str, options: list[str], output: Path, keys: Path | None, how: Worker) -> None:
    """Run `dask KIND OPTIONS`."""
    import dask
    from distributed.cli import dask_scheduler, dask_worker

    begin(output)
    if keys:
        dask.config.refresh(paths=[str(keys)])
    for name, module in {"nest": nesting, "read": partition}.items():
        whole = {"nest": "_write_bucket", "read": "_read_piece"}[name]
        setattr(module, whole, held(getattr(module, whole), output.parent, name, how))
    if how.package:
        remote.PACKAGE = how.package
    if how.orjson:
        version = remote.version
        remote.version = lambda name: how.orjson if name == "orjson" else version(name)
    if how.file_bytes >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (how.file_bytes, how.file_bytes))
    main = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[kind]
    main(options, standalone_mode=False)


def held(whole, folder: Path, name: str, how: Worker):
    """Return a task that waits in its beginning while a file says so."""

    def task(number, *arguments):
        (folder / f"{name}-{os.getpid()}").touch()
        while (folder / f"hold-{name}").exists():
            time.sleep(0.02)
        if (name, number) == ("nest", how.dies_at):
            os._exit(9)
        return whole(number, *arguments)

    return task


def run_step_1(options: list[str], output: Path, patience: float) -> None:
    """Run step 1 with small pieces and buckets of two patients, in two levels."""
    begin(output)
    buckets.PATIENTS_PER_BUCKET, buckets.MOST_COARSE = 2, 4
    partition.PIECE_BYTES, partition.MOST_PIECES = 20_000, 10**6
    quality.flags = lambda *_, **__: []
    clusters.PATIENCE_SECONDS, clusters.LATE_SECONDS = patience, 3
    sys.argv = ["convert_to_jsonl.py", *options]
    command_line.run(load_script(ROOT / "convert_to_jsonl.py").main)


class Step1:
    """Step 1 in a process of its own."""

    def __init__(self, mimic: Path, storage: Path, *options, patience: float = 300):
        self.output = storage.with_name(f"{storage.name}-{time.monotonic_ns()}.log")
        words = ["--mimic-dir", mimic, "--storage", storage, *options]
        self.process = forked(
            PRELOADED, run_step_1, [str(word) for word in words], self.output, patience
        )

    def ended(self) -> tuple[int, str]:
        """Wait until it has ended; return its exit code, and what it printed."""
        self.process.join(900)
        return self.process.exitcode, self.output.read_text()


class DaskCluster:
    """A scheduler and its workers; what they print goes to files in `folder`."""

    def __init__(self, folder: Path, certificates: Path | None = None):
        self.folder, self.certificates = folder, certificates
        self.file = folder / "scheduler.json"
        self.running: list[multiprocessing.Process] = []

    @property
    def options(self) -> list[str]:
        more = ["--certificates", str(self.certificates)] if self.certificates else []
        return ["--scheduler-file", str(self.file), *more]

    def start(self, kind: str, *options: str, how: Worker = USUAL):
        """Start `dask KIND`."""
        options = [*options, "--dashboard-address", "127.0.0.1:0", "--scheduler-file"]
        log = self.folder / f"{len(self.running)}.log"
        arguments = kind, [*options, str(self.file)], log, self.certificates, how
        self.running.append(forked(PRELOADED, run_dask, *arguments))
        return self.running[-1]

    def scheduler(self):
        self.file.unlink(missing_ok=True)
        one = self.start("scheduler", "--host", "127.0.0.1", "--port", "0")
        wait_until(self.file.exists, one)
        return one

    def worker(self, host: str = "127.0.0.1", **how):
        """A worker of its own host; it ends when the scheduler is gone."""
        options = ["--nthreads", "1", "--no-nanny", "--host", host]
        options += ["--local-directory", str(self.folder)]
        return self.start("worker", *options, how=Worker(**how))

    def joined(self, *workers):
        """Wait until workers are known to the scheduler."""
        for worker in workers:
            log = self.folder / f"{self.running.index(worker)}.log"
            wait_until(lambda log=log: log.exists() and "Registered to" in log.read_text(), worker)

    def hold(self, name: str):
        """Let tasks of a kind (read, nest) wait from now on."""
        for path in self.folder.glob(f"{name}-*"):
            path.unlink()
        (self.folder / f"hold-{name}").touch()

    def wait_for(self, name: str, workers, run: Step1):
        """Wait until each worker is within a task of a kind."""
        places = [self.folder / f"{name}-{worker.pid}" for worker in workers]
        wait_until(lambda: all(place.exists() for place in places), run.process)

    def let_go(self, name: str):
        (self.folder / f"hold-{name}").unlink()

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def stop(self):
        for one in self.running:
            one.kill()
            one.join()


def wait_until(holds, process, seconds: float = 300):
    """Wait until something holds, while a process runs."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until and process.is_alive()
        time.sleep(0.05)


@contextlib.contextmanager
def dask_cluster(folder: Path, certificates: Path | None = None) -> Iterator[DaskCluster]:
    """A scheduler without workers."""
    folder.mkdir(exist_ok=True)
    cluster = DaskCluster(folder, certificates)
    try:
        cluster.scheduler()
        yield cluster
    finally:
        cluster.stop()
