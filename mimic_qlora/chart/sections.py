"""The sections of a patient's context: the items of each, with their values and evidence."""

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from mimic_qlora.chart import facts, measurements, vitals
from mimic_qlora.chart.facts import Facts
from mimic_qlora.chart.procedure_words import in_words
from mimic_qlora.chart.rows import Record, Row, TableRow
from mimic_qlora.chart.wording import (
    ADMISSIONS,
    MEASURED,
    NONE,
    NOT_A_MEDICINE,
    NOT_CODED,
    NOT_SAID,
    OVER_89,
    PLACES,
    SEXES,
    UNKNOWN,
    ago,
    clean,
    count,
    lab_note,
    lab_unit,
    route_words,
    word,
)
from mimic_qlora.clinical import codes, content

ALLERGY = re.compile("allergy status|personal history of allergy", re.IGNORECASE)


class Item(NamedTuple):
    """One entry of a section: what the context says in words, and the data behind the words.

    Without `rows` it says that there is nothing, or stands for an entry beyond the quota, which is
    counted and has no words.
    """

    words: str
    rows: tuple[TableRow, ...] = ()  # evidence, the newest first
    name: str = ""  # of what the item tells about
    value: str = ""  # in words; "" where the record has none
    unit: str = ""  # as it follows the value, with a blank where one is written
    when: datetime | None = None  # the time that the words give as "... ago"
    details: tuple[str, ...] = ()  # place of discharge; routes of an order; what a lab lacks

    @property
    def reading(self) -> str:
        """The value with its unit."""
        return self.value + self.unit


Sections = dict[str, list[Item]]


def sections_of_view(
    view: Record, as_of: datetime, known: Facts, labels: dict[int, str], most_labs: int
) -> Sections:
    """Return the context's sections in order, each with its items, the most telling first.

    `known` holds the facts of the same view; `labels` maps itemid to the name of the lab. Labs
    after the first `most_labs` are there to be counted, without words. A stay without an end in
    this view is the current one.
    """
    stay = facts.last_stay(view)
    others = [s for s in facts.stays(view) if s is not stay and "dischtime" in s]
    ended = not stay or "dischtime" in stay
    orders = facts.orders_of_stay(view, stay)
    return {
        "Age": [_age(known)],
        "Sex": [_sex(known)],
        "Background": _background(stay),
        "Last stay" if ended else "Current stay": _stay_items(view, stay, as_of),
        "Prior stays": _prior_items(view, others, as_of),
        "Known conditions": _conditions(view, as_of, known),
        "Medicines taken at home": _home_medicines(view, as_of),
        f"Medicines ordered during {'the last' if ended else 'this'} stay": _medicines(
            orders, None if ended else as_of
        ),
        "Latest labs": _labs(known, as_of, labels, most_labs),
        "Latest measurements": _measurements(view, as_of),
        "Past procedures": _procedures(view, as_of),
        "Allergies": _allergies(view),
    }


def _age(known: Facts) -> Item:
    age = known.age
    value = "" if age is None else OVER_89 if age > 89 else str(age)
    return Item(value or UNKNOWN, (("patients", known.person),), value=value)


def _sex(known: Facts) -> Item:
    value = SEXES.get(known.sex or "", "")
    return Item(value or UNKNOWN, (("patients", known.person),), value=value)


def _background(stay: Row) -> list[Item]:
    """Return the marital status, which may tell who is at home.

    No answer needs language or insurance, and beside an age they can make a patient rare.
    """
    marital = word(stay.get("marital_status", "")).lower()
    if not marital:
        return []
    return [Item(marital, (("admissions", stay),), "marital status", marital)]


