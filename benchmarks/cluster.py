"""Step 1 on a Dask cluster of hosts made of network namespaces, against one machine alone.

    sudo -E python benchmarks/cluster.py DEMO --copies 10 --hosts 2 4 8 --growth 1 10 100

First what Dask itself costs: idle, and a task that does nothing. Input: the open demo replicated
(`replicate.py`); for growth, so many times ten of its patients, in buckets of 8 MB. Each cluster
starts anew, and one process does the same beside it, so that a busy machine slows both alike. Says
so and ends where network namespaces are not allowed.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

import duckdb
import pyarrow as pa
import replicate
from hosts import COMMAND, ROOT, Hosts, call, cpu_of, skip_where_not_allowed
from measure import DEMO

from mimic_qlora.mimic import reading, tables

SMALL = 8  # MB of a bucket, for growth
PATIENTS = 10  # of growth x1
IDLE_SECONDS, TASKS = 20, 200
NOTHING = """
import sys, time
from pathlib import Path
from mimic_qlora.work import cluster
target = cluster.target(None, sys.argv[1], sys.argv[2])
with cluster.Cluster(target, int, [Path(sys.argv[2])], 1 << 20) as found:
    began = time.process_time()
    list(found.completed(abs, [(i,) for i in range(int(sys.argv[3]))]))
    print(time.process_time() - began)
"""
CONVERT = """
import sys
from mimic_qlora.step import command_line
from mimic_qlora.subjects import buckets
if small := {small}:
    buckets.MIB_PER_BUCKET, buckets.MOST_COARSE = small, 64
    buckets.HELD_BYTES = small << 20
import convert_to_jsonl
command_line.run(convert_to_jsonl.main)
"""


class Used(NamedTuple):
    """What a run has used."""

    cpu_s: float  # of the run, with the scheduler and the workers
    start_s: float  # CPU seconds of the start of scheduler and workers
    peak_mb: float  # resident memory of the largest worker, or of the process
    sent: int  # bytes that hosts have sent
    written: int  # bytes that went to files


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("demo", type=Path, nargs="?", default=DEMO, help="folder of the open 100-patient demo")
    add("--copies", type=int, default=10, help="size of the input, in demos (default: 10)")
    add("--hosts", type=int, nargs="*", default=[2, 4, 8], help="workers, a host each")
    add("--growth", type=int, nargs="*", default=[1, 10, 100], help="sizes in tens of patients")
    add("--repeats", type=int, default=1, help="runs of each; the best counts (default: 1)")
    args = parser.parse_args()
    skip_where_not_allowed()
    with tempfile.TemporaryDirectory(prefix="bench_cluster_") as name:
        work = Path(name)
        call(sys.executable, ROOT / "convert_to_jsonl.py", "--make-certificates", work / "keys")
        engine(work)
        print(
            "| input, rows | done by | CPU s | CPU us a row | more CPU | start, CPU s "
            "| peak MB a worker | MB sent | bytes written a row | same bytes |"
        )
        print("| --- " * 10 + "|", flush=True)
        if args.hosts:
            compare(work, args)
        if args.growth:
            part = part_of(args.demo, work / "part")
            replicate.CHARTEVENTS_PER_COPY //= 100 // PATIENTS  # the demo has 100
            for size in args.growth:
                grow(work, part, size)


def engine(work: Path) -> None:
    """Measure the CPU of scheduler, worker and command beside the work that they are given."""
    with Hosts(work / "engine", work / "keys", 1) as hosts:

        def used() -> list[float]:
            return [cpu_of(process) for process in hosts.running.values()]

        start = used()
        time.sleep(IDLE_SECONDS)
        idle = used()
        words = [sys.executable, "-c", NOTHING, hosts.file, work / "keys", TASKS]
        said, errors = hosts.start(COMMAND, *words, log=subprocess.PIPE).communicate()
        if not said:
            sys.exit(errors)
        tasks = [after - before for after, before in zip(used(), idle, strict=True)]
    shares = [f"{(b - a) / IDLE_SECONDS:.1%}" for a, b in zip(start, idle, strict=True)]
    print("| | start, CPU s | idle, share of a core | CPU ms a task |")
    print("| --- | --- | --- | --- |")
    for name, *found in zip(("scheduler", "worker"), start, shares, tasks, strict=True):
        print(f"| {name} | {found[0]:.1f} | {found[1]} | {1000 * found[2] / TASKS:.1f} |")
    print(f"| command | | | {1000 * float(said) / TASKS:.1f} |\n", flush=True)


def compare(work: Path, args) -> None:
    """Measure one process, a pool of two, then each cluster, at the default sizes."""
    mimic = replicated(args.demo, work / "large", args.copies)
    convert = command(mimic, small=0)
    name, store = f"demo x{args.copies}", work / "store"
    alone = least(args.repeats, lambda: here(convert, store, 1))
    expected, n_rows = sums(store), rows(store)
    line(f"{name}, {n_rows:,}", "one process", alone, alone, n_rows, True)
    pool = least(args.repeats, lambda: here(convert, store, 2))
    line("", "two processes", pool, alone, n_rows, sums(store) == expected)
    for n in args.hosts:
        both = [cluster(work, convert, store, n) for _ in range(args.repeats)]
        used, beside = min(both, key=lambda pair: pair[0].cpu_s / pair[1].cpu_s)
        line("", "one process beside", beside, beside, n_rows, True)
        line("", f"{n} workers", used, beside, n_rows, sums(store) == expected)
    for place in (mimic, store):
        shutil.rmtree(place)


def grow(work: Path, part: Path, size: int) -> None:
    """Measure one process and two workers on a part of the demo replicated, in small buckets."""
    mimic, store = replicated(part, work / f"grown{size}", size), work / "store"
    convert = command(mimic, small=SMALL)
    alone = here(convert, store, 1)
    expected, n_rows = sums(store), rows(store)
    line(f"{PATIENTS * size:,} patients, {n_rows:,}", "one process", alone, alone, n_rows, True)
    used, beside = cluster(work, convert, store, 2)
    line("", "one process beside", beside, beside, n_rows, True)
    line("", "2 workers", used, beside, n_rows, sums(store) == expected)
    for place in (mimic, store):
        shutil.rmtree(place)


def part_of(demo: Path, folder: Path) -> Path:
    """Write the demo's first patients alone."""
    listed = ", ".join(
        f"'{one}'" for one in (demo / "demo_subject_id.csv").read_text().split()[1:][:PATIENTS]
    )
    with duckdb.connect() as con:
        for name, source in tables.find(demo).items():
            rows = pa.Table.from_batches(reading.read(source))
            con.register("rows", rows)
            chosen = f"where subject_id in ({listed})" if "subject_id" in source.columns else ""
            path = folder / source.module / f"{name}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            con.execute(f"copy (from rows {chosen}) to '{path}' (format csv, compression gzip)")
    return folder


