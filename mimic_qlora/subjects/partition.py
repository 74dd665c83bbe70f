"""Step 1's first half: put the rows of every table into buckets of patients.

A table is read piece by piece, each into a folder of files by coarse bucket. Where there are more
buckets than files may be open at once, a coarse bucket is then split into its buckets.
"""

import contextlib
import functools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from mimic_qlora.mimic import id_cells, pieces, reading
from mimic_qlora.mimic.pieces import Piece
from mimic_qlora.mimic.reading import PieceCounts, Seams
from mimic_qlora.mimic.tables import Columns, Source
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import buckets as bucket_sizes
from mimic_qlora.subjects import rejects, runs
from mimic_qlora.subjects.buckets import damaged, read_done, write_done
from mimic_qlora.subjects.rejects import Rejects
from mimic_qlora.subjects.runs import NO_PATIENT, NOT_CHOSEN, Owners, Run
from mimic_qlora.work.engine import Engine

REJECTED = -3  # stands for the bucket of a row that is rejected
PIECE_BYTES = 512 << 20  # of a file that may be cut: enough that no start of a task shows
MOST_PIECES = 1000  # of all tables together, about: each has a file for each coarse bucket

Rows = Mapping[str, Mapping[int, int]]  # table -> bucket -> rows


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


class ReadPiece(NamedTuple):
    """What a piece of a table held: its rows by their fate, and those kept by coarse bucket."""

    counts: RowCounts
    rows: dict[int, int]
    seams: Seams


class BucketWriter:
    """Rows on their way into a file for each bucket, `<bucket>.arrow` in a folder.

    They are held back until they take about `held_bytes`, then sorted by bucket and written.
    """

    def __init__(self, columns: Collection[str], folder: Path, held_bytes: int) -> None:
        """Take the columns of the rows and an empty folder."""
        self.rows = Counter[int]()  # by bucket
        self._folder, self._held_bytes = folder, held_bytes
        self._schema = pa.schema([(column, pa.string()) for column in columns])
        self._files = contextlib.ExitStack()
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self._held: list[tuple[pa.RecordBatch, np.ndarray]] = []
        self._n_held = 0  # bytes

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
            self.rows[int(buckets[start])] += int(end - start)
        del rows
        pa.default_memory_pool().release_unused()

    def _writer(self, bucket: int) -> pa.ipc.RecordBatchStreamWriter:
        """Return the open file of a bucket."""
        if bucket not in self._writers:
            path = runs.bucket_file(self._folder, bucket)
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            stream = pa.ipc.new_stream(path, self._schema, options=options)
            self._writers[bucket] = self._files.enter_context(stream)
        return self._writers[bucket]


class PieceJob(NamedTuple):
    """One piece of a table to read: the `number`th, in the order of its rows."""

    table: str
    number: int
    source: Source
    piece: Piece


def read_piece(
    job: PieceJob, run: Run, tell: Callable[[int, int], None] | None = None
) -> ReadPiece:
    """Put the rows of a piece into files by coarse bucket, in file order, unless that is done.

    Rows that cannot be placed go to a file of rejects beside them. `tell(bytes, rows)` is called as
    the piece is read; without it a note tells other processes. The folder of the piece appears when
    it is whole.
    """
    place = run.read_folder(job.table, job.number)
    piece = [job.source.key(job.piece.path), job.piece.start, job.piece.end]
    marker = f"{place.name}.done.json"
    done = read_done(place / marker)
    if done:
        if done["piece"] != piece:
            raise damaged(place / marker)
        counts = RowCounts(*(done[key] for key in IN_MANIFEST))
        return ReadPiece(counts, _by_bucket(done["rows"]), Seams(*done["seams"]))
    with run.new_folder() as folder:
        found = _read_piece(job, run, folder, tell or runs.Teller(folder))
        content = {"piece": piece, "rows": found.rows, "seams": found.seams}
        write_done(folder / marker, counts_in_manifest(found.counts) | content)
        runs.publish(folder, place)
    return found


def _by_bucket(rows: Mapping[str, int]) -> dict[int, int]:
    """Return the rows by bucket as JSON had them."""
    return {int(bucket): n for bucket, n in rows.items()}


