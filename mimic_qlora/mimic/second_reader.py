"""A second reader of CSV files, which shares no code with the one that converts them.

`LineCounter` counts what passes by: lines, rows and cells that span lines. `rows` reads cells for
`--verify`. Both hold to one grammar, that of Arrow, pandas and Python's csv. A quote opens a quoted
cell only as the first byte of a cell. Within one, two quotes stand for one. After the quote that
closes it, and in any other cell, a quote is text. A line ends with LF, CR LF or CR.
"""

import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from mimic_qlora.step.errors import UserError

QUOTE, COMMA, LF, CR = b'",\n\r'
ZERO = np.uint8(ord("0"))
BOM = b"\xef\xbb\xbf"
PIECE_BYTES = 1 << 18  # of a file that are read at once
MOST_OF_A_ROW = 1 << 26  # characters after which `rows` gives up on a cell that is not closed
STEP_BYTES = 1 << 18  # of CSV that are counted together: what is made of them stays in the cache
_EDGE = np.zeros(256, bool)  # bytes beside a quote that opens or closes a cell
_EDGE[[QUOTE, COMMA, LF, CR]] = True
_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
# What cells at the beginning of a row look like; others hold anything but what ends a cell.
_LOOKS: Mapping[str, str] = {
    "id": r"\d{0,18}",
    "int": r"-?\d{0,18}",
    "num": r"[-+.\deE]*",
    "time": r"[-:. T\d]*",
}
TEXT = r"[^,\r\n]*"


class LineCounts(NamedTuple):
    """The content of a CSV file, by its bytes: lines = 1 + rows + folded + empty."""

    lines: int  # with the header
    rows: int  # without the header and without empty lines
    spanning: int  # cells that go on in further lines
    folded: int  # lines that begin within a cell
    empty: int


