"""Measure twins: how much more often a caution is said with the finding that calls for it.

An arm that says a caution to everybody, or to nobody, has a difference of 0, however often it is
right on the charts that call for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mimic_qlora.validation import findings, statistics
from mimic_qlora.validation.arms import PAIR, Arm
from mimic_qlora.validation.statistics import Difference
from mimic_qlora.validation.trial_results import TwinResult
from mimic_qlora.validation.twins.making import AS_IT_IS, UNRELATED, WITHOUT

FILE = "twins.csv"
ALL = "all rules"


class Set(NamedTuple):
    """A set of twins that an arm has answered: 1.0 where it says the caution, by chart."""

    rule: str
    held_out: bool
    subject_id: int | None
    said: Mapping[str, float]

    @property
    def difference(self) -> float:
        """Return 1 where the caution is said with the finding alone, -1 where without it alone."""
        return self.said[AS_IT_IS] - self.said[WITHOUT]


def sets(results: Sequence[TwinResult], arm: Arm) -> list[Set]:
    """Return the sets whose three charts an arm has answered, in order."""
    by_set: dict[int, list[TwinResult]] = {}
    for result in results:
        by_set.setdefault(result.place.set, []).append(result)
    return [
        Set(
            found[0].place.rule.id,
            found[0].place.rule.held_out,
            found[0].trial.subject_id,
            {result.place.chart: result.said(arm) for result in found},
        )
        for _, found in sorted(by_set.items())
        if {result.place.chart for result in found} == {AS_IT_IS, WITHOUT, UNRELATED}
    ]


def table(results: Sequence[TwinResult], arms: Sequence[Arm] = PAIR) -> list[dict[str, Any]]:
    """Return a row for all rules, for those never trained on and for each, by arm.

    The interval of one rule is over its patients, that of several over rules and patients.
    """
    rows = []
    for arm in arms:
        found = sets(results, arm)
        for name, part in _groups(found):
            over_rules = len({one.rule for one in part}) > 1
            d = _paired(part, over_rules)
            other = _paired(part, over_rules, UNRELATED).base
            rows.append(
                {
                    "rule": name,
                    "sets": len(part),
                    "arm": arm.name,
                    "said with it": d.adapter,
                    "without it": d.base,
                    "difference": d.mean,
                    "low": d.low,
                    "high": d.high,
                    "another fact": other,
                }
            )
    return sorted(rows, key=lambda row: (row["rule"] != ALL, ", " not in row["rule"], row["rule"]))


def statement(results: Sequence[TwinResult]) -> list[str]:
    """Return what the twins show of base and adapter, and of their difference, in sentences."""
    base, adapter = (sets(results, arm) for arm in PAIR)
    if not base:
        return []
    parts = []
    for arm, found in zip(PAIR, (base, adapter), strict=True):
        d = _paired(found, over_rules=True)
        parts.append(
            f"{arm.name} {d.adapter:.2f} with the finding and {d.base:.2f} without, difference "
            f"{findings.with_interval(d)}"
        )
    more = statistics.paired(
        [one.difference for one in base],
        [one.difference for one in adapter],
        [one.rule for one in base],
        [one.subject_id for one in base],
    )
    assert more, "there are sets"
    rules = len({one.rule for one in base})
    return [
        f"Twins, {len(base)} sets on {rules} rules, share of answers that say the caution: "
        f"{'; '.join(parts)}. Adapter minus base: {findings.with_interval(more)}."
    ]


def _groups(found: Sequence[Set]) -> Iterator[tuple[str, Sequence[Set]]]:
    """Yield the sets of all rules, of those trained on and never trained on, and of each rule."""
    if not found:
        return
    yield ALL, found
    for held_out, words in ((False, "all, trained on"), (True, "all, never trained on")):
        if part := [one for one in found if one.held_out == held_out]:
            yield words, part
    for rule in sorted({one.rule for one in found}):
        yield rule, [one for one in found if one.rule == rule]


def _paired(found: Sequence[Set], over_rules: bool, other: str = WITHOUT) -> Difference:
    """Return the difference of the chart as it is less another, from means of rules or patients."""
    groups = [one.rule if over_rules else str(one.subject_id) for one in found]
    d = statistics.paired(
        [one.said[other] for one in found],
        [one.said[AS_IT_IS] for one in found],
        groups,
        [str(one.subject_id) for one in found] if over_rules else None,
    )
    assert d, "there is a set"
    return d
