"""The CSV files of MIMIC-IV as they are stored: packed by gzip, or plain."""

import io
import itertools
from pathlib import Path
from typing import IO, cast

from isal import igzip, igzip_lib

# what isal raises for damaged data; its stubs declare it as an object and not as a class
GZIP_ERROR: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]


def uncompressed(stored: IO[bytes], path: Path) -> IO[bytes]:
    """Return the bytes of an open CSV file, unpacked if it is compressed."""
    if path.suffix != ".gz":
        return stored
    return cast(IO[bytes], igzip.open(stored, "rb"))


def has_rows(path: Path) -> bool:
    """Tell whether a file has more than a header; one that is damaged is told when it is read."""
    try:
        with open(path, "rb") as stored, uncompressed(stored, path) as file:
            lines = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
            return any(line.strip() for line in itertools.islice(lines, 1, None))
    except (OSError, EOFError, ValueError, GZIP_ERROR):
        return True