def _stay_items(view: Record, stay: Row, as_of: datetime) -> list[Item]:
    if not stay:
        return [Item(NONE)]
    rows = (("admissions", stay),)
    items = [_end(stay, as_of) if "dischtime" in stay else _begin(stay, as_of)]
    if "admission_type" in stay:
        begun: str = stay["admission_type"]
        kind = word(ADMISSIONS.get(begun, begun)).lower()
        items.append(Item(kind, rows, "admission", kind))
    hadm_id = stay["hadm_id"]
    services = [s for s in view["services"] if s.get("hadm_id") == hadm_id and "curr_service" in s]
    if services:
        newest = max(services, key=lambda s: s["transfertime"])
        name = word(newest["curr_service"])
        items.append(Item(f"service {name}", (("services", newest),), "service", name))
    icu = tuple(("icustays", s) for s in view["icustays"] if s.get("hadm_id") == hadm_id)
    if icu:
        value, unit = str(len(icu)), count(len(icu), " stay")
        items.append(Item(f"intensive care: {value}{unit}", icu, "intensive care", value, unit))
    return items


def _end(stay: Row, as_of: datetime) -> Item:
    """Return the length and the end of a stay; whole days between the dates."""
    days = max(0, (stay["dischtime"].date() - stay["admittime"].date()).days)
    where = word(stay.get("discharge_location", ""))
    where = PLACES.get(where, where.lower())
    item = Item(
        words="",
        rows=(("admissions", stay),),
        name="end",
        value=str(days),
        unit=count(days, " day"),
        when=stay["dischtime"],
        details=(where,) if where else (),
    )
    words = f"{item.reading}, discharged {ago(stay['dischtime'], as_of)}"
    return item._replace(words=f"{words} to {where}" if where else words)


def _begin(stay: Row, as_of: datetime) -> Item:
    begin = stay["admittime"]
    words = f"admitted {ago(begin, as_of)}, still in hospital"
    return Item(words, (("admissions", stay),), "begin", when=begin)


def _prior_items(view: Record, others: list[Row], as_of: datetime) -> list[Item]:
    if not others:
        return [Item(NONE)]
    value = str(len(others))
    words = f"{value}, the last one {ago(others[-1]['dischtime'], as_of)}"
    stays = tuple(("admissions", s) for s in others)
    items = [Item(words, stays, "prior stays", value)]
    prior = {s["hadm_id"] for s in others}
    icu = tuple(("icustays", s) for s in view["icustays"] if s.get("hadm_id") in prior)
    if icu:
        value, unit = str(len(icu)), count(len(icu), " ICU stay")
        words = f"{value}{unit} in them"
        items.append(Item(words, icu, "prior intensive care", value, unit))
    return items


def _conditions(view: Record, as_of: datetime, known: Facts) -> list[Item]:
    """Return conditions by their plain names, once each; other codes by their titles.

    Acute ones, and those that no longer count, are told with the end of their stay.

    Those that a caution rule reads come first, since no answer can name a reason that was cut; then
    the newest.
    """
    catalogue = content.load().phenotypes
    stays = {a["hadm_id"]: a for a in view["admissions"]}
    named: dict[str, Item] = {}
    titled: dict[str, Item] = {}
    for row in facts.newest_first(view["diagnoses_icd_labeled"], stays):
        rows = (("diagnoses_icd", row),)
        phenotypes = codes.phenotypes_of_code(row["icd_code"], row["icd_version"])
        for phenotype in phenotypes:
            if phenotype not in named:
                name = clean(catalogue[phenotype].name)
                dated = catalogue[phenotype].kind == "acute" or phenotype not in known.phenotypes
                end = stays[row["hadm_id"]]["dischtime"] if dated else None
                words = f"{name} ({ago(end, as_of)})" if end else name
                named[phenotype] = Item(words, rows, name, when=end)
        # external causes, encounters and family histories tell little of the patient
        if (
            not phenotypes
            and "long_title" in row
            and facts.tells_of_patient(row["icd_code"], row["icd_version"])
            and not ALLERGY.match(row["long_title"])
        ):
            if title := clean(row["long_title"]):
                titled.setdefault(title, Item(title, rows, title))
    read_by_rules = content.read_by_rules().phenotypes
    first = sorted(named, key=lambda phenotype: phenotype not in read_by_rules)
    return [*(named[name] for name in first), *titled.values()] or [Item(NOT_CODED)]


