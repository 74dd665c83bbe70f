"""The files that step 3 writes, and the same results on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mimic_qlora.display import csv_files, text_tables
from mimic_qlora.features import columns_file, verdicts
from mimic_qlora.features.leakage import StrongFeature
from mimic_qlora.features.matrix import in_split
from mimic_qlora.features.selection import Selection, TargetDrop
from mimic_qlora.features.skill import TargetMetrics
from mimic_qlora.step import files, terminal
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader
from mimic_qlora.subjects.manifest import Source

TOP = 20  # rows of the tables on the terminal
ON_TARGETS = (
    "label",
    "train_share",
    "test_with",
    "auroc",
    "auroc_low",
    "auroc_high",
    "auroc_rows",
    "skill",
)
ON_COLUMNS = (
    "column",
    "permutation_drop",
    "drop_low",
    "drop_high",
    "selected_share",
    "best_target",
)


class AblationRow(NamedTuple):
    """One row of ablation.csv: the change of AUROC without `columns` columns."""

    columns: int
    target: str
    change: float
    low: float
    high: float


def results(result: Selection, n_patients: int, n_targets: int) -> dict[str, Any]:
    """Return the summary of the result for the manifest."""
    counts = {verdict: len(result.with_verdict(verdict)) for verdict in verdicts.VERDICTS}
    return {
        "patients": n_patients,
        "targets": n_targets,
        "without_least": result.test.as_dict(),
        "columns": counts,
    }


def wrapped(lines: list[str]) -> str:
    """Return the lines folded to the width of the terminal tables."""
    return "\n".join(terminal.fitted(line, terminal.width()) for line in lines)


def cohort_line(people: pd.DataFrame, source: Source, hours: float, drawn: bool = False) -> str:
    """Return one sentence on the cohort; source: the data of step 1; hours: to the prediction time.

    drawn: it is a sample of those with a coded stay.
    Raises UserError when no train patient is left.
    """
    sizes = {name: int(in_split(people, name).sum()) for name in ("train", "validation", "test")}
    if not sizes["train"]:
        raise UserError(
            "no train patient has a stay with coded diagnoses: convert more patients with step 1"
        )
    if drawn:
        who = (
            f"{len(people):,} of {source['patients']:,} patients are a sample of those with a "
            "coded stay, as many as half of this job's memory has room for"
        )
    else:
        who = (
            f"{len(people):,} of {source['patients']:,} patients have a coded stay that does not "
            "end before it begins"
        )
    return (
        f"Cohort: {who} "
        f"({', '.join(f'{name} {n:,}' for name, n in sizes.items())}); the others are left out, "
        f"not taken as healthy. Index stay: the first coded one. Features: what was known "
        f"{hours:g} hours after admission"
    )


def item_names(store: Path) -> dict[str, str]:
    """Return the names of laboratory tests and of what intensive care charts, by their numbers."""
    found = {}
    for dictionary in ("d_items", "d_labitems"):
        labels = reader.labels(store, dictionary, value="label")
        found.update({str(item): name for item, name in labels.items() if name})
    return found


def as_dicts(rows: Sequence[NamedTuple]) -> list[dict[str, Any]]:
    """Return records as the dicts that tables take."""
    return [row._asdict() for row in rows]


def targets_table(metrics: list[TargetMetrics]) -> list[dict[str, Any]]:
    """Return the metrics as dicts, with a word for an AUROC that too few test patients carry."""
    rows = as_dicts(metrics)
    few = {"auroc": "too few", "auroc_rows": None}
    return [row if carried(m) else row | few for row, m in zip(rows, metrics, strict=True)]


def carried(row: TargetMetrics) -> bool:
    """Return whether enough test patients are with and without a target to carry its AUROC."""
    return row.auroc is not None and row.auroc_low is not None


def print_report(result: Selection, says: list[str]) -> None:
    """Print the targets, the first and last columns, and the sentences."""
    metrics = targets_table(result.metrics)
    heading = "Targets: AUROC on test patients, beside that of row counts alone"
    print(text_tables.text_table(metrics, heading, columns=list(ON_TARGETS)))
    important = [
        row._replace(best_target=result.label(row.best_target))
        for row in result.with_verdict("important")[:TOP]
    ]
    top = f"Most important columns, the first {TOP}: fall of AUROC when permuted, with 95% interval"
    print(text_tables.text_table(as_dicts(important), top, columns=list(ON_COLUMNS)))
    least = result.with_verdict("least")
    heading = "Least important columns, proven free to go"
    if least:
        heading += f": the last {len(least[-TOP:])} of {len(least)}"
    print(text_tables.text_table(as_dicts(least[-TOP:]), heading, columns=["column", "reason"]))
    print("\n" + wrapped(says))


def ablation_rows(result: Selection) -> list[AblationRow]:
    """Return the rows of ablation.csv: of each ablation the mean, then its targets."""
    return [
        AblationRow(step.columns, row.target, row.change, row.low, row.high)
        for step in result.tried
        for row in step.rows()
    ]


def write(folder: Path, result: Selection, odd: list[StrongFeature], says: list[str]) -> None:
    """Write the CSV files and metrics.json; odd: the strong features of `leakage.find`."""
    columns_file.write(folder / columns_file.ALL, result.columns)
    columns_file.write(folder / columns_file.TOP, result.with_verdict("important"))
    columns_file.write(folder / columns_file.LEAST, result.least_first())
    tables: list[tuple[str, Sequence[NamedTuple], tuple[str, ...]]] = [
        ("columns_per_target.csv", result.per_target, TargetDrop._fields),
        ("metrics.csv", result.metrics, TargetMetrics._fields),
        ("ablation.csv", ablation_rows(result), AblationRow._fields),
        ("giveaways.csv", odd, StrongFeature._fields),
    ]
    for name, rows, fields in tables:
        csv_files.write(folder / name, as_dicts(rows), list(fields))
    summary = {
        "statements": says,
        "without_least": result.test.as_dict(),
        "targets": as_dicts(result.metrics),
    }
    files.write_json(folder / "metrics.json", summary)
