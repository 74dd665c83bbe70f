"""Step 2 against loading the JSONL into a list and counting, on the open demo made larger.

    python benchmarks/summary.py ../mimic-iv-demo-2.2 --copies 1 10 100 --list-up-to 10

Step 1's folder of the demo is written n times over, each time with new ids. Both then count the
same things: rows and patients by table, empty cells by column, diagnoses per patient, the top
codes, drugs and tests, Table 1's shares. Step 2 also makes its page, plots and files. Each runs in
a process of its own; the list is left out where it would not fit.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measure import DEMO, measure
from replicate import SHIFTED, STEP

from mimic_qlora.subjects import split_file

ROOT = Path(__file__).resolve().parent.parent

LIST = """
import collections, gzip, json, pathlib, statistics, sys
patients = []
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jsonl.gz")):
    with gzip.open(path, "rt") as file:
        patients += [json.loads(line) for line in file]
rows, filled, of_patients, by_rows, by_patients = (collections.Counter() for _ in range(5))
codes, shares, ages, stays = [], collections.Counter(), [], []
code = ("icd_version", "icd_code")
names = {"diagnoses_icd": code, "procedures_icd": code,
         "prescriptions": ("drug",), "labevents": ("itemid",)}
once = (("patients", "gender"), ("admissions", "race"), ("admissions", "insurance"))
for patient in patients:
    codes.append(len(patient.get("diagnoses_icd", [])))
    for table, found in patient.items():
        if isinstance(found, list):
            rows[table] += len(found)
            of_patients[table] += bool(found)
            for row in found:
                for column, value in row.items():
                    filled[table, column] += value is not None
            if table in names:
                keys = [(table, *(row.get(c) for c in names[table])) for row in found]
                by_rows.update(keys)
                by_patients.update(set(keys))
    for table, column in once:
        shares.update((column, row.get(column)) for row in patient.get(table, [])[:1])
    ages += [int(row["anchor_age"]) for row in patient.get("patients", [])]
    stays.append(len(patient.get("admissions", [])))
for values in (codes, ages, stays):
    print(statistics.mean(values), statistics.quantiles(values), max(values))
for table in names:
    for counter in (by_rows, by_patients):
        found = [(n, key) for key, n in counter.items() if key[0] == table]
        print(sorted(found, key=lambda x: -x[0])[:20])
print(rows, of_patients, filled, shares)
"""


def enlarge(demo: Path, folder: Path, copies: int, with_lines: bool) -> None:
    """The storage folder of the demo with its patients written n times."""
    source, place = demo / "subjects", folder / "subjects"
    shutil.copytree(source / "dictionaries", place / "dictionaries")
    for table in sorted((source / "tables").iterdir()):
        (place / "tables" / table.name).mkdir(parents=True)
        rows = pq.read_table(sorted(table.glob("*.parquet")))
        for copy in range(copies):
            for name in set(SHIFTED) & set(rows.column_names):
                moved = pc.add(rows[name], pa.scalar(STEP if copy else 0, rows[name].type))
                rows = rows.set_column(rows.column_names.index(name), name, moved)
            pq.write_table(
                rows, place / "tables" / table.name / f"part-{copy:05d}.parquet", compression="zstd"
            )
    split = split_file.read(demo)
    shifted = {s + STEP * copy: name for copy in range(copies) for s, name in split.items()}
    split_file.write(place, shifted)
    (place / "shards").mkdir()
    for path in sorted((source / "shards").glob("*.gz")) if with_lines else ():
        text = gzip.decompress(path.read_bytes())
        for copy in range(copies):
            (place / "shards" / f"{copy}-{path.name}").write_bytes(gzip.compress(text, 1))
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["files"], manifest["id"] = {}, f"x{copies}"
    manifest["source"]["patients"] *= copies
    manifest["split"] = {name: n * copies for name, n in manifest["split"].items()}
    manifest["rows"] = {
        t: {k: v * copies for k, v in counts.items()} for t, counts in manifest["rows"].items()
    }
    (place / "manifest.json").write_text(json.dumps(manifest))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path, nargs="?", default=DEMO, help="folder of the open demo")
    parser.add_argument(
        "--copies", type=int, nargs="+", default=[1, 10], help="sizes, in demos (default: 1 10)"
    )
    parser.add_argument(
        "--list-up-to", type=int, default=10, help="the largest size for the list (default: 10)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_summary_") as work:
        work = Path(work)
        convert = [
            sys.executable,
            ROOT / "convert_to_jsonl.py",
            "--mimic-dir",
            args.demo,
            "--storage",
            work / "demo",
        ]
        subprocess.run(convert, check=True, capture_output=True)
        print("| input | patients | rows | system | wall s | CPU s | peak MB |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for copies in args.copies:
            store = work / f"x{copies}"
            enlarge(work / "demo", store, copies, copies <= args.list_up_to)
            systems = {"step 2": [sys.executable, ROOT / "summarize_jsonl.py", "--storage", store]}
            if copies <= args.list_up_to:
                systems["list of records"] = [
                    sys.executable,
                    "-c",
                    LIST,
                    store / "subjects" / "shards",
                ]
            manifest = json.loads((store / "subjects" / "manifest.json").read_text())
            rows = sum(counts["columnar"] for counts in manifest["rows"].values())
            for name, command in systems.items():
                cost = measure(command)
                if cost.code:
                    sys.exit(f"{name} failed on x{copies}")
                cells = [f"x{copies}", f"{manifest['source']['patients']:,}", f"{rows:,}", name]
                cells += [f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", f"{cost.peak_mb:,.0f}"]
                print("|", " | ".join(cells), "|", flush=True)
            shutil.rmtree(store)


if __name__ == "__main__":
    main()
