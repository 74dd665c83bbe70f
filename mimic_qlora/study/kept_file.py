"""The copy of a study file in the storage folder, which the steps of the study name."""

import hashlib
from pathlib import Path

from mimic_qlora.step import files
from mimic_qlora.step.manifests import STUDY, STUDY_HASH

FOLDER = "studies"


def keep(store: Path, name: str, text: str) -> dict[str, str]:
    """Keep a copy of a study file. Returns the variable by which the steps find it."""
    folder = files.private_folder(store / FOLDER)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    given = Path(name)
    path = folder / f"{given.stem}-{sha256[:STUDY_HASH]}{given.suffix}"
    if not path.exists():
        files.atomic_write(path, text)
    return {STUDY: str(path)}
