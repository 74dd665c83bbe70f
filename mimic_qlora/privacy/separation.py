"""How well scores tell members from non-members: AUC and TPR at 1% FPR, with their uncertainty.

A score is one number a patient, higher where the patient looks more like a member. Both sides are
samples of patients, so the bootstrap draws anew from both, and the threshold moves with them.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mimic_qlora.validation import harm

FPR = 0.01
FEWEST_FOR_TPR = 1000  # non-members: below, the threshold hangs on fewer than ten of them
DRAWS = 400  # of the bootstrap, for a standard error
SHUFFLES = 10_000  # of membership: p after Holm over twenty tests needs a finer grain than 1 / 200
CHUNK = 2_000_000  # numbers drawn at once
LEVEL = 0.95

Floats = NDArray[np.float64]
Counts = NDArray[np.floating]


class Estimate(NamedTuple):
    """A figure with its 95% interval, and its one-sided 95% upper bound."""

    value: float
    low: float
    high: float
    upper: float


class Separation(NamedTuple):
    """AUC and TPR of one attack; `tpr` is None where there are too few non-members to measure it.

    The p values are one-sided, by shuffled membership.
    """

    auc: Estimate
    auc_p: float
    tpr: Estimate | None
    tpr_p: float | None


def _measures(members: Floats, others: Floats, one: Counts, two: Counts) -> tuple[Floats, Floats]:
    """Return AUC and TPR of one attack [draws]; a tie counts half for the AUC.

    `one` and `two` say how often each member and each other counts [draws, n], [draws, m]. The TPR
    is that of the lowest threshold whose FPR is at most 1%.
    """
    order = np.argsort(others)
    below = np.zeros((len(two), len(others) + 1), two.dtype)
    np.cumsum(two[:, order], axis=1, out=below[:, 1:])
    places = [np.searchsorted(others[order], members, side) for side in ("left", "right")]
    under = below[:, places[0]]
    middle = (under + below[:, places[1]]) / 2 if (places[0] != places[1]).any() else under
    n, total = one.sum(1), below[:, -1]
    told = under >= (1 - FPR) * total[:, None] - 1e-6
    areas = np.einsum("dn,dn->d", one, middle) / (n * total)
    rates = np.einsum("dn,dn->d", one, told.astype(one.dtype)) / n
    return areas.astype(float), rates.astype(float)


def _whole(members: Floats, others: Floats) -> tuple[float, float]:
    """Return AUC and TPR of the patients as they are."""
    area, rate = _measures(members, others, np.ones((1, len(members))), np.ones((1, len(others))))
    return float(area[0]), float(rate[0])


def auc(members: Floats, others: Floats) -> float:
    """Return the chance that a member scores higher than a non-member; a tie counts half."""
    return _whole(members, others)[0]


def tpr(members: Floats, others: Floats) -> float:
    """Return the share of members above a threshold that at most 1% of non-members exceed."""
    return _whole(members, others)[1]


def separations(members: Floats, others: Floats, seed: int = 0) -> list[Separation]:
    """Measure how well each attack tells the sides apart.

    `members` [attacks, n], `others` [attacks, m]. All attacks share the draws of the bootstrap.
    """
    members, others = np.asarray(members, float), np.asarray(others, float)
    (n, m), has_tpr = (members.shape[1], others.shape[1]), others.shape[1] >= FEWEST_FOR_TPR
    drawn = _resampled(members, others, np.random.default_rng(seed))
    made = []
    for one, two, (areas, rates) in zip(members, others, drawn, strict=True):
        area, rate = _whole(one, two)
        null = nulls(np.concatenate([one, two]), n)
        made.append(
            Separation(
                around(area, areas, min(n, m), 0.5 / n / m),
                p_value(null[0], area),
                around(rate, rates, min(n, m), 0.5 / n) if has_tpr else None,
                p_value(null[1], rate) if has_tpr else None,
            )
        )
    return made


def _resampled(
    members: Floats, others: Floats, rng: np.random.Generator
) -> list[tuple[Floats, Floats]]:
    """Draw patients of both sides anew and return AUC and TPR of each draw, of each attack."""
    found: list[list[tuple[Floats, Floats]]] = [[] for _ in members]
    left = DRAWS
    while left:
        n = min(left, max(1, CHUNK // (members.shape[1] + others.shape[1])))
        one, two = (_counts(rng, n, side.shape[1]) for side in (members, others))
        for of, a, b in zip(found, members, others, strict=True):
            of.append(_measures(a, b, one, two))
        left -= n
    return [
        (np.concatenate(areas), np.concatenate(rates))
        for areas, rates in (zip(*of, strict=True) for of in found)
    ]


def _counts(rng: np.random.Generator, draws: int, n: int) -> Counts:
    """Draw n of n patients with replacement, and return how often each was drawn [draws, n].

    In single precision, which takes half the time and is exact for counts.
    """
    places = rng.integers(0, n, (draws, n)) + np.arange(draws)[:, None] * n
    return np.bincount(places.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float32)


def around(value: float, draws: Floats, n: int, least: float) -> Estimate:
    """Return a share with its interval: t on the logit of the bootstrap draws.

    On that scale a share near 0 or 1 has no bound beyond it. `n` is the smaller side, `least` the
    distance to 0 and 1 that is kept. Where all draws are equal, as when the sides do not overlap,
    the interval is that of Clopper and Pearson for a share of n.
    """
    if np.ptp(draws) < 1e-9:
        return _exact(value, n)

    def logit(p: Floats) -> Floats:
        kept = np.clip(p, least, 1 - least)
        return np.log(kept / (1 - kept))

    def back(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    at, error = float(logit(np.array(value))), float(logit(draws).std(ddof=1))
    two, one = (_quantile(level, n - 1) * error for level in ((1 + LEVEL) / 2, LEVEL))
    return Estimate(value, back(at - two), back(at + two), back(at + one))


def _exact(share: float, n: int) -> Estimate:
    k, tail = round(share * n), (1 - LEVEL) / 2
    return Estimate(
        share, harm.least(k, n, tail), harm.most(k, n, tail), harm.most(k, n, 1 - LEVEL)
    )


@functools.lru_cache
def _quantile(level: float, freedom: int) -> float:
    return float(stats.t.ppf(level, freedom))


def nulls(scores: Floats, n: int) -> tuple[Floats, Floats]:
    """Return the AUCs and TPRs of an attack where membership is shuffled, in rising order.

    Without ties they hang on the numbers of patients alone.
    """
    if len(np.unique(scores)) == len(scores):
        return _untied(n, len(scores), SHUFFLES)
    return _shuffled(scores, n, SHUFFLES)


@functools.lru_cache(maxsize=8)
def _untied(n: int, total: int, shuffles: int) -> tuple[Floats, Floats]:
    return _shuffled(np.arange(total, dtype=float), n, shuffles)


def _shuffled(scores: Floats, n: int, shuffles: int) -> tuple[Floats, Floats]:
    rng, total = np.random.default_rng(0), len(scores)
    areas, rates, left = [], [], shuffles
    while left:
        k = min(left, max(1, CHUNK // total))
        is_in = _memberships(k, n, total, rng)
        area, rate = _measures(scores, scores, is_in, 1 - is_in)
        areas.append(area)
        rates.append(rate)
        left -= k
    return np.sort(np.concatenate(areas)), np.sort(np.concatenate(rates))


def p_value(null: Floats, value: float) -> float:
    """Return the share of a null, in rising order, that is as high as a value."""
    return float(len(null) - np.searchsorted(null, value - 1e-9) + 1) / (len(null) + 1)


def _memberships(k: int, n: int, total: int, rng: np.random.Generator) -> Floats:
    """Return k random choices of n of all patients, as rows of 0 and 1."""
    chosen = np.zeros((k, total))
    few = min(n, total - n)
    drawn = np.argpartition(rng.random((k, total), dtype=np.float32), few - 1, axis=1)[:, :few]
    np.put_along_axis(chosen, drawn, 1.0, axis=1)
    return chosen if few == n else 1 - chosen
