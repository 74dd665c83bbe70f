"""The release of MIMIC-IV that a folder holds, told from the rows of its tables.

releases.csv holds the rows of each table, from the validation scripts of
github.com/MIT-LCP/mimic-code (mimic-iv/buildmimic: mysql/validate.sql for 3.1,
postgres/validate.sql for 2.2, postgres/validate_demo.sql for the demo). An empty cell is not known.
"""

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.mimic.tables import schema

# patients and admissions. 3.0 and 3.1 have as many of both; the rows of 3.0's other tables are not
# known.
SIZES = {(100, 275): "demo 2.2", (364_627, 546_028): "3.1", (299_712, 431_231): "2.2"}
NAMES = {
    "demo 2.2": "MIMIC-IV Clinical Database Demo (2.2)",
    "3.1": "MIMIC-IV 3.0 or 3.1",
    "2.2": "MIMIC-IV 2.2",
}
_ENOUGH = 3  # tables that agree
UNLISTED = "MIMIC-IV tables of an unlisted release"


class Match(NamedTuple):
    """A release, and how the tables that are there compare with its tables."""

    name: str
    agreeing: int  # tables with as many rows as the release has
    differing: list[str]  # a sentence on each table with more or fewer


@cache
def row_counts() -> dict[str, dict[str, int]]:
    """Return release -> {table: rows}, as far as they are known."""
    found: dict[str, dict[str, int]] = {}
    with open(Path(__file__).parent / "releases.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            table = row.pop("table")
            for release, count in row.items():
                if count:
                    found.setdefault(release, {})[table] = int(count)
    return found


def identify(rows: Mapping[str, int], folder: Path = Path()) -> Match:
    """Return the release with this many patients and admissions, else the one that most tables fit.

    `rows` maps each table that is there to its rows. One of the two may have been cut. 3.0 and 3.1
    are told apart by the name of the folder alone: PhysioNet's download lies in mimiciv/3.1, its
    archive unpacks as mimic-iv-3.1.
    """
    release = SIZES.get((rows["patients"], rows["admissions"])) or _fitting(rows)
    if release is None:
        return Match(UNLISTED, 0, [])
    name = NAMES[release]
    named = [part for part in folder.parts if re.fullmatch(r"(mimic-?iv-)?3\.[01]", part)]
    if release == "3.1" and named:
        name = f"MIMIC-IV {named[-1][-3:]} (by its folder's name)"
    known = {table: n for table, n in row_counts()[release].items() if table in rows}
    differing = [
        f"{table}: expected {n:,} rows, found {rows[table]:,}"
        for table, n in known.items()
        if rows[table] != n
    ]
    return Match(name, len(known) - len(differing), differing)


def _fitting(rows: Mapping[str, int]) -> str | None:
    """Return the release that has the rows of most tables by patient; None where there is none.

    Dictionaries are no sign of it: who keeps some patients alone keeps all of these.
    """
    for release, counts in row_counts().items():
        there = [name for name in counts if name in rows and "subject_id" in schema()[name].columns]
        agreeing = sum(rows[name] == counts[name] for name in there)
        if agreeing >= _ENOUGH and agreeing > len(there) / 2:
            return release
    return None
