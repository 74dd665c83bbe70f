"""Step 1's work on rows: put them into buckets of patients, then nest each bucket into one JSON record per patient.

A bucket holds patients with neighbouring subject_ids. It is the unit of memory: a table is never in memory as a whole,
and a bucket's rows are only when that bucket is nested.
"""

import contextlib
import csv
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import igzip

from mimic_qlora import tables
from mimic_qlora.storage import UserError

FLUSH_BYTES = 192 << 20
# the record also carries these tables with the title of each code, joined on (code, version)
LABELED = {"diagnoses_icd": "d_icd_diagnoses", "procedures_icd": "d_icd_procedures"}


class Layout:
    """Which patients are converted and which bucket each belongs to."""

    def __init__(self, patients: list, chosen: set, n_buckets: int):
        self.patients = np.array(sorted(patients), dtype=np.int64)
        self.chosen = np.array(sorted(chosen), dtype=np.int64)
        self.first_ids = np.array([part[0] for part in np.array_split(self.chosen, n_buckets)])

    def bucket_of(self, subject_ids: np.ndarray) -> np.ndarray:
        """The bucket of each subject_id; -1 for a patient who is not chosen, -2 for one who is not in `patients`."""
        bucket = np.searchsorted(self.first_ids, subject_ids, side="right") - 1
        bucket[~np.isin(subject_ids, self.chosen)] = -1
        bucket[~np.isin(subject_ids, self.patients)] = -2
        return bucket


def partition(name: str, source: tables.Source, layout: Layout, folder: Path, rejects: Path, tick) -> dict:
    """Append every row of a table to the file of its bucket, in file order; rows that belong to nobody go to `rejects`.

    `tick(rows)` is told of progress. Returns the number of rows by what became of them: in, kept, unsampled, rejected.
    """
    counts = {"in": 0, "kept": 0, "unsampled": 0, "rejected": 0}
    schema = pa.schema([(column, pa.string()) for column in source.columns])
    held, held_bytes = [], 0
    with contextlib.ExitStack() as files:
        writers = {}

        def flush():
            if not held:
                return
            rows = pa.Table.from_batches([batch for batch, _ in held], schema)
            buckets = np.concatenate([bucket for _, bucket in held])
            order = np.argsort(buckets, kind="stable")
            rows, buckets = rows.take(order), buckets[order]
            starts = np.flatnonzero(np.diff(buckets, prepend=-3))
            for start, end in zip(starts, [*starts[1:], len(buckets)], strict=True):
                bucket, part = int(buckets[start]), rows.slice(start, end - start)
                if bucket == -2:
                    _reject(part, rejects)
                elif bucket >= 0:
                    if bucket not in writers:
                        options = pa.ipc.IpcWriteOptions(compression="lz4")
                        path = folder / f"{name}-{bucket:05d}.arrow"
                        writers[bucket] = files.enter_context(pa.ipc.new_stream(path, schema, options=options))
                    writers[bucket].write_table(part)
            held.clear()

        for batch in tables.read(source):
            buckets = layout.bucket_of(_subject_ids(batch))
            counts["in"] += len(buckets)
            counts["kept"] += int((buckets >= 0).sum())
            counts["unsampled"] += int((buckets == -1).sum())
            counts["rejected"] += int((buckets == -2).sum())
            held.append((batch, buckets))
            held_bytes += batch.nbytes
            if held_bytes > FLUSH_BYTES:
                flush()
                held_bytes = 0
            tick(len(buckets))
        flush()
    return counts


def _subject_ids(batch) -> np.ndarray:
    """subject_id as numbers; 0, which no patient has, where it is not one."""
    text = batch["subject_id"]
    number = pc.if_else(pc.match_substring_regex(text, r"^[1-9]\d{0,17}$"), text, None)
    return pc.fill_null(pc.cast(number, pa.int64()), 0).to_numpy()


def _reject(rows, path: Path) -> None:
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["reason", *rows.column_names])
        writer.writerows(["subject_id is not in patients", *row.values()] for row in rows.to_pylist())


