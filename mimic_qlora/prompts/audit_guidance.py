"""The audit of guidance answers: they fit the chart, and no sentence contradicts another.

The facts of a chart are found here again, on purpose, from step 1's rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mimic_qlora.clinical import codes, conflicts, content, levels, presumptions
from mimic_qlora.clinical.conflicts import Saying
from mimic_qlora.clinical.schema import Symptom
from mimic_qlora.prompts.audit_chart import Chart, Row, number, time_of
from mimic_qlora.prompts.record_files import PromptRecord

ACUTE_DAYS, LAB_DAYS = 90, 365


@dataclass(frozen=True)
class Facts:
    """The facts of a chart that conditions are matched with."""

    phenotypes: set[str]
    drug_classes: set[str]
    labs: dict[int, tuple[float | None, str | None, int]]
    procedures: list[tuple[str, int, int]]
    age: int | None
    sex: str | None


def parts(answer: str) -> tuple[str, list[str]]:
    """Return the line that an answer opens with, "" for none, and its sentences."""
    start, *rest = answer.splitlines()
    headings = content.SECTIONS.values()
    if start in headings:
        start, rest = "", [start, *rest]
    return start, [line.removeprefix("- ") for line in rest if line and line not in headings]


def faults(record: PromptRecord, chart: Chart, start: str, lines: Sequence[str]) -> Iterator[str]:
    """Yield the checks that a guidance record fails, by the names of audit.CHECKS."""
    facts = facts_of(chart)
    if any(presumptions.unfounded(text, facts) for text in (record.question, *lines)):
        yield "presumed"
    clinical = content.load()
    symptom = clinical.symptoms[record.symptom or ""]
    cautions = [clinical.cautions[name] for name in record.cautions]
    called = [rule for rule in clinical.cautions.values() if rule.when.holds(facts)]
    said = [one for one in _sayings(symptom, cautions) if one.say in lines]
    if any(_against(said, called)):
        yield "opposed"
    if start != _due(record, symptom, [*symptom.urgent, *called]):
        yield "opening"


def _sayings(symptom: Symptom, cautions: Sequence[Saying]) -> list[Saying]:
    return [*symptom.self_care, *symptom.urgent, *symptom.track, *cautions]


def _against(said: Sequence[Saying], called: Sequence[Saying]) -> Iterator[bool]:
    """Yield True for each sentence that contradicts another, or a rule that the chart calls for."""
    yield from (True for _ in conflicts.of(said))
    for one in said:
        if any(conflicts.opposes(one, rule) for rule in called) or conflicts.outranked(one, called):
            yield True


def _due(record: PromptRecord, symptom: Symptom, sayings: Sequence[Saying]) -> str:
    """Return the line that an answer must open with, "" where none is due."""
    asked = [phrasing for phrasing in symptom.phrasings if phrasing.text == record.question]
    signs = [sign for phrasing in asked for sign in phrasing.signs]
    level = levels.highest(conflicts.level_of(sign, sayings) for sign in signs)
    return levels.LEVELS[level].opening if level else ""


def facts_of(chart: Chart) -> Facts:
    """Return the facts of a chart at the time that statements are judged at."""
    stay = chart.stay()
    orders = [
        row
        for row in chart.all("prescriptions")
        if row.get("hadm_id") == stay.get("hadm_id", "") and row.get("drug")
    ]
    classes = [
        codes.drug_classes_of(row["drug"], row.get("route"))
        for row in orders
        if chart.known("prescriptions", row)
    ]
    (person, *_) = [*chart.all("patients"), {}]
    dated = "anchor_age" in person and "anchor_year" in person
    return Facts(
        phenotypes=_phenotypes(chart),
        drug_classes=set().union(*classes),
        labs=_labs(chart),
        procedures=[
            (row["icd_code"], int(row["icd_version"]), _days(chart, row, "chartdate"))
            for row in chart.all("procedures_icd")
            if chart.known("procedures_icd", row)
        ],
        age=int(person["anchor_age"]) + chart.as_of.year - int(person["anchor_year"])
        if dated
        else None,
        sex=person.get("gender"),
    )


def _days(chart: Chart, row: Row, column: str) -> int:
    """Return how many whole days ago the time in a column was."""
    when = time_of(row, column)
    assert when is not None, "a row that is known has its times"
    return (chart.as_of - when).days


def _phenotypes(chart: Chart) -> set[str]:
    catalogue, found = content.load().phenotypes, set()
    stays = {a["hadm_id"]: a for a in chart.all("admissions")}
    for row in chart.all("diagnoses_icd"):
        if chart.known("diagnoses_icd", row):
            days = _days(chart, stays[row["hadm_id"]], "dischtime")
            for name in codes.phenotypes_of([(row["icd_code"], row["icd_version"])]):
                passed = catalogue[name].kind == "acute" and days > ACUTE_DAYS
                found.add(catalogue[name].past if passed else name)
    return {name for name in found if name}


def _labs(chart: Chart) -> dict[int, tuple[float | None, str | None, int]]:
    """Return the newest result of each lab item within a year, where it is a number."""
    rows = [
        row
        for row in chart.all("labevents")
        if chart.known("labevents", row)
        and _days(chart, row, "charttime") <= LAB_DAYS
        and ("valuenum" in row or "___" not in row.get("value", "___"))
    ]
    newest: dict[int, Row] = {}
    for row in sorted(
        rows,
        key=lambda r: (r["charttime"], r.get("storetime", r["charttime"]), int(r["labevent_id"])),
    ):
        newest[row["itemid"]] = row
    return {
        item: (float(value), row.get("valueuom"), _days(chart, row, "charttime"))
        for item, row in newest.items()
        if (value := number(row.get("valuenum"))) is not None
    }
