"""Prompts that are nearly the same: found by MinHash, judged by the words that they share.

Two prompts are near-duplicates when they ask the same thing and the Jaccard similarity of the sets
of three-word shingles of their contexts is at least THRESHOLD: two almost empty charts, for one.
Pairs are proposed by MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of
Massive Datasets, chapter 3). With 16 bands of 8 hashes, a pair at 0.9 is proposed with a chance of
99.99%, one at 0.5 with 6%. Proposed pairs are then compared word by word, so that nothing is
removed by mistake. Memory: 128 bytes a prompt.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from zlib import crc32

import numpy as np

THRESHOLD = 0.9
BANDS, ROWS = 16, 8
_DRAWN = np.random.RandomState(0).randint(1, 2**32, size=(2, BANDS * ROWS), dtype=np.uint64)
_FACTORS, _SHIFTS = _DRAWN[0] | np.uint64(1), _DRAWN[1]
_MIX = np.uint64(0x9E3779B97F4A7C15)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@lru_cache(maxsize=8)  # a prompt is compared with one after the other
def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Return all runs of three words; of a shorter text, the whole."""
    words = _words(text)
    found = frozenset(zip(words, words[1:], words[2:], strict=False))
    return found or frozenset([tuple(words)])


def similarity(a: str, b: str) -> float:
    """Return the Jaccard similarity of the three-word shingles of two texts, 0 to 1."""
    one, other = shingles(a), shingles(b)
    return len(one & other) / len(one | other)


def signature(asked: str, context: str) -> np.ndarray:
    """Return one uint64 for each band: prompts that agree in one are worth comparing."""
    mixed = np.full(BANDS, crc32(asked.encode()), dtype=np.uint64)
    for column in _lowest(context):
        mixed = mixed * _MIX + column
    return mixed


@lru_cache(maxsize=8)  # a patient is asked several things of one context
def _lowest(context: str) -> np.ndarray:
    """Return the MinHash of a context, [ROWS, BANDS]."""
    words = _words(context)
    words += [""] * (3 - len(words))
    codes = np.fromiter((crc32(word.encode()) for word in words), dtype=np.uint64)
    hashes = (codes[:-2] * _MIX + codes[1:-1]) * _MIX + codes[2:]  # one for each shingle
    return (
        ((hashes[:, None] * _FACTORS + _SHIFTS) >> np.uint64(32)).min(axis=0).reshape(BANDS, ROWS).T
    )


def later_ones(
    signatures: list[np.ndarray], prompt: Callable[[int], tuple[str, str]]
) -> dict[int, int]:
    """Return the prompts that are near-duplicates: number -> number of the earlier one.

    `signatures` are in the order of the prompts; `prompt(number)` gives the question and the
    context of one that is compared.
    """
    if not signatures:
        return {}
    pairs: set[tuple[int, int]] = set()
    for band in np.stack(signatures).T:
        order = np.argsort(band, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            pairs.update((int(group[0]), int(other)) for other in group[1:])
    found: dict[int, int] = {}
    for first, other in sorted(pairs):
        if other not in found and first not in found:
            (asked, context), (also_asked, other_context) = prompt(first), prompt(other)
            if asked == also_asked and similarity(context, other_context) >= THRESHOLD:
                found[other] = first
    return found
