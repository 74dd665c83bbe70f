"""The findings of a comparison, as sentences and as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mimic_qlora.display import text_tables
from mimic_qlora.display.text import counted
from mimic_qlora.validation.arms import ADAPTER, PAIR, Arm
from mimic_qlora.validation.statistics import (
    ALPHA,
    FEWEST,
    Difference,
    Row,
    compare,
)

Metrics = Mapping[str, tuple[str, bool]]  # name -> (label, higher is better)
PValues = Mapping[str, float | None]
Differences = Mapping[str, Difference]


class Comparison(NamedTuple):
    """A comparison of two arms: the differences, Holm's p of those claimed about, all metrics."""

    differences: Differences
    adjusted: PValues
    metrics: Metrics


def against_arms(
    rows: Sequence[Row], arms: Sequence[Arm], names: Iterable[str], metrics: Metrics
) -> list[str]:
    """Return a sentence per further arm: the first adapter minus it, with 95% intervals."""
    first = "The first adapter" if any(arm.is_further_run for arm in arms) else "The adapter"
    names, sentences = [*names], []
    for arm in arms:
        found = {} if arm in PAIR else compare(rows, names, (arm, ADAPTER))
        parts = [f"{metrics[name][0]} {with_interval(d)}" for name, d in found.items()]
        if parts:
            sentences.append(f"{first} minus {arm.name}: {'; '.join(parts)}.")
    return sentences


def against_rules(
    found: Mapping[str, Difference], adjusted: PValues, metrics: Metrics, rules: Differences | None
) -> list[str]:
    """Return whether what the adapter is better at also beats the same rules in the base's prompt.

    `rules` are the differences adapter minus base-rules, None where that arm was not asked. A
    prompt that does as well needs no training.
    """
    better = [
        name
        for name in adjusted
        if is_claimed(found[name], adjusted[name]) and (found[name].mean > 0) == metrics[name][1]
    ]
    if not better:
        return []
    if rules is None:
        return [
            "Not shown to beat the same rules in the prompt: base-rules was not asked "
            "(--arms base-rules)."
        ]
    parts = []
    for name in better:
        d, (label, up) = rules.get(name), metrics[name]
        end = None if d is None else d.low if up else d.high
        beats = end is not None and (end > 0) == up and end != 0
        words = "no trial has it in both" if d is None else with_interval(d)
        shown = "better too" if beats else "not shown to beat the same rules in the prompt"
        parts.append(f"{label} {words}: {shown}")
    return [f"The adapter minus the base with the caution rules in its prompt: {'; '.join(parts)}."]


def of_chart(other_chart: Differences) -> list[str]:
    """Return the metrics in which the adapter does worse with the chart of another patient.

    `other_chart` are the differences of the adapter minus itself with that chart. Who recites the
    same to everybody has none.
    """
    return [name for name, d in other_chart.items() if d.low is not None and d.low > 0]


def is_claimed(d: Difference, p: float | None) -> bool:
    """Return whether a difference is claimed: Holm's p is small, over questions and patients."""
    few = d.questions < FEWEST or d.patients < 2  # one patient says nothing of others
    return p is not None and p <= ALPHA and d.mean != 0 and not few


