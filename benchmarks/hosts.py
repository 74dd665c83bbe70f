"""Hosts made of network namespaces, one each for a Dask scheduler, its workers and a command.

Each has its own address and network; all share the disk. Needs root on Linux, and iproute2.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parent.parent
DASK = Path(sys.executable).with_name("dask")
BRIDGE, NETWORK = "mqbr0", "10.77.0"
SCHEDULER, COMMAND = 1, 254  # hosts by the end of their address; workers are 2, 3, ...
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Bytes(NamedTuple):
    """What processes have read from files and pipes, and written there."""

    read: int
    written: int


def call(*words, check=True) -> int:
    """Run a command to its end; return its exit code."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr}")
    return done.returncode


def skip_where_not_allowed() -> None:
    """End with a word where network namespaces cannot be made."""
    if os.geteuid() or call("ip", "netns", "add", "mq-try", check=False):
        print("skipped: network namespaces are not allowed here")
        sys.exit()
    call("ip", "netns", "del", "mq-try")


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


class Hosts:
    """A scheduler, n workers and a place for a command, each in a namespace behind a bridge."""

    def __init__(self, folder: Path, keys: Path, n: int):
        folder.mkdir()
        self.folder, self.file = folder, folder / "scheduler.json"
        self.workers = range(SCHEDULER + 1, SCHEDULER + 1 + n)
        self.names = [SCHEDULER, *self.workers, SCHEDULER + 1 + n, COMMAND]  # one to spare
        self.environment = {**os.environ, "DASK_CONFIG": str(keys), "PYTHONPATH": str(ROOT)}
        self.options = ["--scheduler-file", str(self.file), "--certificates", str(keys)]
        self.running: dict[int, subprocess.Popen] = {}
        self.ended_cpu, self.ended_bytes = 0.0, Bytes(0, 0)

    def __enter__(self):
        call("ip", "link", "add", BRIDGE, "type", "bridge")
        call("ip", "link", "set", BRIDGE, "up")
        for host in self.names:
            name, inside = f"mq{host}", ("ip", "-n", f"mq{host}")
            call("ip", "netns", "add", name)
            call("ip", "link", "add", f"mqv{host}", "type", "veth", "peer", "eth0", "netns", name)
            call("ip", "link", "set", f"mqv{host}", "master", BRIDGE, "up")
            call(*inside, "addr", "add", f"{NETWORK}.{host}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                call(*inside, "link", "set", device, "up")
        self.scheduler()
        for host in self.workers:
            self.worker(host)
        self.wait_for(len(self.workers))
        return self

    def __exit__(self, *error):
        for host in list(self.running):
            self.kill(host)
        for host in self.names:
            call("ip", "netns", "del", f"mq{host}", check=False)
        call("ip", "link", "del", BRIDGE, check=False)

    def start(self, host: int, *words, log=None, path: Path = ROOT) -> subprocess.Popen:
        """Start a command on a host; it ends when this process does."""
        with open(self.folder / f"{host}.log", "a") as file:
            out = log or file
            return subprocess.Popen(
                ["ip", "netns", "exec", f"mq{host}", *map(str, words)],
                stdout=out, stderr=out, cwd=ROOT, text=True, preexec_fn=die_with_parent,
                env={**self.environment, "PYTHONPATH": str(path)},
            )  # fmt: skip

    def dask(self, host: int, *words, path: Path = ROOT) -> None:
        """Start `dask WORDS` on a host."""
        common = ["--scheduler-file", self.file, "--dashboard-address", "127.0.0.1:0"]
        common += ["--host", f"{NETWORK}.{host}"]
        self.running[host] = self.start(host, DASK, *words, *common, path=path)

    def scheduler(self) -> None:
        self.file.unlink(missing_ok=True)
        self.dask(SCHEDULER, "scheduler")
        while not self.file.exists():
            time.sleep(0.1)

    def worker(self, host: int, *options, path: Path = ROOT, nanny: bool = False) -> None:
        (self.folder / f"{host}.log").unlink(missing_ok=True)
        local = ["--local-directory", self.folder, *options]
        local += [] if nanny else ["--no-nanny"]
        self.dask(host, "worker", "--nthreads", "1", *local, path=path)

    def wait_for(self, n: int) -> None:
        """Wait until n workers have joined the scheduler."""
        logs = [self.folder / f"{host}.log" for host in self.names[1:-1]]
        while sum("Registered to" in log.read_text() for log in logs if log.exists()) < n:
            time.sleep(0.1)

    def kill(self, host: int) -> None:
        """Kill what runs on a host, with its children."""
        process = self.running.pop(host)
        self.ended_cpu += cpu_of(process)
        self.ended_bytes = Bytes(*map(sum, zip(self.ended_bytes, bytes_of(process), strict=True)))
        children = []
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
        for one in (process, *children):
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()

    def network(self, host: int, state: str) -> None:
        """Cut the network of a host ("down") or heal it ("up")."""
        call("ip", "link", "set", f"mqv{host}", state)

    def cpu(self) -> float:
        """Return the CPU seconds of the scheduler and all workers until now."""
        return self.ended_cpu + sum(map(cpu_of, self.running.values()))

    def file_bytes(self) -> Bytes:
        """Return what the scheduler and all workers have read and written until now."""
        found = [self.ended_bytes, *map(bytes_of, self.running.values())]
        return Bytes(*map(sum, zip(*found, strict=True)))

    def sent(self) -> int:
        """Return the bytes that all hosts have sent until now."""
        places = [Path(f"/sys/class/net/mqv{host}/statistics/rx_bytes") for host in self.names]
        return sum(int(place.read_text()) for place in places)

    def peak(self) -> float:
        """Return the largest resident memory that a worker has had, in MB."""
        peaks = [0.0]
        for host in self.workers:
            status = Path(f"/proc/{self.running[host].pid}/status").read_text()
            peaks += [int(line.split()[1]) / 1e3 for line in status.splitlines() if "VmHWM" in line]
        return max(peaks)


def cpu_of(process) -> float:
    with contextlib.suppress(psutil.Error):
        return sum(psutil.Process(process.pid).cpu_times()[:2])
    return 0.0


def bytes_of(process) -> Bytes:
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(process.pid).io_counters()
        return Bytes(found.read_chars, found.write_chars)
    return Bytes(0, 0)
