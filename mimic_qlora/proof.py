"""Proof that columns can go: models without them, beside models with them, on the same patients held out."""

from typing import NamedTuple

from mimic_qlora import boosters, discrimination, skill

PARTS = (1, 2 / 3, 1 / 3)  # of the candidates, the least likely to matter: what the refits leave out, in turn
MIN_HELD_OUT = 100  # patients: with fewer, even equal scores prove nothing, and their interval has no width
Z = 2.394  # normal deviate of 95% intervals that hold for all refits together (Bonferroni)


class Change(NamedTuple):
    """What models without some columns lose, as changes of AUROC with intervals over patients."""

    columns: int  # left out
    mean: float
    low: float
    high: float
    targets: list  # one dict per target with skill: target, label, change, low, high
    holds: bool  # the interval of the mean lies above -margin, no target's lies below it, and patients are not too few


def change(built, people, targets: list, scores, without: set, fold, on: str, margin: float) -> Change:
    """Refit without some columns. `scores`: those of the models of all columns, targets x patients."""
    import numpy as np

    kept = [i for i, f in enumerate(built.features) if f.column not in without]
    fewer = boosters.out_of_fold(built.matrix[:, kept], people, targets, fold, on, f"without {len(without)}")
    rows, moves = [], np.zeros(len(people))
    for target, full, less in zip(targets, scores, fewer, strict=True):
        own = skill.folds_of(target, full, fold)
        (before, of_full), (after, of_less) = (discrimination.within_folds(target.y, s, own) for s in (full, less))
        low, high = discrimination.bounds(after - before, of_less - of_full, Z)
        rows.append({"target": target.name, "label": target.label, "change": after - before, "low": low, "high": high})
        moves += (of_less - of_full) / len(targets)
    mean = float(np.mean([row["change"] for row in rows]))
    low, high = discrimination.bounds(mean, moves, Z)
    enough = (fold >= 0).sum() >= MIN_HELD_OUT
    holds = bool(enough and low > -margin and all(row["high"] >= -margin for row in rows))
    return Change(len(without), mean, low, high, rows, holds)


def prove(built, people, targets: list, scores, candidates: list, fold, on: str, margin: float) -> list:
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
