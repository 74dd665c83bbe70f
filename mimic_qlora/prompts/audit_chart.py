"""What a patient's chart supports, for the audit: which statement may rest on which row, and when it was known.

It reads step 1's JSON strings and says anew, on purpose, when what is known and how a value is written: it shares no
code with what the audit checks, only the clinical content files and the words for routes and admissions.
"""

import re
from datetime import datetime, timedelta
from typing import NamedTuple

from mimic_qlora.chart.wording import ADMISSIONS, ROUTES
from mimic_qlora.clinical import codes, content

OMR = {
    "blood pressure": "Blood Pressure",
    "weight in pounds": "Weight (Lbs)",
    "BMI": "BMI (kg/m2)",
    "height in inches": "Height (Inches)",
}
BEDSIDE = {
    "heart rate": (220045,),
    "breathing rate": (220210, 224690),
    "oxygen saturation": (220277,),
    "temperature": (223761, 223762),
}
SYSTOLIC = {220179: 220180, 220050: 220051, 225309: 225310}
IN_ED = {
    "heart rate": "heartrate",
    "breathing rate": "resprate",
    "oxygen saturation": "o2sat",
    "temperature": "temperature",
}


class Chart(NamedTuple):
    """One patient's rows as step 1's JSON has them, the names of labs, and the time that statements are judged at."""

    rows: dict
    labs: dict
    as_of: datetime

    def known(self, table: str, row: dict) -> bool:
        """Had all the times come by which this row was known? A time that is not there has not."""
        return all(time is not None and time <= self.as_of for time in self._times(table, row))

    def _times(self, table: str, row: dict) -> list:
        if table in ("diagnoses_icd", "procedures_icd"):
            stay = next((a for a in self.all("admissions") if a["hadm_id"] == row["hadm_id"]), {})
            day = [_day_over(row, "chartdate")] if table == "procedures_icd" else []
            return [time_of(stay, "dischtime"), *day]
        if table == "omr":
            return [_day_over(row, "chartdate")]
        if table == "prescriptions":
            begin = time_of(row, "starttime")
            orders = [p for p in self.all("pharmacy") if p["pharmacy_id"] == row.get("pharmacy_id")]
            entered = next((time_of(p, "entertime") for p in orders if "entertime" in p), None)
            return [begin, entered or (begin and begin + timedelta(days=1))]
        names = {
            "admissions": ["admittime"],
            "icustays": ["intime"],
            "services": ["transfertime"],
            "vitalsign": ["charttime"],
            "medrecon": ["charttime"],
            "labevents": ["charttime", "storetime"],
            "chartevents": ["charttime", "storetime"],
        }
        return [] if table == "patients" else [time_of(row, name) for name in names[table]]

    def all(self, table: str) -> list:
        return self.rows.get(f"{table}_labeled" if table.endswith("_icd") else table, [])

    def ended(self, stay: dict) -> bool:
        end = time_of(stay, "dischtime")
        return end is not None and end <= self.as_of

    def ago(self, time: datetime) -> str:
        days = (self.as_of - time).days
        if days < 60:
            word = "today" if time.date() == self.as_of.date() else "1 day ago"
            return word if days < 2 else f"{days} days ago"
        return f"{days // 30} months ago" if days < 730 else f"{days // 365} years ago"

    def stay(self) -> dict:
        """The newest stay that had begun."""
        begun = [a for a in self.all("admissions") if self.known("admissions", a)]
        return max(begun, key=lambda a: (time_of(a, "admittime"), a["hadm_id"]), default={})


def time_of(row: dict, column: str) -> datetime | None:
    return datetime.fromisoformat(row[column]) if column in row else None


def _day_over(row: dict, column: str) -> datetime | None:
    day = time_of(row, column)
    return day and datetime(day.year, day.month, day.day) + timedelta(days=1)


