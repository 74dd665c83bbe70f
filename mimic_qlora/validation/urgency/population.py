"""Figures of the whole population, from visits of which emergencies were drawn apart.

Sensitivity and specificity are the same in a sample of emergencies and one of other visits.
Calibration and agreement are not: there each visit counts for as many as it stands for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.validation.urgency.endpoint import Bools, Floats

LEVELS = ("A", "B", "C", "D")
BINS = 10


class Bin(NamedTuple):
    """A tenth of the population by predicted risk; shares are weighted, `n` are visits drawn."""

    n: int
    predicted: float
    observed: float


class Calibration(NamedTuple):
    """Agreement of predicted risks with outcomes in the population.

    `slope` and `intercept` are of the outcome on the logit of the risk (Cox, 1958): 1 and 0 when
    calibrated. None where a class is missing.
    """

    predicted: float
    observed: float
    brier: float
    slope: float | None
    intercept: float | None
    bins: Sequence[Bin]


def weights(drawn: Bools, positive: Bools) -> Floats:
    """Return how many visits of the population each one stands for [visits], 0 if not drawn."""
    found = np.zeros(len(drawn))
    for part in (positive, ~positive):
        n = int((drawn & part).sum())
        if n:
            found[drawn & part] = part.sum() / n
    return found


def calibration(risk: Floats, positive: Bools, weight: Floats) -> Calibration:
    """Return how well risks agree with outcomes, each visit with its weight."""
    from sklearn.linear_model import LogisticRegression

    kept = np.clip(risk, 1e-6, 1 - 1e-6)
    logit = np.log(kept / (1 - kept))
    slope = intercept = None
    if positive.any() and not positive.all() and np.ptp(logit) > 0:
        fit = LogisticRegression(C=np.inf, tol=1e-8).fit(logit[:, None], positive, weight)
        slope, intercept = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    total = weight.sum()
    return Calibration(
        float((weight * risk).sum() / total),
        float(weight[positive].sum() / total),
        float((weight * (risk - positive) ** 2).sum() / total),
        slope,
        intercept,
        _bins(risk, positive, weight),
    )


def _bins(risk: Floats, positive: Bools, weight: Floats) -> list[Bin]:
    order = np.argsort(risk, kind="stable")
    place = np.minimum((weight[order].cumsum() / weight.sum() * BINS - 1e-9).astype(int), BINS - 1)
    found = []
    for number in np.unique(place):
        here = order[place == number]
        mine = weight[here] / weight[here].sum()
        predicted, observed = (mine * risk[here]).sum(), (mine * positive[here]).sum()
        found.append(Bin(len(here), float(predicted), float(observed)))
    return found


def kappa(said: Sequence[str], level: Sequence[str], weight: Floats) -> float | None:
    """Return the quadratic kappa of the levels said with those that held, in the population.

    Levels of their own (D-returned, left before the end) are left out. None where either side has
    one level alone.
    """
    from sklearn.metrics import cohen_kappa_score

    known = [i for i, one in enumerate(level) if one in LEVELS]
    pairs = [[LEVELS.index(of[i]) for i in known] for of in (said, level)]
    if not known or max(len(set(one)) for one in pairs) < 2:
        return None
    value = cohen_kappa_score(*pairs, weights="quadratic", sample_weight=weight[known])
    return None if np.isnan(value) else float(value)
