"""Read JSONL and typed tables back and compare both with the CSV files, cell by cell.

The CSV files are read by the second reader, and each cell is typed alone, so that a fault of the
first half of step 1 is not made twice. Each row becomes one 64-bit hash of its cells, null apart
from an empty string. The hashes of a table's rows in one part (bucket of patients) are added up on
both sides. Equal sums and counts mean equal cells but for a chance of 2^-64. Memory is bounded.
"""

import itertools
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from mimic_qlora.mimic import cells, id_cells, second_reader
from mimic_qlora.mimic.tables import Columns, Kind, Source
from mimic_qlora.subjects import parquet_files, partition, sql
from mimic_qlora.subjects.runs import Owners

BLOCK_BYTES = 16 << 20


JSONL, TYPED = "JSONL", "typed table"


class Difference(NamedTuple):
    """One table of one part whose rows are not the same in the CSV and in step 1's output."""

    table: str
    part: int | None  # None for a table that names no patient
    view: str  # JSONL or TYPED
    n_csv: int  # rows
    n_found: int


class Index(NamedTuple):
    """The patients of the JSONL."""

    subject_ids: np.ndarray  # int64 [patients], sorted
    parts: np.ndarray  # int64 [patients]: the part that holds each


class Sums:
    """Rows and their hashes of one table, added up by part."""

    def __init__(self, n_parts: int) -> None:
        self.rows = np.zeros(n_parts, np.int64)
        self.hashes = np.zeros(n_parts, np.uint64)

    def add(self, parts: np.ndarray | int, hashes: np.ndarray) -> None:
        """Add rows (uint64 [rows]) to their parts, or all to one."""
        parts = np.broadcast_to(parts, hashes.shape)
        with np.errstate(over="ignore"):
            np.add.at(self.rows, parts, 1)
            np.add.at(self.hashes, parts, hashes)

    def differing(self, other: "Sums") -> list[int]:
        """Return the parts whose rows are not the same."""
        same = (self.rows == other.rows) & (self.hashes == other.hashes)
        return np.flatnonzero(~same).tolist()


def differences(
    subjects: Path, sources: Mapping[str, Source], columns: Mapping[str, Columns]
) -> list[Difference]:
    """Return where the output in `subjects` and the CSV files differ.

    `columns` maps each table by patient to its columns as step 1 keeps them. Rows of patients who
    are not in the index, and rows with an id that is no number, are passed over: step 1 leaves
    those out and counts them.
    """
    rows = parquet_files.read(subjects / "index.parquet")
    index = Index(rows["subject_id"].to_numpy(), rows["part"].to_numpy())
    n_parts = int(index.parts.max()) + 1
    con = duckdb.connect(config={"threads": 1})
    records = {name: Sums(n_parts) for name in columns}
    for part in tqdm(range(n_parts), desc="reading the JSONL back", unit="part", disable=None):
        shard = subjects / "shards" / f"part-{part:05d}.jsonl.gz"
        for name, block in _jsonl_rows(shard, columns):
            records[name].add(part, _hashes(con, block, columns[name]))
    found = []
    owners = partition.stay_owners({name: sources[name] for name in columns}, _csv_rows)
    for name in tqdm(columns, desc="comparing with the CSV", unit="table", disable=None):
        expected = {view: Sums(n_parts) for view in (JSONL, TYPED)}
        for batch in _csv_rows(sources[name]):
            batch, place = _placed(batch, columns[name], owners, index.subject_ids)
            parts = index.parts[place]
            expected[JSONL].add(parts, _hashes(con, batch, columns[name]))
            typed = _typed(batch, columns[name])
            expected[TYPED].add(parts, _hashes(con, typed, columns[name]))
        read = {JSONL: records[name], TYPED: Sums(n_parts)}
        for part in range(n_parts):
            path = subjects / "tables" / name / f"part-{part:05d}.parquet"
            for batch in parquet_files.batches(path) if path.exists() else ():
                read[TYPED].add(part, _hashes(con, batch, columns[name]))
        found += [
            Difference(name, part, view, int(expected[view].rows[part]), int(read[view].rows[part]))
            for view in (JSONL, TYPED)
            for part in expected[view].differing(read[view])
        ]
    others = {name: source for name, source in sources.items() if name not in columns}
    return found + _differing_dictionaries(con, subjects, others)


def _differing_dictionaries(
    con: duckdb.DuckDBPyConnection, subjects: Path, sources: Mapping[str, Source]
) -> list[Difference]:
    """Return which tables that name no patient differ from their CSV files."""
    found = []
    for name, source in sources.items():
        expected, read = Sums(1), Sums(1)
        for batch in _csv_rows(source):
            expected.add(0, _hashes(con, _typed(batch, source.columns), source.columns))
        path = subjects / "dictionaries" / f"{name}.parquet"
        for batch in parquet_files.batches(path) if path.exists() else ():
            read.add(0, _hashes(con, batch, source.columns))
        if expected.differing(read):
            found.append(Difference(name, None, TYPED, int(expected.rows[0]), int(read.rows[0])))
    return found


