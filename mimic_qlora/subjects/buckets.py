"""Step 1's first half: put the rows of every table into buckets of patients.

A bucket holds patients with neighbouring subject_ids. It is the unit of memory (a table is never in memory as a whole,
and a bucket's rows only while nesting.py nests that bucket), of resuming (a finished table or bucket leaves a
`.done.json` and is not redone) and of spreading over processes.
"""

import contextlib
import csv
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mimic_qlora.mimic import tables
from mimic_qlora.step.files import atomic_write

PATIENTS_PER_BUCKET = 1000
MIB_PER_BUCKET = 128  # of uncompressed CSV
MEMORY_PER_BUCKET = (
    8  # what nesting needs at its peak, in sizes of a bucket's CSV; 6.5 measured, as buckets differ
)
PROCESS_BYTES = 128 << 20  # what a process takes before it holds a row
HELD_BYTES = (
    128 << 20
)  # of rows that wait to be written; sorting them takes about three times as much
GZIP_RATIO = 10  # of MIMIC-IV's .csv.gz files, about; their last bytes say how many they unpack to, modulo 4 GiB


# Arrow's own pool hands memory back to the system at every turn: a sixth of step 1's CPU time went into page faults
pa.set_memory_pool(pa.system_memory_pool())


class Layout(NamedTuple):
    """Which patients are converted and which bucket each belongs to."""

    patients: np.ndarray  # all subject_ids, sorted
    buckets: np.ndarray  # of each; -1 where the patient is not chosen
    count: int  # of buckets

    def bucket_of(self, subject_ids: np.ndarray) -> np.ndarray:
        """The bucket of each subject_id; -1 for a patient who is not chosen, -2 for one who is not in `patients`."""
        place = np.minimum(np.searchsorted(self.patients, subject_ids), len(self.patients) - 1)
        return np.where(self.patients[place] == subject_ids, self.buckets[place], -2)

    def subject_ids(self, bucket: int) -> list:
        return self.patients[self.buckets == bucket].tolist()


