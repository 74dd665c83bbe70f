"""From features to verdicts: skill first, then importance beside its null, then ablation."""

from typing import NamedTuple

import pandas as pd

from mimic_qlora.features import ablation, boosting, permutation, skill, verdicts
from mimic_qlora.features.ablation import Ablation
from mimic_qlora.features.boosting import Study
from mimic_qlora.features.cohort import Target
from mimic_qlora.features.columns_file import ColumnVerdict
from mimic_qlora.features.matrix import Features
from mimic_qlora.features.permutation import Judged, Units
from mimic_qlora.features.settings import FeatureSettings
from mimic_qlora.features.skill import RiskTenth, TargetMetrics, WithoutLeast


class TargetDrop(NamedTuple):
    """One row of columns_per_target.csv: the fall of a target's AUROC when a column is permuted."""

    target: str
    column: str
    permutation_drop: float


class ItemGain(NamedTuple):
    """The share of the models' total gain that a column has from one item or value of it."""

    column: str
    item: str
    gain_share: float


class Selection(NamedTuple):
    """The result of step 3.

    columns: one row per column, the most important first.
    per_target: the columns that a target needs, the most important first.
    metrics: one row per target. tried: the ablations, in order.
    test: effect of dropping the least important columns on test patients.
    judged: None when no target has skill.
    reliability: predicted and observed risk, out of fold. says: the result in sentences.
    items: what the models used of each column that has items, the most first.
    """

    columns: list[ColumnVerdict]
    per_target: list[TargetDrop]
    metrics: list[TargetMetrics]
    tried: list[Ablation]
    test: WithoutLeast
    judged: Judged | None
    reliability: list[RiskTenth]
    says: list[str]
    items: list[ItemGain]

    def with_verdict(self, verdict: str) -> list[ColumnVerdict]:
        """Return the rows with this verdict, the most important first."""
        return [row for row in self.columns if row.verdict == verdict]

    def least_first(self) -> list[ColumnVerdict]:
        """Return the columns proven free to go, the least important first."""
        return self.with_verdict("least")[::-1]

    def label(self, target: str | None) -> str:
        """Return the words of a target, or its name where it has none."""
        labels = {row.target: row.label for row in self.metrics}
        return labels.get(target or "", target or "")


def select(
    built: Features,
    people: pd.DataFrame,
    targets: list[Target],
    settings: FeatureSettings,
    device: str,
) -> Selection:
    """Judge every column by the targets that can be predicted at all."""
    study = Study(built, people, boosting.folds(people, settings.seeds), device)
    scores, held = skill.held_out(study, targets)
    able = [t for t, row in enumerate(held) if row.skill]
    good, of_good = [targets[t] for t in able], scores[able]

    own, judged = permutation.units(built, people), None
    if good:
        judged = permutation.judge(permutation.explore(study, own, good), own)
    columns = verdicts.weigh(built, people, own, judged, good)

    tried: list[Ablation] = []
    if good:
        names = verdicts.candidates(columns)
        tried = ablation.ablate_in_turn(study, good, of_good, names, settings.margin)
        columns = verdicts.settle(columns, tried)
    proven = {row.column for row in columns if row.verdict == "least"}
    metrics, test = skill.on_test(study, targets, held, proven, settings.seeds)

    says = verdicts.statements(columns, metrics, tried, test, judged)
    per_target = _per_target(own, judged, good) if judged else []
    reliability = skill.reliability(good, of_good)
    items = _items(built, judged) if judged else []
    return Selection(columns, per_target, metrics, tried, test, judged, reliability, says, items)


def _items(built: Features, judged: Judged) -> list[ItemGain]:
    """Return what the models used of each column that has items or values, the most first."""
    shares: dict[tuple[str, str], float] = {}
    for feature, share in zip(built.features, judged.feature_gain.tolist(), strict=True):
        if feature.item and share:
            key = feature.column, feature.item
            shares[key] = shares.get(key, 0.0) + share
    ranked = sorted(shares.items(), key=lambda one: (-one[1], one[0]))
    return [ItemGain(column, item, share) for (column, item), share in ranked]


def _per_target(own: Units, judged: Judged, targets: list[Target]) -> list[TargetDrop]:
    """Return the columns whose permutation costs a target anything, the most important first."""
    rows = [
        TargetDrop(target.name, column, float(judged.by_target[t, i]))
        for t, target in enumerate(targets)
        for i, column in enumerate(own.columns)
        if judged.by_target[t, i] > 0
    ]
    return sorted(rows, key=lambda row: (row.target, -row.permutation_drop, row.column))
