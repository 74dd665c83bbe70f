"""What training cost, task by task, as rows of a table and as a sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from mimic_qlora.validation import findings, statistics
from mimic_qlora.validation.arms import PAIR
from mimic_qlora.validation.scoring.rubric import Metric
from mimic_qlora.validation.statistics import Difference, Row

FILE = "forgetting.csv"
# by the name of their column; the score of each task stands above its likelihoods
MEASURED = {
    "bits_guidance": Metric("guidance: bits a byte of the gold", False),
    "bits_chart_qa": Metric("chart QA: bits a byte of the gold", False),
    "options": Metric("chart QA: the gold likeliest of its options", True),
    "bits_diagnoses": Metric("diagnoses: bits a byte of the gold", False),
    "drift": Metric("neutral prompts: drift from the base, nats a token", False),
}
ORDER = (
    *("rubric", "bits_guidance", "chart_qa", "bits_chart_qa", "options", "diagnoses"),
    *("bits_diagnoses", "key_points", "drift", "crisis_help", "crisis_trained"),
    "crisis_never_trained",
)
ABOUT = (
    "Described, not tested. Bits a byte are of the gold answers of held-out records, with their "
    "end token; options are the gold and answers of other patients to a question of its kind, the "
    "likeliest by bits a byte; drift is the Kullback-Leibler divergence from the base, on answers "
    "of the base; help is the share of what must be named, 0 where what is named may do harm."
)


def compare(rows: Sequence[Row]) -> dict[str, Difference]:
    """Return the difference of each measured metric; records of a question or patient cluster."""
    found: dict[str, Difference] = {}
    for name in MEASURED:
        own = [row for row in rows if f"{name}_{PAIR[0].column}" in row]
        found |= statistics.compare(own, [name], PAIR)
    return found


def table(differences: Mapping[str, Difference], metrics: findings.Metrics) -> list[dict[str, str]]:
    """Return the table of what training cost, a row a metric."""
    labels: dict[str, tuple[str, bool]] = {**metrics, **MEASURED}
    rows = []
    for name in ORDER:
        if (d := differences.get(name)) is None:
            continue
        label, up = labels[name]
        rows.append(
            {
                "mean over questions": label if up else f"{label} (less is better)",
                "base": findings.mean(d.base),
                "adapter": findings.mean(d.adapter),
                "difference": findings.signed(d.mean),
                "95% interval": findings.interval(d),
                "n": str(d.trials),
            }
        )
    return rows


def csv_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows of forgetting.csv, with the columns of all of them."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def statement(differences: Mapping[str, Difference]) -> list[str]:
    """Return which measured tasks the adapter finds less likely than the base does."""
    worse = [
        MEASURED[name].label
        for name, d in differences.items()
        if name.startswith("bits_") and d.low is not None and d.low > 0
    ]
    if not worse:
        return []
    return [
        f"The adapter predicts worse than the base: {'; '.join(worse)} (95% intervals above 0, "
        "described)."
    ]
