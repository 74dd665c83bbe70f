"""Read the JSONL back and compare it with the CSV files, cell by cell, in bounded memory.

Each row becomes one 64-bit hash of its cells, null apart from an empty string. The hashes of a
table's rows in one part (bucket of patients) are added up on both sides. Equal sums and counts mean
equal cells but for a chance of 2^-64.
"""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from mimic_qlora.mimic import tables
from mimic_qlora.mimic.tables import Columns, Kind, Source
from mimic_qlora.subjects import partition, sql
from mimic_qlora.subjects.partition import Owners

BLOCK_BYTES = 16 << 20


class Difference(NamedTuple):
    """One table of one part whose rows are not the same in the CSV and in the JSONL."""

    table: str
    part: int
    n_csv: int  # rows
    n_jsonl: int


class Index(NamedTuple):
    """The patients of the JSONL."""

    subject_ids: np.ndarray  # int64 [patients], sorted
    parts: np.ndarray  # int64 [patients]: the part that holds each


def differences(
    subjects: Path, sources: Mapping[str, Source], columns: Mapping[str, Columns]
) -> list[Difference]:
    """Return where the JSONL in `subjects` and the CSV files differ.

    `columns` maps each table to its columns as step 1 keeps them. Rows of patients who are not in
    the index, and rows with an id that is no number, are passed over: step 1 leaves those out and
    counts them.
    """
    rows = pq.read_table(subjects / "index.parquet")
    index = Index(rows["subject_id"].to_numpy(), rows["part"].to_numpy())
    n_parts = int(index.parts.max()) + 1
    con = duckdb.connect(config={"threads": 1})
    read = {name: np.zeros((2, n_parts), np.uint64) for name in columns}
    for part in tqdm(range(n_parts), desc="reading the JSONL back", unit="part", disable=None):
        shard = subjects / "shards" / f"part-{part:05d}.jsonl.gz"
        for name, block in _jsonl_rows(shard, columns):
            hashes = _hashes(con, block, columns[name])
            with np.errstate(over="ignore"):
                read[name][:, part] += np.array(
                    [len(hashes), hashes.sum(dtype=np.uint64)], np.uint64
                )
    found, owners = [], partition.stay_owners({name: sources[name] for name in columns})
    for name in tqdm(columns, desc="comparing with the CSV", unit="table", disable=None):
        expected = np.zeros((2, n_parts), np.uint64)
        for batch in tables.read(sources[name], on_ragged=lambda place, text: None):
            batch, place = _placed(batch, columns[name], owners, index.subject_ids)
            with np.errstate(over="ignore"):
                np.add.at(expected[0], index.parts[place], np.uint64(1))
                np.add.at(expected[1], index.parts[place], _hashes(con, batch, columns[name]))
        differing = np.flatnonzero((expected != read[name]).any(axis=0))
        found += [
            Difference(name, int(part), int(expected[0, part]), int(read[name][0, part]))
            for part in differing
        ]
    return found


def _placed(
    batch: pa.RecordBatch, columns: Columns, owners: Mapping[str, Owners], ids: np.ndarray
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return the rows that step 1 keeps, and the place of each one's patient in the index."""
    batch, owner = partition.with_subject_ids(batch, columns, owners)
    place = np.minimum(np.searchsorted(ids, owner), len(ids) - 1)
    whole = [
        pc.match_substring_regex(batch[c], tables.WHOLE)
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
    cells = ", ".join(map(sql.identifier, columns))
    con.register("rows", rows)
    return np.asarray(con.execute(f"select hash({cells}) as h from rows").fetchnumpy()["h"])


def _jsonl_rows(shard: Path, columns: Mapping[str, Columns]) -> Iterator[tuple[str, pa.Table]]:
    """Yield a shard's rows by table, a block of patients at a time, as tables of strings."""
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


def _texts(cells: list[Any], kind: Kind) -> pa.Array:
    """Return cells of the JSONL as the CSV has them.

    Cells of another kind than their column's become texts that no CSV has.
    """
    try:
        if kind == "id":
            return pc.cast(pa.array(cells, pa.int64()), pa.string())
        return pa.array(cells, pa.string())
    except (pa.ArrowInvalid, TypeError):  # Arrow's own type error is one of Python's too
        return pa.array([None if cell is None else f"{type(cell)} {cell}" for cell in cells])


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
            rest += decompressor.decompress(data)
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
