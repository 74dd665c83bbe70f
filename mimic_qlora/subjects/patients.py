"""The patients of a MIMIC-IV folder, and those of them whom a file lists."""

import re
from pathlib import Path

from mimic_qlora.mimic import tables
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError


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
        raise UserError(
            f"{source.path} has {len(ids) - len(set(ids))} subject_ids twice: check the download"
        )
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


SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def assign(subject_ids, seed: int) -> dict:
    """subject_id -> "train", "validation" or "test".

    By rank in hash order, not by the hash's value, so that the shares hold for 100 patients as for 364,627.
    """
    ranked = seeded.order(subject_ids, "split", seed)
    n_test = round(len(ranked) * SHARES["test"])
    n_validation = round(len(ranked) * SHARES["validation"])
    names = ["test"] * n_test + ["validation"] * n_validation
    names += ["train"] * (len(ranked) - len(names))
    return dict(sorted(zip(ranked, names, strict=True)))


def sample(subject_ids, share: float, seed: int) -> set:
    """A random share of the patients, at least one; apart from the split, so that both may use one seed."""
    ranked = seeded.order(subject_ids, "sample", seed)
    return set(ranked[: max(1, round(len(ranked) * share))])
