"""The files of step 4 as tests write and read them."""

import json
from pathlib import Path

from helpers.storage_folders import step_three_stub
from mimic_qlora.chart import prediction_times
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.prompts import records
from mimic_qlora.prompts.cohort import Slot

SPLITS = ("train", "validation", "test")


def prompt_record(messages: list, subject_id: int = 1, **fields) -> dict:
    """Return a record of `<split>.jsonl` as JSON: a chart question unless told otherwise."""
    return {
        "messages": messages,
        "task": "chart_qa",
        "subject_id": subject_id,
        "hadm_id": 2,
        "as_of": "2150-03-02 00:00:00",
        "symptom": None,
        "kind": "age",
        "cautions": [],
        "evidence": [],
        "rubric": [],
        "split": "train",
        "anchor_year_group": "",
        "temporal_split": "train",
        **fields,
    }


def context_settings(**fields) -> ContextSettings:
    return ContextSettings(
        **{
            "system_prompt": "Help.",
            "system_prompts": {
                "guidance": "Help.",
                "chart_qa": "Read.",
                "diagnoses": "Expect.",
            },
            "token_budget": 900,
            "landmark_hours": 24,
            "dropped_columns": [],
            "seed": 42,
            "tokenizer": "tiny",
            "model": "tiny",
            "template_sha256": "0",
            **fields,
        }
    )


SHARED = context_settings(
    system_prompts=records.system_prompts("Be careful."), token_budget=300, seed=42
)


def folder_over(subjects_of: Path, folder: Path) -> Path:
    """A storage folder of its own over step 1's output elsewhere."""
    (folder / "subjects").symlink_to(subjects_of / "subjects")
    step_three_stub(folder, "admissions.language")
    return folder


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def count_words(text: str) -> int:
    return len(text.split())


def of_task(made, task: str) -> list[dict]:
    return [one for one in made.records if one["task"] == task]


def answer_of(record: dict) -> str:
    return record["messages"][2]["content"]


def records_of(record: dict, labels: dict) -> list:
    """The records of a patient at the newest guidance moment and the newest landmark."""
    home = prediction_times.after_discharge(record, 42)[-1:]
    early = prediction_times.landmarks(record, 24)[-1:]
    slots = [
        Slot(task, record["subject_id"], 0, m) for task in ("guidance", "chart_qa") for m in home
    ]
    slots += [Slot("diagnoses", record["subject_id"], 0, m) for m in early]
    maker = records.PromptMaker(SHARED, labels, count_words)
    made = maker.prompts(record, slots, records.Groups("train", "", "train"))
    return [one for one, _ in made.records]
