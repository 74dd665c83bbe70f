"""Manifests: what identifies the content of a step's folder, and which files it holds.

The `id` of a manifest is a hash of settings, inputs and software. An equal id means equal content,
so a step is skipped when the folder in its place has the id of the run that is asked for.
"""

import functools
import json
import sys
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypedDict

from mimic_qlora.step.files import digest, file_sha256
from mimic_qlora.step.version import VERSION

NAME = "manifest.json"
RUN_ID = ".run.json"  # in a folder that is being written: the id of the run that writes it
SCHEMA_VERSION = 1

_FOR_PEOPLE = (RUN_ID, "README.md")  # users may edit the card, and the manifest still holds
_LIBRARIES = {  # those that shape a result
    "accelerate",
    "bitsandbytes",
    "duckdb",
    "pandas",
    "peft",
    "pyarrow",
    "torch",
    "transformers",
    "xgboost",
}


class WrittenFile(TypedDict, total=False):
    """A file of a step's folder: its size and its SHA-256 sum, which parts once went without."""

    bytes: int
    sha256: str


class Manifest(TypedDict):
    """The identity of a step's folder by its content. A step adds keys of its own (`facts`)."""

    id: str  # hash of all that follows
    step: str
    schema_version: int
    software: str
    settings: dict[str, Any]
    inputs: dict[str, Any]  # id of each earlier step's manifest, or what identifies another input


class FinishedManifest(Manifest):
    """The manifest of a folder that is whole."""

    files: dict[str, WrittenFile]  # by the path within the folder
    finished: str  # ISO 8601
    seconds: float
    versions: dict[str, str]


def new_manifest(step: str, settings: dict[str, Any], inputs: dict[str, Any]) -> Manifest:
    """Return the manifest of a run that begins."""
    identity = {
        "step": step,
        "schema_version": SCHEMA_VERSION,
        "software": VERSION,
        "settings": settings,
        "inputs": inputs,
    }
    return {
        "id": digest(identity),
        "step": step,
        "schema_version": SCHEMA_VERSION,
        "software": VERSION,
        "settings": settings,
        "inputs": inputs,
    }


def finish_manifest(folder: Path, manifest: Mapping[str, Any], started: float) -> dict[str, Any]:
    """Return the manifest with what is no part of its identity.

    Adds the files of the folder, the time, the seconds since `started` and library versions.
    """
    (folder / f".{NAME}.new").unlink(missing_ok=True)  # left by a kill during its writing
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in _FOR_PEOPLE
    )
    return {
        **manifest,
        "files": {path.relative_to(folder).as_posix(): written(path) for path in files},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(time.time() - started, 1),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape a result."""
    found = {d.name: d.version for d in distributions() if d.name in _LIBRARIES}
    return {"python": sys.version.split()[0], **dict(sorted(found.items()))}


def written(path: Path) -> WrittenFile:
    """Return the record of a file of the folder."""
    status = path.stat()
    sha256 = _sha256(path, status.st_size, status.st_mtime_ns)
    return {"bytes": status.st_size, "sha256": sha256}


@functools.cache  # one run asks for the same file many times
def _sha256(path: Path, n_bytes: int, mtime_ns: int) -> str:
    return file_sha256(path)


def damaged_files(place: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Return the files of a step's folder that are gone or differ from their record.

    One of many parts is told by its size alone; who reads it may compare its sum.
    """
    files = {place / name: recorded for name, recorded in manifest.get("files", {}).items()}
    return [
        path
        for path, recorded in files.items()
        if not path.is_file()
        or path.stat().st_size != recorded["bytes"]
        or (path.parent == place and written(path) != recorded)
    ]


def is_up_to_date(place: Path, manifest: Mapping[str, Any]) -> bool:
    """Tell whether the folder holds what a run with this manifest would write, undamaged."""
    try:
        found = json.loads((place / NAME).read_text(encoding="utf-8"))
        if found["id"] != manifest["id"]:
            return False
    except (OSError, ValueError, KeyError):
        return False
    damaged = damaged_files(place, found)
    if damaged:
        print(
            f"{damaged[0]} is missing or was changed since it was written: the step is done again",
            flush=True,
        )
    return not damaged