def plain(text: str, most: int = 240) -> str:
    """Text of a row as a context may show it: printable, on one line, `;` kept for what parts entries, not too long."""
    text = "".join(c for c in " ".join(str(text).split()) if c.isprintable()).replace(";", ",")
    while text != (
        text := re.sub(r"<(?=[|/]|s>|<SYS)|\|(?=>)|\[(?=/?INST)", "", text)
    ):  # control tokens
        pass
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def number(text: str | None) -> str | None:
    try:
        return f"{float(text):g}"
    except (TypeError, ValueError):
        return None


# Each function yields (statement, table, row): what may be said because of this row, whenever it was known; of a
# reading also (item, time, value), which a later one may be compared with.


def _of_person(chart: Chart):
    for row in chart.all("patients"):
        if "anchor_age" in row and "anchor_year" in row:
            age = int(row["anchor_age"]) + chart.as_of.year - int(row["anchor_year"])
            yield "over 89" if age > 89 else str(age), "patients", row
        yield {"F": "female", "M": "male"}.get(row.get("gender")), "patients", row


def _of_background(chart: Chart):
    stay = chart.stay()
    language, marital, insurance = (
        plain(stay.get(c, ""), 40) for c in ("language", "marital_status", "insurance")
    )
    for text in (f"speaks {language.title()}", marital.lower(), f"{insurance} insurance"):
        yield text, "admissions", stay


def _of_stay(chart: Chart):
    stay = chart.stay()
    if not stay:
        return
    begin, end = time_of(stay, "admittime"), time_of(stay, "dischtime")
    if chart.ended(stay):
        days = max(0, (end.date() - begin.date()).days)
        place = {"HOME": "home", "HOME HEALTH CARE": "home with home health care"}
        where = place.get(
            stay.get("discharge_location"), plain(stay.get("discharge_location", ""), 40).lower()
        )
        text = f"{days} day{'s' * (days != 1)}, discharged {chart.ago(end)}"
        yield text + f" to {where}" * bool(where), "admissions", stay
    else:
        yield f"admitted {chart.ago(begin)}, still in hospital", "admissions", stay
    if "admission_type" in stay:
        yield (
            ADMISSIONS.get(stay["admission_type"], plain(stay["admission_type"], 40).lower()),
            "admissions",
            stay,
        )
    for row in chart.all("services"):
        if row.get("hadm_id") == stay["hadm_id"] and "curr_service" in row:
            yield f"service {plain(row['curr_service'], 40)}", "services", row
    begun = [
        r
        for r in chart.all("icustays")
        if r.get("hadm_id") == stay["hadm_id"] and chart.known("icustays", r)
    ]
    if begun:
        yield f"intensive care: {len(begun)} stay{'s' * (len(begun) > 1)}", "icustays", begun[-1]


def _of_prior_stays(chart: Chart):
    now = chart.stay()
    prior = [
        a for a in chart.all("admissions") if chart.ended(a) and a["hadm_id"] != now.get("hadm_id")
    ]
    if prior:
        # not the latest discharge but that of the stay which began last
        last = max(prior, key=lambda a: (time_of(a, "admittime"), a["hadm_id"]))
        yield (
            f"{len(prior)}, the last one {chart.ago(time_of(last, 'dischtime'))}",
            "admissions",
            last,
        )
        ids = {a["hadm_id"] for a in prior}
        icu = [r for r in chart.all("icustays") if r.get("hadm_id") in ids]
        if icu:
            yield f"{len(icu)} ICU stay{'s' * (len(icu) > 1)} in them", "icustays", icu[0]


def _of_conditions(chart: Chart):
    catalogue = content.load().phenotypes
    stays = {a["hadm_id"]: a for a in chart.all("admissions")}
    for row in chart.all("diagnoses_icd"):
        names = codes.phenotypes_of([(row["icd_code"], row["icd_version"])])
        end = time_of(stays.get(row["hadm_id"], {}), "dischtime")
        for name in names:
            entry = catalogue[name]
            when = f" ({chart.ago(end)})" if entry.kind == "acute" and end else ""
            yield plain(entry.name) + when, "diagnoses_icd", row
        yield plain(row.get("long_title", "")), "diagnoses_icd", row