def _split(
    coarse: int,
    run: Run,
    columns: Mapping[str, Columns],
    expected: Mapping[str, int],
    folder: Path,
) -> dict[str, dict[int, int]]:
    """Split a coarse bucket into an empty folder, with a folder for each table in it."""
    plan, rows = run.layout(), dict[str, dict[int, int]]()
    for name in columns:
        (folder / name).mkdir()
        with BucketWriter(columns[name], folder / name, run.held_bytes) as writer:
            for path in run.files_of(coarse, name):
                for batch in runs.batches(path):
                    writer.add(batch, plan.bucket_of(whole_numbers(batch["subject_id"])))
        rows[name] = dict(writer.rows)
        if sum(rows[name].values()) != expected[name]:
            raise damaged(run.parts / f"{name}-{coarse:05d}")
    return rows


def _read_piece(
    job: PieceJob, run: Run, folder: Path, tell: Callable[[int, int], None]
) -> ReadPiece:
    """Read a piece into an empty folder."""
    source, plan = job.source, run.layout()
    columns = stored_columns(source)
    n_read = n_kept = n_unsampled = 0
    counted: list[PieceCounts] = []
    ragged: list[int] = []  # places in the piece, header = 1, of rows with another number of fields
    with (
        Rejects(folder / rejects.NAME, job.piece.path.name) as rejected,
        BucketWriter(columns, folder, run.held_bytes) as writer,
    ):

        def reject_ragged(place: int, text: str) -> None:
            ragged.append(place)
            rejected.add(place, "wrong number of fields", text)

        def tell_how_far(n_bytes: int) -> None:
            tell(n_bytes, n_read)

        for batch in reading.read(source, reject_ragged, tell_how_far, counted.append, job.piece):
            batch, subject_ids = with_subject_ids(batch, columns, plan.owners)
            buckets = plan.bucket_of(subject_ids)
            for reason, bad in _faults(batch, source, buckets):
                for number in np.flatnonzero(bad & (buckets != REJECTED)):
                    place = _place(n_read + int(number), ragged)
                    rejected.add(place, reason, _text_of_row(batch, source, int(number)))
                buckets[bad] = REJECTED
            n_read += batch.num_rows
            n_kept += int((buckets >= 0).sum())
            n_unsampled += int((buckets == NOT_CHOSEN).sum())
            writer.add(batch, run.coarse_of(buckets))
    n_in = n_read + len(ragged) + rejected.folded
    ((lines, seams),) = counted
    counts = RowCounts(n_in, n_kept, n_unsampled, rejected.count, lines.lines, lines.spanning)
    return ReadPiece(counts, dict(writer.rows), seams)


def split(
    coarse: int, run: Run, columns: Mapping[str, Columns], expected: Mapping[str, int]
) -> Rows:
    """Put the rows of a coarse bucket into files by bucket; return how many of each table.

    `expected` is how many rows of each table the pieces of the tables hold of it. Its files are
    removed when the folder of the split ones is whole.
    """
    place = run.split_folder(coarse)
    marker = f"{place.name}.done.json"
    done = read_done(place / marker)
    if done is None:
        with run.new_folder() as folder:
            rows = _split(coarse, run, columns, expected, folder)
            write_done(folder / marker, {"rows": rows})
            runs.publish(folder, place)
    else:
        rows = {name: _by_bucket(found) for name, found in done["rows"].items()}
    for path in run.files_of(coarse):
        path.unlink(missing_ok=True)
    return rows


# The names that manifests and markers have for the counts, in their order.
IN_MANIFEST = ("in", "kept", "unsampled", "rejected", "lines", "spanning")


def counts_in_manifest(counts: RowCounts) -> dict[str, int]:
    """Return the counts under the names that manifests and markers have for them."""
    return dict(zip(IN_MANIFEST, counts, strict=True))


def _text_of_row(batch: pa.RecordBatch, source: Source, number: int) -> str:
    """Return a row as its file has it, without a subject_id that was put in front."""
    cells = batch.select(list(source.columns)).slice(number, 1).to_pylist()[0].values()
    return ",".join(cell or "" for cell in cells)


