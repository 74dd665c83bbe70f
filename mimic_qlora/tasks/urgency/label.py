"""How urgent each emergency visit of a patient was, told from what happened after arrival.

A pure function of the patient's rows and of the rules in label.yaml, in their order: every visit
has one level. A new kind of rule is a class here and a line in `_KINDS`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, StrictBool

from mimic_qlora.chart.rows import Record, Row
from mimic_qlora.clinical import schema
from mimic_qlora.clinical.fields import Model, Number, Pattern, Text, compiled
from mimic_qlora.step.errors import UserError
from mimic_qlora.tasks.urgency.visits import Level

# What the rules read, beside the visits themselves.
WANTED: dict[str, tuple[str, ...]] = {
    "patients": ("gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
    "admissions": ("hadm_id", "admittime", "dischtime", "deathtime", "admission_type"),
    "icustays": ("stay_id", "intime", "first_careunit"),
    "transfers": ("intime", "careunit"),
    "edstays": ("stay_id", "hadm_id", "intime", "outtime", "disposition", "race"),
    "pyxis": ("charttime", "name"),
    "emar": ("charttime", "medication", "event_txt"),
    "labevents": ("itemid", "charttime"),
    "radiology": ("charttime",),
}
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Course:
    """A visit and what followed: the rows of its patient, and the levels of later visits."""

    visit: Row  # of edstays
    record: Record
    later: Sequence[tuple[datetime, Level]]  # arrival and level of each later visit

    @property
    def arrival(self) -> datetime:
        """When the visit began."""
        time: datetime = self.visit["intime"]
        return time

    @property
    def left(self) -> datetime:
        """When the visit ended, a day after arrival where no time is given."""
        return max(self.arrival, self.visit.get("outtime", self.arrival + DAY))

    @property
    def admission(self) -> Row | None:
        """The hospital stay that the visit led to, None without a row of it."""
        number = self.visit.get("hadm_id")
        rows = self.record["admissions"]
        return next((a for a in rows if number is not None and a["hadm_id"] == number), None)

    def within(self, table: str, hours: float, column: str = "charttime") -> Iterator[Row]:
        """Yield the rows of a table from arrival to so many hours after it."""
        return self.until(table, self.arrival + timedelta(hours=hours), column)

    def until(self, table: str, end: datetime, column: str = "charttime") -> Iterator[Row]:
        """Yield the rows of a table from arrival to a time."""
        for row in self.record[table]:
            if column in row and self.arrival <= row[column] <= end:
                yield row


class _When(Model):
    """Base of all kinds of rules; `tables` are those without which a rule cannot be judged."""

    tables: ClassVar[tuple[str, ...]] = ()

    def holds(self, course: Course) -> bool:
        """Return whether the rule holds for a visit."""
        raise NotImplementedError


class Died(_When):
    """The patient died within so many hours."""

    hours: Number

    def holds(self, course: Course) -> bool:
        if course.visit.get("disposition") == "EXPIRED":
            return True
        if any(course.within("admissions", self.hours, "deathtime")):
            return True
        if any("deathtime" in stay for stay in course.record["admissions"]):
            return False  # the hour of death is known, and was another
        last = (course.arrival + timedelta(hours=self.hours)).date()
        days = [p["dod"].date() for p in course.record["patients"] if "dod" in p]
        return any(course.arrival.date() <= day <= last for day in days)


class IntensiveCare(_When):
    """The patient came to a care unit of these names within so many hours."""

    tables = ("icustays", "transfers")
    hours: Number
    careunits: Pattern

    def holds(self, course: Course) -> bool:
        columns = {"icustays": "first_careunit", "transfers": "careunit"}
        return _any_of(
            (self.careunits,),
            (
                row.get(column)
                for table, column in columns.items()
                for row in course.within(table, self.hours, "intime")
            ),
        )


class Given(_When):
    """A drug of these names was dispensed in the department or given on a ward in time."""

    tables = ("pyxis", "emar")
    hours: Number
    drugs: tuple[Pattern, ...]
    event: Pattern  # of emar: that it was given

    def holds(self, course: Course) -> bool:
        names = [row.get("name") for row in course.within("pyxis", self.hours)]
        names += [
            row.get("medication")
            for row in course.within("emar", self.hours)
            if compiled(self.event).search(row.get("event_txt", ""))
        ]
        return _any_of(self.drugs, names)


class Observed(_When):
    """The visit led to an observation of one of these types that was short."""

    admission_types: tuple[Text, ...]
    under_hours: Number

    def holds(self, course: Course) -> bool:
        stay = course.admission or {}
        return (
            stay.get("admission_type") in self.admission_types
            and "dischtime" in stay
            and stay["dischtime"] - stay["admittime"] < timedelta(hours=self.under_hours)
        )


class Left(_When):
    """The visit ended in one of these ways, or, where asked, with a hospital stay."""

    to: tuple[Text, ...]
    or_admitted: StrictBool = False

    def holds(self, course: Course) -> bool:
        admitted = self.or_admitted and "hadm_id" in course.visit
        return admitted or course.visit.get("disposition") in self.to


class Resource(_When):
    """A test, an image or an injected drug between arrival and leaving."""

    tables = ("labevents", "radiology", "pyxis", "emar")
    drugs: tuple[Pattern, ...]

    def holds(self, course: Course) -> bool:
        if any(any(course.until(table, course.left)) for table in ("labevents", "radiology")):
            return True
        names = [row.get("name") for row in course.until("pyxis", course.left)]
        names += [row.get("medication") for row in course.until("emar", course.left)]
        return _any_of(self.drugs, names)


class Returned(_When):
    """A later visit of one of these levels within days, or death within `death_days`."""

    levels: tuple[Level, ...]
    days: Number
    death_days: Number

    def holds(self, course: Course) -> bool:
        limit = course.arrival + timedelta(days=self.days)
        if any(time <= limit and level in self.levels for time, level in course.later):
            return True
        last = course.arrival.date() + timedelta(days=self.death_days)
        days = [p["dod"].date() for p in course.record["patients"] if "dod" in p]
        return any(course.arrival.date() <= day <= last for day in days)


def _any_of(patterns: Iterable[str], names: Iterable[str | None]) -> bool:
    """Return whether a pattern is found in one of the names, of which some are missing."""
    return any(compiled(one).search(str(name)) for name in names if name for one in patterns)


class Otherwise(_When):
    """Holds always."""

    def holds(self, course: Course) -> bool:
        return True


_KINDS: dict[str, type[_When]] = {
    "died": Died,
    "intensive_care": IntensiveCare,
    "given": Given,
    "observed": Observed,
    "left": Left,
    "resource": Resource,
    "returned": Returned,
    "otherwise": Otherwise,
}


def _when(value: object) -> object:
    """Return the rule that a mapping with one key, its kind, describes."""
    if isinstance(value, dict) and len(value) == 1:
        ((kind, fields),) = value.items()
        if kind in _KINDS:
            return _KINDS[kind].model_validate(fields)
    raise ValueError(f"must be a record with one key of {', '.join(_KINDS)}")


class Rule(schema.Named):
    """A rule of label.yaml: the level of a visit for which `when` holds, and why."""

    level: Level
    when: Annotated[_When, BeforeValidator(_when)]
    reason: Text
    reviewed_by: Text | None


Rules = Mapping[str, Rule]


@cache
def load(folder: Path = Path(__file__).parent) -> Rules:
    """Return id -> rule of `folder`/label.yaml, in order. Raises UserError with rule and field."""
    rules = schema.read(folder, "label", Rule)
    if not isinstance([*rules.values()][-1].when, Otherwise):
        raise UserError("label.yaml: the last rule must be 'otherwise', so that no visit is left.")
    return rules


def tables(rules: Rules) -> dict[str, Level]:
    """Return each table that a rule reads, with the first level that is undefined without it."""
    found: dict[str, Level] = {}
    for rule in rules.values():
        for table in rule.when.tables:
            found.setdefault(table, rule.level)
    return found


def levels(record: Record, rules: Rules) -> dict[int, Level]:
    """Return stay_id -> level of every visit of a patient, whose rows are those of WANTED."""
    visits = sorted(record["edstays"], key=lambda v: (v["intime"], v["stay_id"]), reverse=True)
    later: list[tuple[datetime, Level]] = []
    found: dict[int, Level] = {}
    for visit in visits:  # the newest first, since a return counts for the visit before it
        course = Course(visit, record, tuple(later))
        level = next(rule.level for rule in rules.values() if rule.when.holds(course))
        later.append((course.arrival, level))
        found[visit["stay_id"]] = level
    return found
