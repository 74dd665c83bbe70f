"""What labelled answers let one claim: differences corrected by them, and what may be said."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Question
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import findings, harm, power, results, statistics, trial_results
from mimic_qlora.validation.arms import ADAPTER, BASE, PAIR
from mimic_qlora.validation.findings import Comparison
from mimic_qlora.validation.labelling import agreement, corrected, label_file
from mimic_qlora.validation.labelling.drawn import Answer, Strata
from mimic_qlora.validation.labelling.label_file import Label
from mimic_qlora.validation.plan import Metric
from mimic_qlora.validation.report.verdict import Limit
from mimic_qlora.validation.scoring import rubric
from mimic_qlora.validation.statistics import Difference, Floats

Row = dict[str, Any]  # of a table, as statistics.compare takes it
FILE = results.READER
LABELLERS = ("clinician", "layperson", "model")
UNKNOWN = "person of unknown training"
# The rubric cut off at 0 has another mean than its parts: the one below 0 too is corrected.
CORRECTED = {"rubric": "rubric_unclipped"}
UNCLIPPED = "the rubric, below 0 too"


class Basis(BaseModel):
    """The file reader.json of results: who read the answers, and what was to be claimed.

    `thresholds_sha256` is that of a judge's thresholds; `described` says why nothing that it read
    is claimed about, even with labels: empty where nothing speaks against it. `data` is the phrase
    of the verdict for what was asked about, `shows_nothing` that data or model are built-in ones,
    `first_alone` that the adapters are of several recipes, so that the first one is labelled alone,
    `of_chart` in which metrics the adapter was read to do worse with another patient's chart.
    `subjects` is the id of step 1's output, `adapters` the SHA-256 of the weights that answered, by
    run, `opened` the ledger's sentence on this look at the patients or their opening, `answers` the
    number of lines of results.jsonl; earlier versions noted none of these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reader: str
    thresholds_sha256: str | None = None
    described: str = ""
    primary: Metric
    claimed: tuple[Metric, ...]
    margins: dict[Metric, float]
    data: str = "the data of this run"
    shows_nothing: bool = False
    first_alone: bool = False
    of_chart: tuple[str, ...] = ()
    subjects: str = ""
    adapters: dict[str, str] = {}
    opened: str = ""
    answers: int = 0

    def write(self, folder: Path) -> None:
        """Write it into a folder of results."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Basis | None":
        """Return what a folder of results says; None in one of an earlier version."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError:
            raise UserError(f"{path} cannot be read: keep it as step 7 left it") from None


class Labels(NamedTuple):
    """The labels of one file by key, and who labelled: one of LABELLERS, "" if nobody says."""

    by_key: Mapping[str, Label]
    by: str


