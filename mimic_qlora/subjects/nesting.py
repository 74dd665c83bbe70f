"""Step 1's second half: nest buckets of rows into one JSON record per patient, and the same rows typed."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import igzip

from mimic_qlora.mimic import tables
from mimic_qlora.subjects.buckets import (
    MEMORY_PER_BUCKET,
    MIB_PER_BUCKET,
    PROCESS_BYTES,
    Layout,
    read_done,
    write_done,
)

# the record also carries these tables with the title of each code, joined on (code, version)
LABELED = {"diagnoses_icd": "d_icd_diagnoses", "procedures_icd": "d_icd_procedures"}
GZIP_LEVEL = 2  # of isal's 0 to 3
ICD = ("icd_version", "icd_code")


def nest_all(plan: Layout, columns: dict, folder: Path, memory: int, workers: int | None) -> list:
    """Nest every bucket, several side by side where memory allows. Returns what each wrote, in order."""
    from concurrent.futures import ProcessPoolExecutor

    from tqdm import tqdm

    fitting = (memory - PROCESS_BYTES) // (MIB_PER_BUCKET * MEMORY_PER_BUCKET << 20)
    workers = max(1, min(workers or os.cpu_count() or 1, fitting, plan.count))
    jobs = [(b, plan.subject_ids(b), columns, folder) for b in range(plan.count)]
    progress = {"desc": "nesting patients", "unit": "bucket", "total": plan.count, "disable": None}
    if workers == 1:
        return [nest(*job) for job in tqdm(jobs, **progress)]
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        try:
            return list(tqdm(pool.map(nest, *zip(*jobs, strict=True)), **progress))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent and go when it is killed: a worker left over would write into the next run's files."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def nest(bucket: int, subject_ids: list, columns: dict, folder: Path) -> dict:
    """Write one bucket: its patients in order, each one gzip member of one JSON line, and the same rows typed.

    `columns` maps each table to its columns, in the order of the record. Returns and leaves in `parts/` the index rows,
    the number of rows written by table and view, and the cells that did not fit the type of their column.
    """
    parts = folder / "parts"
    marker = parts / f"bucket-{bucket:05d}.done.json"
    result = read_done(marker)
    if not result:
        result = {"index": [], "jsonl": {}, "columnar": {}, "misfits": {}}
        pieces = {s: [b'{"subject_id":%d' % s] for s in subject_ids}
        for name in columns:
            path = parts / f"{name}-{bucket:05d}.arrow"
            if path.exists():
                with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
                    rows = stream.read_all()
                _nest_table(name, columns[name], rows, bucket, pieces, folder, result)
                titles = folder / "dictionaries" / f"{LABELED.get(name)}.parquet"
                if titles.exists():
                    rows = rows.append_column("long_title", _titles(rows, pq.read_table(titles)))
                    labeled = {**columns[name], "long_title": "text"}
                    _nest_table(f"{name}_labeled", labeled, rows, bucket, pieces, folder, result)
        with open(folder / "shards" / f"part-{bucket:05d}.jsonl.gz", "wb") as shard:
            for subject_id, record in pieces.items():
                member = igzip.compress(b"".join([*record, b"}\n"]), GZIP_LEVEL, mtime=0)
                result["index"].append((subject_id, bucket, shard.tell(), len(member)))
                shard.write(member)
        write_done(marker, result)
    # only now: a run that is killed before the marker stands needs them again
    for path in parts.glob(f"*-{bucket:05d}.arrow"):
        path.unlink()
    return result


def _nest_table(name, columns, rows, bucket, pieces, folder, result) -> None:
    ids = pc.cast(rows["subject_id"], pa.int64()).to_numpy()
    if (np.diff(ids) < 0).any():
        order = np.argsort(ids, kind="stable")
        rows, ids = rows.take(order), ids[order]
    rows = rows.combine_chunks()
    typed, misfits = tables.typed(columns, rows)
    for column, cells in misfits.items():
        result["misfits"][f"{name}.{column}"] = cells
    path = folder / "tables" / name
    path.mkdir(exist_ok=True)
    pq.write_table(
        typed, path / f"part-{bucket:05d}.parquet", compression="zstd", row_group_size=1 << 17
    )
    result["columnar"][name] = typed.num_rows
    del typed

    written = 0
    starts = np.flatnonzero(np.diff(ids, prepend=0))
    row_json = json_rows(rows, columns)
    offsets = np.frombuffer(row_json.buffers()[1], np.int64)[
        row_json.offset : row_json.offset + len(row_json) + 1
    ]
    data = memoryview(row_json.buffers()[2])
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        # each row ends with a comma: the patient's last one is cut off
        pieces[int(ids[start])] += [
            b',"%s":[' % name.encode(),
            data[offsets[start] : offsets[end] - 1],
            b"]",
        ]
        written += int(end - start)
    result["jsonl"][name] = written


def _titles(rows, dictionary):
    if not {*ICD} <= {*rows.column_names} or not {*ICD, "long_title"} <= {*dictionary.column_names}:
        return pa.nulls(
            len(rows), pa.string()
        )  # the source lacks a column, as it says of its header
    place = pc.index_in(_code_key(rows), _code_key(dictionary))
    return pc.cast(dictionary["long_title"].combine_chunks().take(place), pa.string())


def _code_key(rows):
    version, code = (pc.cast(rows[column], pa.string()) for column in ICD)
    return pc.binary_join_element_wise(version, code, ":").combine_chunks()


def json_rows(rows, columns: dict):
    """Each row of a table of strings as `{...},` in a LargeStringArray: ids bare, all else quoted, nulls left out."""
    # texts and columns in turn; a column with nulls is joined to its key and comma first, so that they go with it
    pieces, text, comma = [], "{", ""
    for column, kind in columns.items():
        value = rows[column].combine_chunks().cast(pa.large_string())
        if value.null_count == len(value):
            continue
        quote = "" if kind == "id" else '"'
        before = f"{comma}{orjson.dumps(column).decode()}:{quote}"
        value = value if kind == "id" else _escaped(value)
        if value.null_count:
            # before the first column that has a value in every row (one has: subject_id), the comma stands behind
            behind = quote if comma else quote + ","
            pieces += [text, _joined([before, value, behind], "emit_null")]
            text = ""
        else:
            pieces += [text + before, value]
            text, comma = quote, ","
    return _joined([*pieces, text + "},"], "skip")


def _joined(pieces: list, nulls: str):
    """Texts and columns one after the other, row by row."""
    pieces = [
        pa.scalar(piece, pa.large_string()) if isinstance(piece, str) else piece for piece in pieces
    ]
    return pc.binary_join_element_wise(
        *pieces, pa.scalar("", pa.large_string()), null_handling=nulls
    )


def _escaped(values):
    """The values as they stand between the quotes of a JSON string."""
    _, offsets, data = values.buffers()
    start, end = np.frombuffer(offsets, np.int64)[[values.offset, values.offset + len(values)]]
    data = np.frombuffer(data or b"", np.uint8)[start:end]
    if not (
        (data < 0x20) | (data == ord('"')) | (data == ord("\\"))
    ).any():  # faster than a look at each value
        return values
    special = pc.fill_null(pc.match_substring_regex(values, r'["\\\x00-\x1f]'), False)
    escaped = [orjson.dumps(value)[1:-1].decode() for value in values.filter(special).to_pylist()]
    return pc.replace_with_mask(values, special, pa.array(escaped, pa.large_string()))


def write_index(index: list, path: Path) -> None:
    """The place of every patient's gzip member: subject_id, part (shard), offset and length in bytes."""
    places = zip(*index, strict=True)
    names = ["subject_id", "part", "offset", "length"]
    pq.write_table(pa.table([pa.array(values, pa.int64()) for values in places], names), path)
