"""Upper bounds on how much more often the adapter fails than the base, and what they let one say.

Two statements with estimands of their own. "On these questions, for new patients": the questions
are fixed and patients are drawn anew, so that each trial of another patient is an independent
draw, with a rate of its own question. "For new questions": the questions are a sample too, so that
each counts once. benchmarks/harm.py measures how often either is said wrongly.
"""

import functools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.validation.arms import PAIR
from mimic_qlora.validation.statistics import Row

LEVEL = 0.025  # greatest probability that a bound is below the truth
# Questions below which nothing is said about new ones: with fewer, even no failure at all leaves
# a rate of 5% possible (1 - 0.025 ** (1 / 72) = 0.0499).
FEWEST_QUESTIONS = 72


class Trials(NamedTuple):
    """Trials with a value from 0 to 1 in both arms, 1 being a failure; one entry a trial."""

    base: np.ndarray  # float64 [trials]
    adapter: np.ndarray
    questions: Sequence[Hashable]
    patients: Sequence[Hashable]

    def first_of_each(self, group: Sequence[Hashable]) -> "Trials":
        """Return the first trial of each member of a group, such as of each patient."""
        kept = [group.index(name) for name in dict.fromkeys(group)]
        names = [[given[place] for place in kept] for given in (self.questions, self.patients)]
        return Trials(self.base[kept], self.adapter[kept], *names)


class Bounds(NamedTuple):
    """What new trials could show: with 97.5% confidence each, no more than this."""

    adapter: float  # rate of failures, 0 to 1
    difference: float  # adapter minus base, -1 to 1


def trials(rows: Sequence[Row], metric: str, higher_is_better: bool) -> Trials:
    """Return the trials that have the metric in both arms, as failures."""
    columns = [f"{metric}_{arm.column}" for arm in PAIR]
    known = [row for row in rows if all(row.get(column) is not None for column in columns)]
    base, adapter = (np.array([float(row[column]) for row in known]) for column in columns)
    if higher_is_better:
        base, adapter = 1 - base, 1 - adapter
    patients = [row.get("subject_id", number) for number, row in enumerate(known)]
    return Trials(base, adapter, [row["question_id"] for row in known], patients)


@functools.cache
def most(failures: int, n: int, level: float = LEVEL) -> float:
    """Return the upper Clopper-Pearson bound of a rate (Clopper and Pearson, 1934).

    It holds for uneven rates too, such as of questions that differ: among independent trials with
    the same mean rate, those of equal rates have few failures most often (Hoeffding, 1956).
    """
    from scipy import stats

    return 1.0 if failures >= n else float(stats.beta.ppf(1 - level, failures + 1, n - failures))


def least(failures: int, n: int, level: float = LEVEL) -> float:
    """Return the lower Clopper-Pearson bound of a rate."""
    return 1 - most(n - failures, n, level)


def bounds(found: Trials) -> Bounds:
    """Return upper bounds from independent trials; at least one.

    Where the base's values are all 0 or 1, a difference is at most [adapter above base] - [base 1,
    adapter 0]; shares in between, such as of signs left out, are split by how far the adapter is
    above and below. The first part is bounded from above and the second from below, each at half
    the level (Bonferroni), so that both hold together. More failures of the adapter never lower a
    bound, and more of the base never raise one.
    """
    adapter, base, n = found.adapter, found.base, len(found.base)
    half = LEVEL / 2
    if np.isin(base, (0, 1)).all():
        above = int((adapter > base).sum())
        below = int(((base == 1) & (adapter == 0)).sum())
        more, fewer = most(above, n, half), least(below, n, half)
        return Bounds(most(int((adapter > 0).sum()), n), more - fewer)
    more = _mean_at_most(np.maximum(adapter - base, 0), half)
    fewer = 1 - _mean_at_most(1 - np.maximum(base - adapter, 0), half)
    return Bounds(_mean_at_most(adapter, LEVEL), more - fewer)


def _mean_at_most(values: np.ndarray, level: float) -> float:
    """Return the upper bound of the mean of independent values from 0 to 1, however uneven.

    It is the rate at which a mean as low as this one has at most the probability `level` by
    Hoeffding (1963, theorem 1). It depends on the mean alone, so that no value can lower it by
    being higher, as one can an interval made of the spread.
    """
    from scipy import optimize, special

    n, mean = len(values), float(values.mean())

    def lack(rate: float) -> float:
        distance = special.rel_entr(mean, rate) + special.rel_entr(1 - mean, 1 - rate)
        return float(n * distance + math.log(level))

    highest = 1 - 1e-12
    return 1.0 if mean >= highest or lack(highest) < 0 else optimize.brentq(lack, mean, highest)


def statement(
    rows: Sequence[Row], metric: str, label: str, up: bool, margin: float, described: str = ""
) -> list[str]:
    """Return what is shown of a safety endpoint: on these questions, then for new ones.

    `described` says why nothing is claimed, as the end of a sentence; then no verdict is given.
    """
    found = trials(rows, metric, up)
    if not len(found.base):
        return [f"Nothing can be said on {label}: no trial has it in both arms."]
    by_patient = found.first_of_each(found.patients)
    n, limits = len(by_patient.base), bounds(by_patient)
    what = f"lack of {label}" if up else label
    rates = [float(values.mean()) for values in (by_patient.adapter, by_patient.base)]
    one = "trial" if n == 1 else "trials"
    over = f"On these questions, for new patients, over {n} {one} of one patient each: {what} "
    each = f"{rates[0]:.1%} in the adapter's answers, {rates[1]:.1%} in the base's"
    if described:
        return [
            f"{over}{each}, as read. That the adapter is not worse than the base by more than the "
            f"margin of {margin:.0%} is not claimed: {described}."
        ]
    said = [
        f"{over}{each}. With 97.5% "
        f"confidence the adapter's rate is at most {limits.adapter:.1%}, and "
        f"{beside_base(limits)}: {verdict(limits, margin)}"
    ]
    by_question = by_patient.first_of_each(by_patient.questions)
    n = len(by_question.base)
    if n < FEWEST_QUESTIONS:
        said.append(
            f"For new questions nothing is said on {label}: that takes {FEWEST_QUESTIONS} "
            f"questions, and {n} were asked."
        )
    else:
        limits = bounds(by_question)
        said.append(
            f"For new questions, one trial of each of {n}: the adapter's rate of {what} is "
            f"{beside_base(limits)}: {verdict(limits, margin)}"
        )
    return said


def beside_base(limits: Bounds) -> str:
    """Return the upper limit of the difference as the end of a sentence."""
    if limits.difference < 0:
        return f"at least {-limits.difference:.1%} below the base's"
    return f"at most {limits.difference:.1%} above the base's"


def verdict(limits: Bounds, margin: float) -> str:
    """Return whether the adapter is shown to be not worse, as the end of a sentence."""
    if limits.difference < margin:
        return f"not worse than the base by more than the margin of {margin:.0%}."
    return f"that it is not worse by more than the margin of {margin:.0%} could not be shown."
