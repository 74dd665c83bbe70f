"""CSV files that a spreadsheet opens without running what stands in them."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mimic_qlora.display import text
from mimic_qlora.step import files

_FORMULA = tuple("=+-@＝＋－＠")  # what a spreadsheet takes for the start of a formula


def safe_cell(value: Any) -> Any:
    """Return a CSV cell that no spreadsheet runs: formulas get an apostrophe in front."""
    if isinstance(value, str):
        value = text.printable(value.replace("\r\n", "\n"))
        return f"'{value}" if value.lstrip().startswith(_FORMULA) else value
    return "" if value is None else value


def write(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    columns: Iterable[str] | None = None,
    first: Sequence[str] = (),
) -> None:
    """Write rows as UTF-8 CSV, without a byte order mark, which other readers take for a name.

    A full disk or a kill leaves what was there before, whole.
    """
    files.atomic_write(path, as_text(rows, columns, first))


def as_text(
    rows: Sequence[Mapping[str, Any]],
    columns: Iterable[str] | None = None,
    first: Sequence[str] = (),
) -> str:
    """Return rows as CSV.

    The columns are those given, else all that a row has, those named in `first` in front.
    """
    columns = list(columns or dict.fromkeys([*first, *(column for row in rows for column in row)]))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    if columns:
        writer.writerow(columns)
    writer.writerows([safe_cell(row.get(column)) for column in columns] for row in rows)
    return table.getvalue()
