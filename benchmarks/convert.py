"""Step 1 against unzipping, MIMIC_IV_MEDS and plain pandas, on the open demo made larger.

    python -m venv venv-meds && venv-meds/bin/pip install MIMIC_IV_MEDS==0.2.0
    python benchmarks/convert.py DEMO --copies 10 100 --meds venv-meds

Every system runs in a process of its own, one after the other; other converters up to x10 only.
The last lines estimate MIMIC-IV 3.1 from the slopes between the two largest inputs.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from measure import DEMO, Cost, measure

ROOT = Path(__file__).resolve().parent.parent

UNZIP = """
import pathlib, sys
from isal import igzip
for path in pathlib.Path(sys.argv[1]).rglob("*.gz"):
    with igzip.open(path) as file:
        while file.read(1 << 20):
            pass
"""
# in at most 10 GB, so that the machine survives it
PANDAS = """
import collections, gzip, json, pathlib, resource, sys
import pandas as pd
resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30))
patients = collections.defaultdict(lambda: collections.defaultdict(list))
for path in pathlib.Path(sys.argv[1]).rglob("*.csv.gz"):
    table = pd.read_csv(path, dtype=str)
    if "subject_id" in table:
        for row in table.to_dict("records"):
            filled = {k: v for k, v in row.items() if v == v}
            patients[row["subject_id"]][path.name.split(".")[0]].append(filled)
with gzip.open(sys.argv[2], "wt", compresslevel=1) as out:
    for subject_id, tables in patients.items():
        out.write(json.dumps({"subject_id": int(subject_id), **tables}) + "\\n")
