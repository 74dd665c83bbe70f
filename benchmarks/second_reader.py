"""What the second reader, which counts lines beside step 1's own, takes of step 1's CPU and memory.

    python benchmarks/second_reader.py DEMO --copies 1 10 --repeats 5

Each repeat runs step 1 twice in processes of their own: as it is, with the CPU seconds of the
counting thread taken within the run, and with the counting left out, for the memory.
"""

import argparse
import gzip
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import DEMO, measure

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.15  # of step 1's CPU
WORDS = "the patient was admitted with chest pain and given aspirin daily and discharged home in"

RUN = """
import sys, time
from mimic_qlora.mimic import second_reader, tables

class Equal(int):
    def __ne__(self, other):
        return False

class Nothing:
    def __init__(self, *arguments): pass
    def add(self, data): pass
    def check(self): pass
    def finish(self): return second_reader.LineCounts(0, Equal(), 0, 0, 0)

spent, add = [0.0], second_reader.LineCounter.add
def timed(counter, data):
    began = time.thread_time()
    add(counter, data)
    spent[0] += time.thread_time() - began
place, counting = sys.argv.pop(1), sys.argv.pop(1)
if counting == "with":
    second_reader.LineCounter.add = timed
else:
    tables.LineCounter = Nothing
import convert_to_jsonl
convert_to_jsonl.main()
open(place, "w").write(str(spent[0]))
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "demo", type=Path, nargs="?", default=DEMO, help="folder of the open 100-patient demo"
    )
    parser.add_argument(
        "--copies", type=int, nargs="+", default=[1], help="sizes, in demos (default: 1)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each, the median is given (default: 3)"
    )
    parser.add_argument(
        "--notes", type=int, default=0, help="discharge notes beside the tables (default: none)"
    )
    args = parser.parse_args()
    if not args.demo.is_dir():
        sys.exit(f"the MIMIC-IV demo is not at {args.demo}: give its folder as the first argument")
    print(
        "| input | step 1, CPU s | second reader | share: median | worst | peak MB | without it |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    work = Path(tempfile.mkdtemp(prefix="bench_second_reader_"))
    for copies in args.copies:
        one_size(args.demo, copies, args, work)
    shutil.rmtree(work)


def write_notes(mimic: Path, n: int) -> None:
    """Write n discharge notes of 150 lines, whose words are drawn at random, for its patients."""
    with gzip.open(mimic / "hosp/patients.csv.gz", "rt") as file:
        ids = [line.split(",")[0] for line in file][1:]
    draw = random.Random(0)
    words = [*WORDS.split(), '""ok""', "81", "mg,", "120/80"]
    texts = [
        "\n".join(" ".join(draw.choices(words, k=draw.randrange(14))) for _ in range(150))
        for _ in range(100)
    ]
    (mimic / "note").mkdir()
    with gzip.open(mimic / "note/discharge.csv.gz", "wt", compresslevel=6) as file:
        file.write("note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n")
        for k in range(n):
            one, text = ids[k % len(ids)], texts[k % 100]
            file.write(f'{one}-DS-{k},{one},,DS,{k},2180-05-07 00:00:00,,"{text}"\n')


def one_size(demo: Path, copies: int, args, work: Path) -> None:
    """Measure step 1 on the demo made `copies` times as large, and print a line."""
    mimic, store, told = work / f"x{copies}", work / "storage", work / "spent"
    replicate = [sys.executable, ROOT / "benchmarks/replicate.py", demo, mimic, str(copies)]
    subprocess.run(replicate, check=True)
    if args.notes:
        write_notes(mimic, args.notes)
    runs = []
    for _ in range(args.repeats):
        peaks = []
        for counting in ("with", "without"):
            command = [sys.executable, "-c", RUN, told, counting, "--mimic-dir", mimic]
            command += ["--storage", store, "--force"]
            cost = measure(list(map(str, command)), stderr=subprocess.DEVNULL, cwd=ROOT)
            assert cost.code == 0, command
            peaks.append(cost.peak_mb)
            if counting == "with":
                total, spent = cost.cpu_s, float(told.read_text())
            shutil.rmtree(store)
        runs.append((total, spent, spent / total, *peaks))
    total, spent, share, peak, without = (median(values) for values in zip(*runs, strict=True))
    worst = max(run[2] for run in runs)
    print(
        f"| x{copies} | {total:.1f} | {spent:.2f} | {share:.1%} | {worst:.1%} "
        f"({'met' if worst <= GOAL else 'missed'}) | {peak:.0f} | {without:.0f} |",
        flush=True,
    )
    shutil.rmtree(mimic)


def median(values) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


if __name__ == "__main__":
    main()
