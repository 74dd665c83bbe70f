"""Step 1's work on rows: put them into buckets of patients, then nest each bucket into one JSON record per patient.

A bucket holds patients with neighbouring subject_ids. It is the unit of memory (a table is never in memory as a whole,
and a bucket's rows only while that bucket is nested), of resuming (a finished table or bucket leaves a `.done.json` and
is not redone) and of spreading over processes (`nest` needs its bucket's files and nothing else).
"""

import contextlib
import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import igzip

from mimic_qlora import tables

# the record also carries these tables with the title of each code, joined on (code, version)
LABELED = {"diagnoses_icd": "d_icd_diagnoses", "procedures_icd": "d_icd_procedures"}
GZIP_LEVEL = 2  # of isal's 0 to 3: two thirds of the size of level 1 for little more time


class Layout(NamedTuple):
    """Which patients are converted and which bucket each belongs to. All are sorted arrays of subject_ids."""

    patients: np.ndarray
    chosen: np.ndarray
    first_ids: np.ndarray  # of each bucket

    def bucket_of(self, subject_ids: np.ndarray) -> np.ndarray:
        """The bucket of each subject_id; -1 for a patient who is not chosen, -2 for one who is not in `patients`."""
        bucket = np.searchsorted(self.first_ids, subject_ids, side="right") - 1
        bucket[~_in_sorted(subject_ids, self.chosen)] = -1
        bucket[~_in_sorted(subject_ids, self.patients)] = -2
        return bucket

    def subject_ids(self, bucket: int) -> list:
        ends = [*self.first_ids[1:], np.iinfo(np.int64).max]
        return self.chosen[(self.chosen >= self.first_ids[bucket]) & (self.chosen < ends[bucket])].tolist()


def layout(patients: list, chosen: set, n_buckets: int) -> Layout:
    """Buckets of neighbouring patients, equally many in each."""
    kept = np.array(sorted(chosen), dtype=np.int64)
    return Layout(np.array(sorted(patients), np.int64), kept, np.array([p[0] for p in np.array_split(kept, n_buckets)]))


