"""Ablation: refits without candidate columns, compared out of fold on the same patients.

Free to go means that a loss is ruled out three ways: of `margin` AUROC in the mean over the
targets, of OF_ONE times that in each single target, and of OF_HOLDERS bits a patient among those
whom a column tells something of, where these are fewer than half.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mimic_qlora.features import auroc, boosting, skill
from mimic_qlora.features.boosting import Study
from mimic_qlora.features.cohort import Target
from mimic_qlora.features.matrix import Features

PARTS = (1, 2 / 3, 1 / 3)  # of the candidates, the least likely to matter: left out in turn
MIN_HELD_OUT = 100  # patients: with fewer, equal scores prove nothing, their interval has no width
Z = 2.394  # normal deviate of 95% intervals that hold for all refits together (Bonferroni)
OF_ONE = 3  # margins that one target may lose: more serve a disease that the mean hides
OF_HOLDERS = 0.05  # bits of cross-entropy a patient
MIN_HOLDERS = 20  # patients held out whom a column tells of: with fewer, nothing is ruled out
ALL_TARGETS = "mean of all"


class TargetChange(NamedTuple):
    """The change of one target's AUROC by an ablation, with its interval [low, high]."""

    target: str
    label: str
    change: float
    low: float
    high: float


class Ablation(NamedTuple):
    """The change of AUROC when some columns are left out, out of fold, negative for a loss.

    columns: number left out. mean, low, high: over the targets, with its interval over patients.
    doubt: reason why the columns may not be dropped, or "".
    sparse: columns that tell of few patients, among whom a loss is not ruled out -> how many.
    """

    columns: int
    mean: float
    low: float
    high: float
    targets: list[TargetChange]
    doubt: str
    sparse: Mapping[str, int] = {}

    @property
    def holds(self) -> bool:
        """Return whether the columns may be dropped."""
        return not self.doubt

    def rows(self) -> list[TargetChange]:
        """Return the mean over the targets as a row, then the row of each target."""
        mean = TargetChange(ALL_TARGETS, ALL_TARGETS, self.mean, self.low, self.high)
        return [mean, *self.targets]


def ablate(
    study: Study, targets: list[Target], scores: np.ndarray, without: set[str], margin: float
) -> Ablation:
    """Refit without some columns and compare.

    scores: of the models of all columns, out of fold, float [targets, patients].
    margin: loss of AUROC that the interval must rule out.
    """
    built, fold = study.built, study.fold
    kept = [i for i, feature in enumerate(built.features) if feature.column not in without]
    what = f"refits without {len(without)} columns"
    refitted = boosting.out_of_fold(study, built.matrix[:, kept], targets, what)
    rows, moves = [], np.zeros(len(study.people))
    for target, full, less in zip(targets, scores, refitted, strict=True):
        own = skill.folds_of(target, full, fold)
        before = auroc.within_folds(target.y, full, own)
        after = auroc.within_folds(target.y, less, own)
        change, moved = after.value - before.value, after.moves - before.moves
        low, high = auroc.bounds(change, moved, Z)
        rows.append(TargetChange(target.name, target.label, change, low, high))
        moves += moved / len(targets)
    mean = float(np.mean([row.change for row in rows]))
    low, high = auroc.bounds(mean, moves, Z)
    n_held = int((fold >= 0).sum())
    losers = [row.label for row in rows if row.low <= -OF_ONE * margin]
    doubt = ""
    if n_held < MIN_HELD_OUT:
        doubt = f"{n_held} patients held out are too few to prove anything"
    elif low <= -margin:
        doubt = f"a loss of {margin:g} or more is not ruled out"
    elif losers:
        doubt = f"a loss of {OF_ONE * margin:g} or more for {losers[0]} is not ruled out"
    sparse = _sparse(study, targets, scores, refitted, without)
    return Ablation(len(without), mean, low, high, rows, doubt, sparse)


def _sparse(
    study: Study,
    targets: list[Target],
    scores: np.ndarray,
    refitted: np.ndarray,
    without: set[str],
) -> dict[str, int]:
    """Return the columns that may matter to the few whom they tell of -> the number of these."""
    held = study.fold >= 0
    losses = _bits(targets, refitted) - _bits(targets, scores)  # nan for who is not at risk
    found = {}
    for column in sorted(without):
        holds = holders(study.built, column) & held
        if holds.sum() * 2 >= held.sum():
            continue
        own = losses[:, holds]
        n = np.isfinite(own).sum(axis=1)
        if not n.size or n.min() < MIN_HOLDERS:
            found[column] = int(holds.sum())
            continue
        high = np.nanmean(own, axis=1) + Z * np.nanstd(own, axis=1, ddof=1) / np.sqrt(n)
        if high.max() >= OF_HOLDERS:
            found[column] = int(holds.sum())
    return found


def holders(built: Features, column: str) -> np.ndarray:
    """Return whom a column tells something of: bool [patients].

    The matrix has no empty cells: those are the ones in whom any of its features differs from the
    most frequent value, which stands where a column is empty.
    """
    tells = np.zeros(len(built.matrix), bool)
    for place, feature in enumerate(built.features):
        if feature.column == column:
            values, counts = np.unique(built.matrix[:, place], return_counts=True)
            tells |= built.matrix[:, place] != values[counts.argmax()]
    return tells


def _bits(targets: list[Target], scores: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each patient, float [targets, patients]; nan without a score."""
    risk = np.clip(scores, auroc.RISK_FLOOR, 1 - auroc.RISK_FLOOR)
    had = np.array([np.where(t.y, own, 1 - own) for t, own in zip(targets, risk, strict=True)])
    at_risk = np.array([target.who for target in targets])
    return np.where(at_risk, -np.log2(had), np.nan)


def ablate_in_turn(
    study: Study, targets: list[Target], scores: np.ndarray, candidates: list[str], margin: float
) -> list[Ablation]:
    """Refit without all candidates, then without fewer (PARTS), until nothing is lost.

    candidates: columns, the most likely to matter first. If the last ablation holds, its
    `columns` last candidates are proven free to go, but for the `sparse` ones. The patients held
    out also chose the candidates, so the effect is reported on the test patients, who did not.
    """
    tried: list[Ablation] = []
    for n in dict.fromkeys(int(part * len(candidates)) for part in PARTS):
        if n and not (tried and tried[-1].holds):
            without = set(candidates[len(candidates) - n :])
            tried.append(ablate(study, targets, scores, without, margin))
    return tried
