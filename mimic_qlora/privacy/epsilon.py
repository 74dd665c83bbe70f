"""A lower bound of epsilon from one training run (Steinke, Nasr and Jagielski, arXiv:2305.08846).

Each canary was put into training or left out by a coin. Whoever guesses the coins better than
epsilon allows shows that the training was not differentially private with so small an epsilon.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from mimic_qlora.privacy.separation import LEVEL, Floats

DELTA = 1e-5
MOST = 30.0  # epsilon beyond which no number of canaries in reach tells anything


class Epsilon(NamedTuple):
    """The lower bound, the guesses that it rests on, and the most that so many could show."""

    at_least: float
    correct: int
    guesses: int
    canaries: int
    delta: float
    most: float


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return the chance of as many correct guesses under (epsilon, delta) privacy.

    The first term is that of randomised response, the second what delta allows beyond it (their
    theorem 5.2).
    """
    right = 1 / (1 + np.exp(-epsilon))
    chance = float(stats.binom.sf(correct - 1, guesses, right))
    if not correct:
        return chance
    steps = np.arange(1, correct + 1)
    tails = np.cumsum(stats.binom.pmf(correct - steps, guesses, right))
    return min(1.0, chance + 2 * canaries * delta * max(0.0, float((tails / steps).max())))


def at_least(canaries: int, guesses: int, correct: int, delta: float = DELTA) -> float:
    """Return the largest epsilon that so many correct guesses refute at 5%; 0 if none."""

    def beyond(epsilon: float) -> float:
        return p_value(canaries, guesses, correct, epsilon, delta) - (1 - LEVEL)

    if not guesses or beyond(0.0) >= 0:
        return 0.0
    if beyond(MOST) <= 0:
        return MOST
    return float(optimize.brentq(beyond, 0.0, MOST))


def bound(scores: Floats, is_in: np.ndarray, delta: float = DELTA) -> Epsilon:
    """Guess the canaries' coins by their scores and bound epsilon.

    The highest third is guessed to be in, the lowest third out; of the middle nothing is said. The
    shares are fixed in advance, since a share chosen by its result would be no bound.
    """
    n = len(scores)
    third = n // 3
    order = np.argsort(scores, kind="stable")
    correct = int((~is_in[order[:third]]).sum() + is_in[order[n - third :]].sum())
    guesses = 2 * third
    found, most = (at_least(n, guesses, right, delta) for right in (correct, guesses))
    return Epsilon(found, correct, guesses, n, delta, most)
