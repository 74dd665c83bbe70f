"""The cohort: which patients are asked what and when."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import columns, prediction_times
from mimic_qlora.chart.prediction_times import Moment
from mimic_qlora.step import seeded
from mimic_qlora.subjects import reader
from mimic_qlora.tasks.urgency import cohort as urgency
from mimic_qlora.tasks.urgency.visits import Count, Visit

# Each task with its share when --max-total allows fewer records than there are.
SHARES = {"guidance": 2, "chart_qa": 1, "diagnoses": 1, "urgency": 2}
WHO_AND_WHEN = {
    "patients": ("dod", "anchor_year_group"),
    "admissions": columns.WANTED["admissions"],
    "diagnoses_icd_labeled": ("hadm_id", "icd_code", "icd_version"),
}
NO_STAY = "left out: no coded stay"
CODED = "with a coded stay"


class Slot(NamedTuple):
    """Room for one record: the n-th of this task about this patient."""

    task: str
    subject_id: int
    n: int
    moment: Moment


class Cohort(NamedTuple):
    """The patients who can be asked, and how many were left out."""

    slots: dict[str, list[Slot]]  # by task
    counts: dict[str, int]  # reason -> patients
    year_groups: dict[int, str]  # subject_id -> anchor_year_group, "" where there is none
    latest: str  # the anchor_year_group that is held out in time; "" when there are not two
    visits: dict[int, Visit] = {}  # of the urgency task, by subject_id
    flow: Sequence[Count] = ()  # of the urgency task: how its visits were found

    def temporal_split(self, subject_id: int) -> str:
        """Return the split by time: "test" for the patients of the latest years."""
        years = self.year_groups[subject_id]
        return "test" if years and years == self.latest else "train"


def find(store: Path, tasks: list[str], per_subject: int, seed: int, hours: float) -> Cohort:
    """Walk through all patients and find who can be asked what and when.

    Guidance stands after a live discharge to home; diagnoses at the landmarks of the newest coded
    stays; chart questions where guidance stands, else at the newest landmark. Urgency is asked at
    the arrival of one emergency visit, with or without a coded stay.
    """
    reasons = {
        "guidance": "no live discharge to home that a question could follow",
        "diagnoses": f"every coded stay ended within {hours:g} hours of arrival",
        "chart_qa": "neither of these times",
    }
    slots: dict[str, list[Slot]] = {task: [] for task in tasks}
    groups: dict[int, str] = {}
    n_coded, n_not_coded, left_out = 0, 0, Counter[str]()
    for record in reader.records(store, WHO_AND_WHEN):
        stays = {stay["hadm_id"] for stay in record["admissions"]}
        if stays.isdisjoint(row["hadm_id"] for row in record["diagnoses_icd_labeled"]):
            n_not_coded += 1
            continue
        n_coded += 1
        subject_id = record["subject_id"]
        groups[subject_id] = next((p.get("anchor_year_group", "") for p in record["patients"]), "")
        home = prediction_times.after_discharge(record, seed)
        early = prediction_times.landmarks(record, hours)
        when = {
            "guidance": home[-1:] * per_subject,
            "chart_qa": (home or early)[-1:] * per_subject,
            "diagnoses": early[::-1][:per_subject],
        }
        left_out.update(task for task, moments in when.items() if not moments)
        for task in tasks:
            slots[task] += [
                Slot(task, subject_id, n, moment) for n, moment in enumerate(when.get(task, []))
            ]
    counts = {CODED: n_coded, NO_STAY: n_not_coded}
    if n_coded:
        counts |= {
            f"left out of {task}: {reason}": left_out[task]
            for task, reason in reasons.items()
            if task in tasks
        }
    visits, flow = urgency.find(store, seed) if "urgency" in tasks else urgency.Cohort({}, [])
    for subject_id, visit in visits.items():
        slots["urgency"].append(Slot("urgency", subject_id, 0, Moment(None, visit.arrival)))
        groups[subject_id] = visit.year_group
    years = sorted({group for group in groups.values() if group})
    latest = years[-1] if len(years) > 1 else ""
    return Cohort(slots, counts, groups, latest, visits, flow)


def chosen(slots: dict[str, list[Slot]], most: int | None, seed: int) -> dict[int, list[Slot]]:
    """Return subject_id -> its slots: all, or `most` of them over all tasks.

    A limit takes of each task its share, and whole patients in one random order. What the prompts
    of a patient have in common, the chart above all, is computed once in training.
    """
    people = {slot.subject_id for found in slots.values() for slot in found}
    rank = {who: i for i, who in enumerate(seeded.order(people, "prompts", seed))}
    placed: list[tuple[float, str, Slot]] = []
    for task, found in slots.items():
        found = sorted(found, key=lambda slot: (rank[slot.subject_id], slot.n))
        placed += [((i + 0.5) / SHARES[task], task, slot) for i, slot in enumerate(found)]
    by_subject: dict[int, list[Slot]] = {}
    for _, _, slot in sorted(placed, key=lambda one: one[:2])[:most]:
        by_subject.setdefault(slot.subject_id, []).append(slot)
    return by_subject
