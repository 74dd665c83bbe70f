"""Runs of step 7 as its tests make them: answers that cost nothing, and the files of a run."""

import csv
import json
import re
from pathlib import Path

import yaml

from helpers.paths import ROOT
from mimic_qlora.clinical import content
from mimic_qlora.llm import generation
from mimic_qlora.validation import plan as plans

QUESTIONS = content.load_questions(ROOT / "run_files")
SECTIONS = (
    "What you can try now\n- Rest.\n\nWhen to seek urgent care\n- Call 911 for chest pain or a "
    "fever.\n\nWhat to track or share with a clinician\n- The time."
)


def answer(model, tokenizer, prompts, who, max_new_tokens, fits):
    """Answer with sections as the adapter, as the base with a cut list that a spreadsheet runs.

    Stands in for the model, which takes minutes; tests/llm/test_generation.py has the real one.
    """
    given = []
    for ids, name in zip(prompts, who, strict=True):
        prompt = tokenizer.decode(ids, skip_special_tokens=True).rpartition("assistant")[0]
        question = prompt.strip().rpartition("\n")[2]
        unsafe = "=HYPERLINK(1)\n\x1b[31m- Rest.\n" + question
        of_base, of_adapter = (unsafe, 320, False), (SECTIONS, 60, True)
        given.append(generation.Answer(*(of_base if name == "base" else of_adapter)))
    return given, fits


def results(out: str) -> Path:
    return Path(re.search(r"Results: (\S+) \(copy", out).group(1))


def read_csv(path: Path) -> list:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same_answers(out: str) -> list:
    """What a run asked and was answered; the times that it took are another matter."""
    lines = map(
        json.loads, (results(out) / "results.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return [{k: v for k, v in line.items() if k != "scores"} for line in lines]


def journal_size(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "validation" / "answers").glob("*.jsonl"))


def write_plan(folder: Path, **changes) -> str:
    plan = (
        yaml.safe_load(plans.TEMPLATE.read_text(encoding="utf-8"))
        | {"arms": ["base", "adapter"], "runs": ["default", "seed.1", "seed.2"]}
        | changes
    )
    path = folder / "my_plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return str(path)