class Nester:
    """Turns buckets into JSONL shards, an index and typed columnar tables, counting what it writes."""

    def __init__(self, sources: dict, dictionaries: dict, folder: Path):
        self.sources, self.dictionaries, self.folder = sources, dictionaries, folder
        self.rows = {"jsonl": {}, "columnar": {}}
        self.misfits = {}
        self.index = []

    def nest(self, bucket: int, subject_ids, parts: Path) -> None:
        """Write one bucket: its patients in order, each one gzip member of one JSON line, and its typed rows."""
        pieces = {int(s): [b'{"subject_id":%d' % s] for s in subject_ids}
        for name, source in self.sources.items():
            path = parts / f"{name}-{bucket:05d}.arrow"
            if path.exists():
                with pa.ipc.open_stream(path) as stream:
                    rows = stream.read_all()
                path.unlink()
                self._nest_table(name, source.columns, rows, bucket, pieces)
                if name in LABELED and LABELED[name] in self.dictionaries:
                    rows = rows.append_column("long_title", self._titles(rows, LABELED[name]))
                    self._nest_table(f"{name}_labeled", {**source.columns, "long_title": "text"}, rows, bucket, pieces)
        with open(self.folder / "shards" / f"part-{bucket:05d}.jsonl.gz", "wb") as shard:
            for subject_id, record in pieces.items():
                member = igzip.compress(b"".join([*record, b"}\n"]), 2, mtime=0)
                self.index.append((subject_id, bucket, shard.tell(), len(member)))
                shard.write(member)

    def _nest_table(self, name, columns, rows, bucket, pieces) -> None:
        ids = pc.cast(rows["subject_id"], pa.int64()).to_numpy()
        order = np.argsort(ids, kind="stable")
        rows, ids = rows.take(order).combine_chunks(), ids[order]
        typed, misfits = tables.typed(name, columns, rows)
        for column, cells in misfits.items():
            # an id that is no number would be lost to every join; anything else stays readable in the JSONL
            if columns[column] == "id":
                raise UserError(
                    f"table {name} has {cells} values in {column} that are not whole numbers: check the download"
                )
            self.misfits[f"{name}.{column}"] = self.misfits.get(f"{name}.{column}", 0) + cells
        path = self.folder / "tables" / name
        path.mkdir(exist_ok=True)
        pq.write_table(typed, path / f"part-{bucket:05d}.parquet", compression="zstd", row_group_size=1 << 17)
        self._count("columnar", name, typed.num_rows)

        starts = np.flatnonzero(np.diff(ids, prepend=0))
        json = json_rows(rows, columns)
        offsets = np.frombuffer(json.buffers()[1], np.int64)[json.offset : json.offset + len(json) + 1]
        data = memoryview(json.buffers()[2])
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            # each row ends with a comma: the patient's last one is cut off
            pieces[int(ids[start])] += [b',"%s":[' % name.encode(), data[offsets[start] : offsets[end] - 1], b"]"]
            self._count("jsonl", name, int(end - start))

    def _count(self, view: str, name: str, rows: int) -> None:
        self.rows[view][name] = self.rows[view].get(name, 0) + rows

    def _titles(self, rows, dictionary: str):
        titles = self.dictionaries[dictionary]
        place = pc.index_in(_code_key(rows), _code_key(titles))
        return titles["long_title"].take(place)


def _code_key(rows):
    return pc.binary_join_element_wise(rows["icd_version"], rows["icd_code"], ":").combine_chunks()


def json_rows(rows, columns: dict):
    """Each row of a table of strings as `{...},` in a LargeStringArray: ids bare, all else quoted, nulls left out."""
    fields = []
    for column, kind in columns.items():
        value = rows[column].combine_chunks().cast(pa.large_string())
        key = orjson.dumps(column).decode() + ":"
        quote = "" if kind == "id" else '"'
        fields.append(pc.binary_join_element_wise(_scalar(key + quote), _escaped(value), _scalar(quote), _scalar("")))
    joined = pc.binary_join_element_wise(*fields, _scalar(","), null_handling="skip")
    out = pc.binary_join_element_wise(_scalar("{"), joined, _scalar("},"), _scalar(""))
    return out.combine_chunks() if isinstance(out, pa.ChunkedArray) else out


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
    columns = zip(*index, strict=True)
    pq.write_table(
        pa.table([pa.array(c, pa.int64()) for c in columns], ["subject_id", "part", "offset", "length"]), path
    )
