"""Which questions are put to which held-out patients: distinct (patient, question) pairs, balanced, drawn by seed."""

import json
import math
import sys
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from mimic_qlora.chart import context, prediction_times
from mimic_qlora.clinical import content
from mimic_qlora.qa.session import Session, charts
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError
from mimic_qlora.tasks import guidance

EXACT = ("chart_qa", "diagnoses")  # tasks of step 4 whose answers are right or wrong


class Trial(NamedTuple):
    """One question with the messages that ask it, of one `chart` at one time.

    `cautions` are the rules that the chart calls for on the question's symptom. `kind` is "trial", "knowledge" (no
    patient) or "record" (a held-out prompt of step 4 with one right answer): these two have no chart to be shown.
    """

    number: int
    question: dict
    messages: list
    kind: str = "trial"
    subject_id: int | None = None
    moment: prediction_times.Moment | None = None
    cautions: tuple = ()
    chart: context.Context | None = None


def pairs(n: int, patients: list, questions: list) -> Iterator[tuple]:
    """(number, patient, question) of n distinct pairs, or of all; each patient and each question equally often (±1).

    Both lists are walked round in step, which meets each pair once before the least common multiple of their lengths;
    then the patients are shifted by one.
    """
    period = math.lcm(len(patients), len(questions))
    for t in range(min(n, len(patients) * len(questions))):
        yield t + 1, patients[(t + t // period) % len(patients)], questions[t % len(questions)]


def draw(source: Session, questions: list, n: int, split: str, seed: int) -> list:
    """n trials, or as many as there are pairs. Raises UserError when no patient of the split can be asked about."""
    patients = list(islice(charts(source, split, seed), min(n, sys.maxsize)))
    if not patients:
        raise UserError(
            f"no {split} patient has a coded stay that ended with a discharge to home: convert more patients in step 1"
        )
    by_id = {question["id"]: question for question in questions}
    asked = [by_id[i] for i in seeded.order(by_id, "questions", seed)]
    trials = []
    for number, (subject_id, moment, built), question in pairs(n, patients, asked):
        turns = context.messages(source.settings, built.text, question["question"])
        cautions = guidance.cautions_for(content.symptom_of(question), built.facts)
        trials.append(
            Trial(number, question, turns, "trial", subject_id, moment, tuple(cautions), built)
        )
    return trials


def without_patient(prompts: list) -> list:
    """The knowledge prompts as trials. They are no triage, so they go without its system prompt, as from anybody."""
    return [
        Trial(i, p, [{"role": "user", "content": p["question"]}], "knowledge")
        for i, p in enumerate(prompts, 1)
    ]


def of_records(source: Session, n: int, split: str, seed: int) -> list:
    """About n prompts of step 4 on a split's patients, half of each task that has one right answer; fewer where step 4
    made fewer. They are asked as in training."""
    path, found = source.store / "prompts" / f"{split}.jsonl", []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    for task in EXACT:
        places = [i for i, record in enumerate(records) if record["task"] == task]
        found += [
            records[i] for i in seeded.order(places, f"records:{task}", seed)[: math.ceil(n / 2)]
        ]
    trials = []
    for number, record in enumerate(found, 1):
        *turns, gold = record["messages"]
        question = {
            "id": record["kind"] or record["task"],
            "ideal": gold["content"],
            "record": record,
        }
        question["question"] = turns[-1]["content"].rpartition("\n\nQuestion\n")[2]
        trials.append(Trial(number, question, turns, "record", record["subject_id"]))
    return trials
