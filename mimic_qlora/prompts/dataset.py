"""Write the records as files, without near-duplicates, and count what they hold."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from mimic_qlora.chart.wording import SEXES
from mimic_qlora.prompts import near_duplicates
from mimic_qlora.prompts.record_files import Drafts, Place, PromptRecord
from mimic_qlora.tasks import chart_qa, composing

NO_CAUTION = "none: the chart calls for nothing"  # among the rules that guidance answers state
SILENT = "the record does not say"  # the group of answers that find nothing on record


class Person(NamedTuple):
    """The age in years and the sex ("F" or "M") of a patient at a time; None where unknown."""

    age: int | None
    sex: str | None


class Lengths(NamedTuple):
    """Numbers of words."""

    least: int
    median: float
    most: int

    @classmethod
    def of(cls, words: list[int]) -> "Lengths":
        return cls(min(words), median(words), max(words)) if words else cls(0, 0, 0)


@dataclass(frozen=True)
class FileCounts:
    """The numbers of records by what they are, as the manifest holds them."""

    splits: dict[str, int]
    tasks: dict[str, int]
    temporal_splits: dict[str, int]
    symptoms: dict[str, int]
    kinds: dict[str, int]
    cautions: dict[str, int]
    sexes: dict[str, int]
    ages: dict[str, int]  # by decade
    answers: dict[str, int]  # that say something, or that the record does not
    near_duplicates: int  # left out
    words: dict[str, dict[str, float]]  # "context" and "answer" -> Lengths


@dataclass(frozen=True)
class Counts(FileCounts):
    """The numbers of records and of who was left out, as the manifest holds them."""

    cohort: dict[str, int]  # reason -> patients
    without_gold: int  # times at which the chart gave no gold answer
    cut: dict[str, int]  # section -> contexts in which it was cut
    latest_years: str  # the anchor_year_group that is held out in time; "" when there is none


class Tally:
    """The numbers of records by what they are, while records are added and taken away."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {
            name: Counter()
            for name in (
                "splits",
                "tasks",
                "temporal_splits",
                "symptoms",
                "kinds",
                "cautions",
                "sexes",
                "ages",
                "answers",
            )
        }

    def add(self, record: PromptRecord, person: Person, n: int = 1) -> None:
        """Count a record, or take it away with an `n` of -1."""
        silent = record.answer == chart_qa.NOT_SAID
        found: dict[str, list[str]] = {
            "splits": [record.split],
            "tasks": [record.task],
            "temporal_splits": [record.temporal_split],
            "symptoms": [record.symptom] if record.symptom else [],
            "kinds": [record.kind] if record.kind else [],
            "cautions": record.cautions or [NO_CAUTION] * (record.task == "guidance"),
            "sexes": [SEXES.get(person.sex or "", "unknown")],
            "ages": [age_group(person.age)],
            "answers": [SILENT if silent else "an answer"],
        }
        for name, values in found.items():
            for value in values:
                self.counts[name][value] += n

    def as_dicts(self) -> dict[str, dict[str, int]]:
        """Return name -> value -> records, in the order of the values."""
        return {name: dict(sorted((+tally).items())) for name, tally in self.counts.items()}


def age_group(age: int | None) -> str:
    """Return the decade of an age; MIMIC-IV tells no age above 89."""
    if age is None:
        return "unknown"
    return "over 89" if age > 89 else f"{age // 10 * 10} to {age // 10 * 10 + 9}"


def _compared(record: PromptRecord) -> tuple[str, str]:
    """Return what near-duplicates must share, and the context that is compared."""
    asked = record.symptom or record.question
    if record.task == "urgency":  # two patients with one complaint and no chart are two visits
        asked = f"{record.subject_id} {asked}"
    return f"{record.task} {asked}", record.context


def write(folder: Path, records: Iterable[tuple[PromptRecord, Person]]) -> FileCounts:
    """Write each record into the file of its split, without near-duplicates of earlier records.

    Memory: about 150 bytes a record.
    """
    places: list[Place] = []
    people: list[Person] = []
    signatures: list[np.ndarray] = []
    tally, context_words, answer_words = Tally(), array("i"), array("i")
    with Drafts(folder) as drafts:
        for record, person in records:
            asked, context = _compared(record)
            places.append(drafts.add(record))
            people.append(person)
            signatures.append(near_duplicates.signature(asked, context))
            tally.add(record, person)
            context_words.append(composing.words(context))
            answer_words.append(composing.words(record.answer))
        gone = near_duplicates.later_ones(
            signatures, lambda number: _compared(drafts.read(places[number]))
        )
        for number in gone:
            tally.add(drafts.read(places[number]), people[number], -1)
        drafts.finish({places[number] for number in gone})
    words = {
        part: Lengths.of([n for number, n in enumerate(found) if number not in gone])._asdict()
        for part, found in (("context", context_words), ("answer", answer_words))
    }
    return FileCounts(**tally.as_dicts(), near_duplicates=len(gone), words=words)
