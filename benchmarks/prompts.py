"""Step 4's records per CPU-second, beside the plain way: load each line of the JSONL and loop.

    python benchmarks/prompts.py --storage FOLDER

FOLDER holds `subjects/`. All ways make the same records of the same patients with the same
tokenizer, each in a process of its own with empty caches; imports and content files are not
counted. The plain ways read with the json module, turn a patient's cells into their types (every
one, or only those that step 4 reads), and ask the tokenizer for the length of each text. The other
work is shared: masking cells, writing contexts within the budget, answers, near-duplicates. Prints
records per CPU-second, the ratios, and the peak memory of step 4 as a command (given that
`features/` is there).
"""

import argparse
import gzip
import json
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import measure

from mimic_qlora.chart import context
from mimic_qlora.chart.columns import WANTED
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.clinical import content
from mimic_qlora.llm import chat, finding
from mimic_qlora.mimic import cells, tables
from mimic_qlora.prompts import cohort, dataset
from mimic_qlora.prompts import records as prompts
from mimic_qlora.step import storage
from mimic_qlora.subjects import reader

ROOT = Path(__file__).resolve().parents[1]
TASKS, PER_SUBJECT, SEED, HOURS = list(cohort.SHARES), 2, 42, 24


def plain_records(store: Path, all_of_it: bool):
    """Yield every patient by json.loads, cells as their types: all, or those that step 4 reads."""
    columns = {name: table.columns for name, table in tables.schema().items()}
    for name in ("diagnoses_icd", "procedures_icd"):
        columns[f"{name}_labeled"] = columns[name] | {"long_title": "text"}
    if not all_of_it:
        columns = {name: {c: columns[name][c] for c in wanted} for name, wanted in WANTED.items()}
    for shard in sorted((store / "subjects" / "shards").glob("*.jsonl.gz")):
        with gzip.open(shard, "rt", encoding="utf-8") as file:
            for line in file:
                raw = json.loads(line)
                record = {"subject_id": raw["subject_id"], **{name: [] for name in WANTED}}
                for name, types in columns.items():
                    record[name] = [typed(row, types) for row in raw.get(name, ())]
                yield record


def typed(row: dict, types: dict) -> dict:
    found = {
        c: row[c] if isinstance(row[c], int) else cells.read(row[c], types[c]).value
        for c in row
        if c in types
    }
    return {c: v for c, v in found.items() if v is not None}


def made(patients, slots: dict, maker: prompts.PromptMaker, split: dict):
    """Yield the records of the patients who have slots."""
    for patient in patients:
        subject_id = patient["subject_id"]
        if subject_id in slots:
            groups = prompts.Groups(split[subject_id], "", "train")
            yield from maker.prompts(patient, slots[subject_id], groups).records


def alone(function, *arguments):
    """What a function returns in a process of its own, a fork of this one."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put(function(*arguments)))
    process.start()
    found = results.get()
    process.join()
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--storage", help="storage folder with subjects/ (default: $STORAGE_DIR, else ./storage)"
    )
    store = storage.open_storage(parser.parse_args().storage)
    path = finding.model_path(None, store)
    tokenizer = chat.load_tokenizer(path)
    plainly, as_step_4 = partial(chat.count_tokens, tokenizer), chat.token_counter(tokenizer)
    settings = ContextSettings(
        system_prompt="Help.",
        system_prompts=prompts.system_prompts("Help."),
        token_budget=700,
        landmark_hours=HOURS,
        dropped_columns=[],
        seed=SEED,
        tokenizer=finding.model_name(path),
        model=finding.model_name(path),
        template_sha256=chat.template_sha256(tokenizer),
    )
    content.load()  # once a run, like the imports
    labels, split = context.lab_labels(store), reader.split_of(store)

    def pass_of(way: str) -> tuple[int, float]:
        read, count_tokens = ways[way]
        with TemporaryDirectory() as folder:
            began = time.process_time()
            found = cohort.find(store, TASKS, PER_SUBJECT, SEED, HOURS)
            chosen = cohort.chosen(found.slots, None, SEED)
            maker = prompts.PromptMaker(settings, labels, count_tokens)
            counts = dataset.write(Path(folder), made(read(chosen), chosen, maker, split))
            return sum(counts.splits.values()), time.process_time() - began

    ways = {
        "plain, every table and column": (lambda chosen: plain_records(store, True), plainly),
        "plain, what step 4 reads": (lambda chosen: plain_records(store, False), plainly),
        "step 4": (partial(prompts.patients, store), as_step_4),
    }
    speed = {}
    for way in ways:
        n, seconds = alone(pass_of, way)
        speed[way] = n / seconds
        print(
            f"{way:>30}: {n:,} records in {seconds:.1f} CPU-seconds, {speed[way]:.1f} a CPU-second",
            flush=True,
        )
    ratios = [speed["step 4"] / n for way, n in speed.items() if way != "step 4"]
    print("step 4, to the plain ways: " + ", ".join(f"{ratio:.1f} times" for ratio in ratios))
    if (store / "features").is_dir():
        command = [
            sys.executable,
            ROOT / "make_symptom_prompts_ctx_dxpx.py",
            "--storage",
            store,
            "--force",
        ]
        cost = measure(list(map(str, command)), cwd=ROOT)
        print(
            f"step 4 as a command: {cost.cpu_s:.1f} CPU-seconds, "
            f"{cost.peak_mb:,.0f} MB at its peak, exit {cost.code}"
        )


if __name__ == "__main__":
    main()
