"""The facts of a chart that contexts and caution rules rest on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import compress
from typing import NamedTuple, Protocol

from mimic_qlora.chart import derived_values
from mimic_qlora.chart.derived_values import DerivedFact
from mimic_qlora.chart.rows import Record, Row, TableRow
from mimic_qlora.clinical import codes, content
from mimic_qlora.mimic import ages, lab_bounds

LAB_DAYS = 365
HOME_DAYS = 365
ACUTE_DAYS = 90  # after the discharge of the stay that an acute phenotype was coded for


class HasEvidence(Protocol):
    """An item of a context with the rows that it rests on."""

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> tuple[TableRow, ...]: ...


class LabFact(NamedTuple):
    """The newest result of a lab item, its unit as in valueuom: None where no number is shown."""

    value: float | None
    unit: str | None
    days_ago: int


class ProcedureFact(NamedTuple):
    """A coded procedure: the ids of its groups."""

    groups: tuple[str, ...]
    days_ago: int


@dataclass(frozen=True)
class Facts:
    """The facts of a chart at a time that caution rules match on, with the rows that they rest on.

    Phenotypes count as long as phenotypes.yaml says. Drug classes are those ordered during the last
    stay; those of home are what the newest emergency visit of a year was told.
    """

    phenotypes: dict[str, Row]  # id -> row of diagnoses_icd
    drug_classes: dict[str, Row]  # id -> row of prescriptions
    lab_history: dict[int, list[Row]]  # itemid -> labevents within a year; both newest first
    labs: dict[int, LabFact]  # itemid -> newest result, in the order of lab_history
    derived: dict[str, DerivedFact]  # "egfr", "neutrophils" -> newest value
    procedures: list[ProcedureFact]
    procedure_rows: list[Row]  # in the order of `procedures`
    person: Row  # row of patients, {} where there is none
    age: int | None  # years
    sex: str | None  # "F" or "M"
    home_drug_classes: dict[str, Row] = field(default_factory=dict)  # id -> row of medrecon


def stays(record: Record) -> list[Row]:
    """Return the hospital stays, oldest first."""
    return sorted(record["admissions"], key=lambda a: (a["admittime"], a["hadm_id"]))


def last_stay(view: Record) -> Row:
    """Return the newest stay that is known in this view; an empty dict when there is none."""
    return stays(view)[-1] if view["admissions"] else {}


def orders_of_stay(view: Record, stay: Row) -> list[Row]:
    """Return the stay's rows of prescriptions that name a drug; none without a stay.

    An order that was cancelled before it began is none.
    """
    if not stay:
        return []
    return [
        row
        for row in view["prescriptions"]
        if row.get("hadm_id") == stay["hadm_id"]
        and row.get("drug")
        and row.get("stoptime", row["starttime"]) >= row["starttime"]
    ]


def told_at_home(view: Record, as_of: datetime) -> list[Row]:
    """Return the medicines that the newest emergency visit was told of: rows of medrecon, by name.

    A visit may have written them down at several times, and another export may have them in another
    order. What was told more than HOME_DAYS ago says nothing of today.
    """
    since = as_of - timedelta(days=HOME_DAYS)
    rows = [row for row in view.get("medrecon", ()) if row.get("name")]
    newest = max((_told(row) for row in rows if row["charttime"] >= since), default=None)
    visit = newest and newest[1]
    return sorted((row for row in rows if _told(row)[1] == visit), key=lambda row: row["name"])


def _told(row: Row) -> tuple[datetime, str]:
    """Return when a row of medrecon was written, and its visit: the time, where it names none."""
    return row["charttime"], str(row.get("stay_id", row["charttime"]))


def facts_of_view(view: Record, as_of: datetime) -> Facts:
    """Return the facts of a chart as it was known at a time."""
    person = view["patients"][0] if view["patients"] else {}
    history = lab_history(view, as_of)
    procedures = view["procedures_icd_labeled"]
    age, sex = age_at(person, as_of), person.get("gender")
    return Facts(
        phenotypes=_phenotypes(view, as_of),
        drug_classes=_drug_classes(orders_of_stay(view, last_stay(view))),
        lab_history=history,
        labs={
            itemid: LabFact(
                rows[0].get("valuenum"),
                rows[0].get("valueuom"),
                (as_of - rows[0]["charttime"]).days,
            )
            for itemid, rows in history.items()
        },
        derived=derived_values.of_history(history, age, sex, as_of),
        procedures=[
            ProcedureFact(
                codes.procedures_of_code(row["icd_code"], row["icd_version"]),
                (as_of - row["chartdate"]).days,
            )
            for row in procedures
        ],
        procedure_rows=procedures,
        person=person,
        age=age,
        sex=sex,
        home_drug_classes=_home_drug_classes(told_at_home(view, as_of)),
    )


def as_shown(known: Facts, shown: Mapping[str, Sequence[HasEvidence]]) -> Facts:
    """Return the facts that a reader of a context can see: `known` without what is not shown.

    `shown` maps sections to their items. So no answer can be asked to name a reason that was cut. A
    hidden lab counts as one without a value, so that an older one of the same substance does not
    take its place.
    """
    rows: dict[str, list[Row]] = {}
    for items in shown.values():
        for item in items:
            for table, row in item.rows:
                rows.setdefault(table, []).append(row)
    catalogue = content.load().phenotypes
    names = {item.name for item in shown["Known conditions"]}

    def told(phenotype: str, row: Row) -> bool:
        """A past stroke is told of by the line that names the stroke."""
        coded = codes.phenotypes_of_code(row["icd_code"], row["icd_version"])
        before = [i for i in coded if catalogue[i].becomes == phenotype]
        return any(catalogue[i].name in names for i in (phenotype, *before))

    labs = {id(row) for row in rows.get("labevents", ())}
    done = {id(row) for row in rows.get("procedures_icd", ())}
    visible = [id(row) in done for row in known.procedure_rows]
    return replace(
        known,
        phenotypes={i: row for i, row in known.phenotypes.items() if told(i, row)},
        drug_classes=_drug_classes(rows.get("prescriptions", ())),
        home_drug_classes=_home_drug_classes(rows.get("medrecon", ())),
        labs={
            item: fact if id(known.lab_history[item][0]) in labs else fact._replace(value=None)
            for item, fact in known.labs.items()
        },
        derived={
            name: fact
            for name, fact in known.derived.items()
            if all(id(row) in labs for row in fact.rows)
        },
        procedures=list(compress(known.procedures, visible)),
        procedure_rows=list(compress(known.procedure_rows, visible)),
    )


def _phenotypes(view: Record, as_of: datetime) -> dict[str, Row]:
    """Return phenotype -> its newest row, of those that still count."""
    catalogue = content.load().phenotypes
    stays_by_id = {a["hadm_id"]: a for a in view["admissions"]}
    newest: dict[str, Row] = {}  # of every phenotype that was ever coded
    for row in newest_first(view["diagnoses_icd_labeled"], stays_by_id):
        for name in codes.phenotypes_of_code(row["icd_code"], row["icd_version"]):
            newest.setdefault(name, row)
    found: dict[str, Row] = {}
    doubtful: list[str] = []  # they count while the chart has something else
    for name, row in newest.items():
        entry, stay = catalogue[name], stays_by_id[row["hadm_id"]]
        days = (as_of - stay["dischtime"]).days
        if any(_begin(newest.get(i), stays_by_id) > stay["admittime"] for i in entry.ended_by):
            continue
        if days <= (ACUTE_DAYS if entry.kind == "acute" else entry.lasts_days or days):
            found.setdefault(name, row)
        elif entry.lasts_with:
            doubtful.append(name)
        elif entry.becomes is not None:
            found.setdefault(entry.becomes, row)
    for name in doubtful:
        if not found.keys().isdisjoint(catalogue[name].lasts_with):
            found.setdefault(name, newest[name])
    return found


def _begin(row: Row | None, stays_by_id: Mapping[int, Row]) -> datetime:
    """Return the begin of a coded row's stay, long ago where there is none."""
    return datetime.min if row is None else stays_by_id[row["hadm_id"]]["admittime"]


