"""Files of the results that are made again: one that somebody has edited since is kept."""

from pathlib import Path

from mimic_qlora.step import files, terminal

NOTED = ".written.json"  # of a folder of results: the SHA-256 of files as they were written last


def keep(path: Path) -> None:
    """Keep a file beside its place, and say so, unless it is as `note` found it.

    Of a file without a note, as earlier versions left it, nobody knows.
    """
    if path.is_file() and files.file_sha256(path) != _noted(path.parent).get(path.name):
        kept = files.put_aside(path, path)
        terminal.say_aside(f"note: {path} may have been edited: it is kept as {kept.name}")


def note(path: Path) -> None:
    """Note what was written, so that `keep` knows it again."""
    noted = _noted(path.parent) | {path.name: files.file_sha256(path)}
    files.write_json(path.parent / NOTED, noted)


def _noted(folder: Path) -> dict[str, str]:
    found = files.read_object(folder / NOTED)
    return found if files.has_shape(found, dict[str, str]) else {}
