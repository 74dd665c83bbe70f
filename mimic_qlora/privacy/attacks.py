"""Six membership attacks, fixed in advance, from the readings of a record.

Each gives a score that is higher where the record looks more like one that was trained on.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.privacy.reading import Reading
from mimic_qlora.privacy.separation import Floats

# RMIA's share by which the base underestimates how likely a record is in general: its authors'
# value for reference models that never saw it.
OFFLINE = 0.3


class Scored(NamedTuple):
    """A part of a record: its reading, and the bytes of its text packed by zlib."""

    reading: Reading
    packed: int


def packed(text: str) -> int:
    """Return the bytes of a text packed by zlib."""
    return len(zlib.compress(text.encode()))


def loss(one: Scored) -> float:
    """Mean log probability (Yeom and others, arXiv:1709.01604)."""
    return one.reading.adapter / one.reading.n


def ratio(one: Scored) -> float:
    """Mean log probability beyond the base's (Mireshghallah and others, arXiv:2203.03929)."""
    return (one.reading.adapter - one.reading.base) / one.reading.n


def by_zlib(one: Scored) -> float:
    """Log probability by the packed size (Carlini and others, arXiv:2012.07805)."""
    return one.reading.adapter / one.packed


def min_k(one: Scored) -> float:
    """Mean log probability of the least likely fifth (Shi and others, arXiv:2310.16789)."""
    return one.reading.lowest


def error_zone(one: Scored) -> float:
    """Balance of probability gained and lost where the first guess is wrong (arXiv:2601.12104)."""
    up, down = one.reading.up, one.reading.down
    return (up - down) / (up + down) if up + down else 0.0


def _relative(one: Scored) -> float:
    """Return how much likelier a record is than in general, by RMIA's offline correction."""
    adapter, base = (math.exp(x / one.reading.n) for x in (one.reading.adapter, one.reading.base))
    return adapter / (((1 + OFFLINE) * base + 1 - OFFLINE) / 2)


PLAIN: dict[str, Callable[[Scored], float]] = {
    "loss": loss,
    "ratio to base": ratio,
    "zlib": by_zlib,
    "Min-20%": min_k,
    "error zone": error_zone,
}
RMIA = "RMIA"
NAMES = (*PLAIN, RMIA)


def of_records(records: Sequence[Scored], population: Sequence[Scored]) -> dict[str, Floats]:
    """Return the score of each record by each attack.

    RMIA (Zarifzadeh and others, arXiv:2312.03262) is the share of the population's records that
    this one exceeds.
    """
    scores = {name: np.array([attack(one) for one in records]) for name, attack in PLAIN.items()}
    general = np.sort([_relative(one) for one in population])
    own = np.array([_relative(one) for one in records])
    scores[RMIA] = np.searchsorted(general, own, "right") / max(1, len(general))
    return scores


def of_patients(scores: Mapping[str, Floats], owner: np.ndarray) -> dict[str, Floats]:
    """Return the mean score of each patient; `owner` is the place of each record's patient."""
    n = np.bincount(owner)
    return {name: np.bincount(owner, values) / n for name, values in scores.items()}
