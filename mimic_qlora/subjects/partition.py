"""Step 1's first half: put the rows of every table into buckets of patients."""

import contextlib
import csv
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from mimic_qlora.display import csv_files
from mimic_qlora.mimic import tables
from mimic_qlora.mimic.second_reader import LineCounts
from mimic_qlora.mimic.tables import Columns, Source
from mimic_qlora.subjects.buckets import (
    HELD_BYTES,
    NO_PATIENT,
    NOT_CHOSEN,
    Layout,
    read_done,
    write_done,
)

_LINE_END = re.compile("\r\n|\r|\n")
REJECTED = -3  # stands for the bucket of a row that is rejected
COLUMNS = ("file", "row", "reason", "content")  # of a file of rejected rows
REASON = COLUMNS.index("reason")


class Owners(NamedTuple):
    """The patients to whom the ids of stays lead."""

    ids: np.ndarray  # int64 [stays], sorted
    subject_ids: np.ndarray  # int64 [stays]


class RowCounts(NamedTuple):
    """The rows of a table by what became of them: read = kept + unsampled + rejected.

    A rejected row that spans lines counts as so many rows, as each may have been one.
    """

    read: int
    kept: int
    unsampled: int
    rejected: int
    lines: int  # of the file, with its header, by the second reader
    spanning: int  # cells that go on in further lines, by the second reader


