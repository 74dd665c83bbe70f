"""The file `prompts/urgency.csv`: the visits of the urgency task and their levels.

Its record, its check, and how it is written and read. `urgency_flow.csv` beside it has the counts
of a flow diagram, `urgency_symptoms.csv` the complaints by symptom.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from mimic_qlora.display import csv_files
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for
from mimic_qlora.subjects.split_file import NAMES, SplitName
from mimic_qlora.tasks.urgency import symptoms

FILE, FLOW_FILE, SYMPTOMS_FILE = "urgency.csv", "urgency_flow.csv", "urgency_symptoms.csv"
Level = Literal["A", "B", "C", "D", "D-returned", "LWBS", "ELOPED", "AMA"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Visit:
    """An emergency visit that was drawn for its patient, in the order of the file's columns.

    `primary` says that a coded stay had ended before arrival; `acuity` is the triage nurse's level,
    1 to 5, which no prompt shows. Texts are "" where the record has none.
    """

    subject_id: int
    stay_id: int
    split: SplitName
    arrival: datetime
    primary: bool
    level: Level
    acuity: int | None
    age: int  # years; 91 stands for all above 89
    sex: str  # "F" or "M"
    race: str  # as MIMIC-IV-ED names it
    language: str  # of the newest stay that had begun
    insurance: str  # of the same stay
    year_group: str  # anchor_year_group
    complaint: str

    @classmethod
    def of(cls, row: dict[str, str]) -> "Visit":
        """Return the visit of a row of the file. Raises ValueError, LookupError or TypeError."""
        level, split = row["level"], row["split"]
        if level not in LEVELS or split not in NAMES or row["primary"] not in ("0", "1"):
            raise ValueError("no level, split or flag")
        texts = ("sex", "race", "language", "insurance", "year_group", "complaint")
        return cls(
            subject_id=int(row["subject_id"]),
            stay_id=int(row["stay_id"]),
            split=next(name for name in NAMES if name == split),
            arrival=datetime.fromisoformat(row["arrival"]),
            primary=row["primary"] == "1",
            level=next(name for name in LEVELS if name == level),
            acuity=int(row["acuity"]) if row["acuity"] else None,
            age=int(row["age"]),
            **{name: _unguarded(row[name]) for name in texts},
        )


COLUMNS = tuple(field.name for field in fields(Visit))


class Count(NamedTuple):
    """A box of the flow diagram: who is counted, in visits and patients."""

    what: str
    visits: int
    patients: int


def write(folder: Path, visits: Iterable[Visit], flow: Sequence[Count]) -> None:
    """Write the files into step 4's folder, the visits ordered by subject_id."""
    visits = sorted(visits, key=lambda visit: visit.subject_id)
    rows = [
        {**asdict(visit), "arrival": str(visit.arrival), "primary": int(visit.primary)}
        for visit in visits
    ]
    csv_files.write(folder / FILE, rows, COLUMNS)
    csv_files.write(folder / FLOW_FILE, [count._asdict() for count in flow], Count._fields)
    covered = symptoms.coverage(visit.complaint for visit in visits)
    csv_files.write(
        folder / SYMPTOMS_FILE, [row._asdict() for row in covered], symptoms.Row._fields
    )


def read(store: Path) -> list[Visit]:
    """Return the visits that step 4 left in a storage folder.

    Raises UserError where there are none, or the file is damaged.
    """
    path = store / "prompts" / FILE
    again = f"run `{command_for('prompts', tasks=['urgency'])} --force`"
    if not path.exists():
        raise UserError(f"{path.parent} has no visits of the urgency task: {again}")
    try:
        with open(path, newline="", encoding="utf-8") as file:
            visits = [Visit.of(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, LookupError, TypeError, csv.Error):
        raise UserError(f"{path} cannot be read: {again}") from None
    if len({visit.subject_id for visit in visits}) < len(visits):
        raise UserError(f"{path} has a patient twice: {again}")
    return visits


def _unguarded(cell: str) -> str:
    """Return a text without the apostrophe that keeps spreadsheets from running it."""
    return cell[1:] if cell.startswith("'") and csv_files.safe_cell(cell[1:]) == cell else cell