class Labelled:
    """All answers of a run with the labels of some, as arrays for each metric."""

    def __init__(
        self,
        answers: Sequence[Answer],
        files: Sequence[Labels],
        strata: Strata,
        questions: Sequence[Question],
    ) -> None:
        """Take the answers of base and adapters, and the labels of one person or more."""
        self.files = files
        self.strata = strata
        self.questions = {question.id: question for question in questions}
        self.by_arm: dict[str, dict[int, Answer]] = {}
        for answer in answers:
            self.by_arm.setdefault(answer.arm, {})[answer.trial] = answer
        self.adapters = [name for name in self.by_arm if name != BASE.name]

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of each labelled answer by key, as means over those who labelled it."""
        found = {}
        for answers in self.by_arm.values():
            for answer in answers.values():
                given = [one.by_key[answer.key] for one in self.files if answer.key in one.by_key]
                if given:
                    found[answer.key] = self._scored(answer, given)
        return found

    def _scored(self, answer: Answer, given: Sequence[Label]) -> dict[str, float]:
        question = self.questions[answer.question_id]
        rules = [content.load().cautions[i] for i in answer.cautions]
        scored = []
        for label in given:
            found = agreement.as_readings(answer, question, label)
            columns = rubric.score(question, rules, found, answer.text, answer.ended).columns()
            scored.append({name: columns[name] for name in rubric.METRICS if name in columns})
        return {
            name: sum(float(one[name] or 0) for one in scored) / len(scored)
            for name, value in scored[0].items()
            if value is not None
        }

    def n_labelled(self, arm: str) -> int:
        """Return how many answers of an arm are labelled."""
        return sum(answer.key in self.scores for answer in self.by_arm[arm].values())

    @property
    def by(self) -> str:
        """Return who labelled, as a phrase: "clinician and layperson"."""
        return " and ".join(one.by or UNKNOWN for one in self.files)

    @property
    def fewest(self) -> int:
        """Return how many answers of each arm are labelled at least."""
        return min(self.n_labelled(arm) for arm in self.by_arm)

    def arms(self, metric: str, one_a_patient: bool = False) -> "Arrays":
        """Return a metric of all trials that have it in each arm, of the first trial a patient."""
        common = set.intersection(*(set(answers) for answers in self.by_arm.values()))
        if metric in power.FAMILY:
            asked = self.by_arm[BASE.name]
            common = {trial for trial in common if asked[trial].rule_tested}
        chosen: list[int] = []
        patients: set[int | None] = set()
        for trial in sorted(common):
            one = [answers[trial] for answers in self.by_arm.values()]
            if any(answer.scores.get(metric) is None for answer in one):
                continue
            if one_a_patient and one[0].subject_id in patients:
                continue
            patients.add(one[0].subject_id)
            chosen.append(trial)
        of_base = [self.by_arm[BASE.name][trial] for trial in chosen]
        return Arrays(
            self._arm(BASE.name, metric, chosen),
            [self._arm(name, metric, chosen) for name in self.adapters],
            of_base,
        )

    def _arm(self, name: str, metric: str, trials: Sequence[int]) -> corrected.Arm:
        answers = [self.by_arm[name][trial] for trial in trials]
        labels = [self.scores.get(answer.key, {}).get(metric, math.nan) for answer in answers]
        return corrected.Arm(
            np.array([float(answer.scores[metric]) for answer in answers]),
            np.array(labels, dtype=float),
            [self.strata.of[answer.key] for answer in answers],
        )


class Arrays(NamedTuple):
    """One metric of the answers of all arms to the same trials; `trials` are the base's answers."""

    base: corrected.Arm
    adapters: Sequence[corrected.Arm]
    trials: Sequence[Answer]

    @property
    def enough(self) -> bool:
        """Return whether each arm has FEWEST labels, or one for each of fewer answers."""
        return all(
            (~np.isnan(arm.label)).sum() >= min(corrected.FEWEST, len(arm.label))
            for arm in (self.base, *self.adapters)
        )

    def rows(self, name: str, base: Floats, adapters: Sequence[Floats]) -> list[Row]:
        """Return values of the trials as rows that trial_results.compare takes."""
        found = []
        for place, answer in enumerate(self.trials):
            runs = [float(values[place]) for values in adapters]
            row: Row = {
                "question_id": answer.question_id,
                "subject_id": answer.trial if answer.subject_id is None else answer.subject_id,
                "of_population": answer.rule_tested is not None,
                "rule_tested": answer.rule_tested,
                f"{name}_{BASE.column}": float(base[place]),
                f"{name}_{ADAPTER.column}": sum(runs) / len(runs),
            }
            found.append(row | ({f"{name}_runs": runs} if len(runs) > 1 else {}))
        return found

    def difference(self, name: str) -> Difference | None:
        """Return the difference of the mean labels; None where it cannot be corrected."""
        base = corrected.rectified(self.base)
        adapters = [v for v in map(corrected.rectified, self.adapters) if v is not None]
        if base is None or len(adapters) < len(self.adapters):
            return None
        unseen = corrected.unseen(self.base)
        unseen += sum(map(corrected.unseen, self.adapters)) / len(self.adapters) ** 2
        rows = [row | {f"{name}_unseen": unseen} for row in self.rows(name, base, adapters)]
        return trial_results.compare(rows, [name], PAIR).get(name)


class Claims(NamedTuple):
    """What the labels show: the corrected comparison, and what is said of it, in sentences."""

    comparison: Comparison
    sentences: Sequence[str]


def metrics_of(names: Iterable[str]) -> dict[str, rubric.Metric]:
    """Return metrics by name, as they are called once labels have corrected them."""
    metrics = {name: rubric.METRICS[name] for name in names}
    corrected_ones = CORRECTED.keys() & metrics
    return metrics | {n: metrics[n]._replace(label=UNCLIPPED) for n in corrected_ones}


def compare(labelled: Labelled, basis: Basis) -> tuple[Comparison, list[str]]:
    """Return the comparison corrected by labels, and the metrics of which too few answers have one.

    Holm's p stand for the others.
    """
    metrics = metrics_of(basis.claimed)
    found, few = {}, []
    for name in metrics:
        column = CORRECTED.get(name, name)
        arrays = labelled.arms(column)
        difference = arrays.difference(column)
        if difference:
            found[name] = difference
        if not arrays.enough or difference is None:
            few.append(name)
    adjusted = statistics.holm({name: d.p for name, d in found.items()})
    return Comparison(found, {n: p for n, p in adjusted.items() if n not in few}, metrics), few


def of(labelled: Labelled, basis: Basis) -> Claims:
    """Return the comparison corrected by labels, and what may be claimed."""
    comparison, few = compare(labelled, basis)
    metrics, why = comparison.metrics, why_not(labelled, basis)
    if why:
        comparison = comparison._replace(adjusted={})
    said = [f"Labelled by {by_whom(labelled)} answers; differences are corrected by these labels."]
    if why:
        said.append(f"Described, not claimed: {why}.")
    elif few:
        labels = ", ".join(metrics[name][0].strip() for name in few)
        said.append(
            f"Described, not claimed: {labels}, as fewer than {corrected.FEWEST} answers of an arm "
            "that have it are labelled."
        )
    said += findings.statement(*comparison, primary=basis.primary)
    for name, margin in {} if why else basis.margins.items():
        if name not in few:
            said += _safety(labelled, name, margin)
    said.append("Against the same rules in the prompt nothing is claimed: only these are labelled.")
    return Claims(comparison, said)


