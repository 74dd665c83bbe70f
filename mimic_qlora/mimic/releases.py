"""Which release of MIMIC-IV a folder holds, and whether its tables have as many rows as that release has.

releases.csv holds the rows of each table, from the validation scripts of github.com/MIT-LCP/mimic-code
(mimic-iv/buildmimic: mysql/validate.sql for 3.1, postgres/validate.sql for 2.2, postgres/validate_demo.sql for the
demo); an empty cell is not known.
"""

import csv
import re
from functools import cache
from pathlib import Path

# patients and admissions; 3.0 and 3.1 have as many of both, and the rows of 3.0's other tables are not known
SIZES = {(100, 275): "demo 2.2", (364_627, 546_028): "3.1", (299_712, 431_231): "2.2"}
NAMES = {
    "demo 2.2": "MIMIC-IV Clinical Database Demo (2.2)",
    "3.1": "MIMIC-IV 3.0 or 3.1",
    "2.2": "MIMIC-IV 2.2",
}


@cache
def row_counts() -> dict:
    """release -> {table: rows}, as far as they are known."""
    found = {}
    with open(Path(__file__).parent / "releases.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            table = row.pop("table")
            for release, count in row.items():
                if count:
                    found.setdefault(release, {})[table] = int(count)
    return found


def identify(rows: dict, folder: Path = Path()) -> tuple:
    """The release with this many patients and admissions, and which of its tables have other numbers of rows.

    `rows` maps each table that is there to its rows; 3.0 and 3.1 are told apart by the name of the folder alone.
    Returns (name, tables whose rows are known and as they should be, sentences on those that have more or fewer); a
    table that is not there is not looked for.
    """
    release = SIZES.get((rows["patients"], rows["admissions"]))
    name = NAMES.get(release, "MIMIC-IV tables of an unlisted release")
    # PhysioNet's download lies in mimiciv/3.1, its archive unpacks as mimic-iv-3.1
    named = [part for part in folder.parts if re.fullmatch(r"(mimic-?iv-)?3\.[01]", part)]
    if release == "3.1" and named:
        name = f"MIMIC-IV {named[-1][-3:]} (by its folder's name)"
    known = {table: n for table, n in row_counts().get(release, {}).items() if table in rows}
    differing = [
        f"{table}: expected {n:,} rows, found {rows[table]:,}"
        for table, n in known.items()
        if rows[table] != n
    ]
    agreeing = len(known) - len(differing)
    return name, agreeing, differing
