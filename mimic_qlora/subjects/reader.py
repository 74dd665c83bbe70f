"""Read what step 1 left: one patient by index, many patients in bulk, as the same typed rows."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from isal import igzip_lib

from mimic_qlora.mimic import cells
from mimic_qlora.mimic.packed import GZIP_ERROR
from mimic_qlora.mimic.tables import Cell, Columns
from mimic_qlora.mimic.words import WORDS
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import parquet_files, split_file, sql
from mimic_qlora.subjects.manifest import subjects_manifest

Row = dict[str, Cell]  # column -> value, nulls left out
Record = dict[str, Any]  # "subject_id" -> int; each table -> list[Row], in file order
Wanted = Mapping[str, Iterable[str]]  # table -> the columns that are read of it
Only = Mapping[str, Mapping[str, Collection[Cell]]]  # table -> column -> values of the rows wanted
Spans = Mapping[int, tuple[datetime, datetime]]  # subject_id -> first and last time
Within = Mapping[str, tuple[str, Spans]]  # table -> its column of times, and their limits

# The cells without which a row tells nobody anything: such rows are left out here, and step 1 has
# flagged them. Likewise a stay whose row stands twice is one stay.
NEEDED = {
    "admissions": ("hadm_id", "admittime"),
    "icustays": ("stay_id", "intime"),
    "diagnoses_icd_labeled": ("hadm_id", "icd_code", "icd_version"),
    "procedures_icd_labeled": ("hadm_id", "icd_code", "icd_version", "chartdate"),
    "labevents": ("itemid", "charttime"),
    "chartevents": ("itemid", "charttime"),
    "edstays": ("stay_id", "intime"),
}
ONCE = {  # table -> its id, beginning and end; of several rows the earliest counts
    "admissions": ("hadm_id", "admittime", "dischtime"),
    "icustays": ("stay_id", "intime", "outtime"),
    "edstays": ("stay_id", "intime", "outtime"),
}
# texts that are told or cited as they are, and never compared with a list of words
WORDINGS = ("drug", "name", "long_title", "value", "result_value")
_WIDE = f"  |[{sql.BLANKS.replace(' ', '')}]"
_RESULTS = "value"  # a column of results, of which "None" may be one


def split_of(storage: Path) -> split_file.Split:
    """Return the split of each patient. Raises UserError when the file is damaged."""
    return split_file.read(storage)


@cache
def _index(storage: Path) -> dict[int, tuple[int, int, int]]:
    """Return subject_id -> part, offset and length of the patient's gzip member."""
    columns = parquet_files.read(storage / "subjects" / "index.parquet").to_pydict()
    return {row[0]: row[1:] for row in zip(*columns.values(), strict=True)}


@cache
def _columns(storage: Path) -> dict[str, Columns]:
    """Return table -> its columns, as step 1's manifest has them."""
    columns = subjects_manifest(storage)["columns"]
    labeled: dict[str, Columns] = {
        f"{name}_labeled": {**columns[name], "long_title": "text"}
        for name in columns
        if name.endswith("_icd")
    }
    return columns | labeled


def table_files(storage: Path, table: str) -> list[Path]:
    """Return the Parquet files of a table, ordered by subject_id; none for an absent table."""
    return sorted((storage / "subjects" / "tables" / table).glob("part-*.parquet"))


def raw_record(storage: Path, subject_id: int) -> dict[str, Any]:
    """Return one patient's JSON record, found through the index.

    Raises UserError for an unknown subject_id.
    """
    return orjson.loads(raw_line(storage, subject_id))