class Readable(Protocol):
    """A file that is open for reading bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


class Watched:
    """A file whose bytes a LineCounter counts as another reader takes them.

    Its last line ends with an end of a line: without one, Arrow takes an empty last cell behind a
    quoted one for a quoted empty string, and a header alone for no line.
    """

    closed = False  # as Arrow asks

    def __init__(self, file: Readable, counter: "LineCounter") -> None:
        self._file, self._counter = file, counter
        self._last = b"\n"

    def read(self, size: int = -1) -> bytes:
        """Read as the file does, fewer bytes than were asked for only at its end."""
        data = more = self._read(size)
        while more and (size < 0 or len(data) < size):
            more = self._read(size - len(data) if size >= 0 else -1)
            data += more
        if not more and (data[-1:] or self._last) not in b"\r\n":
            data += b"\n"
        self._last = data[-1:] or self._last
        return data

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._counter.add(data)
        return data

    def close(self) -> None:
        """Leave the file to who has opened it."""


class LineCounter:
    """Counts of a CSV file, whose bytes are given piece by piece.

    A cell that spans lines is a fault unless its column is one of `texts`. So is one that holds
    what looks like a row of the table, or ends at a quote with text behind it, which began another
    cell: there a quote has swallowed rows.
    """

    def __init__(self, path: Path, columns: Mapping[str, str], texts: Collection[str]) -> None:
        """Take a table's file, the kind of each column by its name, and its columns of texts."""
        self._path, self._names = path, list(columns)
        self._texts = frozenset(texts)
        self._all_texts = self._texts >= set(self._names)
        row = row_pattern(columns)
        self._row = re.compile(row) if row else None
        # in the ids of MIMIC-IV's patients and notes; other ids may have few
        self._n_digits = 5 if self._names[0] in ("subject_id", "note_id") else 1
        self._rest: list[bytes] = []  # bytes since the last end of a line
        self._begun = False
        self._fault = self._held = ""  # of the file; of the cell that is open
        self._ends = self._spanning = self._folded = self._empty = 0
        self._open_line = 0  # where the cell began that is open at the end of the last piece
        self._open_column = 0

    def add(self, data: bytes) -> None:
        """Count the next bytes of the file."""
        if data and not self._begun:
            self._begun = True
            data = data.removeprefix(BOM)
        for start in range(0, len(data), STEP_BYTES):
            self._add(data[start : start + STEP_BYTES])

    def _add(self, data: bytes) -> None:
        end = _behind_lines(data)
        if end:
            self._count(b"".join([*self._rest, data[:end]]))
            self._rest.clear()
        self._rest.append(data[end:])

    def check(self) -> None:
        """Raise UserError when a cell that was counted spans lines and must not."""
        if self._fault:
            raise UserError(f"{self._path} cannot be read: {self._fault}")

    def finish(self) -> LineCounts:
        """Return the counts of the whole file.

        Raises UserError when a cell spans lines and must not, or is never closed.
        """
        if rest := b"".join(self._rest):
            self._count(rest if rest.endswith((b"\n", b"\r")) else rest + b"\n")
            self._rest.clear()
        if self._open_line and not self._fault:
            n = self._ends - self._open_line
            lines = "the line" if n == 1 else f"the {n:,} lines"
            takes = f", and takes {lines} behind it into its cell" if n else ""
            self._fault = (
                f"the quote in line {self._open_line:,}{self._of(self._open_column)} is never "
                f"closed{takes}: fix that line, or check the download"
            )
        self.check()
        rows = self._ends - self._folded - self._empty - 1
        return LineCounts(self._ends, max(rows, 0), self._spanning, self._folded, self._empty)

    def _count(self, data: bytes) -> None:
        """Count whole lines; the first begins a row, or goes on in the cell that is open."""
        codes = np.frombuffer(data, np.uint8)
        ends = _line_ends(data, codes)
        empty = _empty_lines(data, codes, ends)
        if self._open_line or b'"' in data:
            sections = _quoted(codes, bool(self._open_line))
            first, last = np.searchsorted(ends, sections).T  # the lines that end in each section
            folding = np.flatnonzero((last > first) | (sections[:, 0] < 0))
            if len(folding):
                depth = np.zeros(len(ends) + 1, np.int64)
                np.add.at(depth, first[folding], 1)
                np.add.at(depth, last[folding], -1)
                within = np.cumsum(depth[:-1]) > 0
                self._folded += int(within.sum())
                empty &= ~within
                begins = ends[within] + 1
                if self._open_line:
                    begins = np.append(0, begins)
                alike = self._like_rows(data, codes, begins)
                self._note(data, ends, sections[folding], alike)
        self._empty += int(np.count_nonzero(empty))
        self._ends += len(ends)

    def _like_rows(self, data: bytes, codes: np.ndarray, begins: np.ndarray) -> list[range]:
        """Return the bytes of the lines that look like rows of the table.

        begins: int64 [lines], where lines begin that lie within a cell. Rows begin with a digit.
        """
        if self._row is None:
            return []
        begins = begins[begins < len(codes) - self._n_digits]
        for place in range(self._n_digits):  # most lines of a text do not begin with one
            begins = begins[codes[begins + place] - ZERO < 10]
        found = (self._row.match(data, begin) for begin in begins.tolist())
        return [range(*match.span()) for match in found if match]

    def _note(
        self, data: bytes, ends: np.ndarray, sections: np.ndarray, alike: list[range]
    ) -> None:
        """Count cells that hold ends of lines (int64 [cells, 2]: their bytes); keep a fault.

        The first may have begun before `data` (-1), the last one may end behind it. `alike` are
        lines that look like rows.
        """
        self._spanning += int((sections[:, 0] >= 0).sum())
        lines = self._ends + 1 + np.searchsorted(ends, sections)
        begin, column = 0, 0  # a place outside of quotes, and the number of its column
        for (start, end), (line, last) in zip(sections.tolist(), lines.tolist(), strict=True):
            if start < 0:
                line, column = self._open_line, self._open_column
            elif not self._all_texts:
                place = int(np.searchsorted(ends, start))
                if place and ends[place - 1] >= begin:
                    begin, column = int(ends[place - 1]) + 1, 0
                column += _QUOTED.sub(b"", data[begin:start]).count(b",")
            begin = end + 1
            is_open = end == len(data)
            self._open_line, self._open_column = (line, column) if is_open else (0, 0)
            here = [row for row in alike if start < row.start and row.stop <= end]
            if here and not self._held:
                place = self._ends + 1 + int(np.searchsorted(ends, here[0].start))
                self._held = (
                    f"the cell that begins in line {line:,}{self._of(column)} holds what looks "
                    f"like a row of the table, in line {place:,}: fix the quote that is missing or "
                    "too many, or check the download"
                )
            if is_open:
                break
            if data[end + 1 : end + 2] not in (b",", b"\n", b"\r"):
                self._held = self._held or (
                    f"the cell that begins in line {line:,}{self._of(column)} ends in line "
                    f"{last:,} at a quote with text behind it: fix the quote that is missing or "
                    "too many, or check the download"
                )
            if not self._is_text(column):
                self._held = (
                    f"the cell that begins in line {line:,}{self._of(column)} goes on until line "
                    f"{last:,}, as no cell of codes and numbers does: fix the quote there, check "
                    "the download, or name the column in --multiline"
                )
            self._fault, self._held = self._fault or self._held, ""

    def _is_text(self, column: int) -> bool:
        known = column < len(self._names)
        return self._all_texts or (known and self._names[column] in self._texts)

    def _of(self, column: int) -> str:
        """Word the column of a cell, where it is known."""
        if self._all_texts or column >= len(self._names):
            return ""
        return f" (column {self._names[column]})"


