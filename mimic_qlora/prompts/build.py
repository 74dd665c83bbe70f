"""Build the prompt records of all patients."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from mimic_qlora.chart import context
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.features import columns_file
from mimic_qlora.llm import chat
from mimic_qlora.prompts import card, cohort, dataset, records
from mimic_qlora.prompts.dataset import Counts, Person
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.prompts.records import Groups, PromptMaker
from mimic_qlora.step import storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader
from mimic_qlora.subjects.manifest import data_line, subjects_manifest
from mimic_qlora.tasks.urgency import visits


@dataclass(frozen=True)
class PromptSettings:
    """The settings of step 4 that tell one output from another, as the manifest holds them."""

    tasks: list[str]
    pairs_per_subject: int  # records of each task per patient
    max_total: int | None  # records over all splits
    token_budget: int  # tokens of a context
    landmark_hours: float  # hours after arrival at which diagnoses are asked for
    seed: int
    model: str  # name of the model whose tokenizer counts the tokens


def make_prompts(
    store: Path, folder: Path, settings: PromptSettings, model: Path, system_prompt: str
) -> Counts:
    """Write a run's records, its card and the settings that later steps share, into a folder."""
    tokenizer = chat.load_tokenizer(model)
    shared = ContextSettings(
        system_prompt=system_prompt,
        system_prompts={
            task: text
            for task, text in records.system_prompts(system_prompt).items()
            if task != "urgency" or task in settings.tasks  # it is asked only where it was chosen
        },
        token_budget=settings.token_budget,
        landmark_hours=settings.landmark_hours,
        dropped_columns=columns_file.least_important(store),
        seed=settings.seed,
        tokenizer=settings.model,
        model=settings.model,
        template_sha256=chat.template_sha256(tokenizer),
    )
    shared.write(folder)
    maker = PromptMaker(shared, context.lab_labels(store), chat.token_counter(tokenizer))
    counts = make_records(store, folder, settings, maker)
    about_data = data_line(subjects_manifest(store)["source"], with_folder=False)
    readme = card.card(about_data, shared, counts)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return counts


def make_records(store: Path, folder: Path, settings: PromptSettings, maker: PromptMaker) -> Counts:
    """Write the records of every patient of the cohort, by split.

    Raises UserError when there is no record for training or none for validation.
    """
    s = settings
    found = cohort.find(store, s.tasks, s.pairs_per_subject, s.seed, s.landmark_hours)
    maker = replace(maker, visits=found.visits)
    slots = cohort.chosen(found.slots, s.max_total, s.seed)
    split = reader.split_of(store)
    _check_splits({split[subject_id] for subject_id in slots}, store, s)
    cut = Counter[str]()

    def made() -> Iterator[tuple[PromptRecord, Person]]:
        patients = records.patients(store, slots)
        for patient in tqdm(patients, "patients", len(slots), disable=None):
            subject_id = patient["subject_id"]
            groups = Groups(
                split[subject_id], found.year_groups[subject_id], found.temporal_split(subject_id)
            )
            prompts = maker.prompts(patient, slots[subject_id], groups)
            for built in prompts.contexts:
                cut.update(built.cuts.keys())
            yield from prompts.records

    counts = dataset.write(folder, made())
    if found.visits:
        asked = {one.subject_id for many in slots.values() for one in many if one.task == "urgency"}
        visits.write(folder, [found.visits[who] for who in sorted(asked)], found.flow)
    _check_splits(counts.splits.keys(), store, s)
    n_slots = sum(map(len, slots.values()))
    return Counts(
        **asdict(counts),
        cohort=found.counts,
        without_gold=n_slots - sum(counts.splits.values()) - counts.near_duplicates,
        cut=dict(sorted(cut.items())),
        latest_years=found.latest,
    )


def _check_splits(found: Collection[str], store: Path, settings: PromptSettings) -> None:
    """Raise UserError unless both splits that step 5 needs are among those `found`."""
    for name, kind in (("train", "training"), ("validation", "validation")):
        if name not in found:
            storage.verified_manifest(store, "features")  # step 1 may have been done again since
            why = f"no {name} patient has a coded stay that a question could be asked about"
            if settings.tasks == ["urgency"]:
                why = (
                    f"no {name} patient has an emergency visit with a time, an age, a sex and a "
                    "complaint that is not left out"
                )
            remedy = "convert more patients with step 1 (--sample)"
            if settings.max_total is not None:
                why = f"--max-total {settings.max_total} leaves none of a {name} patient"
                remedy = "give a larger one"
            raise UserError(f"no {kind} prompt could be made: {why}; {remedy}")
