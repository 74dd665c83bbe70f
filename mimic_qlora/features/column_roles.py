"""Roles of columns, from column_roles.csv: never a feature (excluded), or never to be dropped."""

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Role(NamedTuple):
    """The role of a column: "excluded" or "protected", and the reason."""

    role: str
    reason: str


@cache
def roles() -> dict[tuple[str, str], Role]:
    """Return (table, column) -> Role; either of the two may be "*"."""
    path = Path(__file__).parent / "column_roles.csv"
    with open(path, newline="", encoding="utf-8") as file:
        return {
            (row["table"], row["column"]): Role(row["role"], row["reason"])
            for row in csv.DictReader(file)
        }


def reason_for(role: str, column: str) -> str:
    """Return the reason why "table.column" is "excluded" or "protected", or ""."""
    table, _, name = column.partition(".")
    for key in ((table, name), (table, "*"), ("*", name)):
        found = roles().get(key)
        if found and found.role == role:
            return found.reason
    return ""
