"""The audit of guidance answers: they fit the chart, and no sentence contradicts another."""

from collections.abc import Iterator, Sequence

from mimic_qlora.clinical import conflicts, content, levels, presumptions
from mimic_qlora.clinical.conditions import Facts
from mimic_qlora.clinical.conflicts import Saying
from mimic_qlora.clinical.schema import Symptom
from mimic_qlora.prompts.record_files import PromptRecord


def parts(answer: str) -> tuple[str, list[str]]:
    """Return the line that an answer opens with, "" for none, and its sentences."""
    start, *rest = answer.splitlines()
    headings = content.SECTIONS.values()
    if start in headings:
        start, rest = "", [start, *rest]
    return start, [line.removeprefix("- ") for line in rest if line and line not in headings]


def first_step(start: str) -> str:
    """Return the self-care that must come first after an opening line, "" for none."""
    return next((how.first_step for how in levels.LEVELS.values() if how.opening == start), "")


def gone(record: PromptRecord) -> str:
    """Return the symptom or caution of a guidance record that the content has not, "" for none."""
    if record.task != "guidance":
        return ""
    clinical = content.load()
    unknown = {record.symptom or ""} - clinical.symptoms.keys()
    return min(unknown | {*record.cautions} - clinical.cautions.keys(), default="")


def faults(record: PromptRecord, facts: Facts) -> Iterator[str]:
    """Yield the checks that a guidance record fails, by the names of audit.CHECKS.

    `facts` are those of the patient's whole chart at the record's time.
    """
    start, lines = parts(record.answer)
    if any(presumptions.unfounded(text, facts) for text in (record.question, *lines)):
        yield "presumed"
    clinical = content.load()
    symptom = clinical.symptoms[record.symptom or ""]
    cautions = [clinical.cautions[name] for name in record.cautions]
    called = [rule for rule in clinical.cautions.values() if rule.when.holds(facts)]
    said = [one for one in _sayings(symptom, cautions) if one.say in lines]
    if _is_against(said, called):
        yield "opposed"
    due = _due(record, symptom, [*symptom.urgent, *called])
    if start != due or (first_step(due) and lines[0] != first_step(due)):
        yield "opening"


def _sayings(symptom: Symptom, cautions: Sequence[Saying]) -> list[Saying]:
    return [*symptom.self_care, *symptom.urgent, *symptom.track, *cautions]


def _is_against(said: Sequence[Saying], called: Sequence[Saying]) -> bool:
    """Return whether a sentence contradicts another, or a rule that the chart calls for."""
    return any(conflicts.of(said)) or any(
        conflicts.outranked(one, called) or any(conflicts.opposes(one, rule) for rule in called)
        for one in said
    )


def _due(record: PromptRecord, symptom: Symptom, sayings: Sequence[Saying]) -> str:
    """Return the line that an answer must open with, "" where none is due."""
    asked = [phrasing for phrasing in symptom.phrasings if phrasing.text == record.question]
    signs = [sign for phrasing in asked for sign in phrasing.signs]
    level = levels.highest(conflicts.level_of(sign, sayings) for sign in signs)
    return levels.LEVELS[level].opening if level else ""
