"""Step 3's features against a dict per patient from the JSONL and scikit-learn's DictVectorizer.

    python benchmarks/features.py ../mimic-iv-demo-2.2 --copies 1 6 20

The dicts stand for scripts that walk over each record in Python: count, mean, deviation, minimum
and maximum of each numeric column, counts of the five most frequent values of the others, over the
whole record. Step 3 makes many more features (an aggregate for each item), of what was known a day
after admission; a second line has them over the whole chart, as the dicts do. The demo's patients
are written n times.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import DEMO, measure
from summary import enlarge

ROOT = Path(__file__).resolve().parent.parent

DICTS = """
import collections, gzip, json, math, pathlib, statistics, sys
from sklearn.feature_extraction import DictVectorizer
patients = []
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jsonl.gz")):
    with gzip.open(path, "rt") as file:
        for line in file:
            features = {}
            for table, rows in json.loads(line).items():
                if not isinstance(rows, list):
                    continue
                features[table + ".*"] = len(rows)
                columns = collections.defaultdict(list)
                for row in rows:
                    for column, value in row.items():
                        if value not in (None, ""):
                            columns[column].append(value)
                for column, values in columns.items():
                    try:
                        numbers = [float(value) for value in values]
                    except ValueError:
                        for value, n in collections.Counter(values).most_common(5):
                            features[f"{table}.{column}={value}"] = n
                    else:
                        name = f"{table}.{column}"
                        features[name + "__count"] = len(numbers)
                        features[name + "__mean"] = math.fsum(numbers) / len(numbers)
                        features[name + "__std"] = statistics.pstdev(numbers)
                        features[name + "__min"] = min(numbers)
                        features[name + "__max"] = max(numbers)
            patients.append(features)
print(DictVectorizer(sparse=True).fit_transform(patients).shape)
"""
STEP3 = """
import pathlib, sys, tempfile
from mimic_qlora.features import cohort, matrix
from mimic_qlora.subjects import database
store, temp = pathlib.Path(sys.argv[2]), pathlib.Path(tempfile.mkdtemp())
con = database.connect(store, temp)
people = cohort.gather(con, 24)
con.close()
if sys.argv[3] == "whole chart":
    people["as_of"] = people["as_of"].max().replace(year=2250)  # after all that the demo holds
matrix.build(store, people, temp)
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path, nargs="?", default=DEMO, help="folder of the open demo")
    parser.add_argument(
        "--copies", type=int, nargs="+", default=[1], help="sizes, in demos (default: 1)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_features_") as work:
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
        print("| input | rows | system | wall s | CPU s | peak MB |")
        print("| --- | --- | --- | --- | --- | --- |")
        for copies in args.copies:
            store = work / f"x{copies}"
            enlarge(work / "demo", store, copies, True)
            manifest = json.loads((store / "subjects" / "manifest.json").read_text())
            rows = sum(counts["columnar"] for counts in manifest["rows"].values())
            systems = {
                "step 3": [sys.executable, "-c", STEP3, ROOT, store, "a day"],
                "step 3, whole chart": [sys.executable, "-c", STEP3, ROOT, store, "whole chart"],
                "dicts": [sys.executable, "-c", DICTS, store / "subjects" / "shards"],
            }
            for name, command in systems.items():
                cost = measure(command)
                if cost.code:
                    sys.exit(f"{name} failed on x{copies}")
                cells = [f"x{copies}", f"{rows:,}", name, f"{cost.wall_s:.1f}"]
                cells += [f"{cost.cpu_s:.1f}", f"{cost.peak_mb:,.0f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
            shutil.rmtree(store)


if __name__ == "__main__":
    main()
