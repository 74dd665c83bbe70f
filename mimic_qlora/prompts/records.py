"""The records of one patient, and all that shapes a record beside data and settings."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import columns, context, procedure_words, visibility
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.chart.prediction_times import Moment
from mimic_qlora.chart.prompt import messages
from mimic_qlora.chart.rows import Record
from mimic_qlora.clinical import content
from mimic_qlora.mimic import lab_bounds, omr_bounds
from mimic_qlora.prompts.cohort import Slot
from mimic_qlora.prompts.dataset import Person
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.subjects import reader
from mimic_qlora.tasks import chart_qa, diagnoses, guidance
from mimic_qlora.tasks.gold import Gold
from mimic_qlora.tasks.urgency import label, symptoms
from mimic_qlora.tasks.urgency import task as urgency
from mimic_qlora.tasks.urgency.visits import Visit


class Groups(NamedTuple):
    """The groups that a patient's records belong to, by random split and by time."""

    split: str
    anchor_year_group: str
    temporal_split: str


class PatientPrompts(NamedTuple):
    """A patient's records, each with age and sex at its time, and the contexts that they show."""

    records: list[tuple[PromptRecord, Person]]
    contexts: list[context.Context]


@dataclass(frozen=True)
class PromptMaker:
    """All that contexts and records are made by, beside the patient."""

    settings: ContextSettings
    labels: dict[int, str]  # itemid -> name of the lab
    count_tokens: Callable[[str], int]
    visits: Mapping[int, Visit] = field(default_factory=dict)  # of the urgency task, by subject_id

    def build(self, record: Record, moment: Moment) -> context.Context:
        """Return the patient's context at one time."""
        return context.build(record, moment.as_of, self.settings, self.labels, self.count_tokens)

    def golds(
        self, record: Record, slots: list[Slot], built: context.Context, split: str
    ) -> list[Gold]:
        """Return at most one gold a slot; the slots are of one task at one time."""
        task, subject_id, _, moment = slots[0]
        key = f"{self.settings.seed}:{subject_id}"
        if task == "guidance":
            learned = split == "train"
            return guidance.golds(built.facts, built.chart, len(slots), key, learned)
        if task == "chart_qa":
            return chart_qa.golds(built, len(slots), f"{key}:chart_qa")
        if task == "urgency":
            return urgency.golds(record, built, self.visits[subject_id])
        assert moment.hadm_id is not None, "a landmark is of a stay"
        return diagnoses.golds(record, moment.hadm_id, built.chart, f"{key}:{moment.hadm_id}")

    def prompts(self, record: Record, slots: list[Slot], groups: Groups) -> PatientPrompts:
        """Return the records for a patient's slots, fewer where the chart gives no more golds."""
        asked: dict[tuple[str, Moment], list[Slot]] = {}
        for slot in slots:
            asked.setdefault((slot.task, slot.moment), []).append(slot)
        contexts: dict[Moment, context.Context] = {}
        made = []
        for (task, moment), here in asked.items():
            if moment not in contexts:  # only visits have moments without a stay
                chart = record
                if task == "urgency":
                    chart = urgency.before_arrival(record, self.visits[here[0].subject_id].stay_id)
                contexts[moment] = self.build(chart, moment)
            built = contexts[moment]
            person = Person(built.chart.age, built.chart.sex)
            for gold in self.golds(record, here, built, groups.split):
                turns = messages(self.settings.system_prompts[task], built.text, gold.question)
                made.append((_record(here[0], turns, gold, groups), person))
        return PatientPrompts(made, list(contexts.values()))


def _record(slot: Slot, turns: list[dict[str, str]], gold: Gold, groups: Groups) -> PromptRecord:
    return PromptRecord(
        messages=[*turns, {"role": "assistant", "content": gold.answer}],
        task=slot.task,
        subject_id=slot.subject_id,
        hadm_id=slot.moment.hadm_id,
        as_of=slot.moment.as_of,
        symptom=gold.symptom,
        kind=gold.kind,
        cautions=gold.cautions,
        evidence=gold.evidence,
        rubric=gold.rubric,
        **groups._asdict(),
    )


def system_prompts(guidance_prompt: str) -> dict[str, str]:
    """Return task -> system prompt."""
    return {
        "guidance": guidance_prompt,
        "chart_qa": chart_qa.SYSTEM_PROMPT,
        "diagnoses": diagnoses.SYSTEM_PROMPT,
        "urgency": urgency.SYSTEM_PROMPT,
    }


def content_sha256(guidance_prompt: str) -> str:
    """Hash clinical content, visibility, label and prompts: what shapes a record beside data.

    So do bounds beyond which a value is left out, and the words for procedures; the words for
    symptoms shape a table beside the records.
    """
    digest = hashlib.sha256(content.content_sha256().encode())
    own = Path(label.__file__).parent
    for path in (
        Path(visibility.__file__).parent / "visibility.csv",
        own / "label.yaml",
        own / "cohort.yaml",
        Path(symptoms.__file__).with_suffix(".yaml"),
        Path(lab_bounds.__file__).with_suffix(".csv"),
        Path(omr_bounds.__file__).with_suffix(".csv"),
        Path(procedure_words.__file__).with_suffix(".csv"),
    ):
        digest.update(path.read_bytes())
    for text in (
        *system_prompts(guidance_prompt).values(),
        *diagnoses.QUESTIONS,
        *chart_qa.NEVER_ON_RECORD,
    ):
        digest.update(text.encode())
    return digest.hexdigest()


def patients(store: Path, slots: dict[int, list[Slot]]) -> Iterator[dict]:
    """Yield the typed rows of patients who have slots, with all that is known at their times."""
    times = {
        subject_id: [slot.moment.as_of for slot in found] for subject_id, found in slots.items()
    }
    return reader.records(store, columns.WANTED, slots, columns.ONLY, columns.within(times))