def _in_sorted(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[place] == values


def write_done(path: Path, result: dict) -> dict:
    """Mark a table or bucket as finished: the marker appears whole or not at all."""
    temp = path.with_suffix(".tmp")
    temp.write_text(json.dumps(result), encoding="utf-8")
    temp.replace(path)
    return result


def read_done(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


# ---- rows into buckets ----


def partition(name: str, source: tables.Source, plan: Layout, owners: dict, parts: Path, held_bytes: int, tell) -> dict:
    """Append every row of a table to the file of its bucket, in file order; what cannot be placed goes to `rejects`.

    `owners` maps the id columns that lead to a patient in a table without subject_id to (sorted ids, subject_ids).
    At most about `held_bytes` of rows are held back before they are written; `tell(bytes, rows)` is told how far the
    file has been read.
    Returns the rows by what became of them: in, kept, unsampled, rejected.
    """
    if done := read_done(parts / f"{name}.done.json"):
        return done
    for leftover in parts.glob(f"{name}-*.arrow"):
        leftover.unlink()
    columns = stored_columns(source)
    schema = pa.schema([(column, pa.string()) for column in columns])
    counts = {"in": 0, "kept": 0, "unsampled": 0, "rejected": 0}
    with contextlib.ExitStack() as files:
        reject = files.enter_context(_rejects(parts / f"{name}.rejects.csv", source.path.name, counts))
        writers, held = {}, []

        def flush():
            rows = pa.Table.from_batches([batch for batch, _ in held], schema)
            buckets = np.concatenate([bucket for _, bucket in held])
            held.clear()
            order = np.argsort(buckets, kind="stable")
            rows, buckets = rows.take(order), buckets[order]
            starts = np.flatnonzero(np.diff(buckets, prepend=-1))
            for start, end in zip(starts, [*starts[1:], len(buckets)], strict=True):
                bucket = int(buckets[start])
                if bucket not in writers:
                    options = pa.ipc.IpcWriteOptions(compression="lz4")
                    path = parts / f"{name}-{bucket:05d}.arrow"
                    writers[bucket] = files.enter_context(pa.ipc.new_stream(path, schema, options=options))
                writers[bucket].write_table(rows.slice(start, end - start))

        ragged = []  # the places in the file, header = 1, of the rows with too few or too many fields

        def on_ragged(place, text):
            ragged.append(place)
            reject(place, "wrong number of fields", text)

        n_held = 0
        for batch in tables.read(source, on_ragged, on_bytes=lambda read: tell(read, counts["in"])):
            batch, subject_ids = _with_subject_ids(batch, columns, owners)
            buckets = plan.bucket_of(subject_ids)
            for reason, bad in _faults(batch, source, buckets):
                for number in np.flatnonzero(bad & (buckets != -3)):
                    cells = batch.slice(number, 1).to_pylist()[0].values()
                    reject(_place(counts["in"] + int(number), ragged), reason, ",".join(v or "" for v in cells))
                buckets[bad] = -3
            counts["in"] += batch.num_rows
            kept = buckets >= 0
            counts["kept"] += int(kept.sum())
            counts["unsampled"] += int((buckets == -1).sum())
            if kept.any():
                batch, buckets = (batch, buckets) if kept.all() else (batch.filter(pa.array(kept)), buckets[kept])
                held.append((batch, buckets))
                n_held += batch.nbytes
            if n_held > held_bytes:
                flush()
                n_held = 0
        if held:
            flush()
    counts["in"] += len(ragged)
    return write_done(parts / f"{name}.done.json", counts)


def _place(number: int, ragged: list) -> int:
    """The place in the file, header = 1, of the n-th whole row (from 0), given the places of the rows between them."""
    place = number + 2
    for other in sorted(ragged):
        place += other <= place
    return place


def stored_columns(source: tables.Source) -> dict:
    """The columns that are kept of a table; one without subject_id gets that of the stay that its rows name."""
    return source.columns if "subject_id" in source.columns else {"subject_id": "id", **source.columns}


@contextlib.contextmanager
def _rejects(path: Path, file_name: str, counts: dict):
    """A function that keeps one rejected row, in a file that exists only when there is one."""
    with contextlib.ExitStack() as files:
        writers = []

        def reject(row_number, reason: str, text: str) -> None:
            if not writers:
                file = files.enter_context(open(path, "w", newline="", encoding="utf-8"))
                writers.append(csv.writer(file))
                writers[0].writerow(["file", "row", "reason", "content"])
            writers[0].writerow([file_name, row_number, reason, text])
            counts["rejected"] += 1

        yield reject


def _with_subject_ids(batch, columns: dict, owners: dict):
    """The batch with its subject_id column, and that column as numbers: 0, which no patient has, where it is none."""
    if "subject_id" in batch.schema.names:
        return batch, _numbers(batch["subject_id"])
    found = np.zeros(batch.num_rows, np.int64)
    for column, (ids, subject_ids) in owners.items():
        if column in batch.schema.names:
            values = _numbers(batch[column])
            place = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
            found = np.where((found == 0) & (ids[place] == values), subject_ids[place], found)
    text = pc.cast(pa.array(found), pa.string())
    return pa.record_batch([text, *batch.columns], names=list(columns)), found


def _numbers(text) -> np.ndarray:
    whole = pc.match_substring_regex(text, r"^[1-9]\d{0,17}$")
    return pc.fill_null(pc.cast(pc.if_else(whole, text, None), pa.int64()), 0).to_numpy()


def _faults(batch, source: tables.Source, buckets: np.ndarray):
    """What makes a row unplaceable: pairs of a reason and a mask over the batch's rows."""
    if (buckets == -2).any():
        yield "its patient is not in patients", buckets == -2
    for column, kind in source.columns.items():
        if kind == "id" and column != "subject_id":
            bad = pc.fill_null(pc.invert(pc.match_substring_regex(batch[column], r"^(0|-?[1-9]\d{0,17})$")), False)
            if pc.any(bad).as_py():
                yield f"{column} is not a whole number", bad.to_numpy(zero_copy_only=False)


# ---- buckets into records ----


def nest(bucket: int, subject_ids: list, columns: dict, dictionaries: Path, folder: Path) -> dict:
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
                titles = dictionaries / f"{LABELED.get(name)}.parquet"
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
    typed, misfits = tables.typed(name, columns, rows)
    for column, cells in misfits.items():
        result["misfits"][f"{name}.{column}"] = cells
    path = folder / "tables" / name
    path.mkdir(exist_ok=True)
    pq.write_table(typed, path / f"part-{bucket:05d}.parquet", compression="zstd", row_group_size=1 << 17)
    result["columnar"][name] = typed.num_rows
    del typed

    written = 0
    starts = np.flatnonzero(np.diff(ids, prepend=0))
    row_json = json_rows(rows, columns)
    offsets = np.frombuffer(row_json.buffers()[1], np.int64)[row_json.offset : row_json.offset + len(row_json) + 1]
    data = memoryview(row_json.buffers()[2])
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        # each row ends with a comma: the patient's last one is cut off
        pieces[int(ids[start])] += [b',"%s":[' % name.encode(), data[offsets[start] : offsets[end] - 1], b"]"]
        written += int(end - start)
    result["jsonl"][name] = written


def _titles(rows, dictionary):
    place = pc.index_in(_code_key(rows), _code_key(dictionary))
    return pc.cast(dictionary["long_title"].combine_chunks().take(place), pa.string())


def _code_key(rows):
    version, code = (pc.cast(rows[column], pa.string()) for column in ("icd_version", "icd_code"))
    return pc.binary_join_element_wise(version, code, ":").combine_chunks()


def json_rows(rows, columns: dict):
    """Each row of a table of strings as `{...},` in a LargeStringArray: ids bare, all else quoted, nulls left out."""
    fields = []
    for column, kind in columns.items():
        value = rows[column].combine_chunks().cast(pa.large_string())
        if value.null_count == len(value):
            continue
        key = orjson.dumps(column).decode() + ":"
        quote = "" if kind == "id" else '"'
        value = value if kind == "id" else _escaped(value)
        fields.append(pc.binary_join_element_wise(_scalar(key + quote), value, _scalar(quote), _scalar("")))
    joined = pc.binary_join_element_wise(*fields, _scalar(","), null_handling="skip")
    return pc.binary_join_element_wise(_scalar("{"), joined, _scalar("},"), _scalar(""))


def _scalar(text: str):
    return pa.scalar(text, pa.large_string())


def _escaped(values):
    """The values as they stand between the quotes of a JSON string."""
    special = pc.fill_null(pc.match_substring_regex(values, r'["\\\x00-\x1f]'), False)
    if not pc.any(special).as_py():
        return values
    escaped = [orjson.dumps(value)[1:-1].decode() for value in values.filter(special).to_pylist()]
    return pc.replace_with_mask(values, special, pa.array(escaped, pa.large_string()))


def write_index(index: list, path: Path) -> None:
    """The place of every patient's gzip member: subject_id, part (shard), offset and length in bytes."""
    places = zip(*index, strict=True)
    names = ["subject_id", "part", "offset", "length"]
    pq.write_table(pa.table([pa.array(values, pa.int64()) for values in places], names), path)
