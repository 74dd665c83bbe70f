"""Which difference a planned comparison can show."""

import csv
import math
from pathlib import Path

POWER = 0.8
# Spread of (adapter - base) on a score from 0 to 1, where no results are at hand to take it from: between the means of
# questions, and between trials of one question.
ASSUMED = (0.10, 0.25)


def detectable(n: int, questions: int, between: float, within: float) -> float | None:
    """The true difference that a two-sided t test on question means finds four times out of five.

    `between` and `within` are the standard deviations of the paired difference between questions and between the
    trials of one question. The power is that of the noncentral t distribution. None for fewer than two questions.
    """
    from scipy import optimize, stats

    k = min(n, questions)
    if k < 2:
        return None
    error = math.sqrt((between**2 + within**2 * k / n) / k)
    critical = stats.t.ppf(1 - 0.05 / 2, k - 1)

    def lack(effect):
        return stats.nct.sf(critical, k - 1, effect) - POWER

    return float(optimize.brentq(lack, 0.01, 200)) * error


def spread(rows: list, metric: str) -> tuple | None:
    """(between, within) of `detectable` from the rows of an earlier output.csv; None when they do not tell.

    The usual estimates of a one-way analysis of variance with questions as groups.
    """
    groups = {}
    for row in rows:
        if row.get(f"{metric}_base") and row.get(f"{metric}_qlora"):
            groups.setdefault(row["question_id"], []).append(
                float(row[f"{metric}_qlora"]) - float(row[f"{metric}_base"])
            )
    n, k = sum(map(len, groups.values())), len(groups)
    if k < 2 or n <= k:
        return None
    means = {q: sum(g) / len(g) for q, g in groups.items()}
    whole = sum(map(sum, groups.values())) / n
    inside = sum((x - means[q]) ** 2 for q, g in groups.items() for x in g) / (n - k)
    outside = sum(len(g) * (means[q] - whole) ** 2 for q, g in groups.items()) / (k - 1)
    size = (n - sum(len(g) ** 2 for g in groups.values()) / n) / (k - 1)
    return math.sqrt(max(0.0, outside - inside) / size), math.sqrt(inside)


def what_can_be_shown(store: Path, questions: int, n: int) -> str:
    """The smallest true difference in the rubric that would be found four times out of five, for n trials and more."""
    earlier, found = sorted((store / "validation").glob("*/output.csv")), None
    if earlier:
        with open(earlier[-1], newline="", encoding="utf-8") as file:
            found = spread(list(csv.DictReader(file)), "rubric")
    between, within = found or ASSUMED
    pools = sorted({8, 16, questions})
    lines = [f"{'trials':>8}" + "".join(f"{k:>5} questions" for k in pools)]
    for trials in (n, 2 * n, 4 * n, 20 * n):
        cells = [detectable(trials, k, between, within) for k in pools]
        lines.append(
            f"{trials:>8}" + "".join(f"{'-' if c is None else f'{c:.3f}':>15}" for c in cells)
        )
    basis = (
        f"taken from {earlier[-1].parent.name}"
        if found
        else "assumed, until a run asks questions more than once"
    )
    return "\n".join(
        [
            "The smallest true difference in the rubric (0 to 1) found four times out of five (5%, two-sided):",
            "",
            *lines,
            "",
            f"Standard deviation of the difference: {between:.2f} between questions, {within:.2f} within them",
            f"({basis}).",
            "Where each question is asked often already, more questions help and more trials hardly do.",
        ]
    )
