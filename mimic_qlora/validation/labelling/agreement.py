"""The reader's agreement with people who label answers blind, criterion by criterion, arm by arm.

A reader can favour one model's style and so create a difference by itself. Labelled answers give
its sensitivity (the share found of what is there) and its specificity (the share left alone of what
is not) in each arm.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Question
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import findings, results, statistics
from mimic_qlora.validation.arms import PAIR, Arm
from mimic_qlora.validation.labelling.drawn import Answer
from mimic_qlora.validation.labelling.label_file import ASKED, CRITERIA, LISTED, OF_SIGNS, Label
from mimic_qlora.validation.scoring import known, readings
from mimic_qlora.validation.scoring.readings import Readings

Row = dict[str, str]  # of a table
Unit = tuple[str, int]  # a criterion, and the number of its sign or caution; 0 where it has none
# sensitivity + specificity - 1 below which a reader tells too little to be corrected by these
INFORMATIVE = 0.6


class Judgement(NamedTuple):
    """The word of a person and of the reader on one criterion of one answer: is it there?

    `weight` is 1 / the probability with which the answer was drawn.
    """

    criterion: str
    arm: str
    question_id: str
    person: bool
    scorer: bool
    weight: float = 1.0


def judged(
    answers: Iterable[Answer],
    labelled: Mapping[str, Label],
    questions: Sequence[Question],
    weights: Mapping[str, float] | None = None,
) -> list[Judgement]:
    """Return a judgement per criterion of each labelled answer, and per sign and caution.

    `weights` are 1 / the probability of being drawn, by key; without them all answers weigh alike.
    """
    by_id = {question.id: question for question in questions}
    found = []
    for answer in answers:
        if label := labelled.get(answer.key):
            question, about = by_id[answer.question_id], (answer.arm, answer.question_id)
            of_reader = as_label(answer, question, found_by_reader(answer, question))
            read = dict(units(answer, question, of_reader))
            weight = weights[answer.key] if weights else 1.0
            found += [
                Judgement(unit[0], *about, there, read[unit], weight)
                for unit, there in units(answer, question, label)
            ]
    return found


def found_by_reader(answer: Answer, question: Question) -> Readings:
    """Return what the reader of the run found in an answer; without it, what the patterns find."""
    if answer.readings is not None:
        kept: dict[str, Any] = {name: _frozen(value) for name, value in answer.readings.items()}
        try:
            return Readings(**kept)
        except TypeError:
            raise UserError(
                f"{results.FILE} holds readings of another version: label it with that one, or "
                "run step 7 again"
            ) from None
    rules = [content.load().cautions[i] for i in answer.cautions]
    shown = known.of_text(answer.prompt, answer.cautions)
    return readings.read(question, rules, answer.text, shown)


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def seen(answers: Iterable[Answer], questions: Sequence[Question]) -> dict[tuple[str, str], float]:
    """Return the share of all answers of an arm in which the reader finds a yes/no criterion.

    The keys are (criterion, arm).
    """
    by_id = {question.id: question for question in questions}
    values: dict[tuple[str, str], list[bool]] = {}
    for answer in answers:
        question = by_id[answer.question_id]
        read = as_label(answer, question, found_by_reader(answer, question))
        for criterion, value in read.asked.items():
            values.setdefault((criterion, answer.arm), []).append(value)
    return {key: sum(given) / len(given) for key, given in values.items()}


def as_label(answer: Answer, question: Question, found: Readings) -> Label:
    """Return what a reader found in the form of a label."""
    signs, cautions = [flag.name for flag in question.red_flags], list(answer.cautions)
    names = {
        "named": found.named,
        "plays_down": found.played_down,
        "cautions_said": found.acted,
        "reasons_given": found.reasons,
        "forbidden": found.forbidden,
    }
    listed = {
        column: frozenset(
            i
            for i, name in enumerate(signs if column in OF_SIGNS else cautions, 1)
            if name in names[column]
        )
        for column in LISTED
    }
    asked = {
        "cause": bool(found.causes),
        "dose": bool(found.doses),
        "other_harm": bool(found.other_harm),
        "false_statement": bool(found.false_statements),
    }
    return Label(listed, asked)


def as_readings(answer: Answer, question: Question, label: Label) -> Readings:
    """Return a label as Readings, so that it is scored as what a reader finds is; what it says
    nothing of is none.
    """
    signs, cautions = [flag.name for flag in question.red_flags], list(answer.cautions)

    def names(column: str) -> tuple[str, ...]:
        of = signs if column in OF_SIGNS else cautions
        return tuple(name for i, name in enumerate(of, 1) if i in label.listed.get(column, ()))

    def told(column: str) -> tuple[str, ...]:
        return (ASKED[column],) if label.asked.get(column) else ()

    down = names("plays_down")
    said = names("cautions_said")
    reasons = tuple(name for name in names("reasons_given") if name in said)
    named = tuple(name for name in names("named") if name not in down)
    return Readings(
        named=named,
        played_down=down,
        acted=said,
        reasons=reasons,
        true_reasons=reasons,  # the chart calls for these cautions, so it has their reasons
        false_statements=told("false_statement"),
        forbidden=names("forbidden"),
        causes=told("cause"),
        doses=told("dose"),
        other_harm=told("other_harm"),
        refused=not named and readings.refuses(answer.text),
    )


def units(answer: Answer, question: Question, label: Label) -> Iterator[tuple[Unit, bool]]:
    """Yield each criterion of a label, one for each sign and caution, and whether it is there."""
    for column, numbers in label.listed.items():
        of = question.red_flags if column in OF_SIGNS else answer.cautions
        for number in range(1, len(of) + 1):
            yield (column, number), number in numbers
    for column, value in label.asked.items():
        yield (column, 0), value


@dataclass(frozen=True)
class Rates:
    """The reader against people in one arm: counts, and shares weighted as the answers were drawn.

    `found` of `there` are what people saw and the reader too; `false_alarms` of `absent` what the
    reader saw alone. `accuracy` has None where nothing tells it, `person` is the share of answers
    that have it as people say, None without a label.
    """

    there: int
    found: int
    absent: int
    false_alarms: int
    accuracy: statistics.Accuracy
    person: float | None

    @classmethod
    def of(cls, judgements: Sequence[Judgement]) -> "Rates":
        """Count the judgements of one criterion and arm."""
        there = [j for j in judgements if j.person]
        absent = [j for j in judgements if not j.person]
        found, false_alarms = ([j for j in part if j.scorer] for part in (there, absent))
        false_share = _share(false_alarms, absent)
        return cls(
            len(there),
            len(found),
            len(absent),
            len(false_alarms),
            statistics.Accuracy(
                _share(found, there), None if false_share is None else 1 - false_share
            ),
            _share(there, judgements),
        )

    @property
    def informed(self) -> float:
        """Return sensitivity + specificity - 1; 0 where one of them is unknown."""
        sensitivity, specificity = self.accuracy
        if sensitivity is None or specificity is None:
            return 0.0
        return sensitivity + specificity - 1


def _share(part: Sequence[Judgement], whole: Sequence[Judgement]) -> float | None:
    """Return the share of judgements, weighted; None of none."""
    weight = sum(j.weight for j in whole)
    return sum(j.weight for j in part) / weight if weight else None


@dataclass(frozen=True)
class Agreement:
    """The reader's agreement with people on one criterion.

    `corrected` is the share of the adapter's answers that have it minus that of the base's, as the
    reader finds it in all answers, corrected for its errors in each arm (Rogan and Gladen). It is
    None but for a yes/no criterion on which the reader tells enough in both arms.
    """

    criterion: str
    base: Rates
    adapter: Rates
    corrected: float | None

    @property
    def difference(self) -> float | None:
        """Return the difference as people say; None where an arm has no label."""
        base, adapter = self.base.person, self.adapter.person
        return None if base is None or adapter is None else adapter - base


def accuracy(
    judgements: Sequence[Judgement],
    seen: Mapping[tuple[str, str], float],
    pair: tuple[Arm, Arm] = PAIR,
) -> list[Agreement]:
    """Return the reader's agreement with people on each criterion; `seen` as of `seen`."""

    def of(criterion: str) -> Agreement:
        base, adapter = (
            Rates.of([j for j in judgements if (j.criterion, j.arm) == (criterion, arm.name)])
            for arm in pair
        )
        shares = [seen.get((criterion, arm.name)) for arm in pair]
        return Agreement(criterion, base, adapter, _corrected(shares, (base, adapter)))

    asked = {judgement.criterion for judgement in judgements}
    return [of(criterion) for criterion in CRITERIA if criterion in asked]


