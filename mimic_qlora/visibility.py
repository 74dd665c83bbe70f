"""What of a patient's chart is known at a given time, by the rules in visibility.csv.

visibility.csv says for every table (`*`) and for single columns when a value is known. A rule is a list of times that
must all have come: columns of the same row, `column@day` for a date (known when that day has ended), `discharge` for
the end of the row's hospital stay, `always`, `never`. A time that is null has not come.
"""

import csv
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
    discharged = {a["hadm_id"]: a["dischtime"] for a in record["admissions"] if "dischtime" in a}

    def known(terms: list, row: dict) -> bool:
        return all(_moment(term, row, discharged) <= as_of for term in terms)

    view = {"subject_id": record["subject_id"]}
    for table, rows in record.items():
        if table == "subject_id":
            continue
        by_column = rules().get(table, {"*": ["never"]})
        seen = [row for row in rows if known(by_column["*"], row)]
        masked = {column: terms for column, terms in by_column.items() if column != "*"}
        prefix = f"{table.removesuffix('_labeled')}."
        hidden = {name.removeprefix(prefix) for name in dropped if name.startswith(prefix)}
        if masked or hidden:
            seen = [
                {c: v for c, v in row.items() if c not in hidden and (c not in masked or known(masked[c], row))}
                for row in seen
            ]
        view[table] = seen
    return view


def _moment(term: str, row: dict, discharged: dict) -> datetime:
    if term in row:
        return row[term]
    if term == "always":
        return datetime.min
    if term == "discharge":
        return discharged.get(row.get("hadm_id"), datetime.max)
    column, _, day = term.partition("@")
    if not day or column not in row:  # "never", or a time that is null
        return datetime.max
    return datetime.combine(row[column] + timedelta(days=1), time.min)
