"""Who is asked what and when."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import columns, prediction_times
from mimic_qlora.prompts.records import TASKS
from mimic_qlora.step import seeded
from mimic_qlora.subjects import reader

WHO_AND_WHEN = {
    "patients": ("dod", "anchor_year_group"),
    "admissions": columns.WANTED["admissions"],
    "diagnoses_icd_labeled": ("hadm_id",),
}


class Slot(NamedTuple):
    """Room for one record: the n-th of this task about this patient."""

    task: str
    subject_id: int
    n: int
    moment: prediction_times.Moment


class Cohort(NamedTuple):
    """Who can be asked: the slots of each task, who was left out and why, and the patients of the latest years."""

    slots: dict  # task -> [Slot]
    counts: dict  # reason -> patients
    year_groups: dict  # subject_id -> anchor_year_group, "" where there is none
    latest: str  # the anchor_year_group that is held out in time; "" when there are not two


def cohort(store: Path, tasks: list, per_subject: int, seed: int, hours: float) -> Cohort:
    """Walk through all patients for who can be asked what and when.

    Guidance stands after a live discharge to home; diagnoses at the landmarks of the newest coded stays; chart QA where
    guidance stands, else at the newest landmark.
    """
    slots, groups = {task: [] for task in tasks}, {}
    counts = Counter({"with a coded stay": 0, "left out: no coded stay": 0})
    for record in reader.records(store, WHO_AND_WHEN):
        if not record["diagnoses_icd_labeled"]:
            counts["left out: no coded stay"] += 1
            continue
        subject_id = record["subject_id"]
        groups[subject_id] = next((p.get("anchor_year_group", "") for p in record["patients"]), "")
        home, early = prediction_times.of(record, seed), prediction_times.landmarks(record, hours)
        counts["with a coded stay"] += 1
        counts[
            "left out of guidance: no live discharge to home that a question could follow"
        ] += not home
        counts[
            f"left out of diagnoses: every coded stay ended within {hours:g} hours of arrival"
        ] += not early
        counts["left out of chart_qa: neither of these times"] += not (home or early)
        when = {
            "guidance": home[-1:] * per_subject,
            "chart_qa": (home or early)[-1:] * per_subject,
            "diagnoses": early[::-1][:per_subject],
        }
        for task in tasks:
            slots[task] += [
                Slot(task, subject_id, n, moment) for n, moment in enumerate(when[task])
            ]
    years = sorted({group for group in groups.values() if group})
    wanted = {
        reason: n
        for reason, n in counts.items()
        if not reason.startswith("left out of") or _about(reason) in tasks
    }
    return Cohort(slots, wanted, groups, years[-1] if len(years) > 1 else "")


def _about(reason: str) -> str:
    return reason.removeprefix("left out of ").split(":")[0]


def chosen(slots: dict, most: int | None, seed: int) -> dict:
    """subject_id -> its Slots: all, or `most` of them over all tasks.

    A limit takes whole rounds of patients in random order, so that it neither prefers nor splits neighbours, and of
    each task its share.
    """
    placed = []
    for task, found in slots.items():
        rank = {
            s: i
            for i, s in enumerate(
                seeded.order({slot.subject_id for slot in found}, f"prompts:{task}", seed)
            )
        }
        found = sorted(found, key=lambda slot: (slot.n, rank[slot.subject_id]))
        placed += [((i + 0.5) / TASKS[task], task, slot) for i, slot in enumerate(found)]
    by_subject = {}
    for _, _, slot in sorted(placed, key=lambda one: one[:2])[:most]:
        by_subject.setdefault(slot.subject_id, []).append(slot)
    return by_subject