def _drug_classes(orders: Iterable[Row]) -> dict[str, Row]:
    """Return drug class -> the first of these orders that is of the class."""
    found: dict[str, Row] = {}
    for row in orders:
        for name in classes_of(row):
            found.setdefault(name, row)
    return found


def _home_drug_classes(told: Iterable[Row]) -> dict[str, Row]:
    """Return drug class -> the first of these medicines that is of the class."""
    found: dict[str, Row] = {}
    for row in told:
        for name in codes.home_drug_classes_of(row["name"]):
            found.setdefault(name, row)
    return found


def classes_of(order: Row) -> frozenset[str]:
    """Return the drug classes of a row of prescriptions that names a drug."""
    dose = order.get("dose_val_rx"), order.get("dose_unit_rx")
    return codes.drug_classes_of(order["drug"], order.get("route"), *dose)


def age_at(person: Row, as_of: datetime) -> int | None:
    """Return the age in years, 91 for everybody above 89: so MIMIC-IV gives it in one shifted year.

    Years added to such a 91 would be no age. None where a cell is missing or the age cannot be one.
    """
    if "anchor_age" not in person or "anchor_year" not in person:
        return None
    given = person["anchor_age"]
    age = given + as_of.year - person["anchor_year"]
    if not (0 <= given <= ages.MOST_YEARS and 0 <= age <= ages.MOST_YEARS):
        return None
    return ages.ABOVE_89 if age > 89 else age


