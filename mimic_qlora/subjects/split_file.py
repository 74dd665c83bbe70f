"""`split.csv`, the split of the patients: its record, and the only reader and writer of the file.

The first line is `subject_id,split`; each further line holds one patient, ordered by subject_id.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for

SplitName = Literal["train", "validation", "test"]
Split = dict[int, SplitName]  # subject_id -> split, ordered by subject_id
NAMES: tuple[SplitName, ...] = get_args(SplitName)
COLUMNS = ("subject_id", "split")


def path(storage: Path) -> Path:
    """Return the place of the file in a storage folder."""
    return storage / "subjects" / "split.csv"


def write(folder: Path, split: Mapping[int, SplitName]) -> None:
    """Write the file into step 1's folder."""
    lines = [",".join(COLUMNS), *(f"{subject_id},{name}" for subject_id, name in split.items())]
    (folder / "split.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(storage: Path) -> Split:
    """Return the split of each patient. Raises UserError when the file is damaged."""
    text = path(storage).read_text(encoding="utf-8", errors="replace")
    header, *lines = text.splitlines() or [""]
    pairs = (line.partition(",") for line in lines)
    try:
        split = {int(subject_id): name for subject_id, _, name in pairs}
    except ValueError:
        split = {}
    sound = header == ",".join(COLUMNS) and len(split) == len(lines) > 0
    if not sound or not {*split.values()} <= {*NAMES}:
        raise UserError(
            f"{path(storage)} is damaged: run `{command_for('subjects')} --force` to write it again"
        )
    return cast(Split, split)