def statement(
    differences: Differences,
    adjusted: PValues,
    metrics: Metrics,
    primary: str | None = None,
    described: str = "",
) -> list[str]:
    """Return the findings in sentences: primary endpoint, better, worse, not shown.

    Claims are made about the metrics in `adjusted`, which maps them to Holm's p, and about no
    others. `described` says why they are none after all, as the end of a sentence.
    """
    better: list[str] = []
    worse: list[str] = []
    unclear: list[str] = []
    for name, p in adjusted.items():
        d, (label, up) = differences[name], metrics[name]
        if p is None or not is_claimed(d, p):
            unclear.append(label)
            continue
        which = "" if up else " (less is better)"
        equals = "" if p < 0.0005 else "= "
        by_chance = "" if described else f", p {equals}{p_value(p)}"
        claim = f"{label}{which} by {_size(d)}{by_chance}"
        (better if (d.mean > 0) == up else worse).append(claim)
    sentences = [_endpoint(differences.get(primary), metrics[primary][0])] if primary else []
    lead = "As read, the adapter is" if described else "The adapter is"
    for kind, claims in (("better", better), ("worse", worse)):
        if claims:
            sentences.append(f"{lead} {kind} at {'; '.join(claims)}.")
    if unclear:
        sentences.append(f"No difference could be shown in {', '.join(unclear)}.")
    if described:
        sentences.append(f"All this is described, and nothing claimed: {described}.")
    most = max((differences[name].questions for name in adjusted), default=0)
    if adjusted and most < FEWEST:
        sentences.append(
            f"With {most} questions nothing is claimed, however large a difference: "
            "run more trials."
        )
    return sentences


def _endpoint(d: Difference | None, label: str) -> str:
    if d is None:
        return f"Primary endpoint, {label}: no chart called for one, so nothing can be said."
    over = f"{counted(d.questions, 'question')} in {counted(d.trials, 'trial')}"
    return (
        f"Primary endpoint, {label}: base {mean(d.base)}, adapter {mean(d.adapter)}, "
        f"difference {with_interval(d)}, over {over}."
    )


def with_interval(d: Difference) -> str:
    """Return a difference with its interval, where it has one."""
    if d.low is None or d.high is None:
        return signed(d.mean)
    return f"{signed(d.mean)} [{d.low:+.2f}, {d.high:+.2f}]"


def _size(d: Difference) -> str:
    """Return the absolute difference with its interval, alike for better and worse."""
    if d.low is None or d.high is None:
        return f"{abs(d.mean):.2f}"
    low, high = (d.low, d.high) if d.mean > 0 else (-d.high, -d.low)
    return f"{abs(d.mean):.2f} [{low:.2f}, {high:.2f}]"


def mean(value: float) -> str:
    """Return a mean with two decimals; never "-0.00", as the rubric below 0 would have it."""
    return f"{round(value, 2) + 0.0:.2f}"


def signed(value: float) -> str:
    """Return a value with its sign and two decimals; never "-0.00"."""
    return f"{round(value, 2) + 0.0:+.2f}"


def table(
    differences: Differences, adjusted: PValues, metrics: Metrics, width: int | None = None
) -> str:
    """Return the comparison as a table of `width` columns, by default those of the terminal.

    Where nothing is claimed there is no column of p values.
    """
    rows = []
    for name, (label, _) in metrics.items():
        d, row = differences.get(name), {"mean over questions": label}
        row |= dict.fromkeys(("base", "adapter", "difference"), "")
        row |= {"95% interval": "no trial has it", "effect": "", "p (Holm)": "", "trials": "0"}
        if d is not None:
            row |= {
                "base": mean(d.base),
                "adapter": mean(d.adapter),
                "difference": signed(d.mean),
                "95% interval": interval(d),
                "effect": "" if d.effect is None else f"{d.effect:.1f}",
                "p (Holm)": p_value(adjusted.get(name)),
                "trials": str(d.trials),
            }
        if not adjusted:
            row.pop("p (Holm)")
        rows.append(row)
    return text_tables.text_table(rows, width=width)


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of summary.csv, one a metric."""
    return [
        {
            "metric": name,
            "higher_is_better": comparison.metrics[name][1],
            **difference._asdict(),
            "p_holm": comparison.adjusted.get(name),
        }
        for name, difference in comparison.differences.items()
    ]


def interval(d: Difference) -> str:
    """Return the 95% interval, or why there is none."""
    if d.low is None or d.high is None:
        return "one question only" if d.questions == 1 else "no spread"
    return f"[{d.low:+.2f}, {d.high:+.2f}]"


def p_value(p: float | None) -> str:
    """Return a p value with three decimals, or "< 0.001"."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"
