"""The lists of columns that step 3 writes and step 4 reads: columns_*.csv.

Step 4 leaves the columns of columns_least.csv out of the context.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.display import csv_files
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for

ALL, TOP, LEAST = "columns_all.csv", "columns_top.csv", "columns_least.csv"


class ColumnVerdict(NamedTuple):
    """One row of columns_*.csv: the verdict on a column, its reason and its figures.

    column: "table.column". verdict: a key of `verdicts.VERDICTS`. features: of the matrix.
    permutation_drop: fall of AUROC when permuted; drop_low, drop_high: its 95% interval;
    drop_sd: its standard deviation over folds. Figures are None for columns not permuted.
    selected_share: of the resamples. best_drop, best_target: of the target that loses most, the
    name "" where none does. gain_share: of the models' total gain.
    cluster: its near-duplicates, joined by " + ", or ""; cluster_drop: fall for all of them.
    """

    column: str
    verdict: str
    reason: str
    permutation_drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    drop_sd: float | None = None
    selected_share: float | None = None
    best_drop: float | None = None
    best_target: str | None = None
    gain_share: float | None = None
    cluster: str | None = None
    cluster_drop: float | None = None
    features: int = 0


def write(path: Path, rows: Iterable[ColumnVerdict]) -> None:
    """Write the rows as CSV, with a header even where there are none."""
    csv_files.write(path, [row._asdict() for row in rows], list(ColumnVerdict._fields))


def least_important(storage: Path) -> list[str]:
    """Return the columns of columns_least.csv as "table.column", sorted.

    Raises UserError when the file has no header or a row without a column's name.
    """
    path = storage / "features" / LEAST
    with open(path, newline="", encoding="utf-8") as file:
        names = [row.get("column") for row in csv.DictReader(file)]
        file.seek(0)
        has_header = "column" in next(csv.reader(file), [])
    columns = [name for name in names if name and all(name.partition("."))]
    if not has_header or len(columns) != len(names):
        raise UserError(
            f"{path} is not a list of columns: redo step 3 with `{command_for('features')} --force`"
        )
    return sorted(columns)