def raw_line(storage: Path, subject_id: int) -> bytes:
    """Return one patient's line of the JSONL, found through the index.

    Raises UserError for an unknown subject_id, a damaged file, and where step 1 has run again since
    the index was read: the place of this patient in a file may be another one's.
    """
    if subject_id not in _index(storage):
        raise UserError(
            f"subject_id {subject_id} is not in {storage / 'subjects'}: "
            "its patients are listed in split.csv there"
        )
    part, offset, length = _index(storage)[subject_id]
    path = storage / "subjects" / "shards" / f"part-{part:05d}.jsonl.gz"
    with open(path, "rb") as shard:
        shard.seek(offset)
        member = shard.read(length)
    # A gzip member ends with its unpacked size (modulo 4 GiB). Room for all of it at once saves
    # copies of a growing buffer; deflate packs 1032 to 1 at most.
    room = min(int.from_bytes(member[-4:], "little"), 1032 * length) + 1
    try:
        line = igzip_lib.decompress(member, flag=igzip_lib.DECOMP_GZIP, bufsize=room)
    except GZIP_ERROR:
        line = b""
    if line.startswith((b'{"subject_id":%d,' % subject_id, b'{"subject_id":%d}' % subject_id)):
        return line
    if _index.__wrapped__(storage) != _index(storage):
        raise UserError(
            f"{storage / 'subjects'} was written anew since this command began: start it again"
        )
    raise parquet_files.damaged(path)


def record(storage: Path, subject_id: int, wanted: Wanted) -> Record:
    """Return one patient's rows, typed, of the tables and columns that are wanted.

    Rows without a cell of NEEDED are left out, as are further rows of a stay (ONCE). Texts but
    WORDINGS come without blanks around them or two within; those for nothing are left out. Words of
    `mimic.words` come as MIMIC-IV writes them.
    """
    raw = raw_record(storage, subject_id)
    found: Record = {"subject_id": subject_id}
    for table, columns in wanted.items():
        types = _columns(storage).get(table, {})
        kept = {column: types[column] for column in ("subject_id", *columns) if column in types}
        texts = {c: pa.array(_texts(raw.get(table, []), c), pa.string()) for c in kept}
        rows = _usable(cells.typed(kept, pa.table(texts)).rows, table, columns)
        found[table] = _each_once(table, list(_rows(rows, table, columns)))
    return found


def _texts(rows: list[dict[str, Any]], column: str) -> list[str | None]:
    """Return a column of JSON rows as the source has it."""
    return [None if (cell := row.get(column)) is None else str(cell) for row in rows]


def records(
    storage: Path,
    wanted: Wanted,
    subject_ids: Iterable[int] | None = None,
    only: Only | None = None,
    within: Within | None = None,
) -> Iterator[Record]:
    """Yield what `record` returns for each patient, ordered by subject_id.

    The rows come in bulk from the typed tables. `only` keeps the rows with certain values,
    `within` those with a time between two others, so that a big table is not read whole.
    """
    chosen = set(_index(storage) if subject_ids is None else subject_ids)
    by_part: dict[int, list[int]] = {}
    for subject_id, (part, _, _) in _index(storage).items():
        if subject_id in chosen:
            by_part.setdefault(part, []).append(subject_id)
    for part, ids in sorted(by_part.items()):
        ids = sorted(ids)
        bucket: dict[int, Record] = {
            s: {"subject_id": s, **{table: [] for table in wanted}} for s in ids
        }
        for table, columns in wanted.items():
            path = storage / "subjects" / "tables" / table / f"part-{part:05d}.parquet"
            if not path.exists():
                continue
            kept = [column for column in columns if column in _columns(storage)[table]]
            limited = {*(only or {}).get(table, {}), *(within or {}).get(table, ())[:1]}
            if not limited <= {*kept}:  # without the column no row is within its limits
                continue
            chosen_rows = pc.field("subject_id").isin(ids)
            for column, values in (only or {}).get(table, {}).items():
                chosen_rows &= pc.field(column).isin(values)
            parquet_files.checked(storage, [path])
            rows = parquet_files.read(
                path, columns=sorted({*kept, "subject_id"}), filters=chosen_rows
            )
            if within and table in within:
                rows = _between(rows, ids, *within[table])
            rows = _usable(rows, table, columns)
            owners = rows["subject_id"].to_pylist()
            for owner, row in zip(owners, _rows(rows, table, kept), strict=True):
                bucket[owner][table].append(row)
        for record in bucket.values():
            yield {
                name: _each_once(name, rows) if name in ONCE else rows
                for name, rows in record.items()
            }


