"""A file that the machine cannot read at the moment, such as one on a disk that does not answer."""

import os
from collections.abc import Callable
from pathlib import Path


def unreadable(number: int) -> Callable[..., bytes]:
    """Return a function in the place of one that reads a file: it fails with an error of errno."""

    def read(path: Path, **options: object) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    return read
