"""The cohort of the urgency task: every adult's visits, by what is known at arrival alone.

Of each patient one visit is drawn by keyed hash. A visit is in the primary set when a coded stay
had ended before it; nothing of this stay or of a later one decides that.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import facts
from mimic_qlora.chart.rows import Record, Row
from mimic_qlora.clinical import schema
from mimic_qlora.clinical.fields import Pattern, Text, compiled
from mimic_qlora.step import seeded
from mimic_qlora.subjects import reader
from mimic_qlora.subjects.split_file import Split
from mimic_qlora.tasks.urgency import coverage, label
from mimic_qlora.tasks.urgency.visits import Count, Level, Visit

ADULT = 18  # years
AT_ARRIVAL: dict[str, tuple[str, ...]] = {
    "patients": ("gender", "anchor_age", "anchor_year", "anchor_year_group"),
    "admissions": ("hadm_id", "admittime", "dischtime", "language", "insurance"),
    "diagnoses_icd_labeled": ("hadm_id", "icd_code", "icd_version"),
    "edstays": ("stay_id", "hadm_id", "intime", "race"),
    "triage": ("stay_id", "acuity", "chiefcomplaint"),
}
# What is read of a patient: what is known at arrival, and what the label reads.
WANTED = {
    table: tuple(dict.fromkeys((*AT_ARRIVAL.get(table, ()), *label.WANTED.get(table, ()))))
    for table in (*AT_ARRIVAL, *(name for name in label.WANTED if name not in AT_ARRIVAL))
}


class Exclusion(schema.Named):
    """Complaints that leave a visit out, by a pattern, and why."""

    pattern: Pattern
    reason: Text


class Cohort(NamedTuple):
    """The visits that were drawn, one a patient, by subject_id, and the counts of the flow."""

    visits: dict[int, Visit]
    flow: list[Count]


def exclusions(folder: Path = Path(__file__).parent) -> Mapping[str, Exclusion]:
    """Return id -> exclusion of `folder`/cohort.yaml. Raises UserError with entry and field."""
    return schema.read(folder, "cohort", Exclusion)


def left_out(record: Record, visit: Row, words: Mapping[str, Exclusion]) -> str | None:
    """Return why a visit is not in the cohort, None where it is, by what is known at arrival."""
    arrival: datetime = visit["intime"]
    person: Row = next(iter(record["patients"]), {})
    age = facts.age_at(person, arrival)
    if age is None or person.get("gender") not in ("F", "M"):
        return "age or sex is not known"
    if age < ADULT:
        return f"under {ADULT} years"
    if any(_is_in(stay, arrival) for stay in _others(record, visit)):
        return "in hospital at arrival"
    complaint = _triage(record, visit).get("chiefcomplaint")
    if not facts.is_value(complaint):
        return "no complaint was written down"
    for one in words.values():
        if compiled(one.pattern).search(str(complaint)):
            return one.reason
    return None


def is_primary(record: Record, visit: Row) -> bool:
    """Return whether a coded stay had ended before a visit."""
    coded = {row["hadm_id"] for row in record["diagnoses_icd_labeled"]}
    return any(
        stay["hadm_id"] in coded
        and max(stay["admittime"], stay.get("dischtime", datetime.max)) <= visit["intime"]
        for stay in _others(record, visit)
    )


def drawn(visits: list[Row], seed: int) -> Row:
    """Return the visit that a keyed hash draws, whatever their order."""
    by_id = {visit["stay_id"]: visit for visit in visits}
    return by_id[seeded.order(by_id, "urgency", seed)[0]]


def find(store: Path, seed: int) -> Cohort:
    """Return the visit of each patient who has one, with its level.

    Raises UserError where a table that the levels rest on is absent, or does not cover a year.
    """
    rules, words, split = label.load(), exclusions(), reader.split_of(store)
    coverage.check_tables(store, rules)
    spans = coverage.spans(store)
    covered = coverage.Coverage(rules)
    visits: dict[int, Visit] = {}
    n_visits, n_people = Counter[str](), Counter[str]()
    within = {table: ("charttime", spans) for table in ("labevents", "emar")}
    for record in reader.records(store, WANTED, spans, within=within):
        reasons = {v["stay_id"]: left_out(record, v, words) for v in record["edstays"]}
        n_visits.update(reason or "" for reason in reasons.values())
        n_people.update({reason or "" for reason in reasons.values()})
        fit = [v for v in record["edstays"] if reasons[v["stay_id"]] is None]
        if fit:
            covered.add(record, fit)
            level = label.levels(record, rules)
            one = drawn(fit, seed)
            visits[record["subject_id"]] = _visit(record, one, level[one["stay_id"]], split)
    covered.check(rules)
    return Cohort(visits, _flow(n_visits, n_people, len(spans), visits))


def _others(record: Record, visit: Row) -> list[Row]:
    """Return the hospital stays but that of the visit itself."""
    own = visit.get("hadm_id")
    return [stay for stay in record["admissions"] if stay["hadm_id"] != own]


def _is_in(stay: Row, time: datetime) -> bool:
    return bool(stay["admittime"] < time < stay.get("dischtime", datetime.max))


def _triage(record: Record, visit: Row) -> Row:
    """Return the row of triage of a visit, {} where there is none."""
    rows = record["triage"]
    return next((row for row in rows if row.get("stay_id") == visit["stay_id"]), {})


def _visit(record: Record, visit: Row, level: Level, split: Split) -> Visit:
    arrival, person = visit["intime"], record["patients"][0]
    triage = _triage(record, visit)
    begun = [stay for stay in _others(record, visit) if stay["admittime"] < arrival]
    newest = max(begun, key=lambda stay: (stay["admittime"], stay["hadm_id"]), default={})
    acuity = triage.get("acuity", 0)
    age = facts.age_at(person, arrival)
    assert age is not None, "a visit without an age is left out"
    return Visit(
        subject_id=record["subject_id"],
        stay_id=visit["stay_id"],
        split=split[record["subject_id"]],
        arrival=arrival,
        primary=is_primary(record, visit),
        level=level,
        acuity=int(acuity) if acuity in range(1, 6) else None,
        age=age,
        sex=person["gender"],
        race=visit.get("race", ""),
        language=newest.get("language", ""),
        insurance=newest.get("insurance", ""),
        year_group=person.get("anchor_year_group", ""),
        complaint=triage["chiefcomplaint"],
    )


def _flow(
    n_visits: Counter[str], n_people: Counter[str], n_patients: int, visits: Mapping[int, Visit]
) -> list[Count]:
    """Return the boxes of a flow diagram, from all visits to those that were drawn."""
    left = sorted(reason for reason in n_visits if reason)
    drawn_visits = [*visits.values()]
    primary = [visit for visit in drawn_visits if visit.primary]
    levels = Counter(visit.level for visit in drawn_visits)
    first = Counter(visit.level for visit in primary)
    return [
        Count("emergency visits", n_visits.total(), n_patients),
        *(Count(f"left out: {reason}", n_visits[reason], n_people[reason]) for reason in left),
        Count("in the cohort", n_visits[""], n_people[""]),
        Count("left out: another visit was drawn", n_visits[""] - len(visits), 0),
        Count("drawn, one a patient", len(visits), len(visits)),
        *(Count(f"drawn: level {level}", n, n) for level, n in sorted(levels.items())),
        Count("primary: a coded stay had ended before arrival", len(primary), len(primary)),
        *(Count(f"primary: level {level}", n, n) for level, n in sorted(first.items())),
    ]
