"""Reading the JSONL back and comparing it with the CSV files, cell by cell, in bounded memory.

Each row becomes one 64-bit hash of its cells, null apart from an empty string; the hashes of a table's rows in one part
(bucket of patients) are added up on both sides. Equal sums and counts mean equal cells but for a chance of 2^-64.
"""

import zlib
from pathlib import Path

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimic_qlora.mimic import tables
from mimic_qlora.subjects import buckets

BLOCK_BYTES = 16 << 20


def differences(subjects: Path, sources: dict, columns: dict) -> list:
    """Where the JSONL in `subjects` and the CSV files differ: [(table, part, rows in the CSV, rows in the JSONL)].

    `columns` maps each table to its columns as step 1 keeps them. Rows of patients who are not in the index, and rows
    with an id that is no number, are not looked for: step 1 leaves those out and counts them.
    """
    from tqdm import tqdm

    index = pq.read_table(subjects / "index.parquet")
    ids, parts = index["subject_id"].to_numpy(), index["part"].to_numpy()
    n_parts = int(parts.max()) + 1
    con = duckdb.connect(config={"threads": 1})
    read = {name: np.zeros((2, n_parts), np.uint64) for name in columns}
    for part in tqdm(range(n_parts), desc="reading the JSONL back", unit="part", disable=None):
        for name, rows in _jsonl_rows(subjects / "shards" / f"part-{part:05d}.jsonl.gz", columns):
            hashes = _hashes(con, rows, columns[name])
            with np.errstate(over="ignore"):
                read[name][:, part] += np.array(
                    [len(hashes), hashes.sum(dtype=np.uint64)], np.uint64
                )
    found, owners = [], buckets.stay_owners({name: sources[name] for name in columns})
    for name in tqdm(columns, desc="comparing with the CSV", unit="table", disable=None):
        expected = np.zeros((2, n_parts), np.uint64)
        for batch in tables.read(sources[name], on_ragged=lambda place, text: None):
            batch, place = _placed(batch, columns[name], owners, ids)
            with np.errstate(over="ignore"):
                np.add.at(expected[0], parts[place], np.uint64(1))
                np.add.at(expected[1], parts[place], _hashes(con, batch, columns[name]))
        differing = np.flatnonzero((expected != read[name]).any(axis=0))
        found += [
            (name, int(part), int(expected[0, part]), int(read[name][0, part]))
            for part in differing
        ]
    return found


def _placed(batch, columns: dict, owners: dict, ids: np.ndarray) -> tuple:
    """The rows that step 1 keeps, and the place of each one's patient in the index."""
    batch, owner = buckets.with_subject_ids(batch, columns, owners)
    place = np.minimum(np.searchsorted(ids, owner), len(ids) - 1)
    whole = [
        pc.match_substring_regex(batch[c], tables.WHOLE)
        for c, kind in columns.items()
        if kind == "id"
    ]
    whole = [pc.fill_null(mask, True).to_numpy(zero_copy_only=False) for mask in whole]
    kept = np.logical_and.reduce([ids[place] == owner, *whole])
    return batch.filter(pa.array(kept)), place[kept]


def _hashes(con, rows, columns: dict) -> np.ndarray:
    cells = ", ".join('"' + column.replace('"', '""') + '"' for column in columns)
    con.register("rows", rows)
    return con.execute(f"select hash({cells}) as h from rows").fetchnumpy()["h"]


def _jsonl_rows(shard: Path, columns: dict):
    """The rows of a shard by table, a block of patients at a time, as tables of strings: (name, rows)."""
    for lines in _blocks(shard):
        collected = {}
        for record in map(orjson.loads, lines):
            for name in columns.keys() & record.keys():
                collected.setdefault(name, []).extend(record[name])
        for name, rows in collected.items():
            yield (
                name,
                pa.table(
                    {
                        c: _texts([row.get(c) for row in rows], kind)
                        for c, kind in columns[name].items()
                    }
                ),
            )


def _texts(cells: list, kind: str):
    """Cells of the JSONL as the CSV has them; those of another kind than their column's as what no CSV has."""
    try:
        return (
            pc.cast(pa.array(cells, pa.int64()), pa.string())
            if kind == "id"
            else pa.array(cells, pa.string())
        )
    except (pa.ArrowInvalid, TypeError):  # Arrow's own type error is one of Python's too
        return pa.array([None if cell is None else f"{type(cell)} {cell}" for cell in cells])


def _blocks(shard: Path):
    """The lines of a shard, some megabytes at a time, by the standard library's reader and not step 1's own."""
    rest, lines, size = b"", [], 0
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