def _place(number: int, ragged: list[int]) -> int:
    """Return the place in the file, header = 1, of a whole row.

    `number` counts whole rows from 0; `ragged` holds the places of the other rows between them.
    """
    place = number + 2
    for other in sorted(ragged):
        place += other <= place
    return place


def jobs(sources: Mapping[str, Source]) -> list[PieceJob]:
    """Return the pieces of all tables, by table and in the order of their rows."""
    total = sum(map(bucket_sizes.unpacked_bytes, sources.values()))
    size = max(PIECE_BYTES, total // MOST_PIECES)
    return [
        PieceJob(name, number, source, piece)
        for name, source in sources.items()
        for number, piece in enumerate(
            piece
            for path in source.files
            for piece in pieces.cut(path, bool(source.texts), size, size // bucket_sizes.GZIP_RATIO)
        )
    ]


def partition_all(
    sources: Mapping[str, Source], run: Run, engine: Engine
) -> tuple[dict[str, RowCounts], Rows]:
    """Put the rows of every table into coarse buckets; return table -> counts, and their rows.

    The largest pieces come first, so that none is left alone at the end.
    """
    found = _read_all(jobs(sources), run, engine)
    counts: dict[str, RowCounts] = {}
    rows: dict[str, Counter[int]] = {name: Counter() for name in sources}
    for name in sources:
        read = [(job, one) for job, one in found if job.table == name]
        _check_seams(read)
        headers = sum(job.piece.start > 0 for job, _ in read)  # that a cut has put before its piece
        sums = map(sum, zip(*(one.counts for _, one in read), strict=True))
        counts[name] = RowCounts(*sums)
        counts[name] = counts[name]._replace(lines=counts[name].lines - headers)
        for _, one in read:
            rows[name].update(one.rows)
        rejects.join(_rejected(read, run), run.parts / f"{name}.{rejects.NAME}")
    return counts, rows


def _read_all(
    every: Sequence[PieceJob], run: Run, engine: Engine
) -> list[tuple[PieceJob, ReadPiece]]:
    """Read all pieces; return each with what it held, in the order of `every`."""
    sizes = [bucket_sizes.unpacked_piece(job.piece) for job in every]
    order = sorted(range(len(every)), key=lambda place: -sizes[place])
    stored = [job.piece.stored_bytes() for job in every]
    found: dict[int, ReadPiece] = {}
    with tqdm(
        total=sum(stored), desc="reading tables", unit="B", unit_scale=True, leave=False,
        disable=None,
    ) as bar:  # fmt: skip

        def show(more: int = 0) -> None:
            n_bytes = sum(stored[place] for place in found) + (more or run.bytes_read())
            bar.update(max(0, n_bytes - bar.n))

        def tell(n_bytes: int, n_rows: int) -> None:
            bar.set_postfix_str(f"{n_rows:,} rows", refresh=False)
            show(n_bytes)

        read = functools.partial(read_piece, tell=tell) if engine.is_inline else read_piece
        arguments = [(every[place], run) for place in order]
        ordered = [sizes[place] for place in order]
        for number, one in engine.completed(read, arguments, show, ordered):
            found[order[number]] = one
            show()
    return [(job, found[place]) for place, job in enumerate(every)]


def _rejected(read: Sequence[tuple[PieceJob, ReadPiece]], run: Run) -> Iterator[rejects.PartOfFile]:
    """Yield the rejected rows of a table's pieces, in order."""
    before, path = 0, None
    for job, one in read:
        before = before if job.piece.path == path else 0
        path = job.piece.path
        place = run.read_folder(job.table, job.number) / rejects.NAME
        yield rejects.PartOfFile(place, before)
        before += one.counts.read


def _check_seams(read: Sequence[tuple[PieceJob, ReadPiece]]) -> None:
    """Raise UserError unless each byte of the files is in one piece: neighbours meet."""
    ends = dict[Path, int]()
    for job, one in read:
        path, start, _ = job.piece
        if (ends.get(path, 0) if start else 0) != one.seams.skipped:
            raise UserError(f"{path} changed while it was read: run the same command again")
        ends[path] = one.seams.beyond


def split_all(run: Run, engine: Engine, columns: Mapping[str, Columns], rows: Rows) -> Rows:
    """Split every coarse bucket, if they hold several buckets; return the rows by bucket."""
    if run.width == 1:
        return rows
    arguments = [
        (coarse, run, columns, {name: found.get(coarse, 0) for name, found in rows.items()})
        for coarse in range(run.n_coarse)
    ]
    total: dict[str, dict[int, int]] = {name: {} for name in rows}
    done = engine.completed(split, arguments)
    for _, part in tqdm(done, "splitting buckets", len(arguments), unit="bucket", disable=None):
        for name, found in part.items():
            total[name].update(found)
    return total


def stay_owners(
    sources: Mapping[str, Source],
    read: Callable[[Source], Iterator[pa.RecordBatch]] = reading.read,
) -> dict[str, Owners]:
    """Return the id columns that lead to a patient, for tables without subject_id.

    An id that stands with two patients, such as a stay_id of intensive care and of the emergency
    department in files of different releases, leads to nobody.
    """
    if all("subject_id" in source.columns for source in sources.values()):
        return {}
    owners = {}
    for column, names in {"hadm_id": ["admissions"], "stay_id": ["icustays", "edstays"]}.items():
        pairs = {
            (int(row[column]), int(row["subject_id"]))
            for name in names
            if name in sources
            for batch in read(sources[name])
            for row in batch.select(["subject_id", column]).to_pylist()
            if all(re.fullmatch(id_cells.ABOVE_ZERO, (cell or "").strip()) for cell in row.values())
        }
        patients_of = Counter(one for one, _ in pairs)
        if lead := sorted(pair for pair in pairs if patients_of[pair[0]] == 1):
            owners[column] = Owners(*np.array(lead, np.int64).T)
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

    0, which no patient has, stands for a cell that is no subject_id, and for ids of stays that lead
    to two patients.
    """
    if "subject_id" in batch.schema.names:
        return batch, whole_numbers(batch["subject_id"])
    found = np.zeros(batch.num_rows, np.int64)
    is_torn = np.zeros(batch.num_rows, bool)
    for column, (ids, subject_ids) in owners.items():
        if column in batch.schema.names:
            values = whole_numbers(batch[column])
            place = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
            leads = np.where(ids[place] == values, subject_ids[place], 0)
            is_torn |= (found > 0) & (leads > 0) & (found != leads)
            found = np.where(found == 0, leads, found)
    found[is_torn] = 0
    text = pc.cast(pa.array(found), pa.string())
    return pa.record_batch([text, *batch.columns], names=list(columns)), found


_POWERS_OF_TEN = 10 ** np.arange(1, 18)  # up to 18 digits, as `id_cells.WHOLE` has


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
    """Return the cells as int64 [rows], 0 where one is null or no whole number above zero.

    Blanks around them are left out.
    """
    numbers = _plain_numbers(text)
    if numbers is None:
        text = pc.utf8_trim_whitespace(text)
        whole = pc.match_substring_regex(text, f"^{id_cells.ABOVE_ZERO}$")
        numbers = pc.fill_null(pc.cast(pc.if_else(whole, text, None), pa.int64()), 0).to_numpy()
    return numbers


def _faults(
    batch: pa.RecordBatch, source: Source, buckets: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each reason why rows cannot be placed, with these rows as a mask (bool [rows])."""
    for column, kind in source.columns.items():
        if kind != "id" or column == "subject_id" and not (buckets == NO_PATIENT).any():
            continue
        cells = batch[column]
        if _plain_numbers(cells) is None:
            whole = pc.match_substring_regex(pc.utf8_trim_whitespace(cells), id_cells.WHOLE)
            bad = pc.fill_null(pc.invert(whole), False).to_numpy(zero_copy_only=False)
            reasons = np.array([id_cells.fault(cell) for cell in cells.to_numpy(False)[bad]])
            for reason in dict.fromkeys(reasons.tolist()):
                of_reason = bad.copy()
                of_reason[bad] = reasons == reason
                yield f"{column} {reason}", of_reason
    if (buckets == NO_PATIENT).any():
        why = "its stay is not that of one patient"
        if "subject_id" in source.columns:
            yield "subject_id is empty", batch["subject_id"].is_null().to_numpy(False)
            why = "its patient is not in patients"
        yield why, buckets == NO_PATIENT