def _corrected(shares: Sequence[float | None], rates: tuple[Rates, Rates]) -> float | None:
    base, adapter = shares
    if base is None or adapter is None or min(one.informed for one in rates) < INFORMATIVE:
        return None
    return statistics.corrected(base, adapter, rates[0].accuracy, rates[1].accuracy)


def shown(agreements: Sequence[Agreement]) -> list[Row]:
    """Return rows of a table of 100 columns: found / there, and false alarms / absent."""
    rows = []
    for agreement in agreements:
        arms = {"base": agreement.base, "adapter": agreement.adapter}
        row = {"criterion": agreement.criterion}
        row |= {f"found, {arm}": _of(r.found, r.there) for arm, r in arms.items()}
        row |= {f"false, {arm}": _of(r.false_alarms, r.absent) for arm, r in arms.items()}
        row["people"] = _signed(agreement.difference)
        row["corrected"] = _signed(agreement.corrected)
        rows.append(row)
    return rows


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else "none"


def _signed(value: float | None) -> str:
    return "" if value is None else findings.signed(value)


def pairs(
    first: Mapping[str, Label],
    second: Mapping[str, Label],
    about: Iterable[tuple[Answer, Question]],
) -> dict[str, list[tuple[tuple[bool, bool], str]]]:
    """Return, by criterion, what two people say of each unit that both labelled, and its answer."""
    found: dict[str, list[tuple[tuple[bool, bool], str]]] = {}
    for answer, question in about:
        if answer.key in first and answer.key in second:
            other = dict(units(answer, question, second[answer.key]))
            for unit, there in units(answer, question, first[answer.key]):
                if unit in other:
                    found.setdefault(unit[0], []).append(((there, other[unit]), answer.key))
    return found
