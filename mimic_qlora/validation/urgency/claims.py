"""What may be claimed of sensitivity at the nurse's specificity, in an order fixed beforehand.

Each claim is tested at 5% and only where the one before it holds (gatekeeping), so that all of them
together err in at most 5% of studies. benchmarks/urgency_statistics.py simulates it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.validation import harm
from mimic_qlora.validation.statistics import ALPHA
from mimic_qlora.validation.urgency.endpoint import NURSE, Performance, Study

FEWEST = 20  # visits to be found, and others, below which nothing is claimed
CLAIMED, NOT_SHOWN, NOT_TESTED = "claimed", "not shown", "not tested"


class Gain(NamedTuple):
    """The sensitivity of one arm minus that of another, with a 95% interval and p.

    The interval is that of t on the spread of the bootstrap draws. Where they have none, it is the
    exact bound of how many of all visits may be found by one alone. p is two-sided: the larger one
    of that t and of McNemar's exact test, since t alone claims too often where few visits differ.
    """

    value: float
    low: float
    high: float
    p: float
    gained: int  # visits found by the one and not by the other
    lost: int


class Claim(NamedTuple):
    """A claim of the order: better than whom, by how much, and what became of it."""

    than: str
    gain: Gain
    outcome: str


def gain(study: Study, one: Performance, other: Performance) -> Gain:
    """Compare the sensitivity of two arms on the same visits."""
    from scipy import stats

    here = study.held & study.positive
    gained = int((one.called & ~other.called & here).sum())
    lost = int((other.called & ~one.called & here).sum())
    value = float(one.at.sensitivity[0] - other.at.sensitivity[0])
    drawn = one.drawn.sensitivity - other.drawn.sensitivity
    error = float(np.nanstd(drawn, ddof=1))
    freedom = max(1, len(np.unique(study.patient[here])) - 1)
    if error < 1e-12:
        by_t = 1.0 if abs(value) < 1e-12 else 0.0
        half = harm.most(0, max(1, int(here.sum())), ALPHA / 2)
    else:
        by_t = float(2 * stats.t.sf(abs(value) / error, freedom))
        half = float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    differ = gained + lost
    exact = float(stats.binomtest(gained, differ).pvalue) if differ else 1.0
    low, high = max(-1.0, value - half), min(1.0, value + half)
    return Gain(value, low, high, max(by_t, exact), gained, lost)


def in_order(
    study: Study, found: Mapping[str, Performance], arm: str, others: Sequence[str]
) -> list[Claim]:
    """Return the claims that an arm is better than each of the others, in their order."""
    here = study.held
    few = min(int((here & study.positive).sum()), int((here & ~study.positive).sum())) < FEWEST
    claims: list[Claim] = []
    for name in others:
        by = gain(study, found[arm], found[name])
        open_ = not few and all(claim.outcome == CLAIMED for claim in claims)
        is_better = open_ and by.p <= ALPHA and by.value > 0
        outcome = CLAIMED if is_better else NOT_SHOWN if open_ else NOT_TESTED
        claims.append(Claim(name, by, outcome))
    return claims


def order(best: str, base: str) -> tuple[str, str, str]:
    """Return the order of the claims: than the better simple model, the base, the nurse."""
    return best, base, NURSE


def share(hits: int, n: int, draws: np.ndarray) -> tuple[float, float]:
    """Return a 95% interval of a share: that of the draws, never narrower than the exact one."""
    from scipy import stats

    exact = stats.binomtest(hits, n).proportion_ci(0.95)
    known = draws[np.isfinite(draws)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (math.nan, math.nan)
    return float(np.fmin(exact.low, low)), float(np.fmax(exact.high, high))