def count(path: Path, columns: Mapping[str, str], texts: Collection[str]) -> LineCounts:
    """Return the counts of a whole file. Raises as LineCounter does, and what `unpacked` raises."""
    counter = LineCounter(path, columns, texts)
    for data in unpacked(path):
        counter.add(data)
    return counter.finish()


def row_pattern(columns: Mapping[str, str]) -> bytes | None:
    """Return a pattern of how a row begins, up to its first time; None without a subject_id.

    Without a time it ends with the numbers behind subject_id.
    """
    names, kinds = list(columns), list(columns.values())
    if "subject_id" not in names:
        return None
    last = owner = names.index("subject_id")
    if "time" in kinds[owner:]:
        last = kinds.index("time", owner)
    else:
        while last + 1 < len(kinds) and kinds[last + 1] != "text":
            last += 1
    cells = [r"\d{5,18}" if i == owner else _LOOKS.get(kinds[i], TEXT) for i in range(last + 1)]
    return f"{','.join(cells)}(?=[,\r\n])".encode()


def _behind_lines(data: bytes) -> int:
    """Return where the last whole line ends, 0 without one; a CR at the end may have an LF yet."""
    return data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1


def _line_ends(data: bytes, codes: np.ndarray) -> np.ndarray:
    """Return the place of the last byte of each line: int64 [lines]."""
    if b"\r" not in data:
        return np.flatnonzero(codes == LF)
    ends = np.flatnonzero((codes == LF) | (codes == CR))
    behind = codes[np.minimum(ends + 1, len(codes) - 1)]
    return ends[(codes[ends] == LF) | (behind != LF)]


