"""The names that entries of the clinical content call each other by: each must be in its file."""

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING

from mimic_qlora.clinical.conditions import (
    Condition,
    HadProcedure,
    HasDrug,
    HasHomeDrug,
    HasPhenotype,
    leaves,
)
from mimic_qlora.clinical.schema import Caution, Coded, Line, Question, Symptom, Tell
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    from mimic_qlora.clinical.content import Content


def check(content: "Content") -> None:
    """Raise UserError with file, entry and field for the first name that no file has."""
    _check_codes(content)
    for tell in content.tells.values():
        _check_tell(tell, content)
    for presumption in content.presumptions.values():
        where = f"presumptions.yaml, entry {presumption.id}: field 'holds'"
        _check_condition(where, presumption.holds, content)
    for caution in content.cautions.values():
        _check_caution(caution, content)
    for symptom in content.symptoms.values():
        where = f"symptoms.yaml, entry {symptom.id}: field"
        for field, lines in (
            ("try", symptom.self_care),
            ("urgent", symptom.urgent),
            ("track", symptom.track),
        ):
            for line in lines:
                _check_line(f"{where} '{field}'", line, content)
        _check_condition(f"{where} 'needs'", symptom.needs, content)
        for phrasing in symptom.phrasings:
            _check_names(f"{where} 'phrasings'", "sign", phrasing.signs, content.signs)
            _check_condition(f"{where} 'phrasings'", phrasing.when, content)


def _check_codes(content: "Content") -> None:
    """Raise UserError for an unknown phenotype, and for an entry that nothing can lead to."""
    became = {entry.becomes for entry in content.phenotypes.values()}
    for phenotype in content.phenotypes.values():
        where = f"phenotypes.yaml, entry {phenotype.id}:"
        _check_names(where, "phenotype", phenotype.names_others, content.phenotypes)
    files: dict[str, Mapping[str, Coded]] = {
        "phenotypes": content.phenotypes,
        "procedures": content.procedures,
    }
    for file, entries in files.items():
        for entry in entries.values():
            if not entry.icd9 and not entry.icd10 and entry.id not in became:
                raise UserError(
                    f"{file}.yaml, entry {entry.id}: has no codes in 'icd9' or 'icd10', and no "
                    "phenotype becomes it."
                )


def check_question(question: Question, content: "Content") -> None:
    """Raise UserError for a sign, or a finding that a question needs, that no file has."""
    where = f"questions.yaml, entry {question.id}: field"
    _check_condition(f"{where} 'needs'", question.needs, content)
    _check_names(f"{where} 'signs'", "sign", question.signs, content.signs)
    for flag in question.red_flags:
        _check_names(f"{where} 'red_flags'", "sign", flag.signs, content.signs)


def tags_of(symptoms: Iterable[Symptom]) -> set[str]:
    """Return the tags of symptoms."""
    return {tag for symptom in symptoms for tag in symptom.tags}


def _check_tell(tell: Tell, content: "Content") -> None:
    where = f"tells.yaml, entry {tell.id}: field"
    _check_names(f"{where} 'opposed'", "tag", tell.opposed, content.tells)
    for other in tell.opposed:
        if tell.id not in content.tells[other].opposed:
            raise UserError(f"{where} 'opposed' names '{other}', which does not name it in turn.")
    _check_condition(f"{where} 'never_when'", tell.never_when, content)


def _check_caution(caution: Caution, content: "Content") -> None:
    where = f"cautions.yaml, entry {caution.id}: field"
    _check_condition(f"{where} 'when'", caution.when, content)
    known = {*content.symptoms, *tags_of(content.symptoms.values())}
    _check_names(f"{where} 'symptoms'", "symptom or tag", caution.symptoms, {"any", *known})
    _check_names(f"{where} 'severity'", "symptom or tag", caution.severities, {"default", *known})
    _check_tells(f"{where} 'tells'", caution.tells, content)
    _check_names(f"{where} 'signs'", "sign", caution.signs, content.signs)


def _check_line(where: str, line: Line, content: "Content") -> None:
    _check_names(where, "caution", line.unless, content.cautions)
    _check_condition(f"{where} 'when'", line.when, content)
    _check_tells(where, line.tells, content)
    _check_names(where, "sign", line.signs, content.signs)


def _check_condition(where: str, condition: Condition | None, content: "Content") -> None:
    """Raise UserError for a phenotype, drug class or group of procedures that no file has."""
    for leaf in leaves(condition) if condition is not None else ():
        if isinstance(leaf, HasPhenotype):
            _check_names(where, leaf.kind, [leaf.phenotype], content.phenotypes)
        if isinstance(leaf, HasDrug):
            _check_names(where, leaf.kind, [leaf.drug_class], content.drugs)
        if isinstance(leaf, HasHomeDrug):
            _check_names(where, leaf.kind, [leaf.home_drug_class], content.drugs)
        if isinstance(leaf, HadProcedure):
            _check_names(where, leaf.kind, [leaf.procedure.group], content.procedures)


def _check_tells(where: str, tags: Iterable[str], content: "Content") -> None:
    """Raise UserError for a tag that tells.yaml does not have, or that names no drug class."""
    for tag in tags:
        kind, colon, drug = tag.partition(":")
        _check_names(where, "tag", [kind], content.tells)
        takes = content.tells[kind].takes
        if (takes is None) == bool(colon):
            raise UserError(
                f"{where}: the tag '{kind}' needs a drug class after a colon, or any."
                if takes
                else f"{where}: the tag '{kind}' has nothing after it."
            )
        if takes:
            _check_names(where, takes, [drug], {"any", *content.drugs})


def _check_names(where: str, what: str, names: Iterable[str], known: Container[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{where} names an unknown {what} '{name}'.")
