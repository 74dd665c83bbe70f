"""The limits of the rule, frozen in a storage folder before its first audit."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import ValidationError

from mimic_qlora.privacy.rule import Limits
from mimic_qlora.step import files, yaml_files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.ledger import enter, ledger

TEMPLATE = Path(__file__).parents[2] / "run_files" / "audit.yaml"
EVENT = "limits frozen"
COMMAND = "python run_files/audit_adapter.py --freeze FILE"


class Frozen(NamedTuple):
    """The frozen limits, the SHA-256 of their file, and how often limits were frozen here."""

    limits: Limits
    sha256: str
    times: int


def load(path: Path) -> Limits:
    """Read a file of limits. Raises UserError, in one sentence, that names what is wrong."""
    try:
        return Limits.model_validate(yaml_files.loads(files.read_text(path), str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        field = first["loc"][0] if first["loc"] else "file"
        raise UserError(
            f"{path}: the field '{field}' is not as in {TEMPLATE} ({first['msg']}): start from "
            f"that, and freeze it with `{COMMAND}`"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read as limits ({type(error).__name__}): start from {TEMPLATE}"
        ) from None


def _place(store: Path) -> Path:
    return store / "privacy" / "limits.yaml"


def freeze(store: Path, path: Path) -> str:
    """Keep a copy of the limits as the frozen ones, and return its hash, which the ledger keeps."""
    load(path)
    data = path.read_bytes()
    files.private_folder(store / "privacy")
    files.atomic_write(_place(store), data, mode=0o400)
    sha256 = hashlib.sha256(data).hexdigest()
    enter(store, EVENT, plan_sha256="", limits_sha256=sha256)
    return sha256


def frozen(store: Path) -> Frozen:
    """Return the frozen limits; before the first audit those of audit.yaml are frozen.

    Raises UserError when they were edited since.
    """
    if not _place(store).is_file():
        freeze(store, TEMPLATE)
    sha256 = files.file_sha256(_place(store))
    known = [entry["limits_sha256"] for entry in ledger(store) if entry["event"] == EVENT]
    if sha256 not in known:
        raise UserError(
            f"{_place(store)} was edited after it was frozen: freeze it anew with `{COMMAND}`"
        )
    return Frozen(load(_place(store)), sha256, len(set(known)))
