"""Measurements of omr that can be shown: those of weight and build that are no slip of the pen.

Some weights stand in kilograms under the heading of pounds, with a body mass index made from them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from mimic_qlora.chart.rows import Row
from mimic_qlora.mimic import omr_bounds

WEIGHT, BMI = "Weight (Lbs)", "BMI (kg/m2)"
HEIGHTS = (48.0, 84.0)  # inches
_BOUNDS = omr_bounds.load()
BMI_RANGE = _BOUNDS["bmi_low"], _BOUNDS["bmi_high"]  # kg/m2
MOST_CHANGE = _BOUNDS["most_change"]  # times within a year
POUNDS_IN_KG = _BOUNDS["kilograms_low"], _BOUNDS["kilograms_high"]
YEAR = _BOUNDS["year"]  # days


class Measured(NamedTuple):
    """A row of omr with its number."""

    row: Row
    when: datetime
    value: float


def plausible(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of omr that a context may show, in their order.

    Left out are a body mass index out of range, one that with the weight of its day makes nobody's
    height, a weight (or index) of which most others within a year differ by more than MOST_CHANGE,
    one that looks like kilograms beside others in pounds, and an index of the same day as a weight
    that is left out.
    """
    numbers = {name: [*_numbers(rows, name)] for name in (WEIGHT, BMI)}
    wrong = {id(one.row) for one in numbers[WEIGHT] if _is_odd(one, numbers[WEIGHT])}
    days = {one.when for one in numbers[WEIGHT] if id(one.row) in wrong}
    right = {one.when for one in numbers[WEIGHT]} - days
    low, high = BMI_RANGE
    possible = [
        one
        for one in numbers[BMI]
        if low <= one.value <= high
        and not (one.when in days and one.when not in right)
        and _makes_a_height(one, numbers[WEIGHT])
    ]
    kept = {id(one.row) for one in possible if not _is_odd(one, possible)}
    wrong |= {id(one.row) for one in numbers[BMI]} - kept
    return (row for row in rows if id(row) not in wrong)


def _makes_a_height(index: Measured, weights: Sequence[Measured]) -> bool:
    """Return whether an index and the weight of its day, if there is one, give a height."""
    low, high = HEIGHTS
    heights = [(703 * w.value / index.value) ** 0.5 for w in weights if w.when == index.when]
    return not heights or any(low <= height <= high for height in heights)


def _numbers(rows: Sequence[Row], name: str) -> Iterator[Measured]:
    for row in rows:
        if row.get("result_name") == name and (value := _number(row)):
            yield Measured(row, row["chartdate"], value)


def _number(row: Mapping[str, str]) -> float | None:
    """Return the value above zero of a row, None where it has none."""
    try:
        value = float(row["result_value"])
    except (KeyError, ValueError):
        return None
    return value if 0 < value < float("inf") else None


def _is_odd(one: Measured, others: Sequence[Measured]) -> bool:
    """Return whether one does not agree with the others within a year."""
    near = [o for o in others if abs((o.when - one.when).days) <= YEAR]
    agree = [o for o in near if _ratio(o, one) <= MOST_CHANGE]  # itself among them
    far = [o for o in near if _ratio(o, one) > MOST_CHANGE]
    low, high = POUNDS_IN_KG
    pounds = [o for o in far if low <= o.value / one.value <= high]
    kilograms = [o for o in far if low <= one.value / o.value <= high]
    if len(pounds) == len(far):  # as many others make it the one in kilograms
        return bool(pounds) and len(pounds) >= len(agree)
    if len(kilograms) == len(far):
        return len(kilograms) > len(agree)
    return len(far) >= len(agree)


def _ratio(one: Measured, other: Measured) -> float:
    return max(one.value, other.value) / min(one.value, other.value)