def _usable(rows: pa.Table, table: str, wanted: Iterable[str]) -> pa.Table:
    """Return the rows that have each cell of NEEDED, of the columns that are wanted."""
    for column in {*NEEDED.get(table, ())} & {*wanted}:
        if column not in rows.column_names:
            return rows.slice(0, 0)
        if rows[column].null_count:
            rows = rows.filter(pc.is_valid(rows[column]))
    return rows


def _rows(rows: pa.Table, table: str, wanted: Iterable[str]) -> Iterator[Row]:
    """Yield rows as column -> value, without what is null."""
    names = [column for column in wanted if column in rows.column_names]
    columns = [_values(_as_told(rows[name], table, name)) for name in names]
    if not names:
        return iter([{}] * len(rows))
    return (
        {k: v for k, v in zip(names, row, strict=True) if v is not None}
        for row in zip(*columns, strict=True)
    )


def _as_told(column: pa.ChunkedArray, table: str, name: str) -> pa.ChunkedArray:
    """Return a column of texts, null where one stands for nothing, its WORDS in their own capitals.

    Blanks around them are left out, and several within them are one, but of WORDINGS.
    """
    if not pa.types.is_large_string(column.type):
        return column
    trimmed = pc.utf8_trim_whitespace(column)
    nothing = [""] if name == _RESULTS else [*cells.NOTHING]
    is_nothing = pc.is_in(trimmed, pa.array(nothing, column.type))
    column = column if name in WORDINGS else _with_single_blanks(trimmed)
    if words := WORDS.get(table, {}).get(name):
        known = pa.array([word.upper() for word in words], column.type)
        places = pc.index_in(pc.utf8_upper(column), known)
        column = pc.coalesce(pc.take(pa.array(words, column.type), places), column)
    return pc.if_else(is_nothing, None, column) if pc.any(is_nothing).as_py() else column


def _with_single_blanks(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pc.any(pc.match_substring_regex(texts, _WIDE)).as_py():  # as of most columns
        return texts
    return pc.replace_substring_regex(texts, f"[{sql.BLANKS}]+", " ")


def _each_once(table: str, rows: list[Row]) -> list[Row]:
    """Return the rows of a table, of ONCE with one row for each stay."""
    key, begin, end = ONCE.get(table, ("", "", ""))
    if len(rows) < 2 or key not in rows[0]:
        return rows
    stays: dict[Cell, Row] = {}
    never = datetime.max
    for row in sorted(rows, key=lambda r: (r.get(begin, never), r.get(end, never))):
        stays.setdefault(row[key], row)
    once = {id(row) for row in stays.values()}
    return [row for row in rows if id(row) in once]


def _between(rows: pa.Table, ids: list[int], column: str, spans: Spans) -> pa.Table:
    """Return the rows whose time in `column` is within their patient's span.

    `ids` are the patients in order.
    """
    limits = np.array([spans[subject_id] for subject_id in ids], dtype="datetime64[us]")
    owner, when = np.searchsorted(ids, rows["subject_id"]), rows[column].to_numpy()
    return rows.filter((limits[owner, 0] <= when) & (when <= limits[owner, 1]))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column as Python values, None where it is null.

    By way of numpy, which is ten times faster than to_pylist.
    """
    values = np.full(len(column), None, dtype=object)
    values[column.is_valid().to_numpy()] = column.drop_null().to_numpy()
    return values.tolist()


@cache
def labels(
    storage: Path, dictionary: str, key: str = "itemid", value: str = "label"
) -> dict[Any, Any]:
    """Return one column of a dictionary table by another, such as itemid -> label of d_labitems.

    Empty when the table or either column is absent. Texts come as `record` gives them; of a key
    that stands twice the first row counts.
    """
    path = storage / "subjects" / "dictionaries" / f"{dictionary}.parquet"
    if not path.exists():
        return {}
    parquet_files.checked(storage, [path])
    rows = parquet_files.read(path)
    if not {key, value} <= {*rows.column_names}:
        return {}
    keys, values = (_values(_as_told(rows[c], dictionary, c)) for c in (key, value))
    found = dict(zip(reversed(keys), reversed(values), strict=True))
    return {k: found[k] for k in dict.fromkeys(keys) if k is not None}
