"""Who is compared: patients trained on, and validation patients that chose nothing."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimic_qlora.prompts import cohort as step_four
from mimic_qlora.prompts import near_duplicates, record_files, records
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.step import seeded, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for
from mimic_qlora.subjects import reader
from mimic_qlora.training.memorisation import selection

if TYPE_CHECKING:
    from mimic_qlora.qa.session import Session

FEWEST = 10  # patients of a side
RECORDS = 6  # of a patient at most, on both sides
MEMBER, OTHER, CHOSE = "trained on", "never seen", "chose the checkpoint"


@dataclass(frozen=True)
class Patient:
    """A patient of the comparison with their records; `side` is one of the names above."""

    subject_id: int
    side: str
    records: tuple[PromptRecord, ...]


@dataclass(frozen=True)
class Cohort:
    """The patients of an audit, and whether the non-members may have chosen the checkpoint.

    `doubles` are patients whose chart is nearly that of another one.
    """

    patients: tuple[Patient, ...]
    chosen_by_all: bool
    doubles: frozenset[int]

    def of(self, side: str) -> list[Patient]:
        """Return the patients of a side."""
        return [patient for patient in self.patients if patient.side == side]


def find(opened: "Session", manifest: Mapping[str, Any], most: int, seed: int) -> Cohort:
    """Return whom to compare, at most `most` a side, drawn by hash.

    `manifest` is the adapter's. Raises UserError for fewer than ten patients of a side, and for
    prompts that are not those of the adapter.
    """
    store = opened.store
    prompts = storage.verified_manifest(store, "prompts")
    if prompts["id"] != manifest["inputs"].get("prompts"):
        raise UserError(
            f"{store / 'prompts'} has changed since the adapter was trained on it: train again "
            f"with `{command_for(manifest['step'])}`, or put the old prompts back"
        )
    settings, results = manifest.get("settings", {}), manifest.get("results", {})
    trained = _by_patient(store, "train", settings.get("limit"))
    held_out = _by_patient(store, "validation", None)
    validated = _by_patient(store, "validation", settings.get("limit"))
    if prompts["settings"].get("max_total") is not None:
        held_out |= _beyond(opened, prompts["settings"], held_out)
    chose = selection.choosing(validated)
    # with a single validation there was one checkpoint, and nothing to choose
    by_all = "selection_patients" not in results and settings.get("validations", 1) != 1
    sides = {
        MEMBER: trained,
        OTHER: {s: r for s, r in held_out.items() if s not in chose},
        CHOSE: {s: r for s, r in held_out.items() if s in chose},
    }
    patients = [
        Patient(subject_id, side, tuple(records[subject_id][:RECORDS]))
        for side, records in sides.items()
        for subject_id in seeded.order(records, "audit", seed)[:most]
    ]
    counts = Counter(patient.side for patient in patients)
    for side in (MEMBER, OTHER):
        if counts[side] < FEWEST:
            more = "convert more patients in step 1 (--sample) and run steps 1 to 5 again"
            if prompts["settings"].get("max_total") is not None:
                more = "give step 4 a larger --max-total, or none, and run steps 4 and 5 again"
            if settings.get("limit") is not None and side == MEMBER:
                more = "train with a larger --limit, or none"
            raise UserError(
                f"there are {counts[side]} patients for the side '{side}', and an audit needs "
                f"{FEWEST}: {more}"
            )
    return Cohort(tuple(patients), by_all, doubles(patients))


def _by_patient(store: Path, split: str, limit: int | None) -> dict[int, list[PromptRecord]]:
    found: dict[int, list[PromptRecord]] = {}
    for record in islice(record_files.read(record_files.path_of(store, split)), limit):
        found.setdefault(record.subject_id, []).append(record)
    return found


def _beyond(
    opened: "Session", settings: Mapping[str, Any], known: Collection[int]
) -> dict[int, list[PromptRecord]]:
    """Return the records of validation patients whom step 4's --max-total left out.

    Made as step 4 makes them; which patients it takes is drawn by hash, so these are as good.
    """
    tasks, hours = settings["tasks"], settings["landmark_hours"]
    found = step_four.find(
        opened.store, tasks, settings["pairs_per_subject"], settings["seed"], hours
    )
    split = reader.split_of(opened.store)
    slots = {
        subject_id: own
        for subject_id, own in step_four.chosen(found.slots, None, settings["seed"]).items()
        if split[subject_id] == "validation" and subject_id not in known
    }
    maker = records.PromptMaker(opened.settings, opened.labels, opened.count_tokens)
    made: dict[int, list[PromptRecord]] = {}
    for patient in records.patients(opened.store, slots):
        who = patient["subject_id"]
        groups = records.Groups("validation", found.year_groups[who], found.temporal_split(who))
        own = [record for record, _ in maker.prompts(patient, slots[who], groups).records]
        if own:
            made[who] = own
    return made


def doubles(patients: Sequence[Patient]) -> frozenset[int]:
    """Return the patients whose first chart is nearly that of another patient, on either side.

    Step 4 takes out the later of two records that ask the same; here charts alone count, and both
    patients are named, so that no side loses more than the other.
    """
    charts = [patient.records[0].context for patient in patients]
    signatures = [near_duplicates.signature("", chart) for chart in charts]
    chart_of: Callable[[int], tuple[str, str]] = lambda number: ("", charts[number])  # noqa: E731
    pairs = near_duplicates.later_ones(signatures, chart_of)
    return frozenset(patients[place].subject_id for pair in pairs.items() for place in pair)
