"""Single features that predict a target implausibly well: a sign of leakage.

plausible_features.csv lists known causes, each with its reason, such as insulin for diabetes.
"""

import csv
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from mimic_qlora.features.cohort import Target
from mimic_qlora.features.matrix import Feature, Features, in_split

AUROC = 0.9  # of one feature alone, in either direction
SURELY = 0.8  # least lower bound of the 99.9% interval: few patients reach AUROC by chance
Z = 3.29  # normal deviate of that interval
PATIENTS = 20_000  # train patients looked at


class Cause(NamedTuple):
    """A known reason for a strong feature.

    target: name, or "*" for any. column: "table.column". item: pattern, case ignored.
    """

    target: str
    column: str
    item: re.Pattern[str]
    reason: str


class StrongFeature(NamedTuple):
    """One row of giveaways.csv: a feature that predicts a target implausibly well.

    auroc: below 0.5 where low values go with the target. plausible: the known reason, or "".
    """

    target: str
    column: str
    item: str
    statistic: str
    auroc: float
    plausible: str


@cache
def causes() -> list[Cause]:
    """Return the known causes of plausible_features.csv."""
    path = Path(__file__).parent / "plausible_features.csv"
    with open(path, newline="", encoding="utf-8") as file:
        return [
            Cause(r["target"], r["column"], re.compile(r["item"], re.IGNORECASE), r["reason"])
            for r in csv.DictReader(file)
        ]


def reason_for(target: str, column: str, item: str) -> str:
    """Return the known reason why this feature predicts this target, or ""."""
    for cause in causes():
        if cause.target in (target, "*") and cause.column == column and cause.item.search(item):
            return cause.reason
    return ""


def find(built: Features, people: pd.DataFrame, targets: list[Target]) -> list[StrongFeature]:
    """Return the features with an AUROC of at least AUROC on train patients.

    For each target and column only the strongest; unexplained ones first, then by strength. The
    AUROC of every feature comes from one ranking of the matrix (Mann-Whitney). It equals
    scikit-learn's `roc_auc_score` of each feature, at 230 times less CPU or better
    (benchmarks/metrics.py, 20 targets and up to 5,000 patients).
    """
    is_train = np.flatnonzero(in_split(people, "train"))[:PATIENTS]
    found = []
    for who in {target.who.tobytes(): target.who for target in targets}.values():
        at_risk = is_train[who[is_train]]
        ranked = ranks(built.matrix[at_risk])
        for target in targets:
            if np.array_equal(target.who, who):
                found += _strong(built.features, ranked, target, target.y[at_risk])
    return sorted(
        found,
        key=lambda row: (row.plausible != "", -abs(row.auroc - 0.5), row.target, row.column),
    )


def ranks(matrix: np.ndarray) -> np.ndarray:
    """Return the ranks of the patients by each feature, ties averaged, as [patients, features]."""
    return rankdata(matrix, axis=0)


def areas(ranked: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the AUROC of each feature, float [features], from `ranks` (Mann and Whitney 1947).

    y: bool [patients], with both classes.
    """
    n1, n0 = int(y.sum()), int((~y).sum())
    return (ranked[y].sum(axis=0) - n1 * (n1 + 1) / 2) / (n1 * n0)


def _strong(
    features: list[Feature], ranked: np.ndarray, target: Target, y: np.ndarray
) -> list[StrongFeature]:
    """Return the strong features of one target.

    ranked: float [patients at risk, features]. y: bool [patients at risk].
    """
    n1, n0 = int(y.sum()), int((~y).sum())
    if not n1 or not n0:
        return []
    found = areas(ranked, y)
    strength = np.maximum(found, 1 - found)
    lower = strength - Z * _standard_error(strength, n1, n0)
    strong = np.flatnonzero((strength >= AUROC) & (lower >= SURELY))
    best: dict[str, int] = {}
    for i in strong[np.argsort(-strength[strong], kind="stable")].tolist():
        best.setdefault(features[i].column, i)
    rows = []
    for i in best.values():
        column, item, statistic = features[i]
        reason = reason_for(target.name, column, item)
        rows.append(StrongFeature(target.name, column, item, statistic, float(found[i]), reason))
    return rows


def _standard_error(area: np.ndarray, n1: int, n0: int) -> np.ndarray:
    """Return the standard error of AUROCs, by Hanley and McNeil (1982).

    n1, n0: patients with and without the target.
    """
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return np.sqrt(
        (area * (1 - area) + (n1 - 1) * (q1 - area**2) + (n0 - 1) * (q2 - area**2)) / (n1 * n0)
    )


def sentence(found: list[StrongFeature]) -> str:
    """Return one sentence on the strong features, the first unexplained one named."""
    odd = [row for row in found if not row.plausible]
    if not found:
        return (
            f"No single feature predicts a target implausibly well "
            f"(an AUROC of {AUROC}, and surely {SURELY}, on train)"
        )
    if not odd:
        return (
            f"Single features with an AUROC of {AUROC} or more: {len(found)}, "
            f"each for a known reason (giveaways.csv)"
        )
    first = odd[0]
    what = f"{first.column} {first.item}".strip()
    return (
        f"Single features that predict a target implausibly well: {len(odd)} (giveaways.csv; "
        f"first {what} for {first.target}, AUROC {max(first.auroc, 1 - first.auroc):.2f}): "
        f"look whether the answer leaks in"
    )
