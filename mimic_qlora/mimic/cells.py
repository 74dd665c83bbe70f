"""The cells of MIMIC-IV's tables in the types of their columns: one reading for all steps.

`read` says what a cell means. `typed` gives the same for whole columns, whatever stands beside a
cell: Arrow's own parser is used only where it is known to say the same of every cell.
"""

import math
import re
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mimic_qlora.mimic.tables import Cell, Columns, Kind

# a time in another year is a placeholder or a slip: MIMIC-IV's shifted years are 2100 to 2215
FIRST, LAST = datetime(1000, 1, 1), datetime(2999, 12, 31, 23, 59, 59, 999999)
# how programs write that there is nothing
NOTHING = ("", "nan", "NaN", "null", "NULL", "None", "NaT", "<NA>", "NA", "N/A", "___", "\\N")

_WHOLE = re.compile(r"(-?\d+)(\.0+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# a dot stands behind two to four characters; in 4019.0 a program took a code for a number
_CODE = re.compile(r"[0-9A-Z]+|(?:[0-9A-Z]{2,3}|E[0-9]{3})\.[0-9A-Z]*")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[ T](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,6})(\d{0,3}))?)?)?"
    r"(?: ?(UTC|Z|[+-]00(?::?00)?))?)?",
    re.ASCII,
)


class Reading(NamedTuple):
    """The meaning of a cell."""

    value: Cell | None  # None where the cell does not fit the type
    mended: bool = False  # written otherwise than the type is, but with one meaning only


class CellCounts(NamedTuple):
    """The cells of a column, or of a part of it, by how they fit its type."""

    fitting: int = 0  # mended ones among them
    mended: int = 0
    nothing: int = 0  # texts for nothing, such as `___` in a column of numbers: null
    unreadable: int = 0  # all others: null
    patients: int = 0  # with cells of the last two kinds, where the cells are of patients

    @property
    def misfits(self) -> int:
        """Cells that are not null in the source but in the typed table."""
        return self.nothing + self.unreadable

    def plus(self, other: "CellCounts") -> "CellCounts":
        """Return the sum of two parts of a column."""
        return CellCounts(*(a + b for a, b in zip(self, other, strict=True)))


class Typed(NamedTuple):
    """The rows of a table in the types of its columns."""

    rows: pa.Table
    counts: dict[str, CellCounts]  # of each column that is not text


@cache
def arrow_types() -> dict[Kind, pa.DataType]:
    """Return the Arrow type of each kind of column in the typed view."""
    return {
        "id": pa.int64(),
        "int": pa.int64(),
        "num": pa.float64(),
        "time": pa.timestamp("us"),
        "code": pa.large_string(),
        "text": pa.large_string(),
    }


def read(text: str, kind: Kind) -> Reading:
    """Return the meaning of a cell in a column of this kind.

    Mended is what has one meaning only: blanks around a cell, a whole number that ends in `.0`, a
    time in UTC or with more than six decimals, a code with a dot or in small letters.
    """
    return _READERS[kind](text)


def _whole(text: str) -> Reading:
    match = _WHOLE.fullmatch(text.strip())
    # Python refuses to read thousands of digits
    if match is None or len(match[1]) > 1000 or not -(1 << 63) <= int(match[1]) < 1 << 63:
        return Reading(None)
    return Reading(int(match[1]), match[1] != text)


def _number(text: str) -> Reading:
    stripped = text.strip()
    if not _NUMBER.fullmatch(stripped) or not math.isfinite(float(stripped)):
        return Reading(None)
    return Reading(float(stripped), stripped != text)


def _time(text: str) -> Reading:
    stripped = text.strip()
    match = _TIME.fullmatch(stripped)
    if match is None:
        return Reading(None)
    *parts, decimals, further, zone = match.groups()
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    try:
        value = datetime(
            year, month, day, hour, minute, second, int((decimals or "").ljust(6, "0"))
        )
    except ValueError:  # no such day or hour
        return Reading(None)
    if not FIRST <= value <= LAST:
        return Reading(None)
    return Reading(value, bool(further or zone) or stripped != text)


def _code(text: str) -> Reading:
    stripped = text.strip()
    if stripped in NOTHING or not _CODE.fullmatch(stripped.upper()):
        return Reading(None)
    code = stripped.upper().replace(".", "")
    return Reading(code, code != text)


_READERS: dict[Kind, Callable[[str], Reading]] = {
    "id": _whole,
    "int": _whole,
    "num": _number,
    "time": _time,
    "code": _code,
    "text": Reading,
}


def typed(columns: Columns, rows: pa.Table | pa.RecordBatch) -> Typed:
    """Return rows of strings in the types of their columns.

    A cell that does not fit (such as `___` in a number) becomes null; the JSONL keeps it as it was.
    """
    arrays, counts = [], {}
    for column, kind in columns.items():
        if kind == "text":
            arrays.append(pc.cast(rows[column], arrow_types()[kind]))
        else:
            array, counts[column] = _column(rows[column], kind)
            arrays.append(array)
    return Typed(pa.table(arrays, names=list(columns)), counts)


def _column(array: pa.Array | pa.ChunkedArray, kind: Kind) -> tuple[pa.Array, CellCounts]:
    """Return a column of strings in its type, and how its cells fit."""
    plain = _all_plain(array, kind)
    if plain is not None:
        return plain, CellCounts(fitting=len(plain) - plain.null_count)
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    cells = whole.dictionary_encode()  # each text is read once
    texts = cells.dictionary.to_pylist()
    readings = [read(text, kind) for text in texts]
    values = pa.array([reading.value for reading in readings], arrow_types()[kind])
    how_often = np.bincount(cells.indices.drop_null().to_numpy(), minlength=len(texts))
    counts = CellCounts()
    for text, (value, mended), n in zip(texts, readings, how_often.tolist(), strict=True):
        if value is not None:
            found = CellCounts(fitting=n, mended=n * mended)
        elif text.strip() in NOTHING:
            found = CellCounts(nothing=n)
        else:
            found = CellCounts(unreadable=n)
        counts = counts.plus(found)
    return values.take(cells.indices), counts


def _all_plain(array: pa.Array | pa.ChunkedArray, kind: Kind) -> pa.Array | pa.ChunkedArray | None:
    """Return a column as Arrow reads it, None where `read` would say otherwise of any cell."""
    if kind == "code":
        return None
    try:
        values = pc.cast(array, arrow_types()[kind])
    except pa.ArrowInvalid:
        return None
    if kind == "num":  # Arrow reads `inf`, `nan` and 1e400
        return values if pc.all(pc.is_finite(values)).as_py() is not False else None
    if kind == "time":
        return values if _within(values, pa.scalar(FIRST), pa.scalar(LAST)) else None
    return values if not _has_x(array) else None  # Arrow reads 0x1F


def _within(values: pa.Array | pa.ChunkedArray, least: pa.Scalar, most: pa.Scalar) -> bool:
    found = pc.min_max(values)
    if not found["min"].is_valid:
        return True
    return bool(found["min"].value >= least.value and found["max"].value <= most.value)


def _has_x(array: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether any text holds an x; a look at all bytes at once is faster than at each."""
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
        _, offsets, data = chunk.buffers()
        if data is None or not len(chunk):
            continue
        width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
        ends = np.frombuffer(offsets, width)
        held = np.frombuffer(data, np.uint8)[ends[chunk.offset] : ends[chunk.offset + len(chunk)]]
        if ((held | 0x20) == ord("x")).any():
            return True
    return False
