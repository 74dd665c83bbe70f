"""The clinical content: the files in data/, checked as a whole.

The files are written for clinicians to read and edit (docs/clinical_content.md); schema.py says
what a field may hold.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.clinical import derived, references, schema
from mimic_qlora.clinical.conditions import (
    HadProcedure,
    HasDerived,
    HasDrug,
    HasHomeDrug,
    HasLab,
    HasPhenotype,
    Names,
    leaves,
)
from mimic_qlora.clinical.fields import Model
from mimic_qlora.clinical.schema import (
    Caution,
    Crisis,
    DrugClass,
    Entry,
    Knowledge,
    Named,
    Phenotype,
    Presumption,
    ProcedureGroup,
    Question,
    Sign,
    Symptom,
    Tell,
)
from mimic_qlora.step.errors import UserError

DATA = Path(__file__).parent / "data"
SECTIONS = schema.SECTIONS


class Content(NamedTuple):
    """The checked content: for each file id -> entry, in file order."""

    phenotypes: dict[str, Phenotype]
    procedures: dict[str, ProcedureGroup]
    drugs: dict[str, DrugClass]
    symptoms: dict[str, Symptom]
    cautions: dict[str, Caution]
    signs: dict[str, Sign]
    tells: dict[str, Tell]
    presumptions: dict[str, Presumption]


class UnlistedSymptom(Model):
    """A symptom that only a question names. No training answer speaks of it."""

    id: str
    tags: tuple[str, ...]
    held_out: bool = True


AnySymptom = Symptom | UnlistedSymptom


class ReadByRules(NamedTuple):
    """The findings that conditions look at: ids, and itemids of labs."""

    phenotypes: frozenset[str]
    drug_classes: frozenset[str]
    home_drug_classes: frozenset[str]
    labs: frozenset[int]
    procedures: frozenset[str]


@lru_cache
def load(folder: Path = DATA) -> Content:
    """Return all clinical content in `folder`. Raises UserError with file, entry and field."""
    return of_entries({name: schema.raw(folder, name) for name in Content._fields})


def of_entries(entries: Mapping[str, Sequence[object]]) -> Content:
    """Return the content of these files (name -> entries as YAML has them), checked as a whole."""

    def of_file(name: str, model: type[schema.E]) -> dict[str, schema.E]:
        return schema.checked(entries[name], model, f"{name}.yaml")

    content = Content(
        of_file("phenotypes", Phenotype),
        of_file("procedures", ProcedureGroup),
        of_file("drugs", DrugClass),
        of_file("symptoms", Symptom),
        of_file("cautions", Caution),
        of_file("signs", Sign),
        of_file("tells", Tell),
        of_file("presumptions", Presumption),
    )
    references.check(content)
    return content


def load_questions(folder: Path) -> list[Question]:
    """Return the curated questions of `folder`/questions.yaml. Raises UserError like `load`.

    A question about a symptom that symptoms.yaml does not list brings the symptom's tags.
    """
    questions = list(schema.read(folder, "questions", Question).values())
    content = load()
    symptoms, tags = content.symptoms, references.tags_of(content.symptoms.values())
    for question in questions:
        references.check_question(question, content)
        where, name = f"questions.yaml, entry {question.id}", question.symptom
        if name in symptoms and question.tags:
            raise UserError(
                f"{where}: field 'tags' is for other symptoms than '{name}', which has its tags in "
                "symptoms.yaml."
            )
        if name not in symptoms and not question.tags:
            raise UserError(
                f"{where}: field 'symptom' names an unknown symptom '{name}': give its 'tags' "
                "here, or add it to symptoms.yaml."
            )
        for tag in question.tags:
            if tag not in tags:
                raise UserError(f"{where}: field 'tags' names an unknown tag '{tag}'.")
    return questions


def symptom_of(question: Question) -> AnySymptom:
    """Return the symptom that a question asks about."""
    unlisted = UnlistedSymptom(id=question.symptom, tags=question.tags)
    return load().symptoms.get(question.symptom, unlisted)


def load_knowledge(folder: Path) -> list[Knowledge]:
    """Return the prompts without a patient of `folder`/knowledge.yaml. Raises UserError."""
    return list(schema.read(folder, "knowledge", Knowledge).values())


def load_crisis(folder: Path) -> list[Crisis]:
    """Return the prompts at which help is due, of `folder`/crisis.yaml.

    Raises UserError for a file that is not as it should be, or that names unknown content.
    """
    found = list(schema.read(folder, "crisis", Crisis).values())
    known = {*load().symptoms, *load().cautions}
    for entry in found:
        if unknown := [name for name in entry.taught_by if name not in known]:
            raise UserError(
                f"crisis.yaml: '{entry.id}': field 'taught_by' names '{unknown[0]}', which is "
                "neither a symptom nor a caution."
            )
    return found


def is_trained_on(entry: Crisis) -> bool:
    """Return whether training answers speak of it."""
    parts = (load().symptoms, load().cautions)
    return any(
        not part[name].held_out for name in entry.taught_by for part in parts if name in part
    )


def names() -> Names:
    """Return the names of phenotypes and drug classes, for `in_words` of a condition."""
    content = load()
    return Names(
        {name: entry.name for name, entry in content.phenotypes.items()},
        {name: entry.name for name, entry in content.drugs.items()},
        {name: entry.name for name, entry in content.procedures.items()},
    )


@lru_cache
def read_by_rules() -> ReadByRules:
    """Return the findings that decide which cautions and sentences an answer has."""
    content = load()
    lines = [
        line
        for symptom in content.symptoms.values()
        for line in (*symptom.self_care, *symptom.urgent, *symptom.track)
    ]
    read = [
        *(caution.when for caution in content.cautions.values()),
        *(line.when for line in lines),
        *(symptom.needs for symptom in content.symptoms.values()),
        *(ask.when for symptom in content.symptoms.values() for ask in symptom.phrasings),
        *(tell.never_when for tell in content.tells.values()),
    ]
    found = [leaf for condition in read if condition is not None for leaf in leaves(condition)]
    values = {leaf.derived.value for leaf in found if isinstance(leaf, HasDerived)}
    return ReadByRules(
        frozenset(leaf.phenotype for leaf in found if isinstance(leaf, HasPhenotype)),
        frozenset(leaf.drug_class for leaf in found if isinstance(leaf, HasDrug)),
        frozenset(leaf.home_drug_class for leaf in found if isinstance(leaf, HasHomeDrug)),
        frozenset(item for leaf in found if isinstance(leaf, HasLab) for item in leaf.lab.itemid)
        | frozenset(item for value in values for item in derived.MEANINGS[value].items),
        frozenset(leaf.procedure.group for leaf in found if isinstance(leaf, HadProcedure)),
    )


@lru_cache
def content_sha256() -> str:
    """Return a hash of the data files; steps that rest on them are stale when it changes."""
    return sha256_of(load())


def sha256_of(content: Content) -> str:
    """Return a hash of all entries as the files have them (see `_sha256`)."""
    return _sha256(entry for part in content for entry in part.values())


def asked_sha256(questions: Iterable[Question]) -> str:
    """Return a hash of what step 7 asks and scores by: the questions and the data files."""
    entries = _sha256(sorted(questions, key=lambda question: question.id))
    return hashlib.sha256(f"{content_sha256()}{entries}".encode()).hexdigest()


def _sha256(entries: Iterable[Named]) -> str:
    """Return a hash of entries.

    Who reviewed an entry, and when, is left out: approving a wording changes no result.
    """
    kept = [
        {
            field: value
            for field, value in entry.as_in_file().items()
            if not field.startswith("reviewed_")
        }
        for entry in entries
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def reviewed_of(entries: Sequence[Entry], kind: str) -> str:
    """Return the number of entries that a clinician has reviewed, as "0 of 32 ideals"."""
    return f"{sum(bool(entry.reviewed_by) for entry in entries)} of {len(entries)} {kind}"


def reviewed() -> str:
    """Return a clause on the review of what gold answers are made of: symptoms and cautions."""
    symptoms = reviewed_of(list(load().symptoms.values()), "symptoms")
    rules = reviewed_of(list(load().cautions.values()), "caution rules")
    return f"a clinician has reviewed {symptoms} and {rules}"
