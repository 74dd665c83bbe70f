"""Step 1's second half: nest buckets of rows into one JSON record per patient, and typed tables."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from isal import igzip
from tqdm import tqdm

from mimic_qlora.mimic import cells
from mimic_qlora.mimic.cells import CellCounts
from mimic_qlora.mimic.tables import Columns
from mimic_qlora.step import faults, limits
from mimic_qlora.step.files import crc32
from mimic_qlora.subjects import parquet_files
from mimic_qlora.subjects.buckets import (
    MEMORY_PER_BUCKET,
    MIB_PER_BUCKET,
    PROCESS_BYTES,
    Layout,
    damaged,
    read_done,
    use_system_allocator,
    write_done,
)

# the record also carries these tables with the title of each code, joined on (code, version)
LABELED = {"diagnoses_icd": "d_icd_diagnoses", "procedures_icd": "d_icd_procedures"}
GZIP_LEVEL = 2  # of isal's 0 to 3
ICD: Columns = {"icd_version": "int", "icd_code": "code"}

Json = list[bytes | memoryview]  # the pieces of a JSON text, in order


class Place(NamedTuple):
    """The place of one patient's gzip member: shard, offset and length in bytes."""

    subject_id: int
    part: int
    offset: int
    length: int


@dataclass(frozen=True)
class NestedBucket:
    """One bucket's output."""

    index: list[Place]
    jsonl: dict[str, int]  # table -> rows in the records
    columnar: dict[str, int]  # table -> rows in the typed tables
    cells: dict[str, CellCounts]  # "<table>.<column>" -> how its cells fit the column's type


class NestedTable(NamedTuple):
    """One table's rows of one bucket, typed and in the records."""

    n_columnar: int
    cells: dict[str, CellCounts]  # column -> how its cells fit its type
    n_jsonl: int
    records: list[tuple[int, Json]]  # subject_id, `,"<table>":[...]`; each patient with rows once


def nest_all(
    plan: Layout, columns: Mapping[str, Columns], folder: Path, memory: int, workers: int | None
) -> list[NestedBucket]:
    """Nest every bucket and return what each wrote, in order.

    Several are nested side by side: at most `workers` (default: one a core of the job), within
    `memory` bytes.
    """
    fitting = (memory - PROCESS_BYTES) // (MIB_PER_BUCKET * MEMORY_PER_BUCKET << 20)
    workers = max(1, min(workers or limits.cores(), fitting, plan.n_buckets))
    numbers = range(plan.n_buckets)
    patients = map(plan.subject_ids, numbers)
    nest_one = partial(nest, columns=columns, folder=folder)
    if workers == 1:
        return list(_progress(map(nest_one, numbers, patients), plan.n_buckets))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            return list(_progress(pool.map(nest_one, numbers, patients), plan.n_buckets))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _progress(done: Iterable[NestedBucket], total: int) -> Iterable[NestedBucket]:
    return tqdm(done, desc="nesting patients", unit="bucket", total=total, disable=None)


def _start_worker() -> None:
    """Prepare a process that nests: it leaves Ctrl-C to its parent, and ends with it.

    A worker that outlived its parent would write into the next run's files.
    """
    use_system_allocator()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def nest(
    bucket: int, subject_ids: Collection[int], columns: Mapping[str, Columns], folder: Path
) -> NestedBucket:
    """Write one bucket, unless its marker in `parts/` says that it is done; return what is written.

    `columns` maps each table to its columns, in the order of the record.
    """
    parts = folder / "parts"
    marker = parts / f"bucket-{bucket:05d}.done.json"
    if done := read_done(marker):
        _check(done.get("sums", {}), folder)
        places = [Place(*row) for row in done["index"]]
        counts = {name: CellCounts(*found) for name, found in done.get("cells", {}).items()}
        nested = NestedBucket(places, done["jsonl"], done["columnar"], counts)
    else:
        nested = _write_bucket(bucket, subject_ids, columns, folder)
        written = [f"shards/part-{bucket:05d}.jsonl.gz"]
        written += [f"tables/{name}/part-{bucket:05d}.parquet" for name in nested.columnar]
        sums = {name: crc32(folder / name) for name in written}
        write_done(marker, {**vars(nested), "sums": sums})
    # only now: a run that is killed before the marker stands needs them again
    for path in parts.glob(f"*-{bucket:05d}.arrow"):
        path.unlink()
    return nested


