"""What step 1 says of cells that are not written as their column's type is, and what it refuses."""

from collections.abc import Iterable, Mapping

from mimic_qlora.display.cells import Row
from mimic_qlora.display.text_tables import text_table
from mimic_qlora.mimic.cells import CellCounts
from mimic_qlora.mimic.tables import Columns, Kind, Source
from mimic_qlora.step.errors import UserError

Counts = dict[str, CellCounts]  # by "<table>.<column>"
MOST_UNREADABLE = 10  # cells of a column in which no other can be read
_FORMS: dict[Kind, str] = {
    "id": "whole numbers such as 50912",
    "int": "whole numbers such as 42",
    "num": "decimal numbers such as 0.9",
    "code": "codes such as 4019, 0389 or E119",
    "time": "times such as 2150-03-01 10:00:00 (or a date alone, from year 1000 to 2999)",
}
_NOUNS: dict[Kind, str] = {
    "id": "whole number",
    "int": "whole number",
    "num": "decimal number",
    "time": "time",
    "code": "code",
}
_MENDED: dict[Kind, str] = {
    "id": "read without the blanks or the .0",
    "int": "read without the blanks or the .0",
    "num": "read without the blanks",
    "time": "read without blanks, the zone UTC, decimals after six",
    "code": "read in capitals, without blanks and dots",
}


def summed(parts: Iterable[Counts]) -> Counts:
    """Return the counts of several parts as one."""
    total: Counts = {}
    for part in parts:
        for column, counts in part.items():
            total[column] = total.get(column, CellCounts()).plus(counts)
    return total


def refuse_other_forms(counts: Counts, sources: Mapping[str, Source]) -> None:
    """Raise UserError for a column whose cells are all in a form that its type does not have.

    Its cells would all be null, and the later steps would say that there is nothing. Texts for
    nothing do not count, nor do fewer than MOST_UNREADABLE cells, which are only told.
    """
    for name, found in counts.items():
        table, _, column = name.partition(".")
        if found.fitting == 0 and found.unreadable >= MOST_UNREADABLE:
            source = sources[table]
            raise UserError(
                f"{source.path}: of {column}, all {found.unreadable:,} cells are in a form that "
                f"is not read: write them as {_FORMS[source.columns[column]]}"
            )


def print_cells(counts: Counts, columns: Mapping[str, Columns]) -> None:
    """Print the columns with cells that were mended or that do not fit, if there are any.

    `columns` maps each table to its columns.
    """
    lines: list[Row] = []
    for name, found in sorted(counts.items()):
        if not (found.mended or found.misfits):
            continue
        table, _, column = name.partition(".")
        kind, total = columns[table][column], found.fitting + found.misfits
        for n, what in (
            (found.mended, _MENDED.get(kind, "")),
            (found.misfits, "null, as they are no " + _NOUNS.get(kind, kind)),
        ):
            if n:
                share = "<0.01%" if n / total < 0.0001 else f"{n / total:.2%}"
                lines.append({"column": name, "cells": n, "of the filled": share, "are": what})
    if lines:
        print(text_table(lines, "Cells in another form (the JSONL keeps all but ids as they are)"))