class Rejects:
    """The rows of a table that cannot be kept, in a CSV file that exists only if there is one."""

    def __init__(self, path: Path, file_name: str) -> None:
        """Take the place of the file, and the name of the table's own file."""
        self.count = 0  # rows, each line of one that spans several
        self.folded = 0  # lines behind the first of a row
        self._path, self._file_name = path, file_name
        self._file: TextIO | None = None

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def add(self, row_number: int, reason: str, text: str) -> None:
        """Keep a row, safe for spreadsheets.

        `row_number` is its place in the table's file, the header being 1. An empty line or a
        further line of a row has no number of its own.
        """
        if self._file is None:
            self._file = open(self._path, "w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow(COLUMNS)
        cells = (self._file_name, row_number, reason, text)
        csv.writer(self._file).writerow(map(csv_files.safe_cell, cells))
        folded = len(_LINE_END.findall(text))
        self.count += 1 + folded
        self.folded += folded


def remove_rejects(folder: Path) -> None:
    """Remove the files of an earlier run; others stay, as the folder may be the user's own."""
    for path in folder.glob("*.csv"):
        with open(path, "rb") as file:
            is_ours = file.readline().strip() == ",".join(COLUMNS).encode()
        if is_ours:
            path.unlink()
    with contextlib.suppress(OSError):  # it is not there, or not empty
        folder.rmdir()


def reasons(path: Path) -> Counter[str]:
    """Count the reasons in a file that `Rejects` wrote."""
    csv.field_size_limit(2**31 - 1)  # a rejected row may hold a long note
    with open(path, newline="", encoding="utf-8") as file:
        return Counter(row[REASON] for row in itertools.islice(csv.reader(file), 1, None))


class BucketWriter:
    """The rows of one table on their way into a file for each bucket, `<table>-<bucket>.arrow`.

    Rows are held back until they take about `held_bytes`, then sorted by bucket and written.
    """

    def __init__(self, name: str, columns: Columns, parts: Path, held_bytes: int) -> None:
        """Remove what an interrupted run has left of this table in `parts`."""
        self._name, self._parts, self._held_bytes = name, parts, held_bytes
        self._schema = pa.schema([(column, pa.string()) for column in columns])
        self._files = contextlib.ExitStack()
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self._held: list[tuple[pa.RecordBatch, np.ndarray]] = []
        self._n_held = 0  # bytes
        # digits, so as to spare a table whose name begins like this one's
        for leftover in parts.glob(f"{name}-{'[0-9]' * 5}.arrow"):
            leftover.unlink()

    def __enter__(self) -> "BucketWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._files:
            if kind is None:
                self._flush()

    def add(self, batch: pa.RecordBatch, buckets: np.ndarray) -> None:
        """Take rows with their buckets (int64 [rows]); those without one are left out."""
        kept = buckets >= 0
        if not kept.any():
            return
        if not kept.all():
            batch, buckets = batch.filter(pa.array(kept)), buckets[kept]
        self._held.append((batch, buckets))
        self._n_held += batch.nbytes
        if self._n_held > self._held_bytes:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that are held back, each to the file of its bucket."""
        if not self._held:
            return
        rows = pa.Table.from_batches([batch for batch, _ in self._held], self._schema)
        buckets = np.concatenate([bucket for _, bucket in self._held])
        self._held.clear()
        self._n_held = 0
        order = np.argsort(buckets, kind="stable")
        rows, buckets = rows.take(order), buckets[order]
        starts = np.flatnonzero(np.diff(buckets, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(buckets)], strict=True):
            self._writer(int(buckets[start])).write_table(rows.slice(start, end - start))
        del rows
        pa.default_memory_pool().release_unused()

    def _writer(self, bucket: int) -> pa.ipc.RecordBatchStreamWriter:
        """Return the open file of a bucket."""
        if bucket not in self._writers:
            path = self._parts / f"{self._name}-{bucket:05d}.arrow"
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            stream = pa.ipc.new_stream(path, self._schema, options=options)
            self._writers[bucket] = self._files.enter_context(stream)
        return self._writers[bucket]


def partition(
    name: str,
    source: Source,
    plan: Layout,
    owners: Mapping[str, Owners],
    parts: Path,
    held_bytes: int,
    tell: Callable[[int, int], None],
) -> RowCounts:
    """Append every row of a table to the file of its bucket, in file order.

    `owners` maps the id columns that lead to a patient in a table without subject_id. Rows that
    cannot be placed go to `<table>.rejects.csv`. `tell(bytes, rows)` is called as the file is read.
    """
    marker = parts / f"{name}.done.json"
    done = read_done(marker)
    if done and done.keys() >= {*IN_MANIFEST}:  # an earlier version counted less
        return RowCounts(*(done[key] for key in IN_MANIFEST))
    columns = stored_columns(source)
    n_read = n_kept = n_unsampled = 0
    counted: list[LineCounts] = []
    ragged: list[int] = []  # places in the file, header = 1, of rows with another number of fields
    with (
        Rejects(parts / f"{name}.rejects.csv", source.path.name) as rejects,
        BucketWriter(name, columns, parts, held_bytes) as writer,
    ):

        def reject_ragged(place: int, text: str) -> None:
            ragged.append(place)
            rejects.add(place, "wrong number of fields", text)

        def tell_how_far(n_bytes: int) -> None:
            tell(n_bytes, n_read)

        for batch in tables.read(source, reject_ragged, tell_how_far, counted.append):
            batch, subject_ids = with_subject_ids(batch, columns, owners)
            buckets = plan.bucket_of(subject_ids)
            for reason, bad in _faults(batch, source, buckets):
                for number in np.flatnonzero(bad & (buckets != REJECTED)):
                    place = _place(n_read + int(number), ragged)
                    rejects.add(place, reason, _text_of_row(batch, int(number)))
                buckets[bad] = REJECTED
            n_read += batch.num_rows
            n_kept += int((buckets >= 0).sum())
            n_unsampled += int((buckets == NOT_CHOSEN).sum())
            writer.add(batch, buckets)
    n_in = n_read + len(ragged) + rejects.folded
    (lines,) = counted
    counts = RowCounts(n_in, n_kept, n_unsampled, rejects.count, lines.lines, lines.spanning)
    write_done(marker, counts_in_manifest(counts))
    return counts


# The names that manifests and markers have for the counts, in their order.
IN_MANIFEST = ("in", "kept", "unsampled", "rejected", "lines", "spanning")


def counts_in_manifest(counts: RowCounts) -> dict[str, int]:
    """Return the counts under the names that manifests and markers have for them."""
    return dict(zip(IN_MANIFEST, counts, strict=True))


def _text_of_row(batch: pa.RecordBatch, number: int) -> str:
    cells = batch.slice(number, 1).to_pylist()[0].values()
    return ",".join(cell or "" for cell in cells)


def _place(number: int, ragged: list[int]) -> int:
    """Return the place in the file, header = 1, of a whole row.

    `number` counts whole rows from 0; `ragged` holds the places of the other rows between them.
    """
    place = number + 2
    for other in sorted(ragged):
        place += other <= place
    return place


def partition_all(
    sources: Mapping[str, Source], plan: Layout, parts: Path, memory: int
) -> dict[str, RowCounts]:
    """Put the rows of every table into buckets, within `memory` bytes; return table -> counts."""
    owners = stay_owners(sources)
    held_bytes = min(memory // 12, HELD_BYTES)
    rows = {}
    for name, source in sources.items():
        size = source.path.stat().st_size
        with tqdm(
            total=size, desc=f"{name:<20}", unit="B", unit_scale=True, leave=False, disable=None
        ) as bar:
            tell = functools.partial(_show_progress, bar)
            rows[name] = partition(name, source, plan, owners, parts, held_bytes, tell)
    return rows


def _show_progress(bar: tqdm, n_bytes: int, n_rows: int) -> None:
    bar.set_postfix_str(f"{n_rows:,} rows", refresh=False)
    bar.update(n_bytes - bar.n)


def stay_owners(
    sources: Mapping[str, Source],
    read: Callable[[Source], Iterator[pa.RecordBatch]] = tables.read,
) -> dict[str, Owners]:
    """Return the id columns that lead to a patient, for tables without subject_id."""
    if all("subject_id" in source.columns for source in sources.values()):
        return {}
    owners = {}
    for column, names in {"hadm_id": ["admissions"], "stay_id": ["icustays", "edstays"]}.items():
        pairs = {
            int(row[column]): int(row["subject_id"])
            for name in names
            if name in sources
            for batch in read(sources[name])
            for row in batch.select(["subject_id", column]).to_pylist()
            if (row["subject_id"] or "").isdecimal() and (row[column] or "").isdecimal()
        }
        if pairs:
            ids = sorted(pairs)
            subject_ids = [pairs[one] for one in ids]
            owners[column] = Owners(np.array(ids, np.int64), np.array(subject_ids, np.int64))
    return owners


def stored_columns(source: Source) -> Columns:
    """Return the columns that are kept of a table.

    A table without subject_id gets one: that of the stay that a row names.
    """
    if "subject_id" in source.columns:
        return source.columns
    return {"subject_id": "id", **source.columns}


def with_subject_ids(
    batch: pa.RecordBatch, columns: Columns, owners: Mapping[str, Owners]
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return the batch with its subject_id column, and that column as int64 [rows].

    0, which no patient has, stands for a cell that is no subject_id.
    """
    if "subject_id" in batch.schema.names:
        return batch, whole_numbers(batch["subject_id"])
    found = np.zeros(batch.num_rows, np.int64)
    for column, (ids, subject_ids) in owners.items():
        if column in batch.schema.names:
            values = whole_numbers(batch[column])
            place = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
            found = np.where((found == 0) & (ids[place] == values), subject_ids[place], found)
    text = pc.cast(pa.array(found), pa.string())
    return pa.record_batch([text, *batch.columns], names=list(columns)), found


_POWERS_OF_TEN = 10 ** np.arange(1, 18)  # up to 18 digits, as `tables.WHOLE` has


def _plain_numbers(text: pa.Array) -> np.ndarray | None:
    """Return the cells as int64 [rows], 0 for null, if all are written without sign or 0 in front.

    None if a cell is anything else.
    """
    try:
        numbers = pc.fill_null(pc.cast(text, pa.int64()), 0).to_numpy()
    except pa.ArrowInvalid:
        return None
    lengths = pc.fill_null(pc.binary_length(text), 0).to_numpy()
    digits = np.searchsorted(_POWERS_OF_TEN, numbers, side="right") + (numbers > 0)
    return numbers if (lengths == digits).all() else None


def whole_numbers(text: pa.Array) -> np.ndarray:
    """Return the cells as int64 [rows], 0 where one is null or no whole number above zero."""
    numbers = _plain_numbers(text)
    if numbers is None:
        whole = pc.match_substring_regex(text, r"^[1-9]\d{0,17}$")
        numbers = pc.fill_null(pc.cast(pc.if_else(whole, text, None), pa.int64()), 0).to_numpy()
    return numbers


def _faults(
    batch: pa.RecordBatch, source: Source, buckets: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each reason why rows cannot be placed, with these rows as a mask (bool [rows])."""
    if (buckets == NO_PATIENT).any():
        yield "its patient is not in patients", buckets == NO_PATIENT
    for column, kind in source.columns.items():
        if kind == "id" and column != "subject_id" and _plain_numbers(batch[column]) is None:
            whole = pc.match_substring_regex(batch[column], tables.WHOLE)
            bad = pc.fill_null(pc.invert(whole), False)
            if pc.any(bad).as_py():
                yield f"{column} is not a whole number", bad.to_numpy(zero_copy_only=False)
