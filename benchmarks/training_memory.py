"""Claim: the prompts' text takes step 5 no memory; `datasets` maps it from Arrow files.

    python benchmarks/training_memory.py

Writes made-up prompts as step 4 does and reads them in fresh processes: as a list of records, which
step 5 did until it read them through `datasets`, and as step 5 does. Measured is the growth of
memory that no file backs (RssAnon), so mapped pages, which the system may drop, do not count.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from mimic_qlora.prompts import record_files
from mimic_qlora.prompts.record_files import PromptRecord

WORDS = "sodium low potassium normal discharged mg daily chest pain rest "
WAYS = ("list of records", "datasets")


def write_prompts(folder: Path, n: int) -> None:
    """Write n records for training, one for validation, of 4 kB each."""
    (folder / "prompts").mkdir()
    for split, size in (("train", n), ("validation", 1)):
        with open(record_files.path_of(folder, split), "wb") as file:
            for i in range(size):
                messages = [
                    {"role": role, "content": f"{WORDS * times} {i}"}
                    for role, times in (("system", 4), ("user", 50), ("assistant", 10))
                ]
                file.write(record(messages, i, split).as_json())


def record(messages: list[dict[str, str]], subject_id: int, split: str) -> PromptRecord:
    """Return a record with nothing but a conversation."""
    return PromptRecord(
        messages=messages,
        task="guidance",
        subject_id=subject_id,
        hadm_id=subject_id,
        as_of=datetime(2150, 1, 1),
        symptom=None,
        kind=None,
        cautions=[],
        evidence=[],
        rubric=[],
        split=split,
        anchor_year_group="",
        temporal_split="train",
    )


def anonymous_bytes() -> int:
    """Return the memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def read(way: str, store: Path) -> None:
    """Read the prompts one way and go through all; print seconds and bytes that it took."""
    from mimic_qlora.llm.offline import quiet_datasets
    from mimic_qlora.training import data

    quiet_datasets()  # importing is no part of it
    before, began = anonymous_bytes(), time.time()
    characters = 0
    if way == WAYS[0]:
        records = list(record_files.read(record_files.path_of(store, "train")))
        characters = sum(len(turn["content"]) for row in records for turn in row.messages)
        print(time.time() - began, anonymous_bytes() - before, characters)
        return
    with data.opened(store, None) as prompts:
        for row in prompts["train"]:
            characters += sum(len(turn["content"]) for turn in row["messages"])
        print(time.time() - began, anonymous_bytes() - before, characters)


def main() -> None:
    """Print a table with a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--read", nargs=2, metavar=("WAY", "STORE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        return read(args.read[0], Path(args.read[1]))
    print(f"| {args.prompts:,} prompts read as | seconds | memory |")
    print("| --- | --- | --- |")
    library = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with tempfile.TemporaryDirectory() as folder:
        write_prompts(Path(folder), args.prompts)
        for way in WAYS:
            command = [sys.executable, __file__, "--read", way, folder]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | library
            )
            seconds, taken, _ = done.stdout.split()[-3:]
            print(f"| {way} | {float(seconds):.0f} | {int(taken) / 1e6:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