"""
# MIMIC_IV_MEDS downloads these beside the tables; headers alone do for a cost
CONCEPT_MAPS = (
    "d_labitems_to_loinc inputevents_to_rxnorm meas_chartevents_main outputevents_to_loinc "
    "proc_datetimeevents proc_itemid"
).split()
COMPARED = 10  # copies; others would need the memory of a larger machine for more
CONCEPT_HEADER = (
    "itemid (omop_source_code),label,omop_concept_name,omop_vocabulary_id,omop_concept_code\n"
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "demo", type=Path, nargs="?", default=DEMO, help="folder of the open 100-patient demo"
    )
    parser.add_argument(
        "--copies", type=int, nargs="+", default=[1, 10], help="sizes, in demos (default: 1 10)"
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="runs of each, the median is given (default: 1)"
    )
    parser.add_argument(
        "--meds", type=Path, help="virtual environment with MIMIC_IV_MEDS, to compare with"
    )
    parser.add_argument(
        "--pandas", action="store_true", help="compare with a dict of lists per patient, in 10 GB"
    )
    parser.add_argument(
        "--kill", action="store_true", help="also kill a run at half and see what it costs to go on"
    )
    parser.add_argument(
        "--work", type=Path, help="folder for the inputs, kept (default: a temporary one)"
    )
    args = parser.parse_args()
    if not args.demo.is_dir():
        sys.exit(
            f"the MIMIC-IV demo is not at {args.demo}: "
            "give its folder as the first argument or in MIMIC_DEMO_DIR"
        )
    work = args.work or Path(tempfile.mkdtemp(prefix="bench_convert_"))
    print("| input | rows | system | wall s | CPU s | peak MB | CPU / isal | CPU / gzip |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    sizes = [one_size(copies, work, args) for copies in sorted(args.copies)]
    if len(sizes) > 1:
        estimate(*sizes[-2:])
    if not args.work:
        shutil.rmtree(work)


def one_size(copies: int, work: Path, args) -> dict:
    """Measure every system on the demo made `copies` times as large, and print a line for each."""
    mimic, store = work / f"x{copies}", work / f"storage_x{copies}"
    if not mimic.exists():
        subprocess.run(
            [sys.executable, ROOT / "benchmarks/replicate.py", args.demo, mimic, str(copies)],
            check=True,
        )
    convert = [
        sys.executable,
        ROOT / "convert_to_jsonl.py",
        "--mimic-dir",
        mimic,
        "--storage",
        store,
    ]
    systems = {
        "gzip -dc": ["bash", "-c", 'find "$0" -name "*.gz" -exec gzip -dc {} + > /dev/null', mimic],
        "unzip with isal": [sys.executable, "-c", UNZIP, mimic],
        "step 1": [*convert, "--force"],
        "step 1, nothing changed": convert,
    }
    compared = copies <= COMPARED
    if compared and args.pandas:
        systems["pandas, dict of lists"] = [
            sys.executable,
            "-c",
            PANDAS,
            mimic,
            work / "pandas.jsonl.gz",
        ]
    if compared and args.meds:
        for name in CONCEPT_MAPS:
            (mimic / f"{name}.csv").write_text(CONCEPT_HEADER + "0,none,none,none,0\n")
        systems["MIMIC_IV_MEDS"] = [
            "env",
            f"PATH={args.meds.resolve() / 'bin'}:{os.environ['PATH']}",
            "meds-extract-run",
            "spec=MIMIC-IV",
            f"output_dir={work / 'meds'}",
            "do_download=false",
            f"input_dir={mimic}",
        ]
    costs = {name: [] for name in systems}
    for _ in range(args.repeats):
        shutil.rmtree(work / "meds", ignore_errors=True)
        for name, command in systems.items():
            costs[name].append(measure(command, stderr=subprocess.DEVNULL))
    costs = {
        name: Cost(*(median(values) for values in zip(*runs, strict=True)))
        for name, runs in costs.items()
    }
    rows = json.loads((store / "subjects" / "manifest.json").read_text())["rows"]
    n_rows = sum(counts["in"] for counts in rows.values())
    isal, gzip = costs["unzip with isal"].cpu_s, costs["gzip -dc"].cpu_s
    for name, cost in costs.items():
        failed = f" (failed, exit code {cost.code})" if cost.code else ""
        print(
            f"| x{copies} | {n_rows:,} | {name}{failed} "
            f"| {cost.wall_s:.1f} | {cost.cpu_s:.1f} | {cost.peak_mb:.0f} "
            f"| {cost.cpu_s / isal:.1f} | {cost.cpu_s / gzip:.1f} |",
            flush=True,
        )
    print(f"look-ups of x{copies}: {look_ups(store)}")
    if compared and args.kill:
        print(f"killed at half of x{copies}: {kill(convert, store)}")
    size, taken = folder_bytes(store / "subjects"), folder_bytes(mimic)
    print(f"disk of x{copies}: input {taken / 1e6:.0f} MB, output {size / 1e6:.0f} MB", flush=True)
    shutil.rmtree(store)
    return {"rows": n_rows, "output": size, **costs["step 1"]._asdict()}


def median(values) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def kill(convert: list, store: Path) -> str:
    """Return what a run killed at half its CPU seconds, and the same command again, cost.

    With one worker, so that all of the work is the killed process's own.
    """
    command = [*convert, "--workers", "1"]
    shutil.rmtree(store)
    alone = measure(command, stderr=subprocess.DEVNULL).cpu_s
    shutil.rmtree(
        store
    )  # else the second run would find the first one's output and have nothing to do
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process, spent = psutil.Process(killed.pid), 0.0
    while spent < alone / 2:
        time.sleep(0.05)
        spent = sum(process.cpu_times()[:2])
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = measure(command, stderr=subprocess.DEVNULL).cpu_s
    more = spent + again - alone  # CPU seconds
    return (
        f"{alone:.1f} CPU s alone, {spent:.1f} + {again:.1f} with the kill: {more:.1f} CPU s more"
    )


def look_ups(store: Path) -> str:
    """Time the look-up of 300 random patients' lines by the index, in one process."""
    from mimic_qlora.step import seeded
    from mimic_qlora.subjects import reader

    ids = seeded.order(reader.split_of(store), "bench", 0)[:300]
    reader.raw_line(store, ids[0])
    times, sizes = [], []
    for subject_id in ids:
        began = time.perf_counter()
        sizes.append(len(reader.raw_line(store, subject_id)))
        times.append(1000 * (time.perf_counter() - began))
    p95 = int(0.95 * len(ids))
    return (
        f"{1000 * len(ids) / sum(times):.0f} a second, "
        f"median {median(times):.2f} ms, p95 {sorted(times)[p95]:.2f} ms (lines of "
        f"{sum(sizes) / len(ids) / 1e6:.1f} MB on average, p95 {sorted(sizes)[p95] / 1e6:.1f} MB)"
    )


def estimate(small: dict, large: dict) -> None:
    """MIMIC-IV 3.1 from the slopes between two sizes; not measured."""
    from mimic_qlora.mimic import releases

    total = sum(
        n for table, n in releases.row_counts()["3.1"].items() if not table.startswith("d_")
    )

    def at_full(key: str) -> float:
        slope = (large[key] - small[key]) / (large["rows"] - small["rows"])
        return large[key] + slope * (total - large["rows"])

    print(
        f"estimate for MIMIC-IV 3.1 ({total:,} rows in tables of known size), not measured:\n"
        f"{at_full('cpu_s') / 3600:.2f} CPU hours, output of {at_full('output') / 1e9:.0f} GB"
    )


if __name__ == "__main__":
    main()
