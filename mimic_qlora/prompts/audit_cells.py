"""Step 1's JSON cells as the audit reads them: by docs/data_contract.md, not by the code it checks.

A cell that does not fit its column's type is no cell here, and a row without the cells that it
cannot do without is no row. A stay whose row stands twice is one stay. A word of MIMIC-IV in other
capitals is that word.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache, lru_cache
from math import isfinite
from typing import Any

from mimic_qlora.mimic.words import WORDS

Row = dict[str, Any]  # column -> text, in the form of its type; whole number for an id

ZONE = re.compile(r" ?(?:UTC|Z|[+-]00(?::?00)?)$")
SHAPE = re.compile(r"([12]\d{3}-\d\d-\d\d)(?:[ T](\d\d(?::\d\d){0,2}))?", re.ASCII)
TEXTS_FOR_NOTHING = ["nan", "NaN", "null", "NULL", "None", "NaT", "<NA>", "NA", "N/A", "___", "\\N"]
AS_THEY_ARE = ("drug", "name", "long_title", "value", "result_value")  # blanks included
WITH = {
    "admissions": ["hadm_id", "admittime"],
    "icustays": ["stay_id", "intime"],
    "diagnoses_icd": ["hadm_id", "icd_code", "icd_version"],
    "procedures_icd": ["hadm_id", "icd_code", "icd_version", "chartdate"],
    "labevents": ["itemid", "charttime"],
    "chartevents": ["itemid", "charttime"],
    "edstays": ["stay_id", "intime"],
}


def read(raw: Mapping[str, Any], columns: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return a patient's record with its cells read; `columns` are those of step 1's manifest."""
    return {name: _rows(name, found, columns) for name, found in raw.items()}


def _rows(name: str, rows: Any, columns: Mapping[str, Mapping[str, str]]) -> Any:
    if name == "subject_id":
        return rows
    table = name.removesuffix("_labeled")
    types = columns.get(table, {})
    found = [_row(row, types, _capitals(table)) for row in rows]
    found = [row for row in found if all(c in row for c in WITH.get(table, []))]
    if table == "admissions":
        return _once(found, "hadm_id", "admittime", "dischtime")
    if table in ("icustays", "edstays"):
        return _once(found, "stay_id", "intime", "outtime")
    return found


def _once(rows: list[Row], key: str, begin: str, end: str) -> list[Row]:
    """Return the earliest row of each stay, in the order of the file."""
    ranked = sorted(range(len(rows)), key=lambda n: (rows[n][begin], rows[n].get(end, "9")))
    first: dict[Any, int] = {}
    for n in ranked:
        first.setdefault(rows[n][key], n)
    return [rows[n] for n in sorted(first.values())]


@cache
def _capitals(table: str) -> dict[str, dict[str, str]]:
    """Return column -> word in capitals -> word as MIMIC-IV writes it."""
    return {
        column: {word.upper(): word for word in words}
        for column, words in WORDS.get(table, {}).items()
    }


def _row(row: Row, types: Mapping[str, str], words: Mapping[str, Mapping[str, str]]) -> Row:
    found = {
        column: cell
        for column, text in row.items()
        if (cell := _cell(column, types.get(column, "text"), text)) is not None
    }
    said = {
        column: words[column].get(str(found[column]).upper()) for column in words if column in found
    }
    return found | {column: word for column, word in said.items() if word}


def _cell(column: str, kind: str, cell: int | str) -> int | str | None:
    if isinstance(cell, int):
        return cell
    if kind != "text":
        return READERS[kind](cell)
    text = " ".join(cell.split())
    # of results, "None" may be one
    if not text or column != "value" and text in TEXTS_FOR_NOTHING:
        return None
    return cell if column in AS_THEY_ARE else text


def code(cell: str) -> str | None:
    """Return a code in capitals, without blanks and dots; None for a text for nothing.

    A dot stands behind two or three characters, or four of ICD-9's E codes.
    """
    if cell.strip() in TEXTS_FOR_NOTHING:
        return None
    head, dot, rest = cell.strip().upper().partition(".")
    is_placed = not dot or len(head) in (2, 3) or (len(head) == 4 and head[0] == "E")
    if dot and len(head) == 4 and not head[1:].isdigit():
        return None
    whole = head + rest
    return whole if is_placed and whole.isascii() and whole.isalnum() else None


def _whole(cell: str) -> str | None:
    digits = re.sub(r"\.0+$", "", cell.strip())
    sign, figures = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if not (figures.isascii() and figures.isdigit()):
        return None
    figures = figures.lstrip("0") or "0"
    room = "9223372036854775808" if sign else "9223372036854775807"
    if len(figures) > 19 or (len(figures) == 19 and figures > room):
        return None
    return f"{sign}{figures}"


def _number(cell: str) -> str | None:
    cell = cell.strip()
    if set(cell) - set("0123456789.eE+-"):
        return None
    try:
        return cell if isfinite(float(cell)) else None
    except ValueError:
        return None


@lru_cache(maxsize=50_000)  # the results of one specimen, and the orders of one round, share theirs
def _time(cell: str) -> str | None:
    """Return a time as YYYY-MM-DD HH:MM:SS, with six decimals where it has any."""
    text, dot, decimals = ZONE.sub("", cell.strip()).partition(".")
    shape = SHAPE.fullmatch(text)
    if shape is None:
        return None
    day, clock = shape.groups(default="")
    if not clock and cell.strip() != day or dot and len(clock) != 8:
        return None
    if dot and not re.fullmatch("[0-9]{1,9}", decimals):
        return None
    try:
        time = datetime.fromisoformat(f"{day} {clock or '00'}{':00:00'[len(clock or '00') - 2 :]}")
    except ValueError:
        return None
    return str(time.replace(microsecond=int(decimals[:6].ljust(6, "0"))))


READERS: dict[str, Callable[[str], str | None]] = {
    "int": _whole,
    "id": _whole,
    "num": _number,
    "time": _time,
    "code": code,
}
