"""Step 4's records per CPU-second, beside the plain way: load each line of the JSONL, parse it all, loop.

    python benchmarks/prompts.py --storage FOLDER

FOLDER holds `subjects/`. Both ways make the same records for the same patients with the same tokenizer in one process;
imports and content files are not counted. The plain way reads with the json module and turns every cell of a patient
into its type. Prints records per CPU-second of both, their ratio, and the peak memory of step 4 as a command (given
that `features/` is there).
"""

import argparse
import gzip
import json
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import measure

from mimic_qlora import clinical, context, dataset, facts, models, prompts, storage, subjects, tables

ROOT = Path(__file__).resolve().parents[1]
TASKS, PER_SUBJECT, SEED, HOURS = list(prompts.TASKS), 2, 42, 24


def plain_records(store: Path):
    """Every patient, parsed whole: each table, each column."""
    columns = {name: table.columns for name, table in tables.schema().items()}
    for name in ("diagnoses_icd", "procedures_icd"):
        columns[f"{name}_labeled"] = columns[name] | {"long_title": "text"}
    for shard in sorted((store / "subjects" / "shards").glob("*.jsonl.gz")):
        with gzip.open(shard, "rt", encoding="utf-8") as file:
            for line in file:
                raw = json.loads(line)
                record = {name: [] for name in facts.WANTED}
                for name, rows in raw.items():
                    if name != "subject_id":
                        types = columns.get(name, {})
                        parsed = [
                            {
                                c: v if isinstance(v, int) else tables.parse(v, types.get(c, "text"))
                                for c, v in r.items()
                            }
                            for r in rows
                        ]
                        record[name] = [{c: v for c, v in row.items() if v is not None} for row in parsed]
                yield {"subject_id": raw["subject_id"], **record}


def made(records, slots: dict, shared: dict, labels: dict, count_tokens, split: dict):
    for record in records:
        if record["subject_id"] in slots:
            here = slots[record["subject_id"]]
            for one in prompts.of_patient(record, here, shared, labels, count_tokens, Counter()):
                yield one | {"split": split[record["subject_id"]], "temporal_split": "train"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", help="storage folder with subjects/ (default: $STORAGE_DIR, else ./storage)")
    store = storage.open_storage(parser.parse_args().storage)
    path = models.model_path(None, store)
    count_tokens = partial(models.count_tokens, models.load_tokenizer(path))
    shared = {
        "system_prompts": prompts.system_prompts("Help."),
        "dropped_columns": [],
        "token_budget": 700,
        "seed": SEED,
    }
    clinical.load()  # once a run, like the imports
    labels, split = context.lab_labels(store), subjects.split_of(store)

    def slots():
        return prompts.chosen(prompts.cohort(store, TASKS, PER_SUBJECT, SEED, HOURS).slots, None, SEED)

    ways = {
        "plain": lambda chosen: plain_records(store),
        "step 4": lambda chosen: subjects.records(store, facts.WANTED, chosen, facts.ONLY),
    }
    speed = {}
    for name, read in ways.items():
        with TemporaryDirectory() as folder:
            began = time.process_time()
            chosen = slots()
            counts = dataset.write(Path(folder), made(read(chosen), chosen, shared, labels, count_tokens, split))
            seconds = time.process_time() - began
        n = sum(counts["splits"].values())
        speed[name] = n / seconds
        print(f"{name:>8}: {n:,} records in {seconds:.1f} CPU-seconds, {speed[name]:.1f} a CPU-second", flush=True)
    print(f"step 4 makes {speed['step 4'] / speed['plain']:.1f} times as many records a CPU-second")
    if (store / "features").is_dir():
        command = [sys.executable, ROOT / "make_symptom_prompts_ctx_dxpx.py", "--storage", store, "--force"]
        cost = measure(list(map(str, command)), cwd=ROOT)
        print(
            f"step 4 as a command: {cost.cpu_s:.1f} CPU-seconds, {cost.peak_mb:,.0f} MB at its peak, exit {cost.code}"
        )


if __name__ == "__main__":
    main()
