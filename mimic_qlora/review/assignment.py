"""The order in which a rater judges items, and the items that are repeated."""

import itertools
import random
from collections.abc import Sequence
from typing import NamedTuple


class Task(NamedTuple):
    """An item at a place in a rater's order, from 1.

    `swapped`: the adapter's answer is A; `again`: the rater has seen the item before.
    """

    position: int
    item: int
    swapped: bool
    again: bool


def draw(items: Sequence[int], salt: str, rater: str, flip: bool) -> list[Task]:
    """Return a rater's tasks: every item once in an order of their own, and a tenth a second time.

    Exactly half of the items (+-1) are swapped; with `flip`, the other half, so that two raters see
    each item both ways. Repeated items come from the first half, return in the second, and have
    their sides exchanged.
    """
    halves = random.Random(f"{salt}:sides").sample(items, len(items))
    swapped = {item: (place % 2 == 0) != flip for place, item in enumerate(halves)}
    rng = random.Random(f"{salt}:{rater}")
    order = [(item, swapped[item], False) for item in rng.sample(items, len(items))]
    half = len(order) // 2
    sides = [[task for task in order[:half] if task[1] == side] for side in (False, True)]
    in_turn = [task for pair in itertools.zip_longest(*sides) for task in pair if task]
    for item, side, _ in in_turn[: repeats(len(items))]:
        order.insert(rng.randint(half + 1, len(order)), (item, not side, True))
    return [Task(position, *task) for position, task in enumerate(order, 1)]


def repeats(n: int) -> int:
    """Return how many of n items come a second time: a tenth, at least one of four or more."""
    return max(round(n / 10), int(n >= 4))
