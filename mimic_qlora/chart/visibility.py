"""What of a patient's chart is known at a given time, by the rules in visibility.csv.

visibility.csv says for every table (`*`) and for single columns when a value is known. A rule is a list of times that
must all have come: columns of the same row, `column@day` for a date (known when that day has ended), `discharge` for
the end of the row's hospital stay, `entered` for the time at which the pharmacy entered a prescription (one in thirteen
rows of the open demo was entered after its starttime; where no such time is told, a day after starttime: 99.9% were
entered by then), `always`, `never`. A time that is null has not come.
"""

import csv
from collections.abc import Callable
from datetime import datetime, time, timedelta
from functools import cache
from pathlib import Path


@cache
def rules() -> dict:
    """table -> {"*" or column: list of terms}"""
    table_rules = {}
    with open(Path(__file__).parent / "visibility.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            table_rules.setdefault(row["table"], {})[row["column"]] = row["known"].split()
    return table_rules


def visible(record: dict, as_of: datetime, dropped: frozenset = frozenset()) -> dict:
    """The record as it was known at `as_of`: rows not yet known are left out, cells not yet known are masked.

    `dropped` names further columns, as "table.column", to leave out. Tables without a rule are left out whole.
    """
    ends = {
        "discharge": {
            a["hadm_id"]: a["dischtime"] for a in record["admissions"] if "dischtime" in a
        },
        "entered": {
            p["pharmacy_id"]: p["entertime"]
            for p in record.get("pharmacy", ())
            if "entertime" in p and "pharmacy_id" in p
        },
    }
    view = {"subject_id": record["subject_id"]}
    for table, rows in record.items():
        if table == "subject_id":
            continue
        by_column = rules().get(table, {"*": ["never"]})
        for term in by_column["*"]:
            rows = _known(rows, term, ends, as_of)
        masks = {
            c: [_time(term, ends) for term in terms] for c, terms in by_column.items() if c != "*"
        }
        prefix = f"{table.removesuffix('_labeled')}."
        masks |= {
            name.removeprefix(prefix): [_time("never", {})]
            for name in dropped
            if name.startswith(prefix)
        }
        if masks:
            rows = [
                row if masks.keys().isdisjoint(row) else _masked(row, masks, as_of) for row in rows
            ]
        view[table] = rows
    return view


def _known(rows: list, term: str, ends: dict, as_of: datetime) -> list:
    if term.endswith(
        "time"
    ):  # a column of the row: without a call for each of the many rows of a chart
        return [row for row in rows if row.get(term, datetime.max) <= as_of]
    time_of = _time(term, ends)
    return [row for row in rows if time_of(row) <= as_of]


def _masked(row: dict, masks: dict, as_of: datetime) -> dict:
    return {
        c: v
        for c, v in row.items()
        if c not in masks or all(time_of(row) <= as_of for time_of in masks[c])
    }


def _time(term: str, ends: dict) -> Callable:
    """The function that gives the time at which a row meets a term; datetime.max where it never does.

    `ends` holds the times that stand in other tables, by the ids that lead to them.
    """
    column, _, day = term.partition("@")
    if term == "always":
        return lambda row: datetime.min
    if term == "discharge":
        return lambda row: ends[term].get(row.get("hadm_id"), datetime.max)
    if term == "entered":
        return lambda row: (
            ends[term].get(row.get("pharmacy_id")) or row["starttime"] + timedelta(days=1)
        )
    if day:
        return lambda row: (
            datetime.combine(row[column] + timedelta(days=1), time.min)
            if column in row
            else datetime.max
        )
    return lambda row: row.get(column, datetime.max)  # "never" names no column
