"""Clinical content: the data files in clinical_data/, checked as a whole, and matched to charts and answers.

The files are written for clinicians to read and edit (docs/clinical_content.md); entries.py says what a field may hold.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.clinical import schema as entries
from mimic_qlora.clinical.schema import read
from mimic_qlora.step.errors import UserError

DATA = Path(__file__).parent / "data"
SECTIONS = entries.SECTIONS


class Clinical(NamedTuple):
    """The checked content: for each file a dict of id -> entry, in file order."""

    phenotypes: dict
    drugs: dict
    symptoms: dict
    cautions: dict


# ---- the files ----


def _referenced(condition):
    """(kind, id) of each phenotype and drug class that a condition names."""
    kind, value = next(iter(condition.items()))
    if kind in ("any", "all", "none"):
        return [pair for item in value for pair in _referenced(item)]
    return [(kind, value)] if kind in ("phenotype", "drug_class") else []


@lru_cache
def load(folder=DATA):
    """All clinical content in `folder`, checked. Raises UserError that names file, entry and field of a mistake."""
    content = Clinical(*(read(folder, name) for name in Clinical._fields))
    tags = {tag for symptom in content.symptoms.values() for tag in symptom["tags"]}
    known = {"phenotype": content.phenotypes, "drug_class": content.drugs}
    for caution in content.cautions.values():
        where = f"cautions.yaml, entry {caution['id']}"
        for kind, name in _referenced(caution["when"]):
            if name not in known[kind]:
                raise UserError(f"{where}: field 'when' names an unknown {kind} '{name}'.")
        for name in caution["symptoms"]:
            if name != "any" and name not in content.symptoms and name not in tags:
                raise UserError(
                    f"{where}: field 'symptoms' names an unknown symptom or tag '{name}'."
                )
    for symptom in content.symptoms.values():
        symptom["try"] = [
            {"say": item, "unless": []} if isinstance(item, str) else item
            for item in symptom["try"]
        ]
        for name in {
            name for item in symptom["try"] for name in item["unless"]
        } - content.cautions.keys():
            raise UserError(
                f"symptoms.yaml, entry {symptom['id']}: field 'try' names an unknown caution '{name}'."
            )
    return content


def load_questions(folder):
    """The curated questions of `folder`/questions.yaml as a list. Raises UserError like `load`.

    A symptom that symptoms.yaml does not know has its tags in the question: no training answer can speak of it.
    """
    questions = list(read(folder, "questions").values())
    tags = {tag for symptom in load().symptoms.values() for tag in symptom["tags"]}
    for question in questions:
        where, known = (
            f"questions.yaml, entry {question['id']}",
            question["symptom"] in load().symptoms,
        )
        if known == ("tags" in question):
            reason = (
                "has its tags in symptoms.yaml"
                if known
                else "is unknown there and needs 'tags' here"
            )
            kind = "a" if known else "an unknown"
            raise UserError(
                f"{where}: field 'symptom' names {kind} symptom '{question['symptom']}', which {reason}."
            )
        for tag in set(question.get("tags", ())) - tags:
            raise UserError(f"{where}: field 'tags' names an unknown tag '{tag}'.")
    return questions


def symptom_of(question):
    """What a question asks about: {"id", "tags", "held_out", ...}; held_out when no training answer speaks of it."""
    own = {"id": question["symptom"], "tags": question.get("tags", ()), "held_out": True}
    return load().symptoms.get(question["symptom"], own)


def load_knowledge(folder):
    """The prompts without a patient of `folder`/knowledge.yaml as a list. Raises UserError like `load`."""
    return list(read(folder, "knowledge").values())


@lru_cache
def content_sha256():
    """One hash over the data files: a step that rests on them is stale when it changes.

    Who reviewed an entry, and when, is no part of it: approval of what stands changes no result.
    """
    content = [
        {field: value for field, value in entry.items() if not field.startswith("reviewed_")}
        for name in Clinical._fields
        for entry in read(DATA, name).values()
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def reviewed_of(entries, kind):
    """How many of these entries a clinician has reviewed, in words: "0 of 32 ideals"."""
    return f"{sum(bool(entry['reviewed_by']) for entry in entries)} of {len(entries)} {kind}"


def reviewed():
    """The same of the symptoms and caution rules, of which gold answers are made, as a clause."""
    symptoms, rules = (list(entries.values()) for entries in (load().symptoms, load().cautions))
    return f"a clinician has reviewed {reviewed_of(symptoms, 'symptoms')} and {reviewed_of(rules, 'caution rules')}"


# ---- conditions of a caution: name -> whether it holds for these facts ----


# ---- charts ----


# ---- answers ----
