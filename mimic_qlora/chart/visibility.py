"""The cells of a chart that were known at a given time, by the rules in visibility.csv.

visibility.csv gives for every table (`*`) and for single columns when a value is known. A rule is a
list of times that must all have come:

- a column of the same row;
- `column@day`: a date, known when that day has ended;
- `discharge`: the end of the row's hospital stay;
- `entered`: the time at which the pharmacy entered a prescription. One in thirteen rows of the open
  demo was entered after its starttime. Where no such time is given, it is a day after starttime:
  99.9% were entered by then;
- `always`, `never`.

A time that is null has not come.
"""

import csv
from collections.abc import Callable
from datetime import datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart.rows import Record, Row

TimeOf = Callable[[Row], datetime]
NEVER = datetime.max


class Ends(NamedTuple):
    """The times that stand in other tables, by the ids that lead to them."""

    discharge: dict[int | None, datetime]  # hadm_id -> end of the stay, not before its beginning
    entered: dict[int | None, datetime]  # pharmacy_id -> when the pharmacy entered the order


@cache
def rules() -> dict[str, dict[str, list[str]]]:
    """Return table -> "*" or column -> terms."""
    table_rules: dict[str, dict[str, list[str]]] = {}
    with open(Path(__file__).parent / "visibility.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            table_rules.setdefault(row["table"], {})[row["column"]] = row["known"].split()
    return table_rules


def visible(record: Record, as_of: datetime, dropped: frozenset[str] = frozenset()) -> Record:
    """Return the record as it was known at `as_of`, without unknown rows and cells.

    `dropped` names further columns to leave out, as "table.column". Tables without a rule are left
    out whole.
    """
    ends = Ends(
        {
            a["hadm_id"]: max(a["admittime"], a["dischtime"])
            for a in record["admissions"]
            if "dischtime" in a
        },
        {
            p["pharmacy_id"]: p["entertime"]
            # of an id that stands twice the last time counts
            for p in sorted(
                (p for p in record.get("pharmacy", ()) if {"entertime", "pharmacy_id"} <= p.keys()),
                key=lambda p: p["entertime"],
            )
        },
    )
    view: Record = {"subject_id": record["subject_id"]}
    for table, rows in record.items():
        if table == "subject_id":
            continue
        by_column = rules().get(table, {"*": ["never"]})
        for term in by_column["*"]:
            rows = _known(rows, term, ends, as_of)
        masks = _masks(table, by_column, ends, dropped)
        if masks:
            rows = [
                row if masks.keys().isdisjoint(row) else _masked(row, masks, as_of) for row in rows
            ]
        view[table] = rows
    return view


def _masks(
    table: str, by_column: dict[str, list[str]], ends: Ends, dropped: frozenset[str]
) -> dict[str, list[TimeOf]]:
    """Return column -> the times that must have come before its cells are known."""
    masks = {
        column: [_time(term, ends) for term in terms]
        for column, terms in by_column.items()
        if column != "*"
    }
    prefix = f"{table.removesuffix('_labeled')}."
    for name in dropped:
        if name.startswith(prefix):
            masks[name.removeprefix(prefix)] = [_time("never", ends)]
    return masks


def _known(rows: list[Row], term: str, ends: Ends, as_of: datetime) -> list[Row]:
    # A column of the row is looked up without a call for each of the many rows of a chart.
    if term.endswith("time"):
        return [row for row in rows if row.get(term, NEVER) <= as_of]
    time_of = _time(term, ends)
    return [row for row in rows if time_of(row) <= as_of]


def _masked(row: Row, masks: dict[str, list[TimeOf]], as_of: datetime) -> Row:
    return {
        c: v
        for c, v in row.items()
        if c not in masks or all(time_of(row) <= as_of for time_of in masks[c])
    }


def _time(term: str, ends: Ends) -> TimeOf:
    """Return the function that gives the time at which a row meets a term, or NEVER."""
    column, _, day = term.partition("@")
    if term == "always":
        return lambda row: datetime.min
    if term == "discharge":
        return lambda row: ends.discharge.get(row.get("hadm_id"), NEVER)
    if term == "entered":
        return lambda row: (
            ends.entered.get(row.get("pharmacy_id")) or row["starttime"] + timedelta(days=1)
        )
    if day:
        return lambda row: (
            datetime.combine(row[column] + timedelta(days=1), time.min) if column in row else NEVER
        )
    return lambda row: row.get(column, NEVER)  # "never" names no column
