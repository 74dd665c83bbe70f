"""CSV files that a spreadsheet opens without running what stands in them."""

import csv
from pathlib import Path

from mimic_qlora.display import text


def safe_cell(value):
    """A CSV cell that no spreadsheet runs: text that starts like a formula gets a leading apostrophe."""
    if isinstance(value, str):
        value = text.printable(value.replace("\r\n", "\n"))
        return f"'{value}" if value.lstrip().startswith(tuple("=+-@＝＋－＠")) else value
    return "" if value is None else value


def write(path: Path, rows: list, columns=None, first: tuple = ()) -> None:
    """Rows as UTF-8 CSV: the given columns, else all that a row has, with those named in `first` in front."""
    columns = columns or dict.fromkeys([*first, *(column for row in rows for column in row)])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if columns:
            writer.writerow(columns)
        writer.writerows([safe_cell(row.get(column)) for column in columns] for row in rows)
