"""Private files and folders, hashes, whole files or none."""

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

from mimic_qlora.step.errors import UserError


def private_folder(path: Path) -> Path:
    """A folder for patient data, made if it is missing, that its owner alone can read.

    Raises UserError for what somebody else on a shared host may have put in its place: a link, or a folder of theirs.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise UserError(
            f"{path} is a link, a file, or another user's folder: find out who put it there and remove it"
        )
    path.chmod(0o700)
    return path


def digest(data) -> str:
    """A short hash of anything that JSON can hold, the same on every machine."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_identity(path: Path) -> dict:
    """What tells that an input file has not changed since: its size in bytes and its modification time."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def file_sha256(path: Path) -> str:
    """The SHA-256 sum of a file of any size, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, data) -> None:
    """Write data as JSON into a file, which a kill leaves as it was or whole."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(
        json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    temporary.replace(path)
