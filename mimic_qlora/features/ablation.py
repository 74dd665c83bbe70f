"""Proof that columns can go: models without them, beside models with them, on the same patients held out."""

from typing import NamedTuple

from mimic_qlora.features import auroc, boosting, skill

PARTS = (
    1,
    2 / 3,
    1 / 3,
)  # of the candidates, the least likely to matter: what the refits leave out, in turn
MIN_HELD_OUT = (
    100  # patients: with fewer, even equal scores prove nothing, and their interval has no width
)
Z = 2.394  # normal deviate of 95% intervals that hold for all refits together (Bonferroni)


class Change(NamedTuple):
    """What models without some columns lose, as changes of AUROC with intervals over patients."""

    columns: int  # left out
    mean: float
    low: float
    high: float
    targets: list  # one dict per target with skill: target, label, change, low, high
    doubt: str  # why the columns may not go; empty when they may

    @property
    def holds(self) -> bool:
        return not self.doubt


def change(
    built, people, targets: list, scores, without: set, fold, on: str, margin: float
) -> Change:
    """Refit without some columns. `scores`: those of the models of all columns, targets x patients."""
    import numpy as np

    kept = [i for i, f in enumerate(built.features) if f.column not in without]
    fewer = boosting.out_of_fold(
        built.matrix[:, kept], people, targets, fold, on, f"without {len(without)}"
    )
    rows, moves = [], np.zeros(len(people))
    for target, full, less in zip(targets, scores, fewer, strict=True):
        own = skill.folds_of(target, full, fold)
        (before, of_full), (after, of_less) = (
            auroc.within_folds(target.y, s, own) for s in (full, less)
        )
        low, high = auroc.bounds(after - before, of_less - of_full, Z)
        rows.append(
            {
                "target": target.name,
                "label": target.label,
                "change": after - before,
                "low": low,
                "high": high,
            }
        )
        moves += (of_less - of_full) / len(targets)
    mean = float(np.mean([row["change"] for row in rows]))
    low, high = auroc.bounds(mean, moves, Z)
    n_held, losers, doubt = (
        (fold >= 0).sum(),
        [row["label"] for row in rows if row["high"] < -margin],
        "",
    )
    if n_held < MIN_HELD_OUT:
        doubt = f"{n_held} patients held out are too few to prove anything"
    elif low <= -margin:
        doubt = f"a loss of {margin:g} or more is not ruled out"
    elif losers:
        doubt = f"{losers[0]} surely loses more than {margin:g}"
    return Change(len(without), mean, low, high, rows, doubt)


def prove(
    built, people, targets: list, scores, candidates: list, fold, on: str, margin: float
) -> list:
    """Refits without the candidates, then without fewer of them (PARTS), until nothing is lost: Changes, in order.

    `candidates` are columns, the most likely to matter first. What the last Change left out, if it holds, is proven:
    the last `columns` of the candidates. Patients held out chose the candidates too; the test patients, who did not,
    have the last word.
    """
    tried = []
    for n in dict.fromkeys(int(part * len(candidates)) for part in PARTS):
        if n and not (tried and tried[-1].holds):
            without = set(candidates[len(candidates) - n :])
            tried.append(change(built, people, targets, scores, without, fold, on, margin))
    return tried