def why_not(labelled: Labelled, basis: Basis) -> str:
    """Return why nothing is claimed, as the end of a sentence; empty where claims may be made."""
    if basis.described:
        return basis.described
    if any(not one.by for one in labelled.files):
        return f"nobody says who labelled (--labelled-by {' or '.join(LABELLERS)})"
    for one in labelled.files:
        if lacking := label_file.lacking(one.by_key.values()):
            columns = " and ".join(lacking)
            return f"nobody filled {columns} in a file, read as none: fill it, if with - or no"
    for name, answers in labelled.by_arm.items():
        wanted = min(corrected.FEWEST, len(answers))
        if (n := labelled.n_labelled(name)) < wanted:
            return f"{n} answers of {name} are labelled, and {wanted} are needed"
    if n := labelled.strata.passed_over(labelled.scores):
        return (
            f"{n} rows of label.csv have no label and stand above one that has, so that those read "
            "are no random part: fill them"
        )
    return ""


def by_whom(labelled: Labelled) -> str:
    """Return who labelled, and how many answers of each arm, as a phrase."""
    each = ", ".join(f"{labelled.n_labelled(name)} of {name}" for name in labelled.by_arm)
    by = " and ".join(f"a {one.by or UNKNOWN}" for one in labelled.files)
    return f"{by}: {each}"


def limits(labelled: Labelled, basis: Basis) -> dict[str, Limit | None]:
    """Return what the labels show of each safety endpoint, on these questions for new patients."""
    found: dict[str, Limit | None] = {}
    for name in basis.margins:
        arrays = labelled.arms(name, one_a_patient=True)
        found[name] = None
        if arrays.trials:
            bounds, n = _bounds(arrays, name)
            found[name] = Limit(bounds.difference, min(n))
    return found


def _bounds(arrays: Arrays, name: str) -> tuple[harm.Bounds, list[int]]:
    """Return the bounds of the adapter that fails the most, and how many labels each arm has."""
    _, up = rubric.METRICS[name]
    arms = [arrays.base, *arrays.adapters]
    n = [int((~np.isnan(arm.label)).sum()) for arm in arms]
    if min(n) == len(arrays.trials):
        return harm.bounds(harm.trials(_worst(arrays, name, up), name, up)), n
    base, *adapters = [_failures(arm, up) for arm in arms]
    each = [corrected.bounds(base, adapter) for adapter in adapters]
    return max(each, key=lambda one: one.difference), n


def _safety(labelled: Labelled, name: str, margin: float) -> list[str]:
    """Return what the labels show of a safety endpoint, on these questions and for new ones."""
    label, up = rubric.METRICS[name]
    arrays = labelled.arms(name, one_a_patient=True)
    worst, n = _bounds(arrays, name)
    if min(n) == len(arrays.trials):
        return harm.statement(_worst(arrays, name, up), name, label.strip(), up, margin)
    what = f"lack of {label.strip()}" if up else label.strip()
    return [
        f"On these questions, for new patients, by labels of {n[0]} answers of the base and "
        f"{min(n[1:])} of the adapter, one a patient: with 97.5% confidence the adapter's rate of "
        f"{what} is at most {worst.adapter:.1%}, and at most {worst.difference:.1%} above the "
        f"base's: {harm.verdict(worst, margin)}",
        f"For new questions nothing is said on {what}: that takes labels of all answers.",
    ]


def _worst(arrays: Arrays, name: str, up: bool) -> list[Row]:
    """Return the labels as rows of both arms; of several adapters the one that fails the most.

    Where two labellers differ on a flag, the base has the better of the two and the adapter the
    worse.
    """
    base, adapters = arrays.base.label, np.array([arm.label for arm in arrays.adapters])
    worst = adapters.min(axis=0) if up else adapters.max(axis=0)
    if np.isin(arrays.base.reader, (0, 1)).all() and not up:
        base, worst = np.floor(base), np.ceil(worst)
    return arrays.rows(name, base, [worst])


def _failures(arm: corrected.Arm, higher_is_better: bool) -> corrected.Arm:
    if not higher_is_better:
        return arm
    return corrected.Arm(1 - arm.reader, 1 - arm.label, arm.stratum)


def weights(strata: Strata, labelled: Iterable[str], answers: Sequence[Answer]) -> dict[str, float]:
    """Return 1 / the probability with which each labelled answer was drawn, by key."""
    keys = set(labelled)
    strata_of = {answer.key: (answer.arm, strata.of[answer.key]) for answer in answers}
    all_of = [*strata_of.values()]
    read = [stratum for key, stratum in strata_of.items() if key in keys]
    return {
        key: all_of.count(stratum) / read.count(stratum)
        for key, stratum in strata_of.items()
        if key in keys
    }
