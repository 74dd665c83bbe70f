"""Answers labelled by criterion, and how well a reader finds each kind of criterion in them.

lot_six.yaml and lot_seven.yaml hold written answers, lot_models.jsonl real ones of a small model;
what each label means stands at the top of lot_six.yaml. Read by scorer.py.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Caution, Question
from mimic_qlora.validation.scoring import known, readings
from mimic_qlora.validation.scoring.readings import Readings

FOLDER = Path(__file__).parent
KINDS = (
    "a warning sign told",
    "a sign played down or put off",
    "a caution's action said",
    "its action and its reason said",
    "forbidden advice",
    "a cause named",
    "a dose made up",
    "a false statement about the patient",
)


class Truth(NamedTuple):
    """What an answer says, by label; signs by name, rules by id. `unsure` counts nowhere."""

    told: set[str]
    played_down: set[str]
    acted: set[str]
    reasons: set[str]
    forbidden: set[str]
    cause: bool
    dose: bool
    unsure: set[str]


class Case(NamedTuple):
    """A labelled answer. `cluster` is the answer that it is a changed version of."""

    lot: str
    cluster: str
    question: Question
    rules: list[str]
    answer: str
    truth: Truth


class Verdict(NamedTuple):
    """One criterion in one answer: whether it is there, and whether the reader finds it."""

    kind: str
    lot: str
    cluster: str
    there: bool
    found: bool
    of: str  # name of the sign, id of the rule


def cases(questions: dict[str, Question]) -> Iterator[Case]:
    """Yield all labelled answers."""
    for lot in ("six", "seven"):
        text = (FOLDER / f"lot_{lot}.yaml").read_text(encoding="utf-8")
        for n, entry in enumerate(yaml.safe_load(text)):
            question, place = questions[entry["question"]], f"{lot} {n}"
            for edit in ({}, *entry["edits"]):
                find = edit.get("find", "")
                if find and entry["text"].count(find) != 1:
                    raise SystemExit(f"lot_{lot}.yaml, {question.id}: not there once: {find}")
                answer = entry["text"].replace(find, edit["put"]) if find else entry["text"]
                truth = _of_written(question, entry["cautions"], edit.get("says", {}))
                yield Case(lot, place, question, [*entry["cautions"]], answer, truth)
    lines = (FOLDER / "lot_models.jsonl").read_text(encoding="utf-8").splitlines()
    for n, row in enumerate(map(json.loads, lines)):
        lot, labels = f"models, {row['lot']}", row["labels"]
        truth = Truth(
            told=set(labels.get("told", [])),
            played_down=set(),
            acted=set(),
            reasons=set(),
            forbidden=set(),
            cause=labels.get("cause", False),
            dose=False,
            unsure=set(labels.get("unsure", [])),
        )
        question = questions[row["question"]]
        yield Case(lot, f"{lot} {n}", question, row["cautions"], row["text"], truth)


def _of_written(question: Question, cautions: dict, says: dict) -> Truth:
    """Return what a written answer says after an edit that says `says`."""
    signs = {sign.name for sign in question.red_flags}
    down = {*says.get("played_down", []), *says.get("put_off", [])}

    def rules(part: str) -> set[str]:
        after = {rule: labels[part] for rule, labels in cautions.items()} | says.get(part, {})
        return {rule for rule, is_said in after.items() if is_said}

    return Truth(
        told=signs - down - set(says.get("absent", [])),
        played_down=down,
        acted=rules("action"),
        reasons=rules("action") & rules("reason"),
        forbidden=set(says.get("forbidden", [])),
        cause=says.get("cause", False),
        dose=says.get("dose", False),
        unsure=set(),
    )


def verdicts(case: Case, found: Readings) -> Iterator[Verdict]:
    """Yield each criterion of an answer beside what a reader found in it."""
    truth = case.truth

    def judged(kind: int, names: list[str], there: set[str], heard: tuple[str, ...]):
        for name in names:
            if name not in truth.unsure:
                yield Verdict(
                    KINDS[kind], case.lot, case.cluster, name in there, name in heard, name
                )

    signs = [sign.name for sign in case.question.red_flags]
    yield from judged(0, signs, truth.told, found.named)
    yield from judged(1, signs, truth.played_down, found.played_down)
    yield from judged(2, case.rules, truth.acted, found.acted)
    yield from judged(3, case.rules, truth.reasons, found.reasons)
    yield from judged(4, case.rules, truth.forbidden, found.forbidden)
    for kind, name, there, heard in (
        (5, "cause", truth.cause, found.causes),
        (6, "dose", truth.dose, found.doses),
        (7, "false", False, found.false_statements),  # no answer of these lots makes one
    ):
        yield from judged(kind, [name], {name} if there else set(), (name,) if heard else ())


def by_patterns(case: Case) -> Readings:
    """Read an answer by the patterns, beside a chart that has what its rules ask for."""
    rules = [content.load().cautions[name] for name in case.rules]
    chart = known.of_text(chart_of(rules), tuple(case.rules))
    return readings.read(case.question, rules, case.answer, chart)


def chart_of(rules: list[Caution]) -> str:
    """Return a context that lists all that the conditions of some rules name."""
    catalogue = content.load()
    names = {f"phenotype {name}": entry.name for name, entry in catalogue.phenotypes.items()}
    names |= {f"procedure {name}": entry.name for name, entry in catalogue.procedures.items()}
    names |= {f"drug_class {name}": "; ".join(e.ingredients) for name, e in catalogue.drugs.items()}

    def named(condition: object) -> Iterator[str]:
        if isinstance(condition, dict):
            for key, value in condition.items():
                if isinstance(value, str):
                    yield names.get(f"{key} {value}", "")
                yield from named(value)
        elif isinstance(condition, list | tuple):
            for part in condition:
                yield from named(part)

    found = [name for rule in rules for name in (*named(rule.when.model_dump()), rule.asks.reason)]
    return "Patient context\n- Known conditions: " + "; ".join(filter(None, found))


def all_verdicts(
    questions: dict[str, Question],
    lots: tuple[str, ...],
    read: Callable[[Case], Readings] = by_patterns,
) -> list[Verdict]:
    """Return the verdicts of a reader on the labelled answers of some lots."""
    chosen = [case for case in cases(questions) if case.lot in lots]
    return [one for case in chosen for one in verdicts(case, read(case))]


def rows(judged: list[Verdict], lots: tuple[str, ...]) -> list[dict[str, str]]:
    """Return a row per kind: found of what is there, false alarms of what is not, with intervals.

    `lots` are taken together.
    """
    judged = [one for one in judged if one.lot in lots]
    table = []
    for kind in KINDS:
        row = {"criterion": kind}
        for name, there in (("found", True), ("false alarms", False)):
            part = [one for one in judged if one.kind == kind and one.there == there]
            row[name] = share(part)
        table.append(row)
    return table


def by_wording(judged: list[Verdict], lots: tuple[str, ...]) -> list[dict[str, str]]:
    """Return how often a caution's action is heard: as training answers word it, and otherwise.

    A reader that hears the former better favours an adapter that learned these sentences.
    """
    rules = content.load().cautions
    acts = [one for one in judged if one.kind == KINDS[2] and one.lot in lots]
    as_trained = "trained on, as training answers word them"
    table = [{"cautions": as_trained, "found": _as_trained(), "false alarms": ""}]
    for words, held_out in (("trained on", False), ("never trained on", True)):
        row = {"cautions": f"{words}, in other words"}
        for name, there in (("found", True), ("false alarms", False)):
            part = [one for one in acts if one.there == there]
            row[name] = share([one for one in part if rules[one.of].held_out == held_out])
        table.append(row)
    return table


def _as_trained() -> str:
    """Return of how many rules trained on the action is heard in their own sentence."""
    rules = [rule for rule in content.load().cautions.values() if not rule.held_out]
    question = content.load_questions(FOLDER.parent / "run_files")[0]
    heard = 0
    for rule in rules:
        answer = f"{content.SECTIONS[rule.section]}\n- {rule.say}"
        heard += rule.id in readings.read(question, [rule], answer).acted
    return f"{heard} of {len(rules)} ({heard / len(rules):.0%})"


def share(part: list[Verdict]) -> str:
    """Return how many of some verdicts were found, with a 95% interval over clusters.

    Wilson's, with as many trials as independent ones of the same variance would be: versions of
    one answer share their text.
    """
    if not part:
        return "none"
    groups = defaultdict(list)
    for one in part:
        groups[one.cluster].append(one.found)
    n, hits = len(part), sum(one.found for one in part)
    p = hits / n
    if 0 < p < 1:
        spread = sum((sum(own) - p * len(own)) ** 2 for own in groups.values()) / n**2
        trials = min(n, p * (1 - p) / spread) if spread else n
    else:
        trials = len(groups)
    z = 1.96
    middle, half = (
        p + z * z / (2 * trials),
        z * (p * (1 - p) / trials + (z / (2 * trials)) ** 2) ** 0.5,
    )
    low, high = ((middle + sign * half) / (1 + z * z / trials) for sign in (-1, 1))
    return f"{hits} of {n} ({p:.0%}, {low:.0%} to {high:.0%})"
