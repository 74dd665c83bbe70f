"""The difference that a planned comparison can detect."""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.display import text_tables
from mimic_qlora.validation import results

POWER = 0.8


class Spread(NamedTuple):
    """Standard deviations of (adapter - base): between question means, and between the trials of
    one question.
    """

    between: float
    within: float


# on a score from 0 to 1, where there are no results to take it from
ASSUMED = Spread(between=0.10, within=0.25)


def detectable(n: int, questions: int, spread: Spread) -> float | None:
    """Return the true difference that a two-sided 5% t test on question means finds with 80% power.

    n trials are spread evenly over the questions. The power is that of the noncentral t
    distribution with k - 1 degrees of freedom. None for fewer than two questions.
    """
    from scipy import optimize, stats

    k = min(n, questions)
    if k < 2:
        return None
    error = math.sqrt((spread.between**2 + spread.within**2 * k / n) / k)
    critical = stats.t.ppf(1 - 0.05 / 2, k - 1)

    def lack(effect: float) -> float:
        return stats.nct.sf(critical, k - 1, effect) - POWER

    return float(optimize.brentq(lack, 0.01, 200)) * error


def estimated(rows: Iterable[Mapping[str, str]], metric: str) -> Spread | None:
    """Return the spread in an earlier output.csv; None when no question was asked twice.

    These are the estimates of a one-way analysis of variance with questions as groups of unequal
    size (Searle, Casella and McCulloch, Variance Components, 1992, chapter 3).
    """
    groups: dict[str, list[float]] = {}
    for row in rows:
        base, adapter = row.get(f"{metric}_base"), row.get(f"{metric}_qlora")
        if base and adapter:
            groups.setdefault(row["question_id"], []).append(float(adapter) - float(base))
    n, k = sum(map(len, groups.values())), len(groups)
    if k < 2 or n <= k:
        return None
    means = {q: sum(g) / len(g) for q, g in groups.items()}
    whole = sum(map(sum, groups.values())) / n
    inside = sum((x - means[q]) ** 2 for q, g in groups.items() for x in g) / (n - k)
    outside = sum(len(g) * (means[q] - whole) ** 2 for q, g in groups.items()) / (k - 1)
    size = (n - sum(len(g) ** 2 for g in groups.values()) / n) / (k - 1)
    return Spread(math.sqrt(max(0.0, outside - inside) / size), math.sqrt(inside))


def what_can_be_shown(store: Path, questions: int, n: int) -> str:
    """Return, as a table, the smallest difference in the rubric that n trials and more detect."""
    newest, found = results.newest(store), None
    if newest and (newest / "output.csv").is_file():
        with open(newest / "output.csv", newline="", encoding="utf-8") as file:
            found = estimated(csv.DictReader(file), "rubric")
    spread = found or ASSUMED
    basis = "assumed, until a run asks questions more than once"
    if newest and found:
        basis = f"taken from {newest.name}"
    rows = []
    for trials in (n, 2 * n, 4 * n, 20 * n):
        row = {"trials": str(trials)}
        for pool in sorted({8, 16, questions}):
            found_at = detectable(trials, pool, spread)
            row[f"{pool} questions"] = "-" if found_at is None else f"{found_at:.3f}"
        rows.append(row)
    between, within = f"{spread.between:.2f}", f"{spread.within:.2f}"
    return "\n".join(
        [
            "The smallest true difference in the rubric (0 to 1) found four times out of five "
            "(5%, two-sided):",
            text_tables.text_table(rows),
            "",
            f"Standard deviation of the difference: {between} between questions, {within} within "
            f"them\n({basis}).",
            "Where each question is asked often already, more questions help and more trials "
            "hardly do.",
        ]
    )
