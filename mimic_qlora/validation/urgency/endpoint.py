"""The endpoint: sensitivity at the nurse's specificity, with thresholds from other patients.

A visit is called an emergency where its score lies above a threshold. That threshold leaves as many
of the other visits uncalled as the nurse does ("level 1 or 2"). It is never set on the patients
that it is applied to: on validation patients in turns (cross-fitting), on test patients from all
validation patients. The bootstrap draws patients anew and sets threshold and nurse anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimic_qlora.features import auroc
from mimic_qlora.step import seeded

FOLDS = 5
DRAWS = 2000
CELLS = 4_000_000  # weights drawn at once, which bounds the memory
NURSE = "nurse"

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Turn(NamedTuple):
    """The visits that set a threshold, and those of other patients that it is applied to."""

    fitted: Bools
    held: Bools


@dataclass(frozen=True)
class Study:
    """Visits whose nurse's level is known, as arrays with one entry a visit.

    `positive` are the visits to be found, `nurse` those that she gave level 1 or 2. `weight` is the
    number of visits of the population that a visit stands for. Patients are drawn anew within
    each `stratum`.
    """

    patient: Ints
    positive: Bools
    nurse: Bools
    weight: Floats
    stratum: Ints
    turns: Sequence[Turn]

    @property
    def held(self) -> Bools:
        """Return the visits that a threshold is applied to."""
        return np.any([turn.held for turn in self.turns], axis=0)


class Rates(NamedTuple):
    """Shares of the bootstrap draws, 0 to 1, each [draws]."""

    sensitivity: Floats
    specificity: Floats


def folds(patient: Ints, positive: Bools, seed: int) -> Ints:
    """Return the fold of each visit; patients with and without a positive visit are dealt apart."""
    found = np.zeros(len(patient), dtype=np.int64)
    with_one = set(patient[positive].tolist())
    everyone = set(patient.tolist())
    for people in (with_one, everyone - with_one):
        for place, one in enumerate(seeded.order(people, "urgency folds", seed)):
            found[patient == one] = place % FOLDS
    return found


def cross_fitted(fold: Ints) -> list[Turn]:
    """Return a turn for each fold: the threshold comes from all other folds."""
    return [Turn(fold != k, fold == k) for k in range(FOLDS)]


def thresholds(scores: Floats, weights: Floats, specificity: Floats) -> Floats:
    """Return the lowest threshold that leaves this share of the weight at or below it [draws].

    scores: [visits] without the outcome. weights: [draws, visits]. specificity: [draws].
    """
    order = np.argsort(scores, kind="stable")
    below = weights[:, order].cumsum(axis=1)
    needed = specificity * below[:, -1] - 1e-9
    place = np.minimum((below < needed[:, None]).sum(axis=1), len(scores) - 1)
    found: Floats = np.where(needed <= 0, -np.inf, scores[order][place])
    return found


def of_turn(study: Study, turn: Turn, scores: Floats, weights: Floats) -> Floats:
    """Return the threshold of a turn in each draw, at the nurse's specificity there.

    It is infinite in a draw that has no visit to set it on.
    """
    others = turn.fitted & ~study.positive
    mine = weights[:, others]
    weight = mine.sum(axis=1)
    nurse = (mine * ~study.nurse[others]).sum(axis=1) / np.maximum(weight, 1e-12)
    return np.where(weight > 0, thresholds(scores[others], mine, nurse), np.inf)


def limits(study: Study, scores: Floats) -> Floats:
    """Return the threshold that applies to each visit [visits], infinite where none does."""
    found = np.full(len(scores), np.inf)
    for turn in study.turns:
        found[turn.held] = of_turn(study, turn, scores, study.weight[None])[0]
    return found


def rates(study: Study, scores: Floats | None, weights: Floats) -> Rates:
    """Return sensitivity and specificity in each draw; those of the nurse without scores.

    weights: [draws, visits], how often each visit counts.
    """
    found = np.zeros((4, len(weights)))
    for turn in study.turns:
        limit = None if scores is None else of_turn(study, turn, scores, weights)[:, None]
        for row, part in enumerate((turn.held & study.positive, turn.held & ~study.positive)):
            mine = weights[:, part]
            called = study.nurse[part] if scores is None else scores[part] > limit
            found[2 * row] += (mine * called).sum(axis=1)
            found[2 * row + 1] += mine.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Rates(found[0] / found[1], 1 - found[2] / found[3])


def draws(study: Study, n: int, seed: int) -> Iterator[Floats]:
    """Yield n bootstrap draws of patients in parts, as the weights of visits [draws, visits]."""
    rng = np.random.default_rng(seed)
    names, place = np.unique(study.patient, return_inverse=True)
    of_patient = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(of_patient, place, study.stratum)
    left, room = n, max(1, CELLS // len(study.patient))
    while left:
        k = min(left, room)
        counts = np.zeros((k, len(names)))
        for stratum in np.unique(of_patient):
            members = np.flatnonzero(of_patient == stratum)
            even = np.full(len(members), 1 / len(members))
            counts[:, members] = rng.multinomial(len(members), even, size=k)
        yield counts[:, place] * study.weight
        left -= k


@dataclass(frozen=True)
class Performance:
    """The performance of one arm, or of the nurse, on the held visits.

    `called` are the calls [visits]; `area` is the AUROC with its bootstrap draws, None of the
    nurse. `at` and `drawn` are the rates of the study itself and of the bootstrap draws.
    """

    called: Bools
    at: Rates
    drawn: Rates
    area: float | None = None
    areas: Floats | None = None


def measure(
    study: Study, arms: Mapping[str, Floats], seed: int, n: int = DRAWS
) -> dict[str, Performance]:
    """Return the performance of each arm by name, and of the nurse, over the same draws."""
    every: dict[str, Floats | None] = {**arms, NURSE: None}
    parts: dict[str, list[tuple[Rates, Floats | None]]] = {name: [] for name in every}
    for weights in draws(study, n, seed):
        for name, scores in every.items():
            parts[name].append((rates(study, scores, weights), _areas(study, scores, weights)))
    found = {}
    for name, scores in every.items():
        drawn = Rates(*(np.concatenate([p[0][i] for p in parts[name]]) for i in range(2)))
        once = _areas(study, scores, study.weight[None])
        found[name] = Performance(
            study.nurse & study.held if scores is None else scores > limits(study, scores),
            rates(study, scores, study.weight[None]),
            drawn,
            None if once is None else float(once[0]),
            None if scores is None else np.concatenate([p[1] for p in parts[name]]),
        )
    return found


def _areas(study: Study, scores: Floats | None, weights: Floats) -> Floats | None:
    if scores is None:
        return None
    held = study.held
    found: Floats = auroc.auroc_of_draws(study.positive[held], scores[held], weights[:, held])
    return found


def is_measurable(study: Study) -> bool:
    """Return whether each threshold has visits to be set on, and both sides are there."""
    sides = [study.held & side for side in (study.positive, ~study.positive)]
    others = [turn.fitted & ~study.positive for turn in study.turns]
    return all(part.any() for part in (*sides, *others))
