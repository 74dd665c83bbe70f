"""What more is found of patients trained on than of patients never seen, with its bounds."""

import math
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from mimic_qlora.privacy.rule import Criterion
from mimic_qlora.privacy.separation import LEVEL, Floats

FEWEST_OF_A_TENTH = 29  # 0.9 ** 29 < 5%: of fewer, none may be of the tenth that has a whole leak
FLAT = 1e-9


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
    """Return the difference of two means over patients, by Welch's t less its skew.

    Where a few patients have all of it, t's upper bound is too low: a sample with few of them has
    a small variance too. Hall's transformation (1992) takes that out, as Zhou and Dinh (2005) do
    for two samples. Of fewer than `FEWEST_OF_A_TENTH` patients trained on, the upper bound is not
    under the limit, whatever they show.
    """
    value, n = float(one.mean() - other.mean()), np.array([len(one), len(other)])
    parts = np.array([side.var(ddof=1) for side in (one, other)]) / n
    error = math.sqrt(float(parts.sum()))
    least = limit if len(one) < FEWEST_OF_A_TENTH else -math.inf
    if error == 0:
        upper = max(value, least)
        return Criterion(name, "gap", value, value, value, upper, 1.0, 0.0, limit)
    freedom = float(parts.sum() ** 2 / (parts**2 / (n - 1)).sum())
    cubes = np.array([((side - side.mean()) ** 3).mean() for side in (one, other)])
    thirds = cubes / ((n - 1) * (n - 2))  # unbiased, of each mean
    skew = float(thirds[0] - thirds[1]) / error**3  # of the difference
    two, upper = (float(special.stdtrit(freedom, q)) for q in ((1 + LEVEL) / 2, LEVEL))
    low, high, most = (value - error * _skewed(t, skew) for t in (two, -two, -upper))
    p = float(special.stdtr(freedom, -_symmetric(value / error, skew)))
    return Criterion(name, "gap", value, low, high, max(most, least), p, 0.0, limit)


def _symmetric(t: float, skew: float) -> float:
    """Return Hall's transformation of a t with this skew, which is as good as symmetric."""
    return t if abs(skew) < FLAT else ((1 + skew * t / 3) ** 3 - 1) / skew + skew / 6


def _skewed(t: float, skew: float) -> float:
    """Return what `_symmetric` makes this of."""
    if abs(skew) < FLAT:
        return t
    return 3 / skew * (float(np.cbrt(1 + skew * (t - skew / 6))) - 1)
