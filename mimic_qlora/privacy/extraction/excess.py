"""What more is found of patients trained on than of patients never seen, with its bounds."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from mimic_qlora.privacy.rule import Criterion
from mimic_qlora.privacy.separation import LEVEL, Floats


class Share(NamedTuple):
    """Of how many of n patients something was found."""

    found: int
    n: int


def share(name: str, one: Share, other: Share, limit: float) -> Criterion:
    """Return by how much the share of patients trained on exceeds that of patients never seen.

    The bounds join those of both shares (Newcombe, 1998), each exact (Clopper and Pearson): nothing
    found of 300 patients is 1% at most. p is Fisher's.
    """
    rates = (one.found / one.n, other.found / other.n)
    value = rates[0] - rates[1]
    table = [[side.found, side.n - side.found] for side in (one, other)]
    p = float(stats.fisher_exact(table, alternative="greater").pvalue)

    def bounds(level: float) -> tuple[float, float]:
        (low, high), (low_other, high_other) = (
            stats.binomtest(side.found, side.n).proportion_ci(level) for side in (one, other)
        )
        down = math.hypot(rates[0] - low, high_other - rates[1])
        up = math.hypot(high - rates[0], rates[1] - low_other)
        return max(-1.0, value - down), min(1.0, value + up)

    low, high = bounds(LEVEL)
    upper = bounds(2 * LEVEL - 1)[1]
    return Criterion(name, "extraction", value, low, high, upper, p, 0.0, limit)


def mean(name: str, one: Floats, other: Floats, limit: float) -> Criterion:
    """Return the difference of two means over patients, by Welch's t."""
    value = float(one.mean() - other.mean())
    parts = np.array([side.var(ddof=1) / len(side) for side in (one, other)])
    error = math.sqrt(float(parts.sum()))
    if error == 0:
        return Criterion(name, "gap", value, value, value, value, 1.0, 0.0, limit)
    freedom = float(parts.sum() ** 2 / (parts**2 / [len(one) - 1, len(other) - 1]).sum())
    two, upper = (float(stats.t.ppf(q, freedom)) * error for q in ((1 + LEVEL) / 2, LEVEL))
    p = float(stats.t.sf(value / error, freedom))
    return Criterion(name, "gap", value, value - two, value + two, value + upper, p, 0.0, limit)
