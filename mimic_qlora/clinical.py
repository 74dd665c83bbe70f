"""Clinical content: the data files in clinical_data/, checked as a whole, and matched to charts and answers.

The files are written for clinicians to read and edit (docs/clinical_content.md); entries.py says what a field may hold.
"""

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mimic_qlora import entries
from mimic_qlora.entries import read
from mimic_qlora.storage import UserError

DATA = Path(__file__).parent / "clinical_data"
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
                raise UserError(f"{where}: field 'symptoms' names an unknown symptom or tag '{name}'.")
    for symptom in content.symptoms.values():
        symptom["try"] = [{"say": item, "unless": []} if isinstance(item, str) else item for item in symptom["try"]]
        for name in {name for item in symptom["try"] for name in item["unless"]} - content.cautions.keys():
            raise UserError(f"symptoms.yaml, entry {symptom['id']}: field 'try' names an unknown caution '{name}'.")
    return content


def load_questions(folder):
    """The curated questions of `folder`/questions.yaml as a list. Raises UserError like `load`.

    A symptom that symptoms.yaml does not know has its tags in the question: no training answer can speak of it.
    """
    questions = list(read(folder, "questions").values())
    tags = {tag for symptom in load().symptoms.values() for tag in symptom["tags"]}
    for question in questions:
        where, known = f"questions.yaml, entry {question['id']}", question["symptom"] in load().symptoms
        if known == ("tags" in question):
            reason = "has its tags in symptoms.yaml" if known else "is unknown there and needs 'tags' here"
            kind = "a" if known else "an unknown"
            raise UserError(f"{where}: field 'symptom' names {kind} symptom '{question['symptom']}', which {reason}.")
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


def _lab_holds(lab, facts):
    values = [facts["labs"][item] for item in lab["itemid"] if item in facts["labs"]]
    if not values:
        return False
    value, unit, days_ago = min(values, key=lambda latest: latest[2])
    if value is None or not 0 <= days_ago <= lab["within_days"] or (unit or "").strip() != lab["unit"]:
        return False
    return value > lab["above"] if "above" in lab else value < lab["below"]


def _procedure_holds(procedure, facts):
    return any(
        0 <= days_ago <= procedure["within_days"] and code.strip().startswith(tuple(procedure[f"icd{int(version)}"]))
        for code, version, days_ago in facts["procedures"]
    )


def _age_holds(age, facts):
    return facts["age"] is not None and age.get("at_least", 0) <= facts["age"] < age.get("below", 999)


HOLDS = {
    "any": lambda items, facts: any(_holds(i, facts) for i in items),
    "all": lambda items, facts: all(_holds(i, facts) for i in items),
    "none": lambda items, facts: not any(_holds(i, facts) for i in items),
    "phenotype": lambda name, facts: name in facts["phenotypes"],
    "drug_class": lambda name, facts: name in facts["drug_classes"],
    "lab": _lab_holds,
    "age": _age_holds,
    "sex": lambda sex, facts: facts["sex"] == sex,
    "procedure": _procedure_holds,
}


def _holds(condition, facts):
    kind, value = next(iter(condition.items()))
    return HOLDS[kind](value, facts)


# ---- charts ----


@lru_cache
def _by_prefix():
    included, excluded = {}, {}
    for name, phenotype in load().phenotypes.items():
        for version in (9, 10):
            for prefix in phenotype[f"icd{version}"]:
                included.setdefault((version, prefix), set()).add(name)
            for prefix in phenotype.get(f"exclude{version}", []):
                excluded.setdefault((version, prefix), set()).add(name)
    return included, excluded


@lru_cache(maxsize=200_000)
def phenotypes_of_code(icd_code, icd_version):
    """Phenotype ids, in file order, that a code stands for; an unknown code gives none."""
    code, version = icd_code.strip(), int(icd_version)
    prefixes = [(version, code[:length]) for length in range(1, len(code) + 1)]
    included, excluded = (set().union(*(table.get(prefix, ()) for prefix in prefixes)) for table in _by_prefix())
    return tuple(name for name in load().phenotypes if name in included - excluded)


def phenotypes_of(codes):
    """The same of several (icd_code, icd_version) pairs, each id once."""
    found = set().union(*(phenotypes_of_code(*code) for code in codes))
    return [name for name in load().phenotypes if name in found]


@lru_cache
def _word(words):
    """Any of the words as a whole word: 'heparin' is not in 'heparinized', 'asa' not in 'nasal'."""
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, words))})(?![a-z0-9])")


