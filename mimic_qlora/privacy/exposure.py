"""Exposure of planted secrets (Carlini and others, The Secret Sharer, arXiv:1802.08232).

A secret is ranked among others that could have stood in its place, by how much more likely the
adapter makes it than the base does. Where nothing was learned every rank is as likely.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from mimic_qlora.privacy.separation import LEVEL, Floats

CANDIDATES = 1000  # the secret among them: at most 9.97 bits
MOST = math.log2(CANDIDATES)
NULL = float(np.mean(MOST - np.log2(np.arange(1, CANDIDATES + 1))))  # 1.44 bits
SHUFFLES = 20_000


class Exposure(NamedTuple):
    """The mean exposure of n secrets in bits, its 95% interval and one-sided upper bound.

    `p` is one-sided against ranks that are all as likely.
    """

    mean: float
    low: float
    high: float
    upper: float
    p: float
    n: int


def exposures(scores: Floats) -> Floats:
    """Return the exposure of each secret in bits.

    `scores` [secrets, candidates]: of the true one in the first column, higher is likelier. Of
    ties half stand above.
    """
    true, others = scores[:, :1], scores[:, 1:]
    rank = 1 + (others > true).sum(1) + (others == true).sum(1) / 2
    return math.log2(scores.shape[1]) - np.log2(rank)


def mean(bits: Floats, seed: int = 0) -> Exposure:
    """Return the mean exposure with its bounds. At least two secrets.

    Exposures are skewed: a few secrets at 10 bits among many at 1 are what is feared. The interval
    is corrected for skewness (Johnson, 1978). For the upper bound one more secret is added, fully
    exposed, so that a leak of which the sample holds hardly any is not taken for none.
    """
    n, value = len(bits), float(bits.mean())
    p = (int((_means(n, seed) >= value - 1e-9).sum()) + 1) / (SHUFFLES + 1)
    tail = (1 - LEVEL) / 2
    return Exposure(
        value,
        _quantile(bits, tail),
        _quantile(bits, 1 - tail),
        _quantile(np.append(bits, MOST), LEVEL),
        p,
        n,
    )


@functools.cache
def _means(n: int, seed: int) -> Floats:
    """Return mean exposures of n secrets whose ranks are all as likely."""
    rng = np.random.default_rng(seed)
    drawn: Floats = MOST - np.log2(rng.integers(1, CANDIDATES + 1, (SHUFFLES, n)))
    return np.asarray(drawn.mean(1))


def _quantile(bits: Floats, level: float) -> float:
    """Return a bound of the mean below which it lies with this confidence, 0 to 10 bits."""
    n, spread = len(bits), float(bits.std(ddof=1))
    if spread == 0:
        return float(bits.mean())
    skewness = float(((bits - bits.mean()) ** 3).mean()) / spread**3
    z = float(stats.t.ppf(1 - level, n - 1))
    moved = z - skewness / (6 * math.sqrt(n)) * (2 * z * z + 1)
    return min(MOST, max(0.0, float(bits.mean()) - moved * spread / math.sqrt(n)))
