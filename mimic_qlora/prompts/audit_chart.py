"""A patient's chart as the audit reads it: which statement may rest on which row, and when known.

It takes step 1's JSON strings, as audit_cells.py reads them, and implements again, on purpose, when
a value is known and how it is written. It shares no code with what the audit checks, only the
clinical content files and the words for routes, admissions and procedures.
"""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from mimic_qlora.chart.procedure_words import in_words
from mimic_qlora.chart.wording import ADMISSIONS, ROUTES
from mimic_qlora.clinical import codes, content
from mimic_qlora.mimic import lab_bounds
from mimic_qlora.prompts.audit_cells import Row

OMR = {
    "Blood Pressure": "blood pressure {}",
    "Weight (Lbs)": "weight {} pounds",
    "BMI (kg/m2)": "BMI {}",
    "Height (Inches)": "height {} inches",
}
BEDSIDE = {
    "heart rate": (220045,),
    "breathing rate": (220210, 224690),
    "oxygen saturation": (220277,),
    "temperature": (223761, 223762),
}
CELSIUS = (223762,)
UNITS = {"temperature": " F", "oxygen saturation": "%", "blood pressure": ""}
SEXES = {"F": "female", "M": "male"}
PLACES = {"HOME": "home", "HOME HEALTH CARE": "home with home health care"}
SYSTOLIC = {220179: 220180, 220050: 220051, 225309: 225310}
IN_ED = {
    "heart rate": "heartrate",
    "breathing rate": "resprate",
    "oxygen saturation": "o2sat",
    "temperature": "temperature",
}


class Reading(NamedTuple):
    """A value that a later one of the same item may be compared with."""

    item: tuple[str | int, ...]
    time: datetime
    value: str


class Support(NamedTuple):
    """A statement that may be made because of a row, whenever that was known."""

    statement: str
    table: str
    row: Row
    reading: Reading | None = None


KNOWN_BY = {  # the columns of the times by which a row is known
    "patients": [],
    "admissions": ["admittime"],
    "icustays": ["intime"],
    "services": ["transfertime"],
    "vitalsign": ["charttime"],
    "medrecon": ["charttime"],
    "labevents": ["charttime", "storetime"],
    "chartevents": ["charttime", "storetime"],
}


class Chart(NamedTuple):
    """One patient's rows, the names of labs, and the time that statements are judged at.

    `visit` is the emergency visit that is asked about at arrival: nothing of it is known, nor of a
    hospital stay that is on.
    """

    rows: dict[str, Any]
    labs: dict[int, str]  # by itemid
    as_of: datetime
    visit: int | None = None  # stay_id

    def known(self, table: str, row: Row) -> bool:
        """Return whether all times had come by which this row is known; a missing one has not."""
        if self.visit is not None and self._is_of_visit(row):
            return False
        return all(time is not None and time <= self.as_of for time in self._times(table, row))

    def _times(self, table: str, row: Row) -> list[datetime | None]:
        if table in ("diagnoses_icd", "procedures_icd"):
            stays = [a for a in self.all("admissions") if a["hadm_id"] == row["hadm_id"]]
            stay = stays[0] if stays else {}
            day = [_day_over(row, "chartdate")] if table == "procedures_icd" else []
            return [time_of(stay, "dischtime"), time_of(stay, "admittime"), *day]
        if table == "omr":
            return [_day_over(row, "chartdate")]
        if table == "prescriptions":
            begin = time_of(row, "starttime")
            number = row.get("pharmacy_id", "")
            orders = [p for p in self.all("pharmacy") if p.get("pharmacy_id") == number]
            times = [time for p in orders if (time := time_of(p, "entertime"))]
            entered = max(times, default=None)
            return [begin, entered or (begin and begin + timedelta(days=1))]
        return [time_of(row, name) for name in KNOWN_BY[table]]

    def _is_of_visit(self, row: Row) -> bool:
        stays = [a for a in self.all("admissions") if a["hadm_id"] == row.get("hadm_id")]
        return row.get("stay_id") == self.visit or any(not self.ended(stay) for stay in stays)

    def all(self, table: str) -> list[Row]:
        """Return the rows of a table."""
        return self.rows.get(f"{table}_labeled" if table.endswith("_icd") else table, [])

    def ended(self, stay: Row) -> bool:
        """Return whether a stay had ended."""
        end = time_of(stay, "dischtime")
        return end is not None and end <= self.as_of

    def ago(self, time: datetime) -> str:
        """Return how long ago a time was, in words."""
        days = (self.as_of - time).days
        if days < 60:
            word = "today" if time.date() == self.as_of.date() else "1 day ago"
            return word if days < 2 else f"{days} days ago"
        return f"{days // 30} months ago" if days < 730 else f"{days // 365} years ago"

    def stay(self) -> Row:
        """Return the newest stay that had begun, {} where none had."""
        begun = [a for a in self.all("admissions") if self.known("admissions", a)]
        return max(begun, key=_begin, default={})


