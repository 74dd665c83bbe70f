"""Ablation: refits without candidate columns, compared out of fold on the same patients."""

from typing import NamedTuple

import numpy as np

from mimic_qlora.features import auroc, boosting, skill
from mimic_qlora.features.boosting import Study
from mimic_qlora.features.cohort import Target

PARTS = (1, 2 / 3, 1 / 3)  # of the candidates, the least likely to matter: left out in turn
MIN_HELD_OUT = 100  # patients: with fewer, equal scores prove nothing, their interval has no width
Z = 2.394  # normal deviate of 95% intervals that hold for all refits together (Bonferroni)
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
    """

    columns: int
    mean: float
    low: float
    high: float
    targets: list[TargetChange]
    doubt: str

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
    losers = [row.label for row in rows if row.high < -margin]
    doubt = ""
    if n_held < MIN_HELD_OUT:
        doubt = f"{n_held} patients held out are too few to prove anything"
    elif low <= -margin:
        doubt = f"a loss of {margin:g} or more is not ruled out"
    elif losers:
        doubt = f"{losers[0]} surely loses more than {margin:g}"
    return Ablation(len(without), mean, low, high, rows, doubt)


def ablate_in_turn(
    study: Study, targets: list[Target], scores: np.ndarray, candidates: list[str], margin: float
) -> list[Ablation]:
    """Refit without all candidates, then without fewer (PARTS), until nothing is lost.

    candidates: columns, the most likely to matter first. If the last ablation holds, its
    `columns` last candidates are proven free to go. The patients held out also chose the
    candidates, so the effect is reported on the test patients, who did not.
    """
    tried: list[Ablation] = []
    for n in dict.fromkeys(int(part * len(candidates)) for part in PARTS):
        if n and not (tried and tried[-1].holds):
            without = set(candidates[len(candidates) - n :])
            tried.append(ablate(study, targets, scores, without, margin))
    return tried