def _check(sums: Mapping[str, int], folder: Path) -> None:
    """Raise UserError when a file of a bucket that is done is gone or is not as it was written.

    Nothing but its marker was brought to the disk at once, and after a power cut that may be all.
    """
    for name, expected in sums.items():
        if not (folder / name).is_file() or crc32(folder / name) != expected:
            raise damaged(folder / name)


def _write_bucket(
    bucket: int, subject_ids: Collection[int], columns: Mapping[str, Columns], folder: Path
) -> NestedBucket:
    """Write a shard of records, ordered as `subject_ids`, and the same rows as typed tables."""
    pieces: dict[int, Json] = {s: [b'{"subject_id":%d' % s] for s in subject_ids}
    nested = NestedBucket([], {}, {}, {})
    for name in columns:
        for table, kinds, rows in _tables(name, columns[name], bucket, folder):
            place = folder / "tables" / table
            place.mkdir(exist_ok=True)
            made = _nest_table(table, kinds, rows, place / f"part-{bucket:05d}.parquet")
            del rows
            for subject_id, piece in made.records:
                pieces[subject_id] += piece
            nested.jsonl[table], nested.columnar[table] = made.n_jsonl, made.n_columnar
            if table == name:  # a labeled table has the same cells again
                nested.cells.update({f"{name}.{c}": counts for c, counts in made.cells.items()})
    with open(folder / "shards" / f"part-{bucket:05d}.jsonl.gz", "wb") as shard:
        for subject_id, record in pieces.items():
            member = igzip.compress(b"".join([*record, b"}\n"]), GZIP_LEVEL, mtime=0)
            nested.index.append(Place(subject_id, bucket, shard.tell(), len(member)))
            shard.write(member)
    return nested


def _tables(
    name: str, columns: Columns, bucket: int, folder: Path
) -> Iterator[tuple[str, Columns, pa.Table]]:
    """Yield a table's rows of one bucket: its name, columns and rows, as strings.

    A table of codes comes a second time, as `<table>_labeled`, with the title of each code.
    """
    path = folder / "parts" / f"{name}-{bucket:05d}.arrow"
    if not path.exists():
        return
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            rows = stream.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        if faults.of_the_machine(error):
            raise
        raise damaged(path) from None
    yield name, columns, rows
    if name not in LABELED:
        return
    titles = _titles(rows, folder / "dictionaries" / f"{LABELED[name]}.parquet")
    if "long_title" in columns:  # the file's own: it stays in the table that is not labeled
        columns = {column: kind for column, kind in columns.items() if column != "long_title"}
        rows = rows.drop_columns(["long_title"])
    rows = rows.append_column("long_title", titles)
    yield f"{name}_labeled", {**columns, "long_title": "text"}, rows


def _nest_table(name: str, columns: Columns, rows: pa.Table, path: Path) -> NestedTable:
    """Write rows typed to `path`, and return them as pieces of their patients' records."""
    ids = pc.cast(rows["subject_id"], pa.int64()).to_numpy()
    if (np.diff(ids) < 0).any():
        order = np.argsort(ids, kind="stable")
        rows, ids = rows.take(order), ids[order]
    rows = rows.combine_chunks()
    typed, counts = cells.typed(columns, rows)
    parquet_files.write(typed, path, compression="zstd", row_group_size=1 << 17)
    n_columnar = typed.num_rows
    del typed

    n_jsonl, records = 0, []
    starts = np.flatnonzero(np.diff(ids, prepend=0))
    row_json = json_rows(rows, columns)
    first, last = row_json.offset, row_json.offset + len(row_json)
    offsets = np.frombuffer(row_json.buffers()[1], np.int64)[first : last + 1]
    data = memoryview(row_json.buffers()[2])
    key = b',"%s":[' % name.encode()
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        # each row ends with a comma: the patient's last one is cut off
        piece: Json = [key, data[offsets[start] : offsets[end] - 1], b"]"]
        records.append((int(ids[start]), piece))
        n_jsonl += int(end - start)
    return NestedTable(n_columnar, counts, n_jsonl, records)


