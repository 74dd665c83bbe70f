"""Which rater judges which items, in which order, and which are repeated."""

import itertools
import random
from typing import NamedTuple


class Task(NamedTuple):
    """An item at a place in a rater's order; `swapped`: the adapter's answer is A; `again`: it was shown before."""

    position: int
    item: int
    swapped: bool
    again: bool


def draw(items: list, salt: str, rater: str, flip: bool) -> list:
    """A rater's tasks: every item once in an order of their own, and a tenth a second time, the other way round.

    Exactly half of the items (±1) are swapped; with `flip`, the other half, so that two raters see each item both ways.
    Items to be seen again come from the first half and return in the second.
    """
    halves = random.Random(f"{salt}:sides").sample(items, len(items))
    swapped = {item: (place % 2 == 0) != flip for place, item in enumerate(halves)}
    rng = random.Random(f"{salt}:{rater}")
    order = [(item, swapped[item], False) for item in rng.sample(items, len(items))]
    half = len(order) // 2
    sides = [[task for task in order[:half] if task[1] == side] for side in (False, True)]
    for item, side, _ in [t for pair in itertools.zip_longest(*sides) for t in pair if t][
        : repeats(len(items))
    ]:
        order.insert(rng.randint(half + 1, len(order)), (item, not side, True))
    return [Task(position, *task) for position, task in enumerate(order, 1)]


def repeats(n: int) -> int:
    """How many of n items come a second time: a tenth, and one at least where there are four or more."""
    return max(round(n / 10), int(n >= 4))
