"""The patients of a MIMIC-IV folder, and those of them whom a file lists."""

import re
from pathlib import Path

from mimic_qlora import tables
from mimic_qlora.storage import UserError


def read(source) -> list:
    """The subject_ids of `patients`. Raises UserError when one is not a whole number or stands there twice."""
    ids = [value for batch in tables.read(source) for value in batch["subject_id"].to_pylist()]
    bad = [i for i, value in enumerate(ids) if not re.fullmatch("[1-9][0-9]{0,17}", value or "")]
    if bad:
        raise UserError(
            f"{source.path} has {len(bad)} rows whose subject_id is not a whole number (first: data row {bad[0] + 1})"
        )
    if not ids:
        raise UserError(f"{source.path} has no patients: check the download")
    if len(set(ids)) < len(ids):
        raise UserError(f"{source.path} has {len(ids) - len(set(ids))} subject_ids twice: check the download")
    return [int(value) for value in ids]


def listed(path: Path, patients: list) -> list:
    """The subject_ids that a file lists, one a line. Raises UserError when one is no patient."""
    given = set(path.read_text(encoding="utf-8-sig", errors="replace").split()) - {"subject_id"}
    unknown = len(given - {str(s) for s in patients})
    if not given or unknown:
        raise UserError(
            f"{path} must list subject_ids, one a line: it has {len(given)}, {unknown} of them not in patients"
        )
    return [s for s in patients if str(s) in given]