def _begin(stay: Row) -> tuple[datetime, int]:
    return datetime.fromisoformat(stay["admittime"]), stay["hadm_id"]


def time_of(row: Row, column: str) -> datetime | None:
    """Return the time in a column, None where it is null."""
    return datetime.fromisoformat(row[column]) if column in row else None


def _day_over(row: Row, column: str) -> datetime | None:
    day = time_of(row, column)
    return day and datetime(day.year, day.month, day.day) + timedelta(days=1)


# a drug (its routes, which may have brackets)
ORDER = re.compile(r"(.*) \(((?:[^()]|\([^()]*\))*)\)")
CONTROL_TOKEN = re.compile(r"<(?=[|/]|s>|<SYS)|\|(?=>)|\[(?=/?INST)")


@lru_cache(maxsize=50_000)  # names and units come again in each record of a patient
def plain(text: str, most: int = 240) -> str:
    """Return the text of a row as a context may show it.

    It is printable, on one line, not too long, and without `;`, which parts entries.
    """
    text = "".join(c for c in " ".join(str(text).split()) if c.isprintable()).replace(";", ",")
    n = 1
    while n:  # cutting a control token may leave another one
        text, n = CONTROL_TOKEN.subn("", text)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def number(text: str | float | None) -> str | None:
    """Return a number as a context writes it, None where there is none."""
    if text is None:
        return None
    try:
        return f"{float(text):g}"
    except ValueError:
        return None


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _of_person(chart: Chart) -> Iterator[Support]:
    for row in chart.all("patients"):
        if "anchor_age" in row and "anchor_year" in row:
            given = int(row["anchor_age"])
            age = given + chart.as_of.year - int(row["anchor_year"])
            if 0 <= given <= 120 and 0 <= age <= 120:
                yield Support("over 89" if age > 89 else str(age), "patients", row)
        if row.get("gender") in SEXES:
            yield Support(SEXES[row["gender"]], "patients", row)


def _of_background(chart: Chart) -> Iterator[Support]:
    stay = chart.stay()
    yield Support(plain(stay.get("marital_status", ""), 40).lower(), "admissions", stay)


def _of_stay(chart: Chart) -> Iterator[Support]:
    stay = chart.stay()
    if not stay:
        return
    begin, end = time_of(stay, "admittime"), time_of(stay, "dischtime")
    if begin and end and chart.ended(stay):
        length = _counted(max(0, (end.date() - begin.date()).days), "day")
        place = stay.get("discharge_location", "")
        where = PLACES.get(place, plain(place, 40).lower())
        text = f"{length}, discharged {chart.ago(end)}"
        yield Support(f"{text} to {where}" if where else text, "admissions", stay)
    elif begin:
        yield Support(f"admitted {chart.ago(begin)}, still in hospital", "admissions", stay)
    if "admission_type" in stay:
        kind = stay["admission_type"]
        yield Support(ADMISSIONS.get(kind, plain(kind, 40).lower()), "admissions", stay)
    for row in chart.all("services"):
        if row.get("hadm_id") == stay["hadm_id"] and "curr_service" in row:
            yield Support(f"service {plain(row['curr_service'], 40)}", "services", row)
    begun = [
        row
        for row in chart.all("icustays")
        if row.get("hadm_id") == stay["hadm_id"] and chart.known("icustays", row)
    ]
    if begun:
        yield Support(f"intensive care: {_counted(len(begun), 'stay')}", "icustays", begun[-1])


def _of_prior_stays(chart: Chart) -> Iterator[Support]:
    now = chart.stay()
    prior = [
        a
        for a in chart.all("admissions")
        if chart.ended(a) and chart.known("admissions", a) and a["hadm_id"] != now.get("hadm_id")
    ]
    if not prior:
        return
    # not the latest discharge but that of the stay which began last
    last = max(prior, key=_begin)
    end = datetime.fromisoformat(last["dischtime"])
    yield Support(f"{len(prior)}, the last one {chart.ago(end)}", "admissions", last)
    ids = {a["hadm_id"] for a in prior}
    icu = [row for row in chart.all("icustays") if row.get("hadm_id") in ids]
    if icu:
        yield Support(f"{_counted(len(icu), 'ICU stay')} in them", "icustays", icu[0])


