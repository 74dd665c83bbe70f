"""The limits of the rule, frozen in a storage folder before its first audit."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import ValidationError

from mimic_qlora.privacy.rule import Limits
from mimic_qlora.step import files, yaml_files
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import from_here, storage_option
from mimic_qlora.training.memorisation import audited
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
        # a field that is missing may be the unknown one, misspelt
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        field = first["loc"][0] if first["loc"] else "file"
        raise UserError(
            f"{path}: the field '{field}' is not as in {TEMPLATE} ({first['msg']}): start from "
            f"that, and freeze it with `{from_here(COMMAND)}{storage_option()}`"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read as limits ({type(error).__name__}): start from {TEMPLATE}"
        ) from None


def _place(store: Path) -> Path:
    return store / "privacy" / audited.LIMITS


def freeze(store: Path, path: Path) -> str:
    """Keep a copy of the limits as the frozen ones, and return its hash, which the ledger keeps.

    Those that were frozen before stay beside it, under their hash.
    """
    load(path)
    data = path.read_bytes()
    files.private_folder(store / "privacy")
    sha256 = hashlib.sha256(data).hexdigest()
    # first: limits without their line would look edited
    enter(store, EVENT, plan_sha256="", limits_sha256=sha256)
    files.freeze(_place(store), data)
    return sha256


def frozen(store: Path) -> Frozen:
    """Return the frozen limits; before the first audit those of audit.yaml, which `keep` freezes.

    Raises UserError when they are not those that were frozen last.
    """
    place, known = _place(store), _known(store)
    if not place.is_file() and {*known} <= {files.file_sha256(TEMPLATE)}:
        return Frozen(load(TEMPLATE), files.file_sha256(TEMPLATE), 1)
    sha256 = files.file_sha256(place) if place.is_file() else None
    if sha256 not in known[-1:]:
        raise UserError(
            f"{place} does not hold the limits that were frozen last (it was edited or removed, "
            "or their freezing was stopped): freeze them anew with "
            f"`{from_here(COMMAND)}{storage_option()}`"
        )
    return Frozen(load(_place(store)), sha256, len(set(known)))


def keep(store: Path) -> None:
    """Freeze the limits of audit.yaml where none are."""
    if not _place(store).is_file():
        freeze(store, TEMPLATE)


def _known(store: Path) -> list[str]:
    """Return the SHA-256 of the limits that were frozen, the last ones last."""
    return [entry["limits_sha256"] for entry in ledger(store) if entry["event"] == EVENT]
