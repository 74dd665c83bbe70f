"""What steps 1 and 4 leave of a synthetic hospital with an emergency department."""

import json
from pathlib import Path

from helpers.prompt_records import SHARED, count_words
from helpers.scripts import run_here
from helpers.storage_folders import step_three_stub
from mimic_qlora.chart import context
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.prompts import build, records
from mimic_qlora.step import storage

TASKS = ["guidance", "chart_qa", "diagnoses", "urgency"]


def write(folder: Path) -> None:
    """Write a storage folder of 90 patients, whose tables are beside it, with all four tasks."""
    hospital.write(folder / "mimic", 90, seed=5, progress=False, emergency=True)
    store = folder / "storage"
    done = run_here("convert_to_jsonl.py", "--mimic-dir", folder / "mimic", storage=store)
    assert done.returncode == 0, done.stderr
    step_three_stub(store, "admissions.language")
    make_prompts(store)


def make_prompts(store: Path) -> None:
    """Write step 4's folder with a tokenizer that counts words."""
    settings = build.PromptSettings(
        tasks=TASKS,
        pairs_per_subject=1,
        max_total=None,
        token_budget=SHARED.token_budget,
        landmark_hours=24,
        seed=42,
        model="words",
    )
    maker = records.PromptMaker(SHARED, context.lab_labels(store), count_words)
    inputs = {"subjects": storage.verified_manifest(store, "subjects")["id"]}
    with storage.step_output(store, "prompts", {}, inputs, force=True) as out:
        SHARED.write(out.path)
        build.make_records(store, out.path, settings, maker)


def planted(store: Path) -> dict[int, str]:
    """Return stay_id -> the level that was planted."""
    truths = json.loads((store.parent / "mimic" / "planted_truths.json").read_text())
    return {int(stay_id): level for stay_id, level in truths["urgency"].items()}
