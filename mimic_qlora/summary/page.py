"""What step 2 prints and writes: tables, CSV, page."""

import textwrap
from pathlib import Path

from mimic_qlora.step import files


def print_tables(tables: dict, skipped: list, min_cell: int) -> None:
    """Everything but the long list of columns and the histogram, as text of 100 columns."""
    from mimic_qlora.display import text_tables
    from mimic_qlora.summary import tables as summaries

    for name, (heading, rows) in tables.items():
        if name == "missing":
            print(f"\n{empty_columns(rows)} (missing.csv has them all)")
        elif name != "diagnoses_histogram":
            print(text_tables.text_table(rows, heading))
            if name in summaries.NOTES:
                print(textwrap.fill(summaries.NOTES[name], text_tables.WIDTH))
    print(
        "\n"
        + "\n".join(
            textwrap.fill(line, text_tables.WIDTH) for line in [*skipped, privacy(min_cell)]
        )
    )


def empty_columns(rows: list) -> str:
    empty = sum(row["filled"] == 0 for row in rows)
    mostly = sum(
        isinstance(row["empty_share"], float) and 0.5 < row["empty_share"] < 1 for row in rows
    )
    return (
        f"Of {len(rows)} columns, {empty} hold nothing and {mostly} more are more than half empty"
    )


def privacy(min_cell: int) -> str:
    if min_cell:
        return (
            f"Counts of 1 to {min_cell - 1} patients are written as <{min_cell}, and what gives them away as hidden "
            f"(--min-cell 0 shows all: keep that on this machine)"
        )
    return "Small counts are shown (--min-cell 0): keep the summary on this machine"


def write_tables(folder: Path, tables: dict, manifest: dict, min_cell: int) -> None:
    from mimic_qlora.display import csv_files, html

    for name, (_, rows) in tables.items():
        csv_files.write(folder / f"{name}.csv", rows)
    content = {name: {"title": heading, "rows": rows} for name, (heading, rows) in tables.items()}
    summary = {"data": html.data_line(manifest), "min_cell": min_cell, "tables": content}
    files.write_json(folder / "summary.json", summary)


def write_page(path: Path, tables: dict, skipped: list, manifest: dict, min_cell: int) -> None:
    """All tables and their plots as one page."""
    from mimic_qlora.display import cells, html, plots
    from mimic_qlora.summary import tables as summaries

    def plot(name: str, value: str, label, xlabel: str, log: bool = False) -> str:
        heading, rows = tables[name]
        small = [
            not isinstance(row[value], int) for row in rows
        ]  # drawn as hatched bars up to the limit
        values = [min_cell if s else row[value] for row, s in zip(rows, small, strict=True)]
        texts = [cells.shown(row[value]) for row in rows]
        alt = f"{heading}, as bars; the table below has the numbers"
        return plots.bars([label(row) for row in rows], values, texts, small, xlabel, alt, log)

    def diagnosis(row: dict) -> str:
        return f"ICD-{row['icd_version']} {row['icd_code']} {row['title']}"

    drawn = {
        "rows_per_table": ("rows", lambda row: row["table"], "rows, logarithmic", True),
        "diagnoses_histogram": (
            "patients",
            lambda row: f"{row['coded_diagnoses']} codes",
            "patients",
        ),
        "top_diagnoses_by_patients": ("patients", diagnosis, "patients"),
        "top_phenotypes": ("patients", lambda row: row["name"], "patients"),
        "top_drugs": ("patients", lambda row: row["drug"], "patients"),
        "top_labs": ("patients", lambda row: f"{row['lab']}, {row['fluid']}", "patients"),
    }
    sections = []
    for name, (heading, rows) in tables.items():
        parts = [plot(name, *drawn[name])] if name in drawn and rows else []
        if name == "missing":
            parts += [
                html.paragraph(empty_columns(rows) + "."),
                html.table(rows, folded=f"All {len(rows)} columns"),
            ]
        else:
            parts.append(html.table(rows))
        parts += [html.paragraph(summaries.NOTES[name])] if name in summaries.NOTES else []
        sections.append((heading, parts))
    lead = [html.data_line(manifest), *skipped, privacy(min_cell) + "."]
    html.write_page(path, "Summary of the patients", lead, sections)
