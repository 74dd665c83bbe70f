"""The contents of the synthetic hospital: the files of data/ as typed as they need to be.

Entries of the YAML files stay as they are read: dicts whose fields the files' comments explain.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimic_qlora.step import yaml_files

DATA = Path(__file__).parent / "data"

Entry = dict[str, Any]  # one entry of a YAML file
CsvRow = dict[str, str | None]  # one row of a CSV file; None for an empty cell


@dataclass(frozen=True)
class Lab:
    """One laboratory test; values follow a normal or a log-normal distribution."""

    key: str
    itemid: str
    unit: str | None
    panel: str
    center: float  # mean, or median of the log-normal distribution
    spread: float  # standard deviation, of the logarithm in the log-normal distribution
    scale: str | None  # "lin", "log", None for a test whose value is a text
    decimals: int
    ranges: dict[str, tuple[float | None, float | None]]  # sex -> reference range
    comment: str | None


@dataclass(frozen=True)
class Vocabulary:
    """Everything that the files of data/ hold."""

    conditions: list[Entry]
    reasons: list[Entry]
    status_codes: list[Entry]
    noise: list[Entry]
    hospital: Entry
    icu: Entry
    emergency: Entry
    drugs: dict[str, dict[str, str]]  # key -> row of drugs.csv
    labs: dict[str, Lab]
    panels: dict[str, list[Lab]]
    hcpcs: dict[str, str]  # code -> short description
    dictionaries: dict[str, list[CsvRow]]  # table -> its rows


def vocabulary() -> Vocabulary:
    """Read all files of data/."""
    rows = {path.stem: _rows(path) for path in sorted(DATA.glob("*.csv"))}
    labs = {lab.key: lab for lab in map(_lab, rows["labs"])}
    panels: dict[str, list[Lab]] = {}
    for lab in labs.values():
        panels.setdefault(lab.panel, []).append(lab)
    tables = ("d_icd_diagnoses", "d_icd_procedures", "d_hcpcs", "d_items")
    labitems = rows["labs"] + rows["d_labitems_more"]
    columns = ("itemid", "label", "fluid", "category")
    return Vocabulary(
        **{path.stem: _entries(path) for path in sorted(DATA.glob("*.yaml"))},
        drugs={row["key"]: row for row in rows["drugs"]},
        labs=labs,
        panels=panels,
        hcpcs={row["code"]: row["short_description"] for row in rows["d_hcpcs"]},
        dictionaries={name: rows[name] for name in tables}
        | {"d_labitems": [{column: row[column] for column in columns} for row in labitems]},
    )


def _entries(path: Path) -> Any:
    return yaml_files.loads(path.read_text(encoding="utf-8"), path.name)


def _rows(path: Path) -> list[Any]:
    """Return the rows of a CSV file as dicts, None for an empty cell."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]


def _lab(row: dict[str, str]) -> Lab:
    """Return a row of labs.csv with its numbers."""
    number = {
        key: float(row[key]) if row[key] else None for key in ("low_f", "high_f", "low_m", "high_m")
    }
    return Lab(
        key=row["key"],
        itemid=row["itemid"],
        unit=row["unit"],
        panel=row["panel"],
        center=float(row["center"] or "nan"),
        spread=float(row["spread"] or "nan"),
        scale=row["scale"],
        decimals=int(row["decimals"] or 0),
        ranges={
            "F": (number["low_f"], number["high_f"]),
            "M": (number["low_m"], number["high_m"]),
        },
        comment=row["comment"],
    )