def _home_medicines(view: Record, as_of: datetime) -> list[Item]:
    """Return the medicines told in the newest emergency visit of MIMIC-IV-ED within a year.

    Those of a class that a rule reads come first, since no answer can name a reason that was cut.
    """
    read_by_rules = content.read_by_rules().home_drug_classes
    rows = sorted(
        facts.told_at_home(view, as_of),
        key=lambda row: read_by_rules.isdisjoint(codes.home_drug_classes_of(row["name"])),
    )
    found = {clean(row["name"]): row for row in rows}
    items = [Item(name, (("medrecon", row),), name) for name, row in found.items() if name]
    return items or [Item(NOT_SAID)]


def _medicines(rows: list[Row], as_of: datetime | None) -> list[Item]:
    """Return ordered medicines: one of each class that a rule reads, then the newest.

    With `as_of`, the time within the current stay, those of which no order runs are called stopped.
    """
    orders: dict[str, list[Row]] = {}
    classes: dict[str, set[str]] = {}
    for row in sorted(rows, key=lambda r: (r["starttime"], r["drug"]), reverse=True):
        if row.get("drug_type", "MAIN") == "MAIN" and (drug := _medicine(row["drug"])):
            orders.setdefault(drug, []).append(row)
            classes.setdefault(drug, set()).update(facts.classes_of(row))
    read_by_rules = content.read_by_rules().drug_classes
    covered: set[str] = set()
    rank: dict[str, int] = {}
    for drug, found in classes.items():
        read = found & read_by_rules
        rank[drug] = 0 if read - covered else 1 if read else 2
        covered |= read
    ordered = sorted(orders, key=lambda drug: rank[drug])
    return [_order(drug, orders[drug], as_of) for drug in ordered] or [Item(NONE)]


@lru_cache(maxsize=50_000)
def _medicine(drug: str) -> str:
    """Return the name of an ordered drug, "" where a patient would not ask about it."""
    name = clean(drug)
    return "" if NOT_A_MEDICINE.search(name) else name


def _order(drug: str, rows: list[Row], as_of: datetime | None) -> Item:
    """Return the routes of a drug, with the newest order of each, and when the last one stopped."""
    by_route: dict[str, Row] = {}
    for row in rows:
        by_route.setdefault(route_words(row), row)
    routes = tuple(filter(None, by_route))
    inside = [*routes]
    if as_of and all("stoptime" in row for row in rows):  # in a view, a time that has come
        inside.append(f"stopped {ago(max(row['stoptime'] for row in rows), as_of)}")
    return Item(
        words=f"{drug} ({', '.join(inside)})" if inside else drug,
        rows=tuple(("prescriptions", by_route[route]) for route in routes or by_route),
        name=drug,
        details=routes,
    )


def _labs(known: Facts, as_of: datetime, labels: dict[int, str], most: int) -> list[Item]:
    """Return each lab's newest value: those that a rule reads first, then those out of range.

    An item that has no number at all is not shown.
    """
    read_by_rules = content.read_by_rules().labs
    newest = {
        itemid: row
        for itemid, rows in known.lab_history.items()
        if (row := next((r for r in rows if "valuenum" in r), None))
    }
    ranked = sorted(
        (itemid not in read_by_rules, not lab_note(row), as_of - row["charttime"], itemid)
        for itemid, row in newest.items()
    )
    items = [
        _lab(known.lab_history[itemid], labels.get(itemid) or f"item {itemid}", as_of)
        for *_, itemid in ranked[:most]
    ]
    items += [Item("")] * (len(ranked) - most)
    return items or [Item(NONE)]