def command(mimic: Path, small: int) -> list:
    return [sys.executable, "-c", CONVERT.format(small=small), "--mimic-dir", mimic]


def replicated(demo: Path, folder: Path, copies: int) -> Path:
    replicate.replicate(demo, folder, copies)
    return folder


def least(repeats: int, measured) -> Used:
    """Return the run that has used least CPU."""
    return min((measured() for _ in range(repeats)), key=lambda used: used.cpu_s)


def here(convert: list, store: Path, workers: int) -> Used:
    """Measure a run of this machine's own processes."""
    with tempfile.TemporaryFile("w+") as said:
        return ended(begun(convert, store, workers, said), said)


def begun(convert: list, store: Path, workers: int, said: IO[str]) -> subprocess.Popen:
    """Start a run of this machine's own processes."""
    shutil.rmtree(store, ignore_errors=True)
    words = [*convert, "--storage", store, "--workers", workers]
    return subprocess.Popen(
        list(map(str, words)), stdout=said, stderr=said, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def cluster(work: Path, convert: list, store: Path, n: int) -> tuple[Used, Used]:
    """Measure a run on n workers that have just started, and one process at the same time.

    What else the machine does makes both slower alike.
    """
    shutil.rmtree(store, ignore_errors=True)
    with Hosts(work / f"hosts{n}", work / "keys", n) as hosts:
        start, sent, files = hosts.cpu(), hosts.sent(), hosts.file_bytes()
        words = [*convert, "--storage", store, *hosts.options]
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as told:
            alone = begun(convert, work / "beside", 1, told)
            used = ended(hosts.start(COMMAND, *words, log=said), said)
            cpu, peak = hosts.cpu(), hosts.peak()
            sent_then, files_then = hosts.sent(), hosts.file_bytes()
            beside = ended(alone, told)
        found = used._replace(
            cpu_s=used.cpu_s + cpu - start,
            start_s=start,
            peak_mb=peak,
            sent=sent_then - sent,
            written=files_then.written - files.written,
        )
    for place in (work / f"hosts{n}", work / "beside"):
        shutil.rmtree(place)
    return found, beside


def ended(process: subprocess.Popen, said: IO[str]) -> Used:
    """Wait for the command; its CPU, with that of its own processes. Ends if it fails."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said.seek(0)
        sys.exit(f"step 1 failed: {said.read()}")
    cpu = usage.ru_utime + usage.ru_stime
    return Used(cpu, 0.0, usage.ru_maxrss / 1e3, 0, 0)


def line(size: str, name: str, used: Used, alone: Used, n_rows: int, same: bool) -> None:
    more = "" if used is alone else f"{used.cpu_s / alone.cpu_s - 1:+.0%}"
    print(
        f"| {size} | {name} | {used.cpu_s:.1f} | {1e6 * used.cpu_s / n_rows:.2f} "
        f"| {more} | {used.start_s:.1f} | {used.peak_mb:.0f} "
        f"| {used.sent / 1e6:.2f} | {used.written / n_rows:.0f} | {'yes' if same else 'NO'} |",
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


def rows(store: Path) -> int:
    """Return how many rows were read."""
    found = json.loads((store / "subjects/manifest.json").read_text())["rows"]
    return sum(counts["in"] for counts in found.values())


if __name__ == "__main__":
    main()