def _empty_lines(data: bytes, codes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return which lines have no byte but their end: bool [lines]."""
    lengths = np.diff(ends, prepend=-1)
    if b"\r" not in data:
        return lengths == 1
    windows = (codes[ends] == LF) & (codes[np.maximum(ends - 1, 0)] == CR)
    return (lengths == 1) | ((lengths == 2) & windows)


def _quoted(codes: np.ndarray, inside: bool) -> np.ndarray:
    """Return the places of the quotes that open and close each quoted cell: int64 [cells, 2].

    -1 stands for a cell that is open at the first byte, the number of bytes for one that is open
    behind the last.
    """
    quotes = np.flatnonzero(codes == QUOTE)
    n = len(codes)
    marks = np.concatenate([[-1] * inside, quotes]).astype(np.int64)
    if len(marks) % 2:
        marks = np.append(marks, n)
    pairs = marks.reshape(-1, 2)
    opens, closes = pairs.T
    # by turns they open and close, if each stands at an edge of a cell or beside another
    if not (
        (_EDGE[codes[np.maximum(opens - 1, 0)]] | (opens <= 0)).all()
        and (_EDGE[codes[np.minimum(closes + 1, n - 1)]] | (closes >= n - 1)).all()
    ):
        pairs = _one_by_one(codes, quotes, inside)
    apart = pairs[1:, 0] != pairs[:-1, 1] + 1  # two quotes side by side are one within the cell
    always = np.ones(min(len(pairs), 1), bool)
    return np.stack(
        [pairs[np.append(always, apart), 0], pairs[np.append(apart, always), 1]], axis=1
    )


def _one_by_one(codes: np.ndarray, quotes: np.ndarray, inside: bool) -> np.ndarray:
    """Return what `_quoted` does, where quotes stand within cells without quotes around them."""
    before, behind = codes[quotes - 1], codes[np.minimum(quotes + 1, len(codes) - 1)]
    opening = (quotes == 0) | ((before != QUOTE) & _EDGE[before])
    pairs = []
    start, passed = (-1 if inside else None), -1
    for at, opens, twice in zip(
        quotes.tolist(), opening.tolist(), (behind == QUOTE).tolist(), strict=True
    ):
        if at == passed:
            continue
        if start is None:
            start = at if opens else None
        elif twice:
            passed = at + 1
        else:
            pairs.append((start, at))
            start = None
    if start is not None:
        pairs.append((start, len(codes)))
    return np.array(pairs, np.int64).reshape(-1, 2)


def unpacked(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, unpacked if it is compressed, by the standard library.

    Raises OSError, EOFError or zlib.error when they cannot be read.
    """
    with open(path, "rb") as file:
        if path.suffix != ".gz":
            while data := file.read(PIECE_BYTES):
                yield data
            return
        unpacker = zlib.decompressobj(31)
        begun = False
        data = file.read(PIECE_BYTES)
        while data:
            begun = True
            yield unpacker.decompress(data)
            data = unpacker.unused_data
            if unpacker.eof:
                unpacker, begun = zlib.decompressobj(31), False
                data = data.lstrip(b"\0")  # padding behind a member
            data = data or file.read(PIECE_BYTES)
        if begun:
            raise EOFError(f"{path} breaks off")


def rows(path: Path) -> Iterator[list[list[str | None]]]:
    """Yield the rows of a CSV file as lists of cells, some thousands at a time, header left out.

    Nothing between two commas is None, a quoted empty string "". Rows have as many cells as they
    have. Raises UserError when the file is damaged.
    """
    header = True
    rest = ""
    try:
        for data, is_last in _whole_lines(path):
            found, rest = _rows(rest + data.decode(), is_last or len(rest) > MOST_OF_A_ROW)
            yield found[header:]
            header = header and not found
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): check the download") from None


def _whole_lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield the bytes of a CSV file without its mark, cut behind ends of lines; True with the last.

    The last piece ends with an end of a line, whatever the file has.
    """
    rest = [b""]
    begun = False
    for data in unpacked(path):
        if data and not begun:
            begun, data = True, data.removeprefix(BOM)
        end = _behind_lines(data)
        if end:
            yield b"".join([*rest, data[:end]]), False
            rest.clear()
        rest.append(data[end:])
    last = b"".join(rest)
    yield (last if last.endswith((b"\n", b"\r")) or not last else last + b"\n"), True


_CELL_END = re.compile("[,\r\n]")


def _rows(text: str, is_last: bool) -> tuple[list[list[str | None]], str]:
    """Return the rows of whole lines, and the text of a row that goes on behind them."""
    found: list[list[str | None]] = []
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        line = text[at:end] if end >= 0 else text[at:]
        plain = line[:-1] if end >= 0 and line.endswith("\r") else line
        if end >= 0 and '"' not in plain and "\r" not in plain:
            if plain:
                found.append([cell or None for cell in plain.split(",")])
            at = end + 1
            continue
        row = _row(text, at)
        if row is None:
            if is_last:
                raise ValueError("a quote is never closed")
            return found, text[at:]
        cells, at = row
        if cells != [None]:
            found.append(cells)
    return found, ""


def _row(text: str, at: int) -> tuple[list[str | None], int] | None:
    """Return the cells of the row that begins at a place, and where the next begins.

    None if a quoted cell has no end in the text.
    """
    cells: list[str | None] = []
    while True:
        quoted, cell = text.startswith('"', at), ""
        if quoted:
            close = text.find('"', at + 1)
            while close >= 0 and text.startswith('"', close + 1):
                close = text.find('"', close + 2)
            if close < 0:
                return None
            cell = text[at + 1 : close].replace('""', '"')
            at = close + 1
        stop = _CELL_END.search(text, at)
        if stop is None:  # cannot be: a text of whole lines
            return None
        cell += text[at : stop.start()]
        cells.append(cell if cell or quoted else None)
        at = stop.end()
        if stop[0] != ",":
            return cells, at + (stop[0] == "\r" and text.startswith("\n", at))
