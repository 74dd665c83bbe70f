"""The prompts: which patients are asked what and when, and the records of one patient."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mimic_qlora.chart import columns, context, visibility
from mimic_qlora.clinical import content
from mimic_qlora.subjects import reader
from mimic_qlora.tasks import chart_qa, diagnoses, guidance

# Each task with its share when --max-total allows fewer records than there are.
TASKS = {"guidance": 2, "chart_qa": 1, "diagnoses": 1}


def system_prompts(guidance_prompt: str) -> dict:
    return {
        "guidance": guidance_prompt,
        "chart_qa": chart_qa.SYSTEM_PROMPT,
        "diagnoses": diagnoses.SYSTEM_PROMPT,
    }


def content_sha256(guidance_prompt: str) -> str:
    """One hash of all that shapes a record beside data and settings: clinical content, visibility table, prompts."""
    digest = hashlib.sha256(content.content_sha256().encode())
    digest.update((Path(visibility.__file__).parent / "visibility.csv").read_bytes())
    for text in (
        *system_prompts(guidance_prompt).values(),
        *diagnoses.QUESTIONS,
        *chart_qa.NEVER_ON_RECORD,
    ):
        digest.update(text.encode())
    return digest.hexdigest()


def records(store: Path, slots: dict) -> Iterator[dict]:
    """The records of the patients who have slots, with all that can be known at the times of these."""
    times = {
        subject_id: [slot.moment.as_of for slot in found] for subject_id, found in slots.items()
    }
    return reader.records(store, columns.WANTED, slots, columns.ONLY, columns.within(times))


def of_patient(
    record: dict, slots: list, shared: dict, labels: dict, count_tokens, cuts: Counter
) -> Iterator[dict]:
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
