"""Which columns may be no features, and which must never be dropped, each with its reason, from column_roles.csv."""

import csv
from functools import cache
from pathlib import Path


@cache
def roles() -> dict:
    """(table, column), either of which may be "*", -> (role, reason)."""
    with open(Path(__file__).parent / "column_roles.csv", newline="", encoding="utf-8") as file:
        return {
            (row["table"], row["column"]): (row["role"], row["reason"])
            for row in csv.DictReader(file)
        }


def reason_for(role: str, column: str) -> str:
    """Why a column ("table.column") is "excluded" or "protected"; an empty text when it is not."""
    table, _, name = column.partition(".")
    found = (roles().get(key, ("", "")) for key in ((table, name), (table, "*"), ("*", name)))
    return next((reason for kind, reason in found if kind == role), "")