def unpacked_bytes(source: tables.Source) -> int:
    """How many bytes of CSV a table has; for a .gz of several members, and one 2 GiB off the ratio, only about."""
    packed = source.path.stat().st_size
    if source.path.suffix != ".gz":
        return packed
    with open(source.path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        rest = int.from_bytes(file.read(4), "little")
    unpacked = rest + max(0, round((packed * GZIP_RATIO - rest) / (1 << 32))) * (1 << 32)
    return (
        unpacked if unpacked > packed else packed * GZIP_RATIO
    )  # the last member of several tells of itself alone


def bytes_per_bucket(memory: int) -> int:
    """How many bytes of CSV a bucket may have for its nesting to keep within `memory` bytes."""
    return min(MIB_PER_BUCKET << 20, (memory - PROCESS_BYTES) // MEMORY_PER_BUCKET)


def count(sources: dict, n_patients: int, n_chosen: int, bucket_bytes: int) -> int:
    """How many buckets keep one bucket's rows small, whatever the size of the data."""
    by_size = sum(map(unpacked_bytes, sources.values())) * n_chosen / n_patients / bucket_bytes
    # at most 900: each has a file open while a table is read, and systems allow 1,024
    return min(
        n_chosen, 900, max(1, round(by_size + 0.5), round(n_chosen / PATIENTS_PER_BUCKET + 0.5))
    )


def layout(patients: list, chosen: set, n_buckets: int) -> Layout:
    """Buckets of neighbouring patients, equally many in each."""
    ids = np.array(sorted(patients), np.int64)
    buckets = np.full(len(ids), -1)
    kept = np.flatnonzero(np.isin(ids, np.fromiter(chosen, np.int64)))
    for bucket, places in enumerate(np.array_split(kept, n_buckets)):
        buckets[places] = bucket
    return Layout(ids, buckets, n_buckets)


def write_done(path: Path, result: dict) -> dict:
    """Mark a table or bucket as finished: the marker appears whole or not at all."""
    atomic_write(path, json.dumps(result))
    return result


def read_done(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


# ---- rows into buckets ----


def partition(
    name: str, source: tables.Source, plan: Layout, owners: dict, parts: Path, held_bytes: int, tell
) -> dict:
    """Append every row of a table to the file of its bucket, in file order; what cannot be placed goes to `rejects`.

    `owners` maps the id columns that lead to a patient in a table without subject_id to (sorted ids, subject_ids).
    At most about `held_bytes` of rows are held back before they are written; `tell(bytes, rows)` is told how far the
    file has been read.
    Returns the rows by what became of them: in, kept, unsampled, rejected.
    """
    if done := read_done(parts / f"{name}.done.json"):
        return done
    for leftover in parts.glob(
        f"{name}-{'[0-9]' * 5}.arrow"
    ):  # not those of a table whose name begins like this one's
        leftover.unlink()
    columns = stored_columns(source)
    schema = pa.schema([(column, pa.string()) for column in columns])
    counts = {"in": 0, "kept": 0, "unsampled": 0, "rejected": 0}
    with contextlib.ExitStack() as files:
        reject = files.enter_context(
            rejects(parts / f"{name}.rejects.csv", source.path.name, counts)
        )
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
                    writers[bucket] = files.enter_context(
                        pa.ipc.new_stream(path, schema, options=options)
                    )
                writers[bucket].write_table(rows.slice(start, end - start))
            del rows
            pa.default_memory_pool().release_unused()

        ragged = []  # the places in the file, header = 1, of the rows with too few or too many fields

        def on_ragged(place, text):
            ragged.append(place)
            reject(place, "wrong number of fields", text)

        n_held = 0
        for batch in tables.read(source, on_ragged, on_bytes=lambda read: tell(read, counts["in"])):
            batch, subject_ids = with_subject_ids(batch, columns, owners)
            buckets = plan.bucket_of(subject_ids)
            for reason, bad in _faults(batch, source, buckets):
                for number in np.flatnonzero(bad & (buckets != -3)):
                    cells = batch.slice(number, 1).to_pylist()[0].values()
                    reject(
                        _place(counts["in"] + int(number), ragged),
                        reason,
                        ",".join(v or "" for v in cells),
                    )
                buckets[bad] = -3
            counts["in"] += batch.num_rows
            kept = buckets >= 0
            counts["kept"] += int(kept.sum())
            counts["unsampled"] += int((buckets == -1).sum())
            if kept.any():
                batch, buckets = (
                    (batch, buckets)
                    if kept.all()
                    else (batch.filter(pa.array(kept)), buckets[kept])
                )
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


def partition_all(sources: dict, plan, parts: Path, memory: int) -> dict:
    """Put the rows of every table into buckets. Returns the row counts by table."""
    from tqdm import tqdm

    owners = stay_owners(sources)
    rows = {}
    for name, source in sources.items():
        size = source.path.stat().st_size
        with tqdm(
            total=size, desc=f"{name:<20}", unit="B", unit_scale=True, leave=False, disable=None
        ) as bar:

            def tell(read, n_rows, bar=bar):
                bar.set_postfix_str(f"{n_rows:,} rows", refresh=False)
                bar.update(read - bar.n)

            rows[name] = partition(
                name, source, plan, owners, parts, min(memory // 12, HELD_BYTES), tell
            )
    return rows


def stay_owners(sources: dict) -> dict:
    """For tables without subject_id: the ids that lead to a patient, each as (sorted ids, their subject_ids)."""
    if all("subject_id" in source.columns for source in sources.values()):
        return {}
    owners = {}
    for column, names in {"hadm_id": ["admissions"], "stay_id": ["icustays", "edstays"]}.items():
        pairs = {
            int(row[column]): int(row["subject_id"])
            for name in names
            if name in sources
            for batch in tables.read(sources[name])
            for row in batch.select(["subject_id", column]).to_pylist()
            if (row["subject_id"] or "").isdecimal() and (row[column] or "").isdecimal()
        }
        if pairs:
            owners[column] = tuple(
                np.array(values, np.int64) for values in zip(*sorted(pairs.items()), strict=True)
            )
    return owners


def stored_columns(source: tables.Source) -> dict:
    """The columns that are kept of a table; one without subject_id gets that of the stay that its rows name."""
    return (
        source.columns if "subject_id" in source.columns else {"subject_id": "id", **source.columns}
    )


@contextlib.contextmanager
def rejects(path: Path, file_name: str, counts: dict):
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


def with_subject_ids(batch, columns: dict, owners: dict):
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


_POWERS_OF_TEN = 10 ** np.arange(1, 19)


def _plain_numbers(text) -> np.ndarray | None:
    """The cells as numbers, 0 for null, if each is one above zero as one writes it (no sign, no leading zero)."""
    try:
        numbers = pc.fill_null(pc.cast(text, pa.int64()), 0).to_numpy()
    except pa.ArrowInvalid:
        return None
    lengths = pc.fill_null(pc.binary_length(text), 0).to_numpy()
    digits = np.searchsorted(_POWERS_OF_TEN, numbers, side="right") + (numbers > 0)
    return numbers if (lengths == digits).all() else None


def _numbers(text) -> np.ndarray:
    """The cells as numbers, 0 where a cell is null or no whole number above zero."""
    numbers = _plain_numbers(text)
    if numbers is None:
        whole = pc.match_substring_regex(text, r"^[1-9]\d{0,17}$")
        numbers = pc.fill_null(pc.cast(pc.if_else(whole, text, None), pa.int64()), 0).to_numpy()
    return numbers


def _faults(batch, source: tables.Source, buckets: np.ndarray):
    """What makes a row unplaceable: pairs of a reason and a mask over the batch's rows."""
    if (buckets == -2).any():
        yield "its patient is not in patients", buckets == -2
    for column, kind in source.columns.items():
        if kind == "id" and column != "subject_id" and _plain_numbers(batch[column]) is None:
            bad = pc.fill_null(
                pc.invert(pc.match_substring_regex(batch[column], tables.WHOLE)), False
            )
            if pc.any(bad).as_py():
                yield f"{column} is not a whole number", bad.to_numpy(zero_copy_only=False)
