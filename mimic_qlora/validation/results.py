"""The file results.jsonl: a line per trial and arm, with the exact conversation and answer.

Step 7 writes it; run_files/label.py and run_files/review.py read it, from old runs too.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mimic_qlora.qa.session import Turn
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import check_link, read_object
from mimic_qlora.validation.arms import PAIR

FILE = "results.jsonl"
_NAME = r"[0-9]{8}-[0-9]{6}-\w+"  # of a folder of results, as delivery.py gives it
NUMBER = "number.txt"
READER = "reader.json"  # who read the answers, and what they were made of
N_ANSWERS = "answers"  # in it: the number of lines


class Line(BaseModel):
    """The answer of one arm to one trial.

    `kind` is "trial", "knowledge", "crisis" or "record" (see trials.Trial); `cautions` are the ids
    of the rules that the chart calls for, `holds` the keys of all that the context bears out
    (known.Known), `rule_tested` is the rule by which a trial counts for the primary endpoint.
    `n_tokens` counts the end token, `ended` says that the answer ended by itself. `scores` are the
    arm's columns of the CSV file, without their ending, `readings` what the reader of the run found
    (readings.Readings). Fields with a default are not in every line, nor in those of old runs.
    """

    model_config = ConfigDict(frozen=True)

    trial: int
    kind: str
    arm: str
    question_id: str
    subject_id: int | None = None
    hadm_id: int | None = None
    as_of: str | None = None
    split: str | None = None
    task: str | None = None
    ideal: str | None = None
    cautions: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    rule_tested: str | None = None
    messages: list[Turn] = Field(min_length=1)
    answer: str
    n_tokens: int | None = None
    ended: bool = True
    scores: dict[str, Any] = {}
    readings: dict[str, Any] | None = None

    @property
    def prompt(self) -> str:
        """Return the last turn of the conversation: context and question."""
        return self.messages[-1]["content"]

    @property
    def is_of_pair(self) -> bool:
        """Return whether people judge it: a trial as one arm of the headline answered it."""
        return self.kind == "trial" and self.arm in [arm.name for arm in PAIR]


def write(folder: Path, lines: Iterable[Line]) -> None:
    """Write the lines, each with the fields that it was given."""
    with open(folder / FILE, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line.model_dump(exclude_unset=True)) + "\n")


def read(folder: Path) -> list[Line]:
    """Return the lines of a results folder. Raises UserError when they are missing or damaged.

    Of a copy that was cut off at the end of a line, the number in reader.json alone tells.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: give step 7's results folder with --results")
    try:
        text = path.read_text(encoding="utf-8-sig")  # someone may have opened it in an editor
        found = [Line.model_validate_json(line) for line in text.split("\n") if line]
    except (ValidationError, UnicodeDecodeError):
        raise UserError(
            f"{path} cannot be read: run step 7 again, or give another folder with --results"
        ) from None
    written = read_object(folder / READER).get(N_ANSWERS)
    if isinstance(written, int) and written not in (0, len(found)):  # once it was not noted
        raise UserError(
            f"{path} holds {len(found):,} of the {written:,} answers that step 7 wrote: copy it "
            "once more from where it was made, or run step 7 again"
        )
    return found


def in_order(store: Path) -> list[Path]:
    """Return the folders of results that step 7 left, the last one last.

    They are numbered as they are made, since a clock may be set back; those of earlier versions
    have no number and come first, by the time in their names. A copy that somebody made (`cp -r X
    X-backup`) has the number of its original, and a name that step 7 does not give: the original is
    the later of the two, so that no work goes on in a backup. Raises UserError where the disk is
    away that a link leads to.
    """

    def place(folder: Path) -> tuple[int, bool, str]:
        return number(folder), re.fullmatch(_NAME, folder.name) is not None, folder.name

    check_link(store / "validation")
    return sorted((one.parent for one in (store / "validation").glob(f"[!.]*/{FILE}")), key=place)


def number(folder: Path) -> int:
    """Return the place of a folder in the order in which results were made; 0 without a number."""
    try:
        return int((folder / NUMBER).read_text(encoding="ascii")[:18])
    except (OSError, ValueError):
        return 0


def newest(store: Path) -> Path | None:
    """Return the folder of the results that step 7 left last; None where there are none."""
    return next(reversed(in_order(store)), None)
