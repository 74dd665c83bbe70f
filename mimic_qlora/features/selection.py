"""Step 3 from features to verdicts: skill first, then importance beside its null, then refits without what may go."""

from typing import NamedTuple

from mimic_qlora.features import ablation as proof
from mimic_qlora.features import boosting, permutation, skill, verdicts


class Selection(NamedTuple):
    """What step 3 found; lists are of dicts, as they go into its files."""

    columns: list  # one row per column, most important first
    lists: dict  # verdict -> its rows
    per_target: list
    metrics: list
    ablation: list  # one row per refit, and one per target of it
    tried: list  # proof.Change of each refit
    test: dict  # what leaving the least important columns out changes on test patients
    judged: object  # importance.Judged, or None
    reliability: list
    says: list


def select(built, people, targets: list, seeds: int, margin: float, on: str) -> Selection:
    """Judge every column of `built` (features.Features) by the targets that can be predicted at all."""
    fold = boosting.folds(people, seeds)
    scores, held = skill.held_out(built, people, targets, fold, on)
    able = [t for t, row in enumerate(held) if row["skill"]]
    good, of_good = [targets[t] for t in able], scores[able]
    own, judged, tried = permutation.units(built, people), None, []
    if good:
        judged = permutation.judge(permutation.explore(built, people, own, good, fold, on), own)
    columns = verdicts.weigh(built, people, own, judged, good)
    if good:
        tried = proof.prove(
            built, people, good, of_good, verdicts.candidates(columns), fold, on, margin
        )
        verdicts.settle(columns, tried)
    lists = {
        verdict: [row for row in columns if row["verdict"] == verdict]
        for verdict in verdicts.VERDICTS
    }
    proven = {row["column"] for row in lists["least"]}
    metrics, test = skill.on_test(built, people, targets, held, proven, seeds, on)
    ablation = []
    for step in tried:
        whole = {
            "target": "mean of all",
            "label": "mean of all",
            "change": step.mean,
            "low": step.low,
            "high": step.high,
        }
        ablation += [{"columns": step.columns, **row} for row in (whole, *step.targets)]
    says = verdicts.statements(columns, metrics, tried, test, judged)
    per_target = _per_target(own, judged, good) if judged else []
    reliability = skill.reliability(good, of_good)
    return Selection(
        columns, lists, per_target, metrics, ablation, tried, test, judged, reliability, says
    )


def _per_target(own, judged, targets: list) -> list:
    """The columns whose permutation costs a target anything, the dearest first."""
    rows = [
        {"target": target.name, "column": column, "permutation_drop": float(judged.by_target[t, i])}
        for t, target in enumerate(targets)
        for i, column in enumerate(own.columns)
        if judged.by_target[t, i] > 0
    ]
    return sorted(rows, key=lambda row: (row["target"], -row["permutation_drop"], row["column"]))
