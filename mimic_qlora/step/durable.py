"""Folders that outlive a power cut: on the disk before they count, and checked when they are read.

A seal is the last file of a folder. It holds the SHA-256 sum of every other one, so that a folder
without a seal was never whole, and one that differs from it was damaged afterwards.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from mimic_qlora.step import faults, files

SEAL = "seal.json"


def seal(folder: Path, beside: Iterable[Path] = ()) -> None:
    """Seal a folder, and with it files that lie beside it."""
    inside = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    sums = {
        Path(os.path.relpath(path, folder)).as_posix(): files.file_sha256(path)
        for path in [*inside, *beside]
    }
    sync(folder)
    files.write_json(folder / SEAL, sums)
    files.sync_entry(folder.parent)


def fault(folder: Path) -> str | None:
    """Return the first file that a folder's seal finds changed or gone; None when it is whole.

    Raises OSError where one cannot be read now, as it may be whole.
    """
    try:
        sums = files.read_json(folder / SEAL)
        if not sums:
            return SEAL
        for name, expected in sums.items():
            if files.file_sha256(folder / name) != expected:
                return name
    except (OSError, ValueError, AttributeError) as error:
        if faults.of_the_machine(error):
            raise
        return Path(getattr(error, "filename", None) or SEAL).name
    return None


def sync(folder: Path) -> None:
    """Bring a folder with all that is in it to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            files.sync_entry(path)
    files.sync_entry(folder)