def _of_conditions(chart: Chart) -> Iterator[Support]:
    catalogue = content.load().phenotypes
    stays = {a["hadm_id"]: a for a in chart.all("admissions")}
    for row in chart.all("diagnoses_icd"):
        end = time_of(stays.get(row["hadm_id"], {}), "dischtime")
        for name in codes.phenotypes_of([(row["icd_code"], row["icd_version"])]):
            text = plain(catalogue[name].name)
            if catalogue[name].kind != "acute" or not end:
                yield Support(text, "diagnoses_icd", row)
            if end and (catalogue[name].kind == "acute" or catalogue[name].may_end):
                yield Support(f"{text} ({chart.ago(end)})", "diagnoses_icd", row)
        yield Support(plain(row.get("long_title", "")), "diagnoses_icd", row)


def _of_home(chart: Chart) -> Iterator[Support]:
    for row in chart.all("medrecon"):
        yield Support(plain(row.get("name", "")), "medrecon", row)


def orders(item: str) -> list[str]:
    """Return the statements of a medicine in a list: each of its routes with the drug and its end.

    A comma within a route or within a drug's own brackets looks like one between two routes, so
    what a row supports is parted in the same way.
    """
    match = ORDER.fullmatch(item)
    drug, inside = match.groups() if match else (item, "")
    routes = inside.split(", ")
    end = f", {routes.pop()}" if routes[-1].startswith("stopped ") else ""
    return [f"{drug} ({route}){end}" if route else f"{drug}{end}" for route in routes or [""]]


def _of_orders(chart: Chart) -> Iterator[Support]:
    """Each drug with a route of an order that was not cancelled before it began.

    In the current stay, a drug of which no known order runs on is a stopped one, and must be told
    so.
    """
    stay = chart.stay()
    rows = [
        row
        for row in chart.all("prescriptions")
        if row.get("hadm_id") == stay.get("hadm_id", "") and not _cancelled(row)
    ]
    stopped: dict[str, str] = {}
    if not chart.ended(stay):
        ends: dict[str, list[datetime | None]] = {}
        for row in rows:
            if row.get("drug_type", "MAIN") == "MAIN" and chart.known("prescriptions", row):
                ends.setdefault(plain(row.get("drug", "")), []).append(time_of(row, "stoptime"))
        for drug, times in ends.items():
            past = [time for time in times if time and time <= chart.as_of]
            if len(past) == len(times):
                stopped[drug] = f", stopped {chart.ago(max(past))}"
    for row in rows:
        drug, route = plain(row.get("drug", "")), row.get("route", "").strip().upper()
        words = ROUTES.get(route, plain(route, 40).lower())
        end = stopped.get(drug, "")
        for said in (drug, f"{drug} ({words})"):
            for one in (said, *orders(said)):
                yield Support(f"{one}{end}", "prescriptions", row)


def _cancelled(row: Row) -> bool:
    begin, end = time_of(row, "starttime"), time_of(row, "stoptime")
    return begin is not None and end is not None and end < begin


def _of_labs(chart: Chart) -> Iterator[Support]:
    newer = _without_number(chart)
    for row in chart.all("labevents"):
        value, time = _lab_number(row), time_of(row, "charttime")
        if value is not None and time is not None:
            name = plain(chart.labs.get(row["itemid"], f"item {row['itemid']}"))
            text = f"{name} {value} {plain(row.get('valueuom', ''), 40)}".strip()
            if note := _note(row, float(value)):
                text += f" ({note})"
            reading = Reading((row["itemid"],), time, value)
            text = f"{text}, {chart.ago(time)}{newer.get(row['itemid'], '')}"
            yield Support(text, "labevents", row, reading)


def _lab_number(row: Row) -> str | None:
    """Return a lab result's number, None where it has none or one that nobody has."""
    value = number(row.get("valuenum"))
    return value if value and lab_bounds.is_possible(row["itemid"], float(value)) else None


