"""The summary for people: tables on the terminal, CSV and JSON files, one HTML page with plots."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from mimic_qlora.display import cells, csv_files, html, plots, text_tables
from mimic_qlora.display.cells import Cell
from mimic_qlora.step import files, terminal
from mimic_qlora.step.plain_text import printable
from mimic_qlora.summary.disclosure import Rows
from mimic_qlora.summary.tables import Summary, Table


class Bars(NamedTuple):
    """The plot of a table: a bar for each row."""

    value: str  # column of the bars' lengths
    label: Callable[[dict[str, Cell]], str]
    xlabel: str
    log: bool = False


def _diagnosis(row: dict[str, Cell]) -> str:
    return f"ICD-{row['icd_version']} {row['icd_code']} {row['title']}"


PLOTS = {
    "rows_per_table": Bars("rows", lambda row: str(row["table"]), "rows, logarithmic", log=True),
    "diagnoses_histogram": Bars(
        "patients", lambda row: f"{row['coded_diagnoses']} codes", "patients"
    ),
    "top_diagnoses_by_patients": Bars("patients", _diagnosis, "patients"),
    "top_phenotypes": Bars("patients", lambda row: str(row["name"]), "patients"),
    "top_drugs": Bars("patients", lambda row: str(row["drug"]), "patients"),
    "top_labs": Bars("patients", lambda row: f"{row['lab']}, {row['fluid']}", "patients"),
}


SHORT = ("overview", "table1", "tokens_per_record")  # what is printed unless all is asked for


def print_tables(summary: Summary, min_cell: int, everything: bool) -> None:
    """Print the size of the data and Table 1, or all but the list of columns and the histogram."""
    shown = [t for t in summary.tables if everything or t.name in SHORT]
    for table in shown:
        if table.name == "missing":
            print(f"\n{empty_columns(table.rows)} (missing.csv has them all)")
        elif table.name != "diagnoses_histogram":
            print(text_tables.text_table(table.rows, table.heading))
            if table.note:
                print(terminal.fitted(table.note, terminal.width()))
    print()
    if left := len(summary.tables) - len(shown):
        print(
            f"{left} further tables are on the page, and as CSV files beside it (--all prints them)"
        )
    for line in [*summary.skipped, privacy(min_cell)]:
        print(terminal.fitted(line, terminal.width()))


def empty_columns(rows: Rows) -> str:
    """Return a sentence on how many columns hold nothing or little."""
    empty = sum(row["filled"] == 0 for row in rows)
    shares = [row["empty_share"] for row in rows]
    mostly = sum(isinstance(share, float) and 0.5 < share < 1 for share in shares)
    hidden = sum(isinstance(share, str) for share in shares)
    return (
        f"Of {len(rows)} columns, {empty} hold nothing and {mostly} more are more than half empty"
        + (f"; how full {hidden} others are is hidden" if hidden else "")
    )


def privacy(min_cell: int) -> str:
    """Return a sentence on which counts are hidden."""
    if min_cell:
        return (
            f"Counts of 1 to {min_cell - 1} patients are written as <{min_cell} or hidden, and "
            "cells that would reveal them as hidden (--min-cell 0 shows all: keep that on this "
            "machine)"
        )
    return "Small counts are shown (--min-cell 0 or 1): keep the summary on this machine"


def write_files(folder: Path, summary: Summary, data: str, min_cell: int) -> None:
    """Write each table as CSV, all of them as summary.json, and the page. `data` names the data."""
    for table in summary.tables:
        csv_files.write(folder / f"{table.name}.csv", table.rows)
    tables = {
        table.name: {"title": table.heading, "rows": [_inert(row) for row in table.rows]}
        for table in summary.tables
    }
    content = {"data": data, "min_cell": min_cell, "tables": tables}
    files.write_json(folder / "summary.json", content)
    html.write_page(
        folder / "summary.html",
        "Summary of the patients",
        [data, *summary.skipped, privacy(min_cell) + "."],
        [html.Section(table.heading, _parts(table, min_cell)) for table in summary.tables],
    )


def _inert(row: dict[str, Cell]) -> dict[str, Cell]:
    """Return a row of summary.json, which people read on a terminal too."""
    return {k: printable(v) if isinstance(v, str) else v for k, v in row.items()}


def _parts(table: Table, min_cell: int) -> list[Markup]:
    """Return the plot of a table if it has one, its rows, and its note."""
    parts = []
    if table.name in PLOTS and table.rows:
        parts.append(_plot(table, PLOTS[table.name], min_cell))
    if table.name == "flow":
        return [html.render("flow.html", stages=[_shown(row) for row in table.rows])]
    if table.name == "missing":
        parts.append(html.paragraph(empty_columns(table.rows) + "."))
        parts.append(html.table(table.rows, folded=f"All {len(table.rows)} columns"))
    else:
        parts.append(html.table(table.rows))
    if table.note:
        parts.append(html.paragraph(table.note))
    return parts


def _shown(row: dict[str, Cell]) -> dict[str, str]:
    """Return a stage of the flow as text; one that nobody drops out of has no `left_out`."""
    shown = {name: cells.shown(cell) for name, cell in row.items()}
    return shown | {"left_out": "" if row["left_out"] in (0, None) else shown["left_out"]}


def _plot(table: Table, bars: Bars, min_cell: int) -> Markup:
    """Return the bars of a table; a hidden count is a hatched bar up to the limit."""
    lengths = [row[bars.value] for row in table.rows]
    return plots.bars(
        [bars.label(row) for row in table.rows],
        [length if isinstance(length, int) else min_cell for length in lengths],
        [cells.shown(length) for length in lengths],
        [not isinstance(length, int) for length in lengths],
        bars.xlabel,
        f"{table.heading}, as bars; the table below has the numbers",
        bars.log,
    )
