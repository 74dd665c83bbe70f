"""Faults in the middle of step 1 on a cluster of network namespaces: are rows lost or doubled?

    sudo -E python benchmarks/cluster_faults.py --trials 5 --kills 20

Each trial lets one thing happen at a random moment of a run on some tables of a few synthetic
patients, and says what the command did: finished, or said why not and finished when it was given
again. Says so and ends where network namespaces are not allowed.
"""

import argparse
import contextlib
import gzip
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cluster import sums
from hosts import COMMAND, ROOT, SCHEDULER, Hosts, call, skip_where_not_allowed

TABLES = "patients admissions diagnoses_icd d_icd_diagnoses poe prescriptions".split()
PATIENCE = 15  # seconds without a worker
CONVERT = f"""
import sys
from mimic_qlora.step import command_line
from mimic_qlora.subjects import buckets, partition, quality
from mimic_qlora.work import cluster
buckets.PATIENTS_PER_BUCKET, buckets.MOST_COARSE = 2, 4
partition.PIECE_BYTES, partition.MOST_PIECES = 30_000, 10**6
quality.flags = lambda *_, **__: []
cluster.PATIENCE_SECONDS, cluster.LATE_SECONDS = {PATIENCE}, 3
import convert_to_jsonl
command_line.run(convert_to_jsonl.main)
"""
# read by a worker: it dies at one bucket
POISON = """
import os
from mimic_qlora.subjects import nesting
whole = nesting._write_bucket
def write(bucket, *arguments):
    if bucket == 5:
        os._exit(9)
    return whole(bucket, *arguments)
nesting._write_bucket = write
"""


class Trial(NamedTuple):
    """One run that is disturbed."""

    hosts: Hosts
    run: subprocess.Popen
    store: Path
    draw: random.Random

    def worker(self) -> int:
        return self.draw.choice(self.hosts.workers)


class Fault:
    """Something that happens to a run in its middle; `mend` is what one does about it."""

    def strike(self, trial: Trial) -> None:
        raise NotImplementedError

    def mend(self, trial: Trial) -> None:
        """Do nothing."""


class Kill(Fault):
    """n workers of three are killed, and others start after the run."""

    def __init__(self, n: int):
        self.n = n

    def strike(self, trial):
        self.hosts = trial.draw.sample(trial.hosts.workers, self.n)
        for host in self.hosts:
            trial.hosts.kill(host)

    def mend(self, trial):
        for host in self.hosts:
            trial.hosts.worker(host)


class Cut(Fault):
    """A host's network is cut for a while; a worker that has ended of it starts again."""

    def __init__(self, host: int | None, seconds: float):
        self.host, self.seconds = host, seconds

    def strike(self, trial):
        self.worker = None if self.host else trial.worker()
        host = self.host or self.worker
        trial.hosts.network(host, "down")
        time.sleep(self.seconds)
        trial.hosts.network(host, "up")

    def mend(self, trial):
        for host in trial.hosts.workers:
            if trial.hosts.running[host].poll() is not None:
                trial.hosts.kill(host)
                trial.hosts.worker(host)


class KillScheduler(Fault):
    """The scheduler is killed; it and the workers, which end of it, start again."""

    def strike(self, trial):
        trial.hosts.kill(SCHEDULER)

    def mend(self, trial):
        for host in trial.hosts.workers:
            trial.hosts.kill(host)
        if SCHEDULER not in trial.hosts.running:
            trial.hosts.scheduler()
        for host in trial.hosts.workers:
            trial.hosts.worker(host)


class KillCommand(Fault):
    """The command is killed."""

    def strike(self, trial):
        trial.run.kill()


class Straggler(Fault):
    """A worker stands still until the run has ended."""

    def strike(self, trial):
        self.process = trial.hosts.running[trial.worker()]
        self.process.send_signal(signal.SIGSTOP)

    def mend(self, trial):
        self.process.send_signal(signal.SIGCONT)