def _csv_rows(source: Source) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table as the second reader finds them, those of another length left out.

    The cells are strings.
    """
    names = list(source.columns)
    for rows in itertools.chain.from_iterable(map(second_reader.rows, source.files)):
        whole = [row for row in rows if len(row) == len(names)]
        if whole:
            texts = [pa.array(column, pa.string()) for column in zip(*whole, strict=True)]
            yield pa.record_batch(texts, names=names)


def _typed(rows: pa.RecordBatch, columns: Columns) -> pa.RecordBatch:
    """Return rows of strings in the types of their columns, each text read alone."""
    arrays = [_read_alone(rows[column], kind) for column, kind in columns.items()]
    return pa.record_batch(arrays, names=list(columns))


def _read_alone(texts: pa.Array, kind: Kind) -> pa.Array:
    if kind == "text":
        return texts
    encoded = texts.dictionary_encode()  # each text once
    values = [cells.read(text, kind).value for text in encoded.dictionary.to_pylist()]
    return pa.array(values, cells.arrow_types()[kind]).take(encoded.indices)


def _placed(
    batch: pa.RecordBatch, columns: Columns, owners: Mapping[str, Owners], ids: np.ndarray
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return the rows that step 1 keeps, and the place of each one's patient in the index.

    Their ids are without the blanks around them, as in the JSONL.
    """
    batch, owner = partition.with_subject_ids(batch, columns, owners)
    place = np.minimum(np.searchsorted(ids, owner), len(ids) - 1)
    cells = {c: batch[c] for c in columns}
    cells |= {c: pc.utf8_trim_whitespace(cells[c]) for c, kind in columns.items() if kind == "id"}
    batch = pa.record_batch(cells)
    whole = [
        pc.match_substring_regex(batch[c], id_cells.WHOLE)
        for c, kind in columns.items()
        if kind == "id"
    ]
    whole = [pc.fill_null(mask, True).to_numpy(zero_copy_only=False) for mask in whole]
    kept = np.logical_and.reduce([ids[place] == owner, *whole])
    return batch.filter(pa.array(kept)), place[kept]


def _hashes(
    con: duckdb.DuckDBPyConnection, rows: pa.Table | pa.RecordBatch, columns: Columns
) -> np.ndarray:
    """Return a hash of each row's cells: uint64 [rows]."""
    listed = ", ".join(map(sql.identifier, columns))
    con.register("read_back", rows)
    hashed = con.execute(f"SELECT hash({listed}) AS h FROM read_back").fetchnumpy()["h"]
    return np.asarray(hashed, np.uint64)


def _jsonl_rows(shard: Path, columns: Mapping[str, Columns]) -> Iterator[tuple[str, pa.Table]]:
    """Yield a shard's rows by table, a block of patients at a time, as tables of strings.

    Raises UserError when the shard is damaged.
    """
    for lines in _blocks(shard):
        collected: dict[str, list[dict[str, Any]]] = {}
        for record in map(orjson.loads, lines):
            for name in columns.keys() & record.keys():
                collected.setdefault(name, []).extend(record[name])
        for name, rows in collected.items():
            texts = {
                c: _texts([row.get(c) for row in rows], kind) for c, kind in columns[name].items()
            }
            yield name, pa.table(texts)


def _texts(found: list[Any], kind: Kind) -> pa.Array:
    """Return cells of the JSONL as the CSV has them.

    Cells of another kind than their column's become texts that no CSV has.
    """
    try:
        if kind == "id":
            return pc.cast(pa.array(found, pa.int64()), pa.string())
        return pa.array(found, pa.string())
    except (pa.ArrowInvalid, TypeError):  # Arrow's own type error is one of Python's too
        return pa.array([None if cell is None else f"{type(cell)} {cell}" for cell in found])


def _blocks(shard: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a shard, some megabytes at a time.

    The reader is the standard library's, independent of the one that the later steps use.
    """
    rest, size = b"", 0
    lines: list[bytes] = []
    decompressor = zlib.decompressobj(31)
    with open(shard, "rb") as file:
        data = file.read(1 << 20)
        while data:
            try:
                rest += decompressor.decompress(data)
            except zlib.error:
                raise parquet_files.damaged(shard) from None
            data = decompressor.unused_data
            if decompressor.eof:
                decompressor = zlib.decompressobj(31)
            data = data or file.read(1 << 20)
            *whole, rest = rest.split(b"\n")
            lines += whole
            size += sum(map(len, whole))
            if size > BLOCK_BYTES:
                yield lines
                lines, size = [], 0
    if rest:
        lines.append(rest)
    yield lines