def newest_first(rows: Iterable[Row], stays_by_id: Mapping[int, Row]) -> list[Row]:
    """Return coded rows by their stay, the newest stay first, then by seq_num."""
    return sorted(
        rows,
        key=lambda r: (
            datetime.max - stays_by_id[r["hadm_id"]]["admittime"],
            r.get("seq_num", 0),
        ),
    )


def is_administrative(icd_code: str, icd_version: int) -> bool:
    """Return whether a code tells of an external cause, a history or a status.

    These are E and V in ICD-9, V to Z in ICD-10.
    """
    return icd_code.startswith(("E", "V") if icd_version == 9 else ("V", "W", "X", "Y", "Z"))


# Administrative codes that tell of the patient: infections and resistance, histories, organs that
# are gone or replaced, openings and devices, what somebody depends on, long-term treatment,
# palliative care, do-not-resuscitate; in ICD-9 also the drug that did harm.
OF_PATIENT = {
    9: ("E93", "E94", "V08", "V09", "V10", "V11", "V12", "V13", "V14", "V15", "V4", "V586", "V667")
    + ("V86", "V88"),
    10: ("Z16", "Z21", "Z515", "Z66", "Z79", "Z85", "Z86", "Z87", "Z88", "Z89", "Z9"),
}


def tells_of_patient(icd_code: str, icd_version: int) -> bool:
    """Return whether a code tells of the patient: a disease, or a status of OF_PATIENT."""
    return not is_administrative(icd_code, icd_version) or icd_code.startswith(
        OF_PATIENT[9 if icd_version == 9 else 10]
    )


def lab_history(view: Record, as_of: datetime) -> dict[int, list[Row]]:
    """Return itemid -> its rows within a year, those without a number among them.

    The item with the newest result comes first, and of each item the newest row. A number that
    nobody has (`lab_bounds`) is left out of its row, and so are items that describe the specimen.

    MIMIC-IV has many such results in the comments alone, "<0.01" for one.
    """
    since = as_of - timedelta(days=LAB_DAYS)
    rows = [
        _possible(r)
        for r in view["labevents"]
        if r["charttime"] >= since and r["itemid"] not in lab_bounds.OF_THE_SPECIMEN
    ]
    by_item: dict[int, list[Row]] = {}
    for row in sorted(
        rows,
        key=lambda r: (
            r["charttime"],
            r.get("storetime", r["charttime"]),
            r.get("labevent_id", 0),
        ),
        reverse=True,
    ):
        by_item.setdefault(row["itemid"], []).append(row)
    return by_item


def _possible(row: Row) -> Row:
    """Return a row of labevents, without its number where nobody has that."""
    if "valuenum" not in row or lab_bounds.is_possible(row["itemid"], row["valuenum"]):
        return row
    return {name: cell for name, cell in row.items() if name != "valuenum"}


def is_value(text: str | None) -> bool:
    """Return whether a text is there and not blacked out by de-identification."""
    return bool(text) and "___" not in str(text)
