"""How well scores tell members from non-members: AUC and TPR at 1% FPR, with their uncertainty.

A score is one number a patient, higher where the patient looks more like a member. Both sides are
samples of patients, so the bootstrap draws anew from both, and the threshold moves with them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FPR = 0.01
FEWEST_FOR_TPR = 1000  # non-members: below, the threshold hangs on fewer than ten of them
DRAWS = 400  # of the bootstrap, for a standard error
SHUFFLES = 10_000  # of membership: p after Holm over twenty tests needs a finer grain than 1 / 200
CHUNK = 20_000_000  # numbers drawn at once
LEVEL = 0.95

Floats = NDArray[np.float64]


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


class _Sorted(NamedTuple):
    """The scores of both sides as places among their distinct values, in rising order."""

    members: NDArray[np.int64]
    others: NDArray[np.int64]
    n_values: int

    @classmethod
    def of(cls, members: Floats, others: Floats) -> "_Sorted":
        values, places = np.unique(np.concatenate([members, others]), return_inverse=True)
        return cls(places[: len(members)], places[len(members) :], len(values))


def _areas(members: Floats, others: Floats) -> Floats:
    """Return the AUC of each row of counts [draws, values]; a tie counts half."""
    below = np.cumsum(others, axis=1) - others / 2
    return (members * below).sum(1) / (members.sum(1) * others.sum(1))


def _rates(members: Floats, others: Floats) -> Floats:
    """Return the TPR of each row at the lowest threshold whose FPR is at most 1%."""
    n_above = np.cumsum(others[:, ::-1], axis=1)
    allowed = n_above <= FPR * others.sum(1, keepdims=True) + 1e-9
    return (members[:, ::-1] * allowed).sum(1) / members.sum(1)


def _counts(places: NDArray[np.int64], n_values: int) -> Floats:
    """Count the values of each row of places [draws, n]."""
    offset = np.arange(len(places))[:, None] * n_values
    flat = np.bincount((places + offset).ravel(), minlength=len(places) * n_values)
    return flat.reshape(len(places), n_values).astype(np.float64)


def auc(members: Floats, others: Floats) -> float:
    """Return the chance that a member scores higher than a non-member; a tie counts half."""
    found = _Sorted.of(members, others)
    one, two = (_counts(side[None], found.n_values) for side in found[:2])
    return float(_areas(one, two)[0])


def tpr(members: Floats, others: Floats) -> float:
    """Return the share of members above a threshold that at most 1% of non-members exceed."""
    found = _Sorted.of(members, others)
    one, two = (_counts(side[None], found.n_values) for side in found[:2])
    return float(_rates(one, two)[0])


def separations(members: Floats, others: Floats, seed: int = 0) -> list[Separation]:
    """Measure how well each attack tells the sides apart.

    `members` [attacks, n], `others` [attacks, m]. All attacks share the shuffles of membership.
    """
    members, others = np.asarray(members, float), np.asarray(others, float)
    rng = np.random.default_rng(seed)
    has_tpr = others.shape[1] >= FEWEST_FOR_TPR
    n, least = min(members.shape[1], others.shape[1]), 0.5 / members.shape[1]
    areas = [auc(a, b) for a, b in zip(members, others, strict=True)]
    rates = [tpr(a, b) for a, b in zip(members, others, strict=True)] if has_tpr else []
    area_p, rate_p = shuffled(members, others, areas, rates, rng)
    made = []
    for i, (one, two) in enumerate(zip(members, others, strict=True)):
        drawn = _resampled(_Sorted.of(one, two), has_tpr, rng)
        made.append(
            Separation(
                around(areas[i], drawn[0], n, least / others.shape[1]),
                area_p[i],
                around(rates[i], drawn[1], n, least) if has_tpr else None,
                rate_p[i] if has_tpr else None,
            )
        )
    return made


def p_values(
    members: Floats, others: Floats, areas: Sequence[float], rng: np.random.Generator
) -> list[float]:
    """Return p by shuffled membership of several AUCs of one attack [1, n] and [1, m]."""
    return shuffled(members, others, areas, (), rng)[0]


def _resampled(found: _Sorted, has_tpr: bool, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw patients of both sides anew and return AUC and TPR of each draw."""
    areas, rates, left = [], [], DRAWS
    width = len(found.members) + len(found.others)
    while left:
        n = min(left, max(1, CHUNK // width))
        one, two = (
            _counts(side[rng.integers(0, len(side), (n, len(side)))], found.n_values)
            for side in found[:2]
        )
        areas.append(_areas(one, two))
        rates.append(_rates(one, two) if has_tpr else np.zeros(n))
        left -= n
    return np.concatenate(areas), np.concatenate(rates)


def around(value: float, draws: Floats, n: int, least: float) -> Estimate:
    """Return a share with its interval: t on the logit of the bootstrap draws.

    On that scale a share near 0 or 1 has no bound beyond it. `n` is the smaller side, `least` the
    distance to 0 and 1 that is kept.
    """

    def logit(p: Floats) -> Floats:
        kept = np.clip(p, least, 1 - least)
        return np.log(kept / (1 - kept))

    def back(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    at, error = float(logit(np.array(value))), float(logit(draws).std(ddof=1))
    two, one = (stats.t.ppf(q, n - 1) * error for q in ((1 + LEVEL) / 2, LEVEL))
    return Estimate(value, back(at - two), back(at + two), back(at + one))


def shuffled(
    members: Floats,
    others: Floats,
    areas: Sequence[float],
    rates: Sequence[float],
    rng: np.random.Generator,
) -> tuple[list[float], list[float]]:
    """Return for each attack the share of shuffles with as high an AUC, and as high a TPR.

    Membership is shuffled over the patients of both sides. Without `rates` those are left out.
    """
    whole = np.concatenate([members, others], axis=1)
    n, total = members.shape[1], whole.shape[1]
    ranks = stats.rankdata(whole, axis=1).T  # of one attack for several areas, they share a column
    higher, rates_higher, left = np.zeros(len(areas)), np.zeros(len(rates)), SHUFFLES
    while left:
        k = min(left, max(1, CHUNK // total))
        is_in = _memberships(k, n, total, rng)
        found = ((is_in @ ranks) / n - (n + 1) / 2) / (total - n)
        higher += (found >= np.array(areas) - 1e-9).sum(0)
        for i, rate in enumerate(rates):
            one, two = _by_value(is_in, whole[i])
            rates_higher[i] += (_rates(one, two) >= rate - 1e-9).sum()
        left -= k
    shares = [((count + 1) / (SHUFFLES + 1)).tolist() for count in (higher, rates_higher)]
    return shares[0], shares[1]


def _memberships(k: int, n: int, total: int, rng: np.random.Generator) -> Floats:
    """Return k random choices of n of all patients, as rows of 0 and 1."""
    chosen = np.zeros((k, total))
    few = min(n, total - n)
    drawn = np.argpartition(rng.random((k, total), dtype=np.float32), few - 1, axis=1)[:, :few]
    np.put_along_axis(chosen, drawn, 1.0, axis=1)
    return chosen if few == n else 1 - chosen


def _by_value(is_in: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Return how many members and others of each row have each distinct score, in rising order."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    one = np.add.reduceat(is_in[:, order], starts, axis=1)
    sizes = np.diff(starts, append=len(scores))
    return one, sizes - one
