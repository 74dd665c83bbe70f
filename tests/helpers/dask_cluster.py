"""A real Dask scheduler and real workers, as processes on addresses of this machine alone."""

import contextlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from helpers.paths import ROOT

# Read by each worker: its tasks wait, in the middle, while a file says so.
HOLD = """
import os, time
from pathlib import Path
from mimic_qlora.subjects import nesting, partition

def held(whole, name):
    def wait(*arguments):
        place = Path({folder!r})
        (place / f"{{name}}-{{os.getpid()}}").touch()
        while (place / f"hold-{{name}}").exists():
            time.sleep(0.02)
        return whole(*arguments)
    return wait

nesting._write_bucket = held(nesting._write_bucket, "nest")
partition._read_piece = held(partition._read_piece, "read")
"""


class DaskCluster:
    """A scheduler and its workers; what they print goes to files in `folder`."""

    def __init__(self, folder: Path, certificates: Path | None = None):
        self.folder, self.certificates = folder, certificates
        self.file = folder / "scheduler.json"
        self.running: list[subprocess.Popen] = []
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if certificates:
            self.environment["DASK_CONFIG"] = str(certificates)

    @property
    def options(self) -> list[str]:
        more = ["--certificates", str(self.certificates)] if self.certificates else []
        return ["--scheduler-file", str(self.file), *more]

    def start(self, *command: str, path: Path = ROOT, file_bytes: int | None = None):
        """Start `dask COMMAND`, which may write files of so many bytes at most."""

        def limit():
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        log = open(self.folder / f"{len(self.running)}.log", "w")
        with log:
            one = subprocess.Popen(
                [str(Path(sys.executable).with_name("dask")), *command]
                + ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self.file)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**self.environment, "PYTHONPATH": str(path)},
                preexec_fn=limit,
            )
        self.running.append(one)
        return one

    def scheduler(self, port: int = 0):
        self.file.unlink(missing_ok=True)
        one = self.start("scheduler", "--host", "127.0.0.1", "--port", str(port))
        wait_until(self.file.exists, one)
        return one

    def worker(self, host: str = "127.0.0.1", **options):
        """A worker of its own host; it ends when the scheduler is gone."""
        hold = self.folder / "hold.py"
        hold.write_text(HOLD.format(folder=str(self.folder)))
        command = ["worker", "--nthreads", "1", "--no-nanny", "--host", host]
        command += ["--preload", str(hold)]
        return self.start(*command, "--local-directory", str(self.folder), **options)

    def joined(self, worker):
        """Wait until a worker is known to the scheduler."""
        log = self.folder / f"{self.running.index(worker)}.log"
        wait_until(lambda: "Registered to" in log.read_text(), worker)

    def hold(self, name: str):
        """Let tasks of a kind (read, nest) wait from now on."""
        for path in self.folder.glob(f"{name}-*"):
            path.unlink()
        (self.folder / f"hold-{name}").touch()

    def wait_for(self, name: str, workers, run):
        """Wait until each worker is within a task of a kind."""
        places = [self.folder / f"{name}-{worker.pid}" for worker in workers]
        wait_until(lambda: all(place.exists() for place in places), run)

    def let_go(self, name: str):
        (self.folder / f"hold-{name}").unlink()

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def stop(self):
        for one in self.running:
            one.kill()
        for one in self.running:
            one.wait()


def wait_until(holds, running, seconds: float = 300):
    """Wait until something holds, while a process runs."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until and running.poll() is None
        time.sleep(0.02)


@contextlib.contextmanager
def dask_cluster(folder: Path, certificates: Path | None = None):
    """A scheduler without workers."""
    folder.mkdir(exist_ok=True)
    cluster = DaskCluster(folder, certificates)
    try:
        cluster.scheduler()
        yield cluster
    finally:
        cluster.stop()
