"""Undertriage: visits that must not wait and that were called "could wait", with an exact bound.

Counted over patients: where one has several visits, the first in the order given counts, so that
the counts are of independent draws (Clopper and Pearson, 1934).
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.validation import harm
from mimic_qlora.validation.urgency.endpoint import Bools, Ints

WAITS = "D"
RETURNED = "D-returned"
LEFT = ("LWBS", "ELOPED", "AMA")


class Undertriage(NamedTuple):
    """How many of n patients were called "could wait", and the 97.5% upper bound of their rate."""

    called: int
    n: int
    most: float

    @property
    def rate(self) -> float | None:
        """Return the share, 0 to 1; None of nobody."""
        return self.called / self.n if self.n else None


def of(patient: Ints, level: Sequence[str], waits: Bools, among: Collection[str]) -> Undertriage:
    """Return how many patients with one of these levels were called "could wait"."""
    seen = set()
    called = n = 0
    for one, its, said in zip(patient.tolist(), level, waits.tolist(), strict=True):
        if its in among and one not in seen:
            seen.add(one)
            n, called = n + 1, called + said
    return Undertriage(called, n, harm.most(called, n))


def waits(said: Sequence[str]) -> Bools:
    """Return which visits were called "could wait"."""
    return np.array([one == WAITS for one in said], dtype=bool)
