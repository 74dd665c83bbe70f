"""Step 1 against unzipping alone and against the plain pandas way, on the open demo made larger.

    python benchmarks/convert.py ../mimic-iv-demo-2.2 --copies 10 100

Every system runs in a process of its own, one after the other in one run. The pandas way stands for scripts that hold a
dict of lists per patient; it is run on the smallest input only.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import measure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

UNZIP = """
import pathlib, sys
from isal import igzip
for path in pathlib.Path(sys.argv[1]).rglob("*.gz"):
    with igzip.open(path) as file:
        while file.read(1 << 20):
            pass
"""
PANDAS = """
import collections, gzip, json, pathlib, sys
import pandas as pd
patients = collections.defaultdict(lambda: collections.defaultdict(list))
for path in pathlib.Path(sys.argv[1]).rglob("*.csv.gz"):
    table = pd.read_csv(path, dtype=str)
    if "subject_id" in table:
        for row in table.to_dict("records"):
            patients[row["subject_id"]][path.name.split(".")[0]].append({k: v for k, v in row.items() if v == v})
with gzip.open(sys.argv[2], "wt", compresslevel=1) as out:
    for subject_id, tables in patients.items():
        out.write(json.dumps({"subject_id": int(subject_id), **tables}) + "\\n")
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?", default=ROOT.parent / "shared/data/mimic-iv-demo-2.2")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 10], help="sizes, in demos (default: 1 10)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, the median is given (default: 3)")
    parser.add_argument("--work", type=Path, help="folder for the inputs, kept (default: a temporary one)")
    args = parser.parse_args()
    if not args.demo.is_dir():
        sys.exit(f"the MIMIC-IV demo is not at {args.demo}: give its folder as the first argument")
    work = args.work or Path(tempfile.mkdtemp(prefix="bench_convert_"))
    print("| input | rows | system | wall s | CPU s | peak MB | CPU / unzip |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for copies in args.copies:
        mimic, store = work / f"x{copies}", work / f"storage_x{copies}"
        if not mimic.exists():
            subprocess.run(
                [sys.executable, ROOT / "benchmarks/replicate.py", args.demo, mimic, str(copies)], check=True
            )
        convert = [sys.executable, ROOT / "convert_to_jsonl.py", "--mimic-dir", mimic, "--storage", store]
        systems = {
            "unzip": [sys.executable, "-c", UNZIP, mimic],
            "step 1": [*convert, "--force"],
            "step 1, nothing changed": convert,
        }
        if copies == min(args.copies):
            systems["pandas, dict of lists"] = [sys.executable, "-c", PANDAS, mimic, work / "pandas.jsonl.gz"]
        costs = {name: [] for name in systems}
        for _ in range(args.repeats):
            for name, command in systems.items():
                cost = measure(command)
                if cost.code:
                    sys.exit(f"{name} failed on x{copies}")
                costs[name].append(cost)
        rows = json.loads((store / "subjects" / "manifest.json").read_text())["rows"]
        n_rows = sum(counts["in"] for counts in rows.values())
        unzip = median(c.cpu_s for c in costs["unzip"])
        for name, runs in costs.items():
            wall, cpu, peak = (median(values) for values in zip(*[run[:3] for run in runs], strict=True))
            print(
                f"| x{copies} | {n_rows:,} | {name} | {wall:.1f} | {cpu:.1f} | {peak:.0f} | {cpu / unzip:.1f} |",
                flush=True,
            )
        print(f"look-ups of x{copies}: {look_ups(store):.2f} ms p95")
        size = sum(path.stat().st_size for path in (store / "subjects").rglob("*") if path.is_file())
        taken = sum(path.stat().st_size for path in mimic.rglob("*.gz"))
        print(f"disk of x{copies}: input {taken / 1e6:.0f} MB, output {size / 1e6:.0f} MB")
        shutil.rmtree(store)
    if not args.work:
        shutil.rmtree(work)


def median(values) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def look_ups(store: Path) -> float:
    """Milliseconds to get one patient's line of the JSONL by its id, the 95th percentile of 200 random patients."""
    from mimic_qlora import draws, subjects

    ids = draws.order(subjects.split_of(store), "bench", 0)[:200]
    subjects.raw_line(store, ids[0])
    times = []
    for subject_id in ids:
        began = time.perf_counter()
        subjects.raw_line(store, subject_id)
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)[int(0.95 * len(times))]


if __name__ == "__main__":
    main()
