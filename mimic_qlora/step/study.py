"""The study file under which a step runs: its manifest, card and report name it.

`run_files/run_all.py` keeps a copy in the storage folder and names it by a variable. Without it a
step belongs to no study.
"""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mimic_qlora.step import files

VARIABLE = "MIMIC_QLORA_STUDY"
FOLDER = "studies"  # of the copies, in the storage folder
_HASH = 12  # digits of the SHA-256 sum in the name of a copy


@dataclass(frozen=True)
class StudyUsed:
    """A study file: its name, the SHA-256 of its bytes, and its text."""

    file: str
    sha256: str
    text: str

    @property
    def sentence(self) -> str:
        """Return the study as a card or a report names it."""
        return f"Study: {self.file} (SHA-256 {self.sha256})"


def used() -> StudyUsed | None:
    """Return the study under which this process runs, None without one."""
    path = Path(os.environ.get(VARIABLE) or "")
    try:
        data = path.read_bytes()
        text = data.decode()
    except (OSError, ValueError):  # no variable, or the copy is gone
        return None
    name = f"{path.stem[: -_HASH - 1]}{path.suffix}"
    return StudyUsed(name, hashlib.sha256(data).hexdigest(), text)


def facts() -> dict[str, Any]:
    """Return what a manifest holds of the study: its key and value, or nothing."""
    found = used()
    return {"study": asdict(found)} if found else {}


def sentences() -> list[str]:
    """Return the sentence that names the study, or none."""
    found = used()
    return [found.sentence] if found else []


def keep(store: Path, name: str, text: str) -> dict[str, str]:
    """Keep a copy of a study file in the storage folder. Returns the variable that names it."""
    folder = files.private_folder(store / FOLDER)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    given = Path(name)
    path = folder / f"{given.stem}-{sha256[:_HASH]}{given.suffix}"
    if not path.exists():
        files.atomic_write(path, text)
    return {VARIABLE: str(path)}