def _without_number(chart: Chart) -> dict[int, str]:
    """Return itemid -> the words for a newest known result that has no number."""
    newest: dict[int, tuple[Any, ...]] = {}
    for row in chart.all("labevents"):
        if chart.known("labevents", row):
            begin = row["charttime"]
            order = (begin, row.get("storetime", begin), row.get("labevent_id", 0))
            if order > newest.get(row["itemid"], ("", "", 0)):
                newest[row["itemid"]] = (*order, _lab_number(row))
    return {
        item: f", newer result without a number {chart.ago(datetime.fromisoformat(begin))}"
        for item, (begin, *_, value) in newest.items()
        if value is None
    }


def _note(row: Row, value: float) -> str:
    """Return the brackets after a lab's value: out of range or abnormal, and the range."""
    low, high = number(row.get("ref_range_lower")), number(row.get("ref_range_upper"))
    if low and value < float(low):
        note = "low"
    elif high and value > float(high):
        note = "high"
    else:
        note = "abnormal" if row.get("flag") == "abnormal" else ""
    if note and low and high and float(low) < float(high):
        note += f", range {low}-{high}"
    return note


def _of_measurements(chart: Chart) -> Iterator[Support]:
    yield from _of_clinic(chart)
    yield from _of_bedside(chart)
    for row in chart.all("vitalsign"):
        if "charttime" not in row:
            continue
        for kind, column in IN_ED.items():
            if value := number(row.get(column)):
                yield _reading(chart, kind, value, "vitalsign", row)
        if "sbp" in row and "dbp" in row:
            pressure = f"{number(row['sbp'])}/{number(row['dbp'])}"
            yield _reading(chart, "blood pressure", pressure, "vitalsign", row)


def _of_clinic(chart: Chart) -> Iterator[Support]:
    for row in chart.all("omr"):
        told, when = OMR.get(row.get("result_name", "")), time_of(row, "chartdate")
        if told and when:
            value = plain(row.get("result_value", ""), 40)
            yield Support(f"{told.format(value)}, {chart.ago(when)}", "omr", row)


def _of_bedside(chart: Chart) -> Iterator[Support]:
    charted = [
        (row, value)
        for row in chart.all("chartevents")
        if "charttime" in row and (value := number(row.get("valuenum")))
    ]
    lower = {
        (row["itemid"], row["charttime"]): row
        for row, _ in charted
        if row["itemid"] in SYSTOLIC.values()
    }
    for row, value in charted:
        item = row["itemid"]
        if item in CELSIUS:
            value = f"{round(float(value) * 9 / 5 + 32, 1):g}"
        for kind, items in BEDSIDE.items():
            if item in items:
                method = None if kind == "temperature" else item  # one sense, two scales
                yield _reading(chart, kind, value, "chartevents", row, method)
        if item in SYSTOLIC and (below := lower.get((SYSTOLIC[item], row["charttime"]))):
            pressure = f"{value}/{number(below['valuenum'])}"
            later = max((row, below), key=lambda r: r.get("storetime", "9"))
            yield _reading(chart, "blood pressure", pressure, "chartevents", later, item)


def _reading(
    chart: Chart, kind: str, value: str, table: str, row: Row, method: int | None = None
) -> Support:
    """Return the statement of a reading; a cuff and an arterial line are two methods."""
    value += UNITS.get(kind, "/min")
    time = datetime.fromisoformat(row["charttime"])
    reading = Reading((kind, method or 0), time, value)
    return Support(f"{kind} {value}, {chart.ago(time)}", table, row, reading)


def procedure(row: Row) -> str:
    """Return a procedure as a context names it."""
    return plain(in_words(row["long_title"], row["icd_version"]))


def _of_procedures(chart: Chart) -> Iterator[Support]:
    for row in chart.all("procedures_icd"):
        when = time_of(row, "chartdate")
        if when and "long_title" in row:
            text = f"{procedure(row)} ({chart.ago(when)})"
            yield Support(text, "procedures_icd", row)


SECTIONS: dict[str, Callable[[Chart], Iterator[Support]]] = {
    "Age": _of_person,
    "Sex": _of_person,
    "Background": _of_background,
    "Last stay": _of_stay,
    "Current stay": _of_stay,
    "Prior stays": _of_prior_stays,
    "Known conditions": _of_conditions,
    "Medicines taken at home": _of_home,
    "Medicines ordered during the last stay": _of_orders,
    "Medicines ordered during this stay": _of_orders,
    "Latest labs": _of_labs,
    "Latest measurements": _of_measurements,
    "Past procedures": _of_procedures,
    "Allergies": _of_conditions,
}
