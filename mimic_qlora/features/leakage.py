"""Single features that predict a target implausibly well: a sign that the answer leaks into what is asked.

plausible_features.csv lists those that may, each with its reason: insulin is given for diabetes.
"""

import csv
import re
from functools import cache
from pathlib import Path

AUROC = 0.9  # of one feature alone, either way round
SURELY = 0.8  # the lower end of its 99.9% interval: with few patients, chance alone reaches AUROC
PATIENTS = 20_000  # train patients looked at


@cache
def plausible() -> list:
    """(target, column, pattern of the item, reason); the target "*" is any."""
    with open(
        Path(__file__).parent / "plausible_features.csv", newline="", encoding="utf-8"
    ) as file:
        return [
            (r["target"], r["column"], re.compile(r["item"], re.IGNORECASE), r["reason"])
            for r in csv.DictReader(file)
        ]


def reason_for(target: str, column: str, item: str) -> str:
    """Why this feature may predict this target so well; an empty text when nothing is known."""
    for of_target, of_column, pattern, reason in plausible():
        if of_target in (target, "*") and of_column == column and pattern.search(item):
            return reason
    return ""


def find(built, people, targets: list) -> list:
    """The features of AUROC or more on train patients, for each target and column the strongest, in falling order."""
    import numpy as np
    from scipy.stats import rankdata

    is_train = np.flatnonzero((people.split == "train").to_numpy())[:PATIENTS]
    found = []
    for who in {target.who.tobytes(): target.who for target in targets}.values():
        here = is_train[who[is_train]]
        ranks = rankdata(built.matrix[here], axis=0)
        for target in (t for t in targets if np.array_equal(t.who, who)):
            y = target.y[here]
            n1, n0 = int(y.sum()), int((~y).sum())
            if not n1 or not n0:
                continue
            areas = (ranks[y].sum(axis=0) - n1 * (n1 + 1) / 2) / (n1 * n0)
            strength = np.maximum(areas, 1 - areas)
            strong = np.flatnonzero(
                (strength >= AUROC) & (strength - 3.29 * _error(strength, n1, n0) >= SURELY)
            )
            best = {}
            for i in strong[np.argsort(-strength[strong], kind="stable")]:
                best.setdefault(built.features[i].column, i)
            found += [_row(target, built.features[i], float(areas[i])) for i in best.values()]
    return sorted(
        found,
        key=lambda row: (
            row["plausible"] != "",
            -abs(row["auroc"] - 0.5),
            row["target"],
            row["column"],
        ),
    )


def _error(area, n1: int, n0: int):
    """Standard error of an AUROC by Hanley and McNeil (1982)."""
    import numpy as np

    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return np.sqrt(
        (area * (1 - area) + (n1 - 1) * (q1 - area**2) + (n0 - 1) * (q2 - area**2)) / (n1 * n0)
    )


def _row(target, feature, area: float) -> dict:
    return {
        "target": target.name,
        "column": feature.column,
        "item": feature.item,
        "statistic": feature.statistic,
        "auroc": area,
        "plausible": reason_for(target.name, feature.column, feature.item),
    }


def sentence(found: list) -> str:
    odd = [row for row in found if not row["plausible"]]
    if not found:
        return f"No single feature predicts a target implausibly well (an AUROC of {AUROC}, and surely {SURELY}, on train)"
    if not odd:
        return f"Single features with an AUROC of {AUROC} or more: {len(found)}, each for a known reason (giveaways.csv)"
    first = odd[0]
    what = f"{first['column']} {first['item']}".strip()
    return (
        f"Single features that predict a target implausibly well: {len(odd)} (giveaways.csv; first {what} for "
        f"{first['target']}, AUROC {max(first['auroc'], 1 - first['auroc']):.2f}): look whether the answer leaks in"
    )
