"""Step 1's second half: nest buckets of rows into one JSON record per patient, and typed tables."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
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
from mimic_qlora.step.files import crc32, sync_entry
from mimic_qlora.subjects import parquet_files, partition, runs
from mimic_qlora.subjects.buckets import damaged, read_done, write_done
from mimic_qlora.subjects.partition import Rows
from mimic_qlora.subjects.runs import Run
from mimic_qlora.work.engine import Engine

# the record also carries these tables with the title of each code, joined on (code, version)
LABELED = {"diagnoses_icd": "d_icd_diagnoses", "procedures_icd": "d_icd_procedures"}
GZIP_LEVEL = 2  # of isal's 0 to 3
# bytes; in one run of many, isal packed the two shortest texts of sixty into other bytes (the same
# text, by a cause not found), by which an output would be another one
SHORT = 8 << 10
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
    run: Run, engine: Engine, columns: Mapping[str, Columns], rows: Rows
) -> list[NestedBucket]:
    """Nest every bucket and return what each wrote, in order.

    `rows` maps each table to its rows by bucket.
    """
    arguments = [
        (bucket, run, columns, {name: n for name in columns if (n := rows[name].get(bucket, 0))})
        for bucket in range(run.n_buckets)
    ]
    done = engine.completed(nest, arguments)
    bar = tqdm(done, "nesting patients", len(arguments), unit="bucket", disable=None)
    return [nested for _, nested in sorted(bar, key=itemgetter(0))]


def nest(
    bucket: int, run: Run, columns: Mapping[str, Columns], expected: Mapping[str, int]
) -> NestedBucket:
    """Write one bucket, unless its marker in `parts/` says that it is done; return what is written.

    `columns` maps each table to its columns, in the order of the record; `expected` the tables that
    have rows in the bucket to how many they are.
    """
    marker = _marker(run.parts, bucket)
    if done := read_done(marker):
        _check(done.get("sums", {}), run.folder)
        counts = {name: CellCounts(*found) for name, found in done.get("cells", {}).items()}
        nested = NestedBucket(done["jsonl"], done["columnar"], counts)
    else:
        with run.new_folder() as work:
            nested, index = _write_bucket(bucket, run, columns, expected, work)
            sums = {}
            for name in written(bucket, nested.columnar):
                sums[name] = crc32(work / name)
                (run.folder / name).parent.mkdir(exist_ok=True)
                (work / name).replace(run.folder / name)
            write_done(work / marker.name, {**vars(nested), "index": index, "sums": sums})
            (work / marker.name).replace(marker)
            sync_entry(run.parts)
    # only now: a run that is killed before the marker stands needs them again
    for path in run.files_of_bucket(bucket):
        path.unlink(missing_ok=True)
    return nested


def _marker(parts: Path, bucket: int) -> Path:
    return parts / f"bucket-{bucket:05d}.done.json"


def written(bucket: int, names: Iterable[str]) -> list[str]:
    """Return the files of a bucket with rows of these tables, within the step's folder."""
    shard = f"shards/part-{bucket:05d}.jsonl.gz"
    return [shard, *(f"tables/{name}/part-{bucket:05d}.parquet" for name in names)]


def _check(sums: Mapping[str, int], folder: Path) -> None:
    """Raise UserError when a file of a bucket that is done is gone or is not as it was written.

    Nothing but its marker was brought to the disk at once, and after a power cut that may be all.
    """
    for name, expected in sums.items():
        if not (folder / name).is_file() or crc32(folder / name) != expected:
            raise damaged(folder / name)


def _write_bucket(
    bucket: int,
    run: Run,
    columns: Mapping[str, Columns],
    expected: Mapping[str, int],
    work: Path,
) -> tuple[NestedBucket, list[Place]]:
    """Write a shard of records, ordered by patient, and the same rows as typed tables, to `work`.

    Returns what was written, and where each patient is.
    """
    subject_ids = run.layout().subject_ids(bucket)
    pieces: dict[int, Json] = {s: [b'{"subject_id":%d' % s] for s in subject_ids}
    nested, index = NestedBucket({}, {}, {}), list[Place]()
    shard_name, *_ = written(bucket, ())
    (work / shard_name).parent.mkdir()
    for name in columns:
        if name not in expected:
            continue
        for table, kinds, rows in _tables(name, columns[name], bucket, run, expected[name]):
            place = work / "tables" / table
            place.mkdir(parents=True)
            made = _nest_table(table, kinds, rows, place / f"part-{bucket:05d}.parquet")
            del rows
            for subject_id, piece in made.records:
                pieces[subject_id] += piece
            nested.jsonl[table], nested.columnar[table] = made.n_jsonl, made.n_columnar
            if table == name:  # a labeled table has the same cells again
                nested.cells.update({f"{name}.{c}": counts for c, counts in made.cells.items()})
    with open(work / shard_name, "wb") as shard:
        for subject_id, record in pieces.items():
            member = _packed(b"".join([*record, b"}\n"]))
            index.append(Place(subject_id, bucket, shard.tell(), len(member)))
            shard.write(member)
    return nested, index


def _packed(text: bytes) -> bytes:
    """Return a text as a member of a gzip file, of the same bytes whenever it is made."""
    if len(text) < SHORT:
        packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        return packer.compress(text) + packer.flush()
    return igzip.compress(text, GZIP_LEVEL, mtime=0)


def _tables(
    name: str, columns: Columns, bucket: int, run: Run, expected: int
) -> Iterator[tuple[str, Columns, pa.Table]]:
    """Yield a table's rows of one bucket: its name, columns and rows, as strings.

    A table of codes comes a second time, as `<table>_labeled`, with the title of each code. Raises
    UserError when there are not as many rows as `expected`.
    """
    batches = [one for path in run.files_of_bucket(bucket, name) for one in runs.batches(path)]
    rows = pa.Table.from_batches(batches, pa.schema([(column, pa.string()) for column in columns]))
    if rows.num_rows != expected:
        raise damaged(run.parts / f"{name}-{bucket:05d}")
    folder = run.folder
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
    ids = partition.whole_numbers(rows["subject_id"])
    if (np.diff(ids) < 0).any():
        order = np.argsort(ids, kind="stable")
        rows, ids = rows.take(order), ids[order]
    rows = rows.combine_chunks()
    typed, counts = cells.typed(columns, rows)
    for column, found in counts.items():
        if columns[column] == "id" and found.mended:  # without the blanks it is a number of JSON
            place = rows.schema.get_field_index(column)
            rows = rows.set_column(place, column, pc.utf8_trim_whitespace(rows[column]))
        if found.misfits:
            misfit = pc.and_(pc.is_valid(rows[column]), pc.is_null(typed[column])).to_numpy()
            counts[column] = found._replace(patients=len(np.unique(ids[misfit])))
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


def write_index(run: Run) -> None:
    """Write the place of every patient's gzip member as a Parquet file, as the markers have it."""
    found = (read_done(_marker(run.parts, bucket)) or {} for bucket in range(run.n_buckets))
    tables = [
        pa.table([pa.array(column, pa.int64()) for column in zip(*done["index"], strict=True)],
                 list(Place._fields))
        for done in found
    ]  # fmt: skip
    parquet_files.write(pa.concat_tables(tables).combine_chunks(), run.folder / "index.parquet")