def _titles(rows: pa.Table, path: Path) -> pa.Array:
    """Return the title of each row's code, null where the dictionary in `path` has none.

    All are null when the dictionary is not there, or when either table lacks a column; step 1 has
    said so when it looked for the tables.
    """
    without = pa.nulls(len(rows), pa.string())
    if not path.exists() or not {*ICD} <= {*rows.column_names}:
        return without
    dictionary = parquet_files.read(path)
    if not {*ICD, "long_title"} <= {*dictionary.column_names}:
        return without
    codes, known = _code_key(cells.typed(ICD, rows).rows), _code_key(dictionary)
    place = pc.index_in(codes, known, skip_nulls=True)
    return pc.cast(dictionary["long_title"].combine_chunks().take(place), pa.string())


def _code_key(rows: pa.Table) -> pa.Array:
    parts = [pc.cast(rows[column], pa.string()) for column in ICD]
    return pc.binary_join_element_wise(*parts, ":").combine_chunks()


def json_rows(rows: pa.Table, columns: Columns) -> pa.LargeStringArray:
    """Return each row of a table of strings as `{...},`: ids bare, all else quoted, no nulls.

    Texts and columns are joined in turn. A column with nulls is joined to its key and comma first,
    so that these are left out with it.
    """
    pieces: list[str | pa.Array] = []
    text, comma = "{", ""
    for column, kind in columns.items():
        value = rows[column].combine_chunks().cast(pa.large_string())
        if value.null_count == len(value):
            continue
        quote = "" if kind == "id" else '"'
        before = f"{comma}{orjson.dumps(column).decode()}:{quote}"
        value = value if kind == "id" else _escaped(value)
        if value.null_count:
            # before the first column without nulls (there is one: subject_id) the comma is behind
            behind = quote if comma else quote + ","
            pieces += [text, _joined([before, value, behind], "emit_null")]
            text = ""
        else:
            pieces += [text + before, value]
            text, comma = quote, ","
    return _joined([*pieces, text + "},"], "skip")


def _joined(pieces: list[str | pa.Array], nulls: str) -> pa.LargeStringArray:
    """Join texts and columns, row by row; `nulls` is Arrow's null_handling."""
    texts = [
        pa.scalar(piece, pa.large_string()) if isinstance(piece, str) else piece for piece in pieces
    ]
    separator = pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(*texts, separator, null_handling=nulls)


def _escaped(values: pa.LargeStringArray) -> pa.LargeStringArray:
    """Return the values as they stand between the quotes of a JSON string."""
    _, offsets, buffer = values.buffers()
    start, end = np.frombuffer(offsets, np.int64)[[values.offset, values.offset + len(values)]]
    data = np.frombuffer(buffer or b"", np.uint8)[start:end]
    # a look at all bytes at once is faster than a look at each value
    if not ((data < 0x20) | (data == ord('"')) | (data == ord("\\"))).any():
        return values
    special = pc.fill_null(pc.match_substring_regex(values, r'["\\\x00-\x1f]'), False)
    escaped = [orjson.dumps(value)[1:-1].decode() for value in values.filter(special).to_pylist()]
    return pc.replace_with_mask(values, special, pa.array(escaped, pa.large_string()))


def write_index(index: list[Place], path: Path) -> None:
    """Write the place of every patient's gzip member as a Parquet file."""
    columns = [pa.array(values, pa.int64()) for values in zip(*index, strict=True)]
    parquet_files.write(pa.table(columns, list(Place._fields)), path)