class FullHost(Fault):
    """What a worker writes goes to a full disk: a tmpfs of 1 MB, over the run's work folder."""

    def strike(self, trial):
        self.host = trial.worker()
        found = [*trial.store.glob(".subjects.partial/parts/work-*")]
        if not found:  # the run has just ended
            return
        inside = ("nsenter", "-m", "-t", trial.hosts.running[self.host].pid)
        script = (
            'mkdir "$1" && cp "$0"/*.npy "$1" && mount -t tmpfs -o size=1m full "$0" && '
            'cp "$1"/* "$0"; head -c 2m /dev/zero > "$0/filled"'
        )
        call(*inside, "sh", "-c", script, found[0], trial.store / "kept", check=False)

    def mend(self, trial):
        trial.hosts.kill(self.host)
        trial.hosts.worker(self.host)


class FullShare(Fault):
    """The disk that all hosts share is full; then it gets more room."""

    def strike(self, trial):
        self.place = trial.store / "filled"
        with open(self.place, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def mend(self, trial):
        self.place.unlink()


class Nobody(Kill):
    """All workers are killed."""

    def __init__(self):
        super().__init__(3)


class Poison(Fault):
    """Every worker dies at the same bucket, and is started again by its nanny."""

    def strike(self, trial):
        preload = trial.hosts.folder / "poison.py"
        preload.write_text(POISON)
        for host in trial.hosts.workers:
            trial.hosts.kill(host)
            trial.hosts.worker(host, "--preload", preload, nanny=True)

    def mend(self, trial):
        for host in trial.hosts.workers:
            trial.hosts.kill(host)
            trial.hosts.worker(host)


class Other(Fault):
    """A worker joins that has another version of a library, or of this software."""

    def __init__(self, what: str):
        self.what = what

    def strike(self, trial):
        self.host = trial.hosts.workers[-1] + 1
        path = trial.hosts.folder / f"other-{self.what}"
        shutil.copytree(ROOT / "mimic_qlora", path / "mimic_qlora", dirs_exist_ok=True)
        if self.what == "code":
            (path / "mimic_qlora/subjects/more.py").touch()
        else:
            metadata = path / f"{self.what}-0.1.dist-info/METADATA"
            metadata.parent.mkdir(exist_ok=True)
            metadata.write_text(f"Metadata-Version: 2.1\nName: {self.what}\nVersion: 0.1\n")
        trial.hosts.worker(self.host, path=path)

    def mend(self, trial):
        trial.hosts.kill(self.host)


FAULTS = {
    "a worker of three killed": Kill(1),
    "two workers of three killed": Kill(2),
    "a worker's network cut for 5 s": Cut(None, 5),
    "a worker's network cut for 45 s": Cut(None, 45),
    "the command's network cut for 5 s": Cut(COMMAND, 5),
    "the command's network cut for 45 s": Cut(COMMAND, 45),
    "the scheduler's network cut for 5 s": Cut(SCHEDULER, 5),
    "the scheduler's network cut for 45 s": Cut(SCHEDULER, 45),
    "the scheduler killed": KillScheduler(),
    "the command killed": KillCommand(),
    "a worker stands still": Straggler(),
    "the disk of one host is full": FullHost(),
    "the shared disk is full": FullShare(),
    "no worker is left": Nobody(),
    "workers die at one piece": Poison(),
    "a worker with another orjson joins": Other("orjson"),
    "a worker with other code joins": Other("code"),
}


class Ended(NamedTuple):
    """How a trial ended."""

    says: str  # "" if the first command finished
    same: bool
    lost: int  # rows
    doubled: int


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--trials", type=int, default=5, help="of each fault (default: 5)")
    add("--kills", type=int, default=20, help="trials of one worker killed (default: 20)")
    add("--only", default="", help="faults whose name this pattern finds")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    skip_where_not_allowed()
    with tempfile.TemporaryDirectory(prefix="bench_faults_") as work:
        bench(Path(work), args)


def bench(work: Path, args) -> None:
    """Convert undisturbed by one process and by the cluster, then disturbed."""
    mimic, keys, draw = tables(work), work / "keys", random.Random(args.seed)
    call(sys.executable, ROOT / "convert_to_jsonl.py", "--make-certificates", keys)
    convert = [sys.executable, "-c", CONVERT, "--mimic-dir", mimic, "--storage"]
    alone = work / "alone"
    call("env", f"PYTHONPATH={ROOT}", *convert, alone, "--workers", 1)
    expected = sums(alone), rows(alone)
    shared = work / "shared"  # a disk of its own, that can be full
    shared.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=64m", "shared", shared)
    try:
        with Hosts(work / "hosts", keys, 3) as hosts:
            convert = [*convert, shared / "store", *hosts.options]
            seconds = undisturbed(hosts, convert, shared / "store", expected)
            print("| what happens | trials | finished | said why | lost | doubled | same bytes |")
            print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
            for name, fault in FAULTS.items():
                if re.search(args.only, name):
                    n = args.kills if fault is FAULTS["a worker of three killed"] else args.trials
                    ended = [
                        disturbed(hosts, convert, shared / "store", expected, fault, seconds, draw)
                        for _ in range(n)
                    ]
                    line(name, ended)
    finally:
        call("umount", shared)


def tables(work: Path) -> Path:
    """Write some tables of a few synthetic patients, unpacked so that they can be cut."""
    from mimic_qlora.mimic.synthetic import hospital

    whole, folder = work / "whole", work / "mimic"
    hospital.write(whole, 24, seed=1, progress=False)
    (folder / "hosp").mkdir(parents=True)
    for name in TABLES:
        with gzip.open(whole / f"hosp/{name}.csv.gz") as packed:
            (folder / f"hosp/{name}.csv").write_bytes(packed.read())
    return folder


def rows(store: Path) -> Counter:
    """Return the rows of each table that are in the output."""
    found = json.loads((store / "subjects/manifest.json").read_text())["rows"]
    return Counter({name: counts["jsonl"] for name, counts in found.items()})


def undisturbed(hosts, convert, store, expected) -> float:
    """Return how many seconds a run works on a cluster that has done one before."""
    for _ in range(2):
        store.mkdir()
        run = begin(hosts, convert, store)
        began = time.monotonic()
        run.communicate()
        seconds = time.monotonic() - began
        if run.returncode or (sums(store), rows(store)) != expected:
            sys.exit(f"undisturbed, exit code {run.returncode}: other bytes")
        shutil.rmtree(store)
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    return seconds


def begin(hosts, convert, store) -> subprocess.Popen:
    """Start the command, and wait until its workers begin."""
    run = hosts.start(COMMAND, *convert, log=subprocess.PIPE)
    while run.poll() is None and not [*store.glob(".subjects.partial/parts/work-*/patients.npy")]:
        time.sleep(0.05)
    return run


def disturbed(hosts, convert, store, expected, fault, seconds, draw) -> Ended:
    """Disturb a run at a random moment; give the command again where it says why it ended."""
    store.mkdir()
    hosts.wait_for(3)
    trial = Trial(hosts, begin(hosts, convert, store), store, draw)
    time.sleep(draw.uniform(0, seconds))
    fault.strike(trial)
    said, errors = trial.run.communicate(timeout=600)
    code = trial.run.returncode
    fault.mend(trial)
    says = ""
    if code:
        says = next((x for x in errors.splitlines() if x.startswith("error: ")), f"code {code}")
        for _ in range(3):  # a worker whose network was cut may end later than the command
            hosts.wait_for(3)
            again = hosts.start(COMMAND, *convert, log=subprocess.PIPE)
            _, errors = again.communicate(timeout=600)
            if not again.returncode:
                break
            fault.mend(trial)
        else:
            sys.exit(f"after {says!r} the same command did not go on: {errors}")
    if "Traceback" in errors or code not in (0, 2, -signal.SIGKILL):
        sys.exit(f"exit code {code}: {errors}")
    found = rows(store)
    lost, doubled = (sum((one - other).values()) for one, other in
                     ((expected[1], found), (found, expected[1])))  # fmt: skip
    ended = Ended(says, (sums(store), found) == expected, lost, doubled)
    shutil.rmtree(store)
    notes = [x for x in (said + errors).splitlines() if x.startswith("note: ")]
    print("   ", ended, *notes, file=sys.stderr, flush=True)
    return ended


def line(name: str, ended: list[Ended]) -> None:
    finished = sum(not one.says for one in ended)
    print(
        f"| {name} | {len(ended)} | {finished} | {len(ended) - finished} "
        f"| {sum(one.lost for one in ended)} | {sum(one.doubled for one in ended)} "
        f"| {sum(one.same for one in ended)} of {len(ended)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
