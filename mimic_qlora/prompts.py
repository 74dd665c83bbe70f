"""The prompts: which patients are asked what and when, and the records of one patient."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mimic_qlora import chart_qa, clinical, context, diagnoses, draws, facts, guidance, moments, subjects, visibility

# Each task with its share when --max-total allows fewer records than there are.
TASKS = {"guidance": 2, "chart_qa": 1, "diagnoses": 1}
WHO_AND_WHEN = {
    "patients": ("dod", "anchor_year_group"),
    "admissions": facts.WANTED["admissions"],
    "diagnoses_icd_labeled": ("hadm_id",),
}


class Slot(NamedTuple):
    """Room for one record: the n-th of this task about this patient."""

    task: str
    subject_id: int
    n: int
    moment: moments.Moment


class Cohort(NamedTuple):
    """Who can be asked: the slots of each task, who was left out and why, and the patients of the latest years."""

    slots: dict  # task -> [Slot]
    counts: dict  # reason -> patients
    year_groups: dict  # subject_id -> anchor_year_group, "" where there is none
    latest: str  # the anchor_year_group that is held out in time; "" when there are not two


def system_prompts(guidance_prompt: str) -> dict:
    return {
        "guidance": guidance_prompt,
        "chart_qa": chart_qa.SYSTEM_PROMPT,
        "diagnoses": diagnoses.SYSTEM_PROMPT,
    }


def content_sha256(guidance_prompt: str) -> str:
    """One hash of all that shapes a record beside data and settings: clinical content, visibility table, prompts."""
    digest = hashlib.sha256(clinical.content_sha256().encode())
    digest.update((Path(visibility.__file__).parent / "visibility.csv").read_bytes())
    for text in (*system_prompts(guidance_prompt).values(), *diagnoses.QUESTIONS, *chart_qa.NEVER_ON_RECORD):
        digest.update(text.encode())
    return digest.hexdigest()


def cohort(store: Path, tasks: list, per_subject: int, seed: int, hours: float) -> Cohort:
    """Walk through all patients for who can be asked what and when.

    Guidance stands after a live discharge to home; diagnoses at the landmarks of the newest coded stays; chart QA where
    guidance stands, else at the newest landmark.
    """
    slots, groups = {task: [] for task in tasks}, {}
    counts = Counter({"with a coded stay": 0, "left out: no coded stay": 0})
    for record in subjects.records(store, WHO_AND_WHEN):
        if not record["diagnoses_icd_labeled"]:
            counts["left out: no coded stay"] += 1
            continue
        subject_id = record["subject_id"]
        groups[subject_id] = next((p.get("anchor_year_group", "") for p in record["patients"]), "")
        home, early = moments.of(record, seed), moments.landmarks(record, hours)
        counts["with a coded stay"] += 1
        counts["left out of guidance: no live discharge to home that a question could follow"] += not home
        counts[f"left out of diagnoses: every coded stay ended within {hours:g} hours of arrival"] += not early
        counts["left out of chart_qa: neither of these times"] += not (home or early)
        when = {
            "guidance": home[-1:] * per_subject,
            "chart_qa": (home or early)[-1:] * per_subject,
            "diagnoses": early[::-1][:per_subject],
        }
        for task in tasks:
            slots[task] += [Slot(task, subject_id, n, moment) for n, moment in enumerate(when[task])]
    years = sorted({group for group in groups.values() if group})
    wanted = {
        reason: n for reason, n in counts.items() if not reason.startswith("left out of") or _about(reason) in tasks
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
        rank = {s: i for i, s in enumerate(draws.order({slot.subject_id for slot in found}, f"prompts:{task}", seed))}
        found = sorted(found, key=lambda slot: (slot.n, rank[slot.subject_id]))
        placed += [((i + 0.5) / TASKS[task], task, slot) for i, slot in enumerate(found)]
    by_subject = {}
    for _, _, slot in sorted(placed, key=lambda one: one[:2])[:most]:
        by_subject.setdefault(slot.subject_id, []).append(slot)
    return by_subject


def records(store: Path, slots: dict) -> Iterator[dict]:
    """The records of the patients who have slots, with all that can be known at the times of these."""
    times = {subject_id: [slot.moment.as_of for slot in found] for subject_id, found in slots.items()}
    return subjects.records(store, facts.WANTED, slots, facts.ONLY, facts.within(times))


def of_patient(record: dict, slots: list, shared: dict, labels: dict, count_tokens, cuts: Counter) -> Iterator[dict]:
    """The records that go into a patient's slots, fewer when the chart gives no more; adds to `cuts` what was cut."""
    by_task = {}
    for slot in slots:
        by_task.setdefault((slot.task, slot.moment), []).append(slot)
    built = {}
    for (task, moment), asked in by_task.items():
        if moment not in built:
            built[moment] = context.build(record, moment.as_of, shared, labels, count_tokens)
            cuts.update(built[moment].cuts.keys())
        here, n, key = built[moment], len(asked), f"{shared['seed']}:{record['subject_id']}"
        if task == "guidance":
            golds = guidance.golds(here.facts, here.chart, n, key)
        elif task == "chart_qa":
            golds = chart_qa.golds(here, n, f"{key}:chart_qa")
        else:
            golds = diagnoses.golds(record, moment.hadm_id, here.chart, f"{key}:{moment.hadm_id}")
        system = {"system_prompt": shared["system_prompts"][task]}
        for gold in golds:
            question, answer = gold.pop("question"), gold.pop("answer")
            turns = context.messages(system, here.text, question)
            yield {
                "messages": [*turns, {"role": "assistant", "content": answer}],
                "task": task,
                "subject_id": record["subject_id"],
                "hadm_id": moment.hadm_id,
                "as_of": str(moment.as_of),
                **{"symptom": None, "kind": None, "cautions": [], **gold},
            }