def _of_home(chart: Chart):
    for row in chart.all("medrecon"):
        yield plain(row.get("name", "")), "medrecon", row


def _of_orders(chart: Chart):
    stay = chart.stay()
    for row in chart.all("prescriptions"):
        if row.get("hadm_id") == stay.get("hadm_id", ""):
            drug, route = plain(row.get("drug", "")), row.get("route", "").strip().upper()
            yield drug, "prescriptions", row
            yield f"{drug} ({ROUTES.get(route, plain(route, 40).lower())})", "prescriptions", row


def _of_labs(chart: Chart):
    for row in chart.all("labevents"):
        value, time = number(row.get("valuenum")), time_of(row, "charttime")
        if value is None or time is None:
            continue
        low, high = number(row.get("ref_range_lower")), number(row.get("ref_range_upper"))
        note = (
            "low"
            if low and float(value) < float(low)
            else "high"
            if high and float(value) > float(high)
            else ""
        )
        note = note or ("abnormal" if row.get("flag") == "abnormal" else "")
        inside = note + (
            f", range {low}-{high}" if note and low and high and float(low) < float(high) else ""
        )
        name = plain(chart.labs.get(row["itemid"], f"item {row['itemid']}"))
        head = (
            f"{name} {value} {plain(row.get('valueuom', ''), 40)}".strip()
            + f" ({inside})" * bool(inside)
        )
        yield f"{head}, {chart.ago(time)}", "labevents", row, (row["itemid"], time, value)


def _of_measurements(chart: Chart):
    for row in chart.all("omr"):
        for ours, theirs in OMR.items():
            if row.get("result_name") == theirs:
                yield (
                    f"{ours} {plain(row.get('result_value', ''), 40)}, {chart.ago(time_of(row, 'chartdate'))}",
                    "omr",
                    row,
                )
    charted = [
        row
        for row in chart.all("chartevents")
        if "charttime" in row and number(row.get("valuenum"))
    ]
    lower = {
        (row["itemid"], row["charttime"]): row
        for row in charted
        if row["itemid"] in SYSTOLIC.values()
    }
    for row in charted:
        item, value = row["itemid"], number(row["valuenum"])
        for kind, items in BEDSIDE.items():
            if item in items:
                value = number(round(float(value) * 9 / 5 + 32, 1)) if item == 223762 else value
                yield _reading(chart, kind, value, "chartevents", row)
        if below := lower.get((SYSTOLIC.get(item), row["charttime"])):
            later = max((row, below), key=lambda r: r.get("storetime", "9"))
            yield _reading(
                chart,
                "blood pressure",
                f"{value}/{number(below['valuenum'])}",
                "chartevents",
                later,
            )
    for row in chart.all("vitalsign"):
        for kind, column in IN_ED.items():
            if column in row:
                yield _reading(chart, kind, number(row[column]), "vitalsign", row)
        if "sbp" in row and "dbp" in row:
            pressure = f"{number(row['sbp'])}/{number(row['dbp'])}"
            yield _reading(chart, "blood pressure", pressure, "vitalsign", row)


def _reading(chart: Chart, kind: str, value: str, table: str, row: dict) -> tuple:
    value += {"temperature": " F", "oxygen saturation": "%", "blood pressure": ""}.get(kind, "/min")
    time = time_of(row, "charttime")
    return f"{kind} {value}, {chart.ago(time)}", table, row, (kind, time, value)


def _of_procedures(chart: Chart):
    for row in chart.all("procedures_icd"):
        when = time_of(row, "chartdate")
        if when and "long_title" in row:
            yield f"{plain(row['long_title'])} ({chart.ago(when)})", "procedures_icd", row


SECTIONS = {
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
    "Recent labs": _of_labs,
    "Recent measurements": _of_measurements,
    "Past procedures": _of_procedures,
    "Allergies": _of_conditions,
}
