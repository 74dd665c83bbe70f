"""The rows of a table that cannot be kept, in CSV files with the reason of each."""

import contextlib
import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TextIO

from mimic_qlora.display import csv_files
from mimic_qlora.step import files

_LINE_END = re.compile("\r\n|\r|\n")
COLUMNS = ("file", "row", "reason", "content")  # of a file of rejected rows
ROW, REASON = COLUMNS.index("row"), COLUMNS.index("reason")
NAME = "rejects.csv"  # of a piece's or a dictionary's file
_SUMS = ".sums.json"


class Rejects:
    """The rows of a table that cannot be kept, in a CSV file that exists only if there is one."""

    def __init__(self, path: Path, file_name: str) -> None:
        """Take the place of the file, and the name of the file that is read."""
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


def remember(folder: Path, names: Iterable[str]) -> None:
    """Keep the sums of the files of tables, by which one that somebody edits is known."""
    paths = [folder / f"{name}.csv" for name in names]
    files.write_json(folder / _SUMS, {path.name: files.file_sha256(path) for path in paths})


def remove_rejects(folder: Path) -> None:
    """Remove the files of an earlier run as it wrote them; what is somebody's own or was edited
    stays.
    """
    written = files.read_object(folder / _SUMS)
    if not written:
        return
    for name, sha256 in written.items():
        if (path := folder / name).is_file() and files.file_sha256(path) == sha256:
            path.unlink()
    (folder / _SUMS).unlink()
    with contextlib.suppress(OSError):  # it is not there, or not empty
        folder.rmdir()


class PartOfFile(NamedTuple):
    """The rejected rows of a piece of a file, and how many of the file's rows stand before it."""

    path: Path  # of a file that `Rejects` wrote, if there is one
    rows_before: int


def join(parts: Iterable[PartOfFile], path: Path) -> None:
    """Join the rejected rows of a table's pieces, numbered as in the file, if there are any."""
    csv.field_size_limit(2**31 - 1)  # a rejected row may hold a long note
    path.unlink(missing_ok=True)
    found = [part for part in parts if part.path.exists()]
    if not found:
        return
    with open(path, "w", newline="", encoding="utf-8") as joined:
        writer = csv.writer(joined)
        writer.writerow(COLUMNS)
        for part in found:
            with open(part.path, newline="", encoding="utf-8") as file:
                for row in itertools.islice(csv.reader(file), 1, None):
                    row[ROW] = str(int(row[ROW]) + part.rows_before)
                    writer.writerow(row)


def reasons(path: Path) -> Counter[str]:
    """Count the reasons in a file that `Rejects` wrote."""
    csv.field_size_limit(2**31 - 1)  # a rejected row may hold a long note
    with open(path, newline="", encoding="utf-8") as file:
        return Counter(row[REASON] for row in itertools.islice(csv.reader(file), 1, None))
