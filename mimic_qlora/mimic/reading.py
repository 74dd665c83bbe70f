"""The reader of a table's files: batches of rows, checked by a second reader on the way."""

import contextlib
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from mimic_qlora.mimic import second_reader
from mimic_qlora.mimic.packed import GZIP_ERROR, uncompressed
from mimic_qlora.mimic.pieces import Piece, Rows
from mimic_qlora.mimic.second_reader import LineCounter, LineCounts, Readable
from mimic_qlora.mimic.tables import Source
from mimic_qlora.step import faults
from mimic_qlora.step.errors import UserError

BLOCK_BYTES = 2 << 20  # more than any row has; the reader runs up to 32 blocks ahead
LET_GO_SECONDS = 1.0  # to wait until Arrow's threads have let a file go


class Seams(NamedTuple):
    """The unpacked bytes by which a piece of a file overlaps its neighbours: see `pieces.Rows`."""

    skipped: int = 0
    beyond: int = 0


class PieceCounts(NamedTuple):
    """What a second reader has counted in a piece, and the seams of the piece."""

    lines: LineCounts
    seams: Seams


def read(
    source: Source,
    on_ragged: Callable[[int, str], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
    on_end: Callable[[PieceCounts], None] | None = None,
    piece: Piece | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table, or of one piece, as batches of strings, as the files have them.

    They come in file order. Nothing between two commas is null; a quoted empty string stays an
    empty string. A row with too few or too many fields is left out and passed to `on_ragged(row
    number, text)`, numbered within its piece or file, behind a header; without it such a row is an
    error. After each batch `on_bytes` gets the number of bytes of the file that have been read. At
    the end of each piece or file `on_end` gets what a second reader has counted meanwhile. Raises
    UserError when the file breaks off or is damaged, when a cell spans lines that must not
    (`Source.texts`), and when the two readers found other numbers of rows.
    """
    for one in [piece] if piece else map(Piece, source.files):
        try:
            yield from _read(source._replace(path=one.path), one, on_ragged, on_bytes, on_end)
        except UserError:
            if one.is_whole:
                raise
            # the numbers of its lines count from the cut
            second_reader.count(one.path, source.columns, source.texts)
            raise


def _read(
    source: Source,
    piece: Piece,
    on_ragged: Callable[[int, str], None] | None,
    on_bytes: Callable[[int], None] | None,
    on_end: Callable[[PieceCounts], None] | None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one piece: see `read`."""
    n_rows, seams = 0, Seams()

    def skip(row: arrow_csv.InvalidRow) -> str:
        nonlocal n_rows
        if on_ragged:
            on_ragged(row.number, row.text)
        n_rows += 1
        return "skip"

    counter = LineCounter(source.path, source.columns, source.texts)
    try:
        with open(source.path, "rb") as stored, contextlib.ExitStack() as opened:
            if piece.is_whole:
                file: Readable = opened.enter_context(uncompressed(stored, source.path))
            else:
                file = Rows(stored, piece, source.columns)
            lent, let_go = _lend(second_reader.Watched(file, counter))
            try:
                for batch in _batches(source, lent, skip if on_ragged else None):
                    counter.check()
                    if batch.schema.names != list(source.columns):
                        raise UserError(
                            f"{source.path} changed while it was read: run the same command again"
                        )
                    n_rows += batch.num_rows
                    yield batch
                    if on_bytes:
                        on_bytes(stored.tell() - piece.start)
            finally:
                lent.take_back()
                del lent
                let_go.wait(LET_GO_SECONDS)
            if isinstance(file, Rows):
                seams = Seams(file.skipped, file.beyond)
    except EOFError:
        raise UserError(f"{source.path} breaks off before its end: download it again") from None
    except (pa.ArrowInvalid, OSError, GZIP_ERROR) as error:
        if faults.of_the_machine(error):
            raise
        raise _unreadable(source, error) from None
    counted = counter.finish()
    if counted.rows != n_rows:
        raise UserError(
            f"{source.path} has {n_rows:,} rows to one reader and {counted.rows:,} to another: "
            "check the download, and report this if it is as published"
        )
    if on_end:
        on_end(PieceCounts(counted, seams))


class _Block(np.ndarray):
    """Bytes of a file, as an array: `bytes` cannot keep their file alive."""

    lent: "_Lent"


class _Lent:
    """A file that Arrow's threads read ahead; once it is taken back, it is at its end.

    It lives as long as Arrow has it, or a block of it.
    """

    closed = False  # as Arrow asks

    def __init__(self, file: Readable) -> None:
        self._file: Readable | None = file

    def read(self, size: int = -1) -> np.ndarray:
        file = self._file
        block = np.frombuffer(file.read(size) if file else b"", np.uint8).view(_Block)
        block.lent = self
        return block

    def take_back(self) -> None:
        self._file = None

    def close(self) -> None:
        """Leave the file to who has opened it."""


def _lend(file: Readable) -> tuple[_Lent, threading.Event]:
    """Return a file for Arrow, and what is set when Arrow has let it go.

    A thread that has it still when Python ends is ended within C++, which aborts the process: the
    exit code of the error is lost, and a core dump holds rows of patients.
    """
    lent, let_go = _Lent(file), threading.Event()
    weakref.finalize(lent, let_go.set)
    return lent, let_go


def _batches(
    source: Source,
    file: _Lent,
    skip: Callable[[arrow_csv.InvalidRow], str] | None,
) -> Iterator[pa.RecordBatch]:
    """Return Arrow's reader of an open CSV file; `skip` gets the rows of another length."""
    return arrow_csv.open_csv(
        file,
        # one thread: only then do the rows that are skipped carry their number
        read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=skip is None),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(source.columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _unreadable(source: Source, error: Exception) -> UserError:
    """Return what is wrong with a file, as the second reader tells it, else as Arrow does."""
    try:
        second_reader.count(source.path, source.columns, source.texts)
    except UserError as fault:
        return fault
    except (OSError, EOFError, zlib.error):
        pass
    # the reader's message may quote a row; patient data stays out of logs
    reason = "is damaged"
    if "Expected" in str(error):
        reason = "has rows of different lengths"
    elif "UTF8" in str(error):
        reason = "is not UTF-8"
    elif "straddling" in str(error):
        reason = f"has a row of more than {BLOCK_BYTES >> 20} MiB"
    return UserError(f"{source.path} cannot be read, it {reason}: check the download")
