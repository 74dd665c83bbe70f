"""The files `prompts/<split>.jsonl`: their record, its check, and how they are written and read."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import orjson

from mimic_qlora.chart.columns import Citation
from mimic_qlora.chart.prompt import Message, split_prompt
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for
from mimic_qlora.subjects import patients
from mimic_qlora.tasks.gold import Criterion

SPLITS = tuple(patients.SHARES)
# written as JSON's escapes: some readers of lines take them for the end of one
LINE_ENDS = "\x85\u2028\u2029"
# Raised for a line that is not a record.
FAULTS = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """A patient at one time, a question and a gold answer, in the order of the JSON fields."""

    messages: list[Message]  # system, user (context and question), assistant (gold answer)
    task: str  # "guidance", "chart_qa", "diagnoses" or "urgency"
    subject_id: int
    hadm_id: int | None  # the stay before `as_of`, or the one that is on; None for urgency
    as_of: datetime  # prediction time: the context shows what was known then
    symptom: str | None  # id of the symptom that guidance is asked about
    kind: str | None  # of a chart question
    cautions: list[str]  # ids of the caution rules that the gold answer states
    evidence: list[Citation]
    rubric: list[Criterion]
    split: str  # "train", "validation" or "test", as step 1 put the patient
    anchor_year_group: str  # "" where the patient has none
    temporal_split: str  # "test" for patients of the latest years, else "train"

    @classmethod
    def of(cls, row: dict) -> "PromptRecord":
        """Return the record that a JSON object holds.

        Raises ValueError, LookupError, TypeError or AttributeError when a field is missing or of
        another type, or when the conversation does not end with an answer.
        """
        check_conversation(row["messages"])
        return cls(
            messages=row["messages"],
            task=row["task"],
            subject_id=int(row["subject_id"]),
            hadm_id=row["hadm_id"],
            as_of=datetime.fromisoformat(row["as_of"]),
            symptom=row["symptom"],
            kind=row["kind"],
            cautions=row["cautions"],
            evidence=[Citation(c["for"], c["table"], c["cells"]) for c in row["evidence"]],
            rubric=[Criterion(r["criterion"], r["points"], r["tags"]) for r in row["rubric"]],
            split=row["split"],
            anchor_year_group=row["anchor_year_group"],
            temporal_split=row["temporal_split"],
        )

    def as_json(self) -> bytes:
        """Return the record as a line of its file."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["as_of"] = str(self.as_of)
        fields["evidence"] = [citation.as_json() for citation in self.evidence]
        line = orjson.dumps(fields)
        for mark in LINE_ENDS:
            line = line.replace(mark.encode(), f"\\u{ord(mark):04x}".encode())
        return line + b"\n"

    @property
    def context(self) -> str:
        return split_prompt(self.messages[1]["content"])[0]

    @property
    def question(self) -> str:
        return split_prompt(self.messages[1]["content"])[1]

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"]


def check_conversation(messages: list[Message]) -> None:
    """Raise ValueError, LookupError or TypeError unless the conversation ends with an answer."""
    if messages[-1]["role"] != "assistant" or not all(
        turn["content"] + turn["role"] for turn in messages
    ):
        raise ValueError("no conversation that ends with an answer")


def file_name(split: str) -> str:
    return f"{split}.jsonl"


def path_of(store: Path, split: str) -> Path:
    """Return the file of a split in a storage folder."""
    return store / "prompts" / file_name(split)


def read(path: Path) -> Iterator[PromptRecord]:
    """Yield the records of a file. Raises UserError for a file or a line that cannot be read."""
    for _, record in read_located(path):
        yield record


def read_located(path: Path) -> Iterator[tuple[int, PromptRecord]]:
    """Yield the records of a file, each with the byte offset of its line, for `read_at`."""
    offset = 0
    with _reading(path) as file:
        for number, line in enumerate(file, 1):
            yield offset, _record(line, path, f"line {number}")
            offset += len(line)


def read_at(path: Path, offset: int) -> PromptRecord:
    """Return the record whose line begins at this byte offset."""
    with _reading(path) as file:
        file.seek(offset)
        return _record(file.readline(), path, f"byte {offset}")


def _reading(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {_again()}") from None


def _record(line: bytes, path: Path, where: str) -> PromptRecord:
    try:
        return PromptRecord.of(orjson.loads(line))
    except FAULTS:
        raise UserError(
            f"{path} cannot be read ({where} is not a conversation that ends with an answer, with "
            f"the fields of a record): {_again()}"
        ) from None


def _again() -> str:
    return f"run `{command_for('prompts')} --force`"


class Place(NamedTuple):
    """The line of a record in a draft: its split and its byte offset there."""

    split: str
    offset: int


class Drafts:
    """The records of a run in one hidden file a split, until it is known which of them stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, BinaryIO] = {}

    def __enter__(self) -> "Drafts":
        self.files = {split: open(self._path(split), "wb+") for split in SPLITS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for split, file in self.files.items():
            file.close()
            self._path(split).unlink(missing_ok=True)

    def _path(self, split: str) -> Path:
        return self.folder / f".{file_name(split)}"

    def add(self, record: PromptRecord) -> Place:
        """Write a record at the end of its split's draft."""
        file = self.files[record.split]
        place = Place(record.split, file.tell())
        file.write(record.as_json())
        return place

    def read(self, place: Place) -> PromptRecord:
        """Return a record that was added before."""
        file = self.files[place.split]
        end = file.tell()
        file.seek(place.offset)
        line = file.readline()
        file.seek(end)
        return PromptRecord.of(orjson.loads(line))

    def finish(self, left_out: Collection[Place]) -> None:
        """Write the files of all splits without the records that are left out."""
        for split, draft in self.files.items():
            draft.seek(0)
            with open(self.folder / file_name(split), "wb") as final:
                final.writelines(_kept(draft, split, left_out))


def _kept(draft: Iterable[bytes], split: str, left_out: Collection[Place]) -> Iterator[bytes]:
    offset = 0
    for line in draft:
        if (split, offset) not in left_out:
            yield line
        offset += len(line)
