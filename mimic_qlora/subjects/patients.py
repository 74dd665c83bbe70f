"""The patients of a MIMIC-IV folder: all, those that a file lists, a sample, and their split."""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from mimic_qlora.mimic import id_cells, reading
from mimic_qlora.mimic.tables import Source
from mimic_qlora.step import plain_text, seeded
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects.split_file import Split, SplitName

SHARES: dict[SplitName, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


def read(source: Source) -> list[int]:
    """Return the subject_ids of the table `patients`, in file order.

    Raises UserError when one is not a whole number above 0 or stands there twice.
    """
    cells = [cell for batch in reading.read(source) for cell in batch["subject_id"].to_pylist()]
    ids = [(cell or "").strip() for cell in cells]
    bad = [i for i, value in enumerate(ids) if not re.fullmatch(id_cells.ABOVE_ZERO, value)]
    if bad:
        raise UserError(
            f"{source.path} has {len(bad)} rows whose subject_id cannot be one (first: data row "
            f"{bad[0] + 1}, where it {id_cells.fault(ids[bad[0]])}): check the download"
        )
    if not ids:
        raise UserError(f"{source.path} has no patients: check the download")
    if len(set(ids)) < len(ids):
        raise UserError(
            f"{source.path} has {len(ids) - len(set(ids))} subject_ids twice: check the download"
        )
    return [int(value) for value in ids]


def listed(path: Path, patients: Sequence[int]) -> list[int]:
    """Return the patients whose subject_ids a file lists, one a line.

    Raises UserError when the file lists none, or one who is not in `patients`.
    """
    text = plain_text.in_utf8(path.read_bytes(), "replace").decode("utf-8", errors="replace")
    known = {str(s) for s in patients}
    places: dict[str, int] = {}  # each word and the first line that has it
    for number, line in enumerate(text.splitlines(), start=1):
        for word in line.replace('"', " ").split():
            places.setdefault(word, number)
    places.pop("subject_id", None)
    if not places:
        raise UserError(f"{path} must list subject_ids, one a line: it has none")
    unknown = {word: number for word, number in places.items() if word not in known}
    if unknown:
        first, number = next(iter(unknown.items()))
        # the line and not the word: it may be a patient's
        why = (
            "is not in patients" if re.fullmatch(id_cells.ABOVE_ZERO, first) else "is no subject_id"
        )
        raise UserError(
            f"{path} must list subject_ids of the table patients, one a line: it has "
            f"{len(places):,}, {len(unknown):,} of them not in patients; the first is in line "
            f"{number:,}, where it {why}"
        )
    return [s for s in patients if str(s) in places]


def assign(subject_ids: Iterable[int], seed: int) -> Split:
    """Return the split of each patient, ordered by subject_id.

    Patients are ranked by a hash and the ranking is cut, so that the shares hold for 100 patients
    as for 364,627; a threshold on the hash's value would let them vary.
    """
    ranked = seeded.order(subject_ids, "split", seed)
    n_test = round(len(ranked) * SHARES["test"])
    n_validation = round(len(ranked) * SHARES["validation"])
    names: list[SplitName] = ["test"] * n_test
    names += ["validation"] * n_validation
    names += ["train"] * (len(ranked) - len(names))
    return dict(sorted(zip(ranked, names, strict=True)))


def sample(subject_ids: Collection[int], share: float, seed: int) -> set[int]:
    """Return a random share of the patients, at least one, drawn independently of the split."""
    ranked = seeded.order(subject_ids, "sample", seed)
    return set(ranked[: max(1, round(len(ranked) * share))])