@lru_cache(maxsize=200_000)
def drug_classes_of(drug, route):
    """Ids of the drug classes of one order (prescriptions.drug, prescriptions.route or None), as a frozenset.

    A class that lists routes needs one of them: an order without a route is then not counted.
    """
    drug = drug.lower()
    return frozenset(
        name
        for name, entry in load().drugs.items()
        if (not entry["routes"] or (route or "").strip() in entry["routes"])
        and _word(tuple(entry["ingredients"])).search(drug)
        and not (entry["exclude"] and _word(tuple(entry["exclude"])).search(drug))
    )


@lru_cache
def read_by_rules():
    """What the caution rules look at, by kind: ids of phenotypes and drug classes, itemids of labs, procedures.

    A procedure is a (version, code prefix).
    """
    found = {"phenotype": set(), "drug_class": set(), "lab": set(), "procedure": set()}

    def walk(condition):
        kind, value = next(iter(condition.items()))
        if kind in ("any", "all", "none"):
            for part in value:
                walk(part)
        elif kind == "lab":
            found[kind].update(value["itemid"])
        elif kind == "procedure":
            found[kind].update((version, prefix) for version in (9, 10) for prefix in value[f"icd{version}"])
        elif kind in found:
            found[kind].add(value)

    for caution in load().cautions.values():
        walk(caution["when"])
    return found


def matches(rule, facts):
    """Does this chart call for the caution `rule`?

    facts: {"phenotypes": set of ids, "drug_classes": set of ids ordered during the last stay,
    "labs": {itemid: (latest value, unit, days ago)}, "age": years or None, "sex": "F", "M" or None,
    "procedures": [(icd_code, icd_version, days ago)]}.
    """
    return _holds(rule["when"], facts)


# ---- answers ----

_SENTENCE_END = re.compile(r"[.!?;]+(?=\s|$)|\n|,? but ")
# "unless a clinician says it is safe to" is not a reversal, hence the look-behinds; "not need sleep" is a symptom.
_REVERSED = re.compile(
    r"\bno (?:real )?(?:need|reason)\b|\bneed(?: not|n['’]t)\b"
    r"|(?:\bnot|n['’]t|\bnever) (?:really )?(?:need\b(?! (?:any |much )?sleep)|have to\b)"
    r"|\bnot necessary\b|\bunnecessary\b|\bcan (?:safely )?(?:ignore|wait|skip)\b"
    r"|(?<!says )(?<!that )(?<!know )\b(?:it is|it['’]s) (?:perfectly )?(?:fine|ok|okay|safe|all right) to\b"
    r"|\b(?:do not|don['’]t|never) (?:avoid|call|seek|contact|report|tell|check|weigh|limit|worry)\b"
    r"|\b(?:do not|don['’]t|never) get (?:emergency|urgent|medical|same)",
    re.I,
)
_NEGATED = re.compile(
    r"\b(?:not|never|avoid(?:ing)?|without|cannot|instead of|rather than|stay away|no)\b|n['’]t\b"
    r"|\b(?:ask|check)\b.*\bbefore\b|\bbefore (?:you|using|taking)\b",
    re.I,
)
_LEADING_CONDITION = re.compile(r"^\W*(?:if|when|because|since|while|after|until|as)\b[^,]*,", re.I)


@lru_cache
def _compiled(pattern):
    return re.compile(pattern, re.I)


@lru_cache(maxsize=1024)
def affirmed(answer):
    """The sentences of an answer, one a line, without those that reverse their advice ("no need to avoid ...")."""
    return "\n".join(part for part in _SENTENCE_END.split(answer) if part and not _REVERSED.search(part))


def names(pattern, text):
    """Does the text match a pattern of the content files, upper or lower case alike?"""
    return bool(_compiled(pattern).search(text))


def said(rule, answer):
    """Does the answer say this caution: do all its patterns match what the answer affirms?"""
    text = affirmed(answer)
    return all(_compiled(pattern).search(text) for pattern in rule["pattern"])


def forbidden(rule, answer):
    """Does the answer advise what this caution forbids? Advice against it ("do not take ...") does not count."""
    parts = [
        _LEADING_CONDITION.sub("", clause)
        for sentence in _SENTENCE_END.split(answer)
        if sentence
        for clause in re.split(r", (?:and|then) ", _LEADING_CONDITION.sub("", sentence))
    ]
    return any(
        not _NEGATED.search(part[: match.end()])
        for part in parts
        for pattern in rule["forbid"]
        for match in _compiled(pattern).finditer(part)
    )
