"""Pieces of a table's files, each a stretch of whole rows, so that several processes can read it.

A piece holds the rows that begin behind the first end of a line in its bytes, and ends behind the
first end of a line behind them. So neighbours meet at the same place, wherever a cut falls. Only
files in which no cell may span lines are cut: plain ones anywhere, those of bgzip between blocks.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from isal import igzip

BLOCK = 1 << 20  # bytes that are read at once
LF = b"\n"
BLOCK_OF_BGZIP = 1 << 16  # bytes, at most, packed and unpacked
_HEAD_BYTES = 18
# The head of a block of bgzip: a gzip member that names its own size (SAM specification, 4.1).
_HEAD = re.compile(rb"\x1f\x8b\x08\x04.{6}\x06\x00BC\x02\x00(..)", re.DOTALL)
_CHAIN = 3  # heads, each where the one before says: bytes that only look like one have no such


class Piece(NamedTuple):
    """A stretch of a file's bytes, as it is stored."""

    path: Path
    start: int = 0
    end: int | None = None  # None for the end of the file

    @property
    def is_whole(self) -> bool:
        """Whether it is a file as a whole."""
        return self.start == 0 and self.end is None

    def stored_bytes(self) -> int:
        """Return the bytes of the file that it takes."""
        return (self.path.stat().st_size if self.end is None else self.end) - self.start


def cut(path: Path, may_span: bool, piece_bytes: int, packed_bytes: int) -> list[Piece]:
    """Return the pieces of a file, in order: of about `piece_bytes`, in a .gz of `packed_bytes`.

    A file in which cells may span lines, or that is one stream of gzip, is one piece.
    """
    size = path.stat().st_size
    if path.suffix != ".gz":
        borders = list(range(piece_bytes, size, piece_bytes))
    else:
        borders = [] if may_span else _block_borders(path, size, packed_bytes)
    if may_span or not borders:
        return [Piece(path)]
    return [Piece(path, a, b) for a, b in zip([0, *borders], [*borders, None], strict=True)]


def _block_borders(path: Path, size: int, step: int) -> list[int]:
    """Return places about every `step` bytes where a block begins; none where bgzip made it not."""
    with open(path, "rb") as file:
        if not _HEAD.match(file.read(_HEAD_BYTES)):
            return []
        found = (_block_behind(file, place, size) for place in range(step, size, step))
        return sorted({border for border in found if border})


def _block_behind(file: IO[bytes], place: int, size: int) -> int | None:
    """Return where the first block begins at or behind a place, None where there is none."""
    file.seek(place)
    heads = _HEAD.finditer(file.read(2 * BLOCK_OF_BGZIP))
    begins = (place + head.start() for head in heads)
    return next((begin for begin in begins if _is_block(file, begin, size)), None)


def _is_block(file: IO[bytes], at: int, size: int) -> bool:
    """Tell whether blocks follow each other from a place on."""
    for _ in range(_CHAIN):
        if at == size:
            return True
        file.seek(at)
        head = _HEAD.match(file.read(_HEAD_BYTES))
        if not head:
            return False
        at += int.from_bytes(head[1], "little") + 1
    return True


class _Limited(io.RawIOBase):
    """The bytes of an open file from one place to another."""

    def __init__(self, file: IO[bytes], start: int, end: int | None) -> None:
        self._file, self._left = file, None if end is None else end - start
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = len(buffer) if self._left is None else min(len(buffer), self._left)
        data = self._file.read(size)
        buffer[: len(data)] = data
        if self._left is not None:
            self._left -= len(data)
        return len(data)


class Rows:
    """The rows of a piece behind a header, as a file that is open for reading bytes."""

    def __init__(self, file: IO[bytes], piece: Piece, columns: Collection[str]) -> None:
        """Take the open file of a piece, and the names of its columns."""
        self.skipped = 0  # unpacked bytes before its first row: the piece before has them
        self.beyond = 0  # unpacked bytes behind its end that belong to its last row
        self._file, self._piece = file, piece
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(columns)
        self._rest = header.getvalue().encode() if piece.start else b""
        self._blocks = self._lines()

    def read(self, size: int = -1) -> bytes:
        """Return as many bytes as are asked for, fewer only at the end."""
        found, n = [self._rest], len(self._rest)
        while size < 0 or n < size:
            block = next(self._blocks, None)
            if block is None:
                break
            found.append(block)
            n += len(block)
        data = b"".join(found)
        end = len(data) if size < 0 else size
        self._rest = data[end:]
        return data[:end]

    def _lines(self) -> Iterator[bytes]:
        """Yield the rows' bytes."""
        _, start, end = self._piece
        skipping = start > 0
        for block in self._unpacked(start, end):
            if skipping:
                at = block.find(LF) + 1
                self.skipped += at or len(block)
                skipping, block = not at, block[at:] if at else b""
            if block:
                yield block
        if end is None:
            return
        for block in self._unpacked(end, None):
            at = block.find(LF) + 1
            self.beyond += at or len(block)
            if not skipping:
                yield block[:at] if at else block
            if at:
                break
        if skipping:  # one row spans the whole piece, and began before it
            self.skipped += self.beyond

    def _unpacked(self, start: int, end: int | None) -> Iterator[bytes]:
        """Yield the text in a stretch of the file's bytes."""
        stored: IO[bytes] = io.BufferedReader(_Limited(self._file, start, end), BLOCK)
        if self._piece.path.suffix == ".gz":
            if end == start or start == self._piece.path.stat().st_size:
                return
            stored = cast(IO[bytes], igzip.open(stored, "rb"))
        while block := stored.read(BLOCK):
            yield block
