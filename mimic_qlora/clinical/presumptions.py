"""What sentences take for granted, and whether a chart bears it out."""

from functools import lru_cache

from mimic_qlora.clinical import content
from mimic_qlora.clinical.conditions import Facts
from mimic_qlora.clinical.fields import compiled
from mimic_qlora.clinical.schema import Presumption


@lru_cache(maxsize=10_000)  # the sentences of answers come again and again
def of(sentence: str) -> tuple[Presumption, ...]:
    """Return what a sentence takes for granted."""
    return tuple(
        one
        for one in content.load().presumptions.values()
        if compiled(one.pattern).search(sentence)
        and not (one.left_open and compiled(one.left_open).search(sentence))
    )


def unfounded(sentence: str, facts: Facts) -> list[str]:
    """Return the ids of what a sentence takes for granted and the chart does not bear out."""
    return [one.id for one in of(sentence) if one.holds is None or not one.holds.holds(facts)]
