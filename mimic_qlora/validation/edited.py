"""Files of the results that are made again: one that somebody has edited since is kept."""

import contextlib
import hashlib
from pathlib import Path

from mimic_qlora.step import files, locks, terminal

NOTED = ".written.json"  # of a folder of results: the SHA-256 of files as they were written last
WAIT = 60.0  # seconds for another run to write its few files


def alone(folder: Path, command: str) -> contextlib.AbstractContextManager[None]:
    """Hold a folder of results: label.py and review.py write into the same files."""
    return locks.hold(folder / NOTED.removeprefix("."), command, wait=WAIT)


def keep(path: Path) -> None:
    """Keep a file beside its place, and say so, unless it is as `write` left it.

    Of a file without a note, as earlier versions left it, nobody knows.
    """
    if path.is_file() and files.file_sha256(path) not in _noted(path.parent).get(path.name, ""):
        kept = files.put_aside(path, path)
        terminal.say_aside(f"note: {path} may have been edited: it is kept as {kept.name}")


def write(path: Path, text: str) -> None:
    """Write a file, so that `keep` knows it again, whenever a kill comes."""
    before = [files.file_sha256(path)] if path.is_file() else []
    new = hashlib.sha256(files.rewritten(path, text)).hexdigest()
    _note(path, *before, new)
    files.rewrite(path, text)
    _note(path, new)


def _note(path: Path, *sums: str) -> None:
    """Note which sums a file may have as it was written last."""
    files.write_json(path.parent / NOTED, _noted(path.parent) | {path.name: " ".join(sums)})


def _noted(folder: Path) -> dict[str, str]:
    found = files.read_object(folder / NOTED)
    return found if files.has_shape(found, dict[str, str]) else {}
