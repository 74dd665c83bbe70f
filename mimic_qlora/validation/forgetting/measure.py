"""Measure likelihoods that tell what an adapter learnt and forgot, for base and adapters."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mimic_qlora.llm import generation, likelihood
from mimic_qlora.llm.chat import Turn
from mimic_qlora.llm.generation import Model
from mimic_qlora.processes import entries
from mimic_qlora.processes.entries import Entry, Journal, Work
from mimic_qlora.prompts import record_files
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.step import files, seeded
from mimic_qlora.validation.answer_cache import Load
from mimic_qlora.validation.arms import Arm, Prompt
from mimic_qlora.validation.settings import Run

NEUTRAL = Path(__file__).parent / "neutral.txt"
TASKS = ("guidance", "chart_qa", "diagnoses")
OPTIONS = 4  # of a chart question: the right answer, and those of other patients
TOKENS = 32  # of the base's answer to a neutral prompt
Row = dict[str, Any]  # {"task": ..., "question_id": ..., "bits_guidance_base": ...}


class Asked(NamedTuple):
    """A held-out record whose gold answer is measured, beside other answers to the same question.

    `options` begins with the gold; alone where no other patient's answer differs.
    """

    record: PromptRecord
    options: list[str]


def measured(run: Run, load: Load, journal: Journal) -> Iterator[Row]:
    """Yield what each arm finds how likely, a row a record or prompt.

    Each row is kept in the cache when it is there; `load` returns the model, and is not called when
    all are.
    """
    whose = arms_of(run)
    by = [[arm.name, arm.who] for arm in whose]
    parts: list[tuple[str, Callable[[Model], Row]]] = []
    for asked in draw(run):
        key = files.digest(["likelihoods", asked.record.messages, asked.options, by])
        parts.append((key, partial(of_record, run, whose, asked)))
    for prompt in NEUTRAL.read_text(encoding="utf-8").splitlines():
        key = files.digest(["drift", prompt, TOKENS, by])
        parts.append((key, partial(of_neutral, run, whose, prompt)))

    def make(place: int) -> list[Entry]:
        key, measure = parts[place]
        return [{"key": key, "value": measure(load())}]

    works = [Work(place, [key], partial(make, place)) for place, (key, _) in enumerate(parts)]
    made = entries.in_order(entries.each(works, journal))
    for done in tqdm(made, "likelihoods", len(works), False, unit="prompt", disable=None):
        yield done.entries[0]["value"]


def arms_of(run: Run) -> list[Arm]:
    """Return the arms that get each prompt as it is: base and adapters."""
    return [arm for arm in run.arms if arm.prompt is Prompt.AS_ASKED]


def draw(run: Run) -> list[Asked]:
    """Return about half of n records of each task, with options where there are any."""
    split, seed = run.settings.split, run.settings.seed
    records = list(record_files.read(record_files.path_of(run.session.store, split)))
    chosen: list[Asked] = []
    for task in TASKS:
        places = [place for place, record in enumerate(records) if record.task == task]
        order = seeded.order(places, f"likelihoods:{task}", seed)
        for place in order[: math.ceil(run.settings.n / 2)]:
            chosen.append(Asked(records[place], options(records[place], records, seed)))
    return chosen


def options(record: PromptRecord, records: Sequence[PromptRecord], seed: int) -> list[str]:
    """Return the gold answer, then up to OPTIONS - 1 answers of others to a question of its kind.

    Another answer to the very same question of a chart may be right of it too: none is taken from
    the same patient.
    """
    found = {
        other.answer
        for other in records
        if record.task == "chart_qa"
        and other.kind == record.kind
        and other.subject_id != record.subject_id
    }
    wrong = sorted(found - {record.answer})
    order = seeded.order(wrong, f"options:{record.subject_id}:{record.question}", seed)
    return [record.answer, *order[: OPTIONS - 1]]


def of_record(run: Run, arms: Sequence[Arm], asked: Asked, model: Model) -> Row:
    """Return the bits a byte of a record's gold, and whether it is the likeliest of its options."""
    record, texts = asked
    n_bytes = [len(text.strip().encode()) for text in texts]
    row: Row = {
        "task": record.task,
        "question_id": record.kind or record.symptom or f"patient {record.subject_id}",
        "subject_id": record.subject_id,
    }
    for arm in arms:
        with likelihood.answering(model, arm.who):
            nats = likelihood.of_answers(model, run.session.tokenizer, record.messages[:-1], texts)
        bits = [n / math.log(2) / size for n, size in zip(nats, n_bytes, strict=True)]
        row[f"bits_{record.task}_{arm.column}"] = bits[0]
        if len(bits) > 1:
            row[f"options_{arm.column}"] = float(bits[0] < min(bits[1:]))
    return row


def of_neutral(run: Run, arms: Sequence[Arm], prompt: str, model: Model) -> Row:
    """Return the drift of each arm from the base, on the base's answer to a neutral prompt."""
    tokenizer = run.session.tokenizer
    turns: list[Turn] = [{"role": "user", "content": prompt}]
    (given,) = generation.generate(model, tokenizer, [turns], ["base"], TOKENS)
    asked, own = likelihood.answer_ids(tokenizer, turns, given.text or "Yes.")
    predicted = {}
    for arm in arms:
        with likelihood.answering(model, arm.who):
            (found,) = likelihood.log_probabilities(model, [[*asked, *own]])
        predicted[arm] = found[len(asked) - 1 : -1]
    drifts = {
        f"drift_{arm.column}": likelihood.divergence([predicted[arms[0]]], [after])
        for arm, after in predicted.items()  # the base comes first
    }
    return {"task": "neutral", "question_id": prompt, **drifts}
