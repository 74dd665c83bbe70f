"""The arms of step 7: who answers a trial, and what they are shown.

That the adapter beats the bare base may mean little: two examples in the prompt, or the caution rules written into it,
may do as much. That it uses the chart is unproven until it does worse with the chart of somebody else.
"""

import json
from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace
from typing import NamedTuple

from mimic_qlora.chart import context
from mimic_qlora.clinical import content
from mimic_qlora.llm.loading import adapter_name
from mimic_qlora.qa.session import Session
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError
from mimic_qlora.tasks import guidance

PAIR = (
    "base",
    "adapter",
)  # the two that are compared in the headline, shown in the preview and always asked
EXAMPLES = 2


class Arm(NamedTuple):
    """One way of answering: its name, who answers (see generation.adapter_names), and what turns a trial into turns."""

    name: str
    who: str
    shown: Callable

    @property
    def column(self) -> str:
        """The ending of its columns in output.csv, whose readers know the adapter as qlora."""
        return self.name.replace("adapter", "qlora", 1)


def chosen(names: str, runs: list) -> list:
    """The arms that `names` lists ("base-rules,base-examples", "all"), after the pair; further runs of step 5 as
    arms adapter@<run>. Raises UserError for an unknown name."""
    wanted = [*KINDS] if names == "all" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in KINDS]:
        raise UserError(
            f"--arms '{unknown[0]}' is unknown: choose from {', '.join(KINDS)}, or give all"
        )
    arms = [Arm(name, *KINDS[name]) for name in KINDS if name in {*PAIR, *wanted}]
    return arms + [
        Arm(f"adapter@{run}", adapter_name(i), as_asked) for i, run in enumerate(runs) if i
    ]


class Ask(NamedTuple):
    """One trial put to one arm."""

    trial: object
    arm: Arm
    messages: list


def asks(trials: list, arms: list, source: Session) -> list:
    """Every trial put to every arm; what has no chart to be shown otherwise, to those that are asked as it stands."""
    examples = draw_examples(source) if any(arm.shown is with_examples for arm in arms) else []
    shared = SimpleNamespace(settings=source.settings, trials=trials, examples=examples)
    return [
        Ask(trial, arm, arm.shown(trial, shared))
        for trial in trials
        for arm in arms
        if trial.chart or arm.shown is as_asked
    ]


# ---------------------------------------------------------------- what an arm is shown


def as_asked(trial, shared) -> list:
    return trial.messages


def with_examples(trial, shared) -> list:
    """The prompt after answered ones: training records, as the adapter saw them."""
    system, question = trial.messages
    return [
        system,
        *(turn for record in shared.examples for turn in record["messages"][1:]),
        question,
    ]


def with_rules(trial, shared) -> list:
    """The prompt with the sentences of the caution rules that this chart calls for, after the context."""
    if not trial.cautions:
        return trial.messages
    rules = "\n".join(f"- {caution['say']}" for caution in trial.cautions)
    text = f"{trial.chart.text}\n\nCautions for this person\n{rules}"
    return context.messages(shared.settings, text, trial.question["question"])


def with_another_chart(trial, shared) -> list:
    """The question with the chart of another patient, one that calls for none of the same cautions if there is such."""
    others = [t for t in shared.trials if t.chart and t.subject_id != trial.subject_id]
    if not others:
        raise UserError("adapter-other-chart needs trials of two patients or more: give a larger n")
    start = trial.number % len(others)
    others = [*others[start:], *others[:start]][:50]
    own, symptom = {c["id"] for c in trial.cautions}, content.symptom_of(trial.question)

    def shared_cautions(other) -> int:
        return len(own & {c["id"] for c in guidance.cautions_for(symptom, other.chart.facts)})

    other = min(others, key=shared_cautions)
    return context.messages(shared.settings, other.chart.text, trial.question["question"])


def draw_examples(source: Session) -> list:
    """Training records to show: with a caution, each of another symptom. Raises UserError when there is none."""
    with open(source.store / "prompts" / "train.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in islice(file, 1000)]
    records = {i: r for i, r in enumerate(records) if r.get("cautions")}
    drawn = [records[i] for i in seeded.order(records, "examples", source.settings["seed"])]
    by_symptom = {record["symptom"]: record for record in drawn}
    if not by_symptom:
        raise UserError(
            "base-examples needs a training prompt with a caution, and step 4 left none: leave it out"
        )
    return list(by_symptom.values())[:EXAMPLES]


# name -> (who answers, what they are shown)
KINDS = {
    "base": ("base", as_asked),
    "adapter": ("adapter", as_asked),
    "base-examples": ("base", with_examples),
    "base-rules": ("base", with_rules),
    "adapter-other-chart": ("adapter", with_another_chart),
}