def _lab(rows: list[Row], label: str, as_of: datetime) -> Item:
    """Return a lab's newest value with unit, note and range, and the value before it.

    `rows` are its results, newest first. A newer one without a number is told of: in `details` too,
    since the value is not the latest result then.
    """
    place = next(n for n, r in enumerate(rows) if "valuenum" in r)
    row, *before = rows[place:]
    name, note = clean(label), lab_note(row)
    details, cited = [note] if note else [], [("labevents", row)]
    low, high = row.get("ref_range_lower"), row.get("ref_range_upper")
    if note and low is not None and high is not None and low < high:  # 0 to 0 tells nobody anything
        details.append(f"range {low:g}-{high:g}")
    earlier = next(
        (b for b in before if "valuenum" in b and b["charttime"] < row["charttime"]), None
    )
    # a number in another unit is no value before it
    if earlier and len({lab_unit(r).casefold() for r in (row, earlier)} - {""}) < 2:
        details.append(f"was {earlier['valuenum']:g}")
        cited.append(("labevents", earlier))
    value, unit, when = f"{row['valuenum']:g}", lab_unit(row), row["charttime"]
    inside = f" ({', '.join(details)})" if details else ""
    words = f"{name} {value}{unit}{inside}, {ago(when, as_of)}"
    if not place:
        return Item(words, tuple(cited), name, value, unit, when)
    newer = f"newer result without a number {ago(rows[0]['charttime'], as_of)}"
    evidence = (("labevents", rows[0]), *cited)
    return Item(f"{words}, {newer}", evidence, name, value, unit, when, (newer,))


def _measurements(view: Record, as_of: datetime) -> list[Item]:
    """Return the newest measurement of each kind, and for the bedside the one before it."""
    found = [
        vitals.Reading(
            kind.name,
            row["chartdate"],
            word(row["result_value"]),
            kind.unit,
            (("omr", row),),
        )
        for row in sorted(
            measurements.plausible(view["omr"]), key=lambda r: r["chartdate"], reverse=True
        )
        if (kind := MEASURED.get(row.get("result_name", "")))
        and re.fullmatch(kind.form, row.get("result_value", "").strip())
    ] + vitals.vitals(view)
    by_kind: dict[str, list[vitals.Reading]] = {}
    # of one time a cuff before a line, then by value: another export may have them otherwise
    tied = sorted(found, key=lambda one: (-one.method, one.value))
    for reading in sorted(tied, key=lambda one: one.when, reverse=True):
        by_kind.setdefault(reading.kind, []).append(reading)
    return [_measurement(readings, as_of) for _, readings in sorted(by_kind.items())]


def _measurement(readings: list[vitals.Reading], as_of: datetime) -> Item:
    """Return the newest reading of a kind; bedside ones have an earlier one of the same method."""
    kind, when, value, unit, rows, method = readings[0]
    table = rows[0][0]
    words = f"{kind} {value}{unit}"
    before = next(
        (
            one
            for one in readings[1:]
            if table == one.rows[0][0] != "omr" and one.method == method and one.when < when
        ),
        None,
    )
    if before:
        words += f" (was {before.value}{before.unit})"
        rows = (*rows, *before.rows)
    return Item(f"{words}, {ago(when, as_of)}", rows, kind, value, unit, when)


def _procedures(view: Record, as_of: datetime) -> list[Item]:
    """Return the newest of each in plain words: those that a rule reads first, then by date."""
    read_by_rules = content.read_by_rules().procedures

    def is_read(row: Row) -> bool:
        groups = codes.procedures_of_code(row["icd_code"], row["icd_version"])
        return not read_by_rules.isdisjoint(groups)

    newest: dict[str, Row] = {}
    for row in sorted(
        view["procedures_icd_labeled"], key=lambda r: (r["chartdate"], r["icd_code"]), reverse=True
    ):
        if "long_title" in row:
            newest.setdefault(in_words(row["long_title"], row["icd_version"]), row)
    items = []
    for title, row in sorted(newest.items(), key=lambda one: not is_read(one[1])):
        name, when = clean(title), row["chartdate"]
        words = f"{name} ({ago(when, as_of)})"
        if name:
            items.append(Item(words, (("procedures_icd", row),), name, when=when))
    return items or [Item(NONE)]


def _allergies(view: Record) -> list[Item]:
    """Return the codes for an allergy status: MIMIC-IV has no table of allergies."""
    found = {
        clean(row["long_title"]): row
        for row in view["diagnoses_icd_labeled"]
        if ALLERGY.match(row.get("long_title", ""))
    }
    items = [Item(title, (("diagnoses_icd", row),), title) for title, row in found.items()]
    return items or [Item(NOT_SAID)]
