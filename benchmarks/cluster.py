"""Step 1 on a Dask cluster of hosts made of network namespaces, against one process.

    sudo -E python benchmarks/cluster.py DEMO --hosts 2 4 --kills 20 --cuts 5

Each host has its own address and network; all share the disk. Buckets hold a few patients each, so
that there are many tasks. Says so and ends where network namespaces are not allowed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from measure import DEMO

ROOT = Path(__file__).resolve().parent.parent
DASK = Path(sys.executable).with_name("dask")
BRIDGE, NETWORK = "mqbr0", "10.77.0"
CONVERT = """
import sys
from mimic_qlora.step import command_line
from mimic_qlora.subjects import buckets, partition
buckets.PATIENTS_PER_BUCKET = {patients}
partition.PIECE_BYTES = 4 << 20
import convert_to_jsonl
command_line.run(convert_to_jsonl.main)
"""


class Used(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_mb: float  # of the largest process


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("demo", type=Path, nargs="?", default=DEMO, help="folder of the open 100-patient demo")
    add("--hosts", type=int, nargs="+", default=[2], help="workers, a host each (default: 2)")
    add("--patients", type=int, default=5, help="patients a bucket (default: 5)")
    add("--kills", type=int, default=0, help="runs in which a worker is killed at a random moment")
    add("--cuts", type=int, default=0, help="runs in which a worker's network is cut for a while")
    add("--cut-seconds", type=float, default=5.0, help="for so long (default: 5)")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    if os.geteuid() or command("ip", "netns", "add", "mq-try", check=False):
        sys.exit("skipped: network namespaces are not allowed here")
    command("ip", "netns", "del", "mq-try")
    with tempfile.TemporaryDirectory(prefix="bench_cluster_") as work:
        bench(Path(work), args)


def bench(work: Path, args):
    """Measure one process, then each cluster; then kill and cut."""
    code = CONVERT.format(patients=args.patients)
    convert = [sys.executable, "-c", code, "--mimic-dir", args.demo]
    alone = work / "alone"
    used = run([*convert, "--storage", alone, "--workers", "1"])
    expected = sums(alone)
    rows = json.loads((alone / "subjects/manifest.json").read_text())["rows"]
    n_rows = sum(counts["in"] for counts in rows.values())
    print(
        "| hosts | wall s | CPU s | CPU us a row | more CPU | peak MB a process | MB sent | same |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    line("one process", used, used, n_rows, 0, True)
    keys = work / "keys"
    command(sys.executable, ROOT / "convert_to_jsonl.py", "--make-certificates", keys, cwd=ROOT)
    draw = random.Random(args.seed)
    for n in args.hosts:
        with Hosts(work / f"hosts{n}", keys, n) as hosts:
            options = ["--scheduler-file", hosts.file, "--certificates", keys]
            hosts.run([*convert, "--storage", work / "warm", *options])
            store = work / f"cluster{n}"
            before, sent = hosts.cpu(), hosts.sent()
            found = hosts.run([*convert, "--storage", store, *options])
            found = found._replace(cpu_s=found.cpu_s + hosts.cpu() - before)
            line(str(n), found, used, n_rows, hosts.sent() - sent, sums(store) == expected)
            for number in range(args.kills + args.cuts):
                shutil.rmtree(store)
                is_kill = number < args.kills
                after = draw.uniform(0, found.wall_s)
                what, given = (hosts.kill, []) if is_kill else (hosts.cut, [args.cut_seconds])
                timer = threading.Timer(after, what, given)
                timer.start()
                hosts.run([*convert, "--storage", store, *options])
                timer.join()
                same = "same bytes" if sums(store) == expected else "OTHER BYTES"
                print(f"{'kill' if is_kill else 'cut'} after {after:.1f} s: {same}", flush=True)
            shutil.rmtree(work / "warm")


def line(name, used, alone, n_rows, sent, same):
    more = f"{used.cpu_s / alone.cpu_s - 1:+.0%}"
    print(
        f"| {name} | {used.wall_s:.1f} | {used.cpu_s:.1f} | {1e6 * used.cpu_s / n_rows:.2f} "
        f"| {more} | {used.peak_mb:.0f} | {sent / 1e6:.2f} | {'yes' if same else 'NO'} |",
        flush=True,
    )


def sums(store: Path) -> dict[str, str]:
    """Return the sum of each file that step 1 wrote but the manifest."""
    folder = store / "subjects"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def command(*words, check=True, **options) -> int:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    if check and done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr}")
    return done.returncode


def run(words, prefix=(), **options) -> Used:
    """Run the command; its CPU and the memory of its largest process. Ends if it fails."""
    began = time.time()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*map(str, prefix), *map(str, words)], capture_output=True, text=True, cwd=ROOT, **options
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"step 1 failed: {done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Used(time.time() - began, cpu, after.ru_maxrss / 1e3)


class Hosts:
    """A scheduler and n workers, each in a network namespace behind a bridge."""

    def __init__(self, folder: Path, keys: Path, n: int):
        folder.mkdir()
        self.folder, self.n, self.file = folder, n, folder / "scheduler.json"
        self.environment = {**os.environ, "DASK_CONFIG": str(keys), "PYTHONPATH": str(ROOT)}
        self.processes: dict[int, subprocess.Popen] = {}
        self.ended_cpu, self.peak, self.done = 0.0, 0.0, threading.Event()

    def __enter__(self):
        command("ip", "link", "add", BRIDGE, "type", "bridge")
        command("ip", "addr", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        command("ip", "link", "set", BRIDGE, "up")
        for host in range(self.n + 1):
            name = f"mq{host}"
            command("ip", "netns", "add", name)
            command(
                "ip", "link", "add", f"mqv{host}", "type", "veth", "peer", "eth0", "netns", name
            )
            command("ip", "link", "set", f"mqv{host}", "master", BRIDGE, "up")
            inside = ("ip", "-n", name)
            command(*inside, "addr", "add", f"{NETWORK}.{host + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                command(*inside, "link", "set", device, "up")
        self.start(0, "scheduler")
        while not self.file.exists():
            time.sleep(0.1)
        for host in range(1, self.n + 1):
            self.worker(host)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.done.set()
        for process in self.processes.values():
            process.kill()
            process.wait()
        for host in range(self.n + 1):
            command("ip", "netns", "del", f"mq{host}", check=False)
        command("ip", "link", "del", BRIDGE, check=False)

    def start(self, host: int, *words):
        common = ["--scheduler-file", self.file, "--dashboard-address", "127.0.0.1:0"]
        common += ["--host", f"{NETWORK}.{host + 1}"]
        with open(self.folder / f"{host}.log", "a") as log:
            self.processes[host] = subprocess.Popen(
                ["ip", "netns", "exec", f"mq{host}", str(DASK), *words, *map(str, common)],
                stdout=log, stderr=log, cwd=self.folder, env=self.environment,
            )  # fmt: skip

    def worker(self, host: int):
        local = ["--local-directory", str(self.folder)]
        self.start(host, "worker", "--nthreads", "1", "--no-nanny", *local)

    def run(self, words) -> Used:
        self.peak = 0.0
        used = run(words, env=self.environment)
        return used._replace(peak_mb=self.peak)

    def kill(self):
        """Kill a worker; another takes its place two seconds later."""
        host = random.randrange(1, self.n + 1)
        self.ended_cpu += cpu_of(self.processes[host])
        self.processes[host].kill()
        self.processes[host].wait()
        time.sleep(2)
        self.worker(host)

    def cut(self, seconds: float):
        """Cut a worker's network for a while."""
        name = f"mqv{random.randrange(1, self.n + 1)}"
        command("ip", "link", "set", name, "down")
        time.sleep(seconds)
        command("ip", "link", "set", name, "up")

    def cpu(self) -> float:
        return self.ended_cpu + sum(map(cpu_of, self.processes.values()))

    def sent(self) -> int:
        """Return the bytes that passed the bridge's ports."""
        places = [
            Path(f"/sys/class/net/mqv{host}/statistics/rx_bytes") for host in range(self.n + 1)
        ]
        return sum(int(place.read_text()) for place in places)

    def _watch(self):
        while not self.done.wait(0.2):
            for process in list(self.processes.values()):
                with contextlib.suppress(psutil.Error):
                    held = psutil.Process(process.pid).memory_full_info().uss
                    self.peak = max(self.peak, held / 1e6)


def cpu_of(process) -> float:
    with contextlib.suppress(psutil.Error):
        return sum(psutil.Process(process.pid).cpu_times()[:2])
    return 0.0


if __name__ == "__main__":
    main()
