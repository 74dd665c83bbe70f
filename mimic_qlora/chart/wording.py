"""Word the values of a chart."""

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from mimic_qlora.chart.rows import Row
from mimic_qlora.display import text as terminal

ROUTES = {
    code: words
    for words, codes in {
        "by mouth": ("PO", "PO/NG", "PO/OG", "PO/G TUBE", "ORAL"),
        "by feeding tube": ("NG", "OG", "NG/OG", "G TUBE", "J TUBE", "DOBHOFF"),
        "under the tongue": ("SL",),
        "inside the cheek": ("BU", "BUCCAL"),
        "IV": ("IV", "IV DRIP", "IV BOLUS", "IVPCA"),
        "IV line lock": ("DWELL", "LOCK"),
        "during dialysis": ("DIALYS",),
        "injection": ("IM",),
        "injection under the skin": ("SC", "SUBCUT"),
        "injection into the skin": ("ID",),
        "injection near a nerve": ("PERIPHNERVE",),
        "epidural": ("ED",),
        "into the spinal fluid": ("IT",),
        "inhaled": ("IH", "NEB", "INHALATION"),
        "in the nose": ("IN", "NU", "NAS"),
        "rectal": ("PR",),
        "vaginal": ("VG",),
        "on the skin": ("TP",),
        "skin patch": ("TD",),
        "eye drops": ("OU", "OD", "OS", "BOTH EYES", "LEFT EYE", "RIGHT EYE"),
        "ear drops": ("AU", "AD", "AS", "BOTH EARS", "LEFT EAR", "RIGHT EAR"),
    }.items()
    for code in codes
}
ADMISSIONS = {
    "EW EMER.": "emergency admission",
    "DIRECT EMER.": "emergency admission",
    "URGENT": "urgent admission",
    "ELECTIVE": "planned admission",
    "SURGICAL SAME DAY ADMISSION": "planned admission for surgery",
    "OBSERVATION ADMIT": "admitted after observation",
    "EU OBSERVATION": "emergency observation",
    "DIRECT OBSERVATION": "observation",
    "AMBULATORY OBSERVATION": "observation",
}
PLACES = {"HOME": "home", "HOME HEALTH CARE": "home with home health care"}
SEXES = {"F": "female", "M": "male"}


class Kind(NamedTuple):
    """A kind of measurement: its name, its unit as it follows the value, and the value's form."""

    name: str
    unit: str = ""
    form: str = r"\d+(\.\d+)?"


# Measurements of omr in our words; all others in omr are rare.
MEASURED = {
    "Blood Pressure": Kind("blood pressure", form=r"\d+/\d+"),
    "Weight (Lbs)": Kind("weight", " pounds"),
    "BMI (kg/m2)": Kind("BMI"),
    "Height (Inches)": Kind("height", " inches"),
}
# Carriers and line care, not medicines that a patient would ask about.
NOT_A_MEDICINE = re.compile(
    r"flush|^sodium chloride 0|^0\.9% sodium|sterile water|^dextrose 5%|^d5|^d10|^lactated"
    r"|^iso-osmotic|^syringe|^bag\b|^vial\b|^sw$|^ns\b|isotonic|diluent|^\.|cassette|dwell"
    r"|^prismasate|machine priming|catheter clearance",
    re.IGNORECASE,
)
# The beginning or the end of a control token.
CONTROL_TOKEN = re.compile(r"<(?=[|/]|s>|<SYS)|\|(?=>)|\[(?=/?INST)")
UNKNOWN = "unknown"
OVER_89 = "over 89"  # MIMIC-IV tells no age above
NOT_SAID = "the record does not say"
NOT_CODED = "none coded"
NONE = "none on record"


@lru_cache(maxsize=50_000)  # the names of labs and drugs come again and again
def clean(text: str, most: int = 240) -> str:
    """Return a record's text as one line of at most `most` characters.

    It cannot speak to a terminal, nor pose as a control token or as a second entry. No title of
    MIMIC-IV is as long as `most`, and one odd cell is not to fill a context.
    """
    text, before = terminal.folded(str(text)).replace(";", ","), None
    while text != before:  # the rest of a token that was cut may be a token again
        before, text = text, CONTROL_TOKEN.sub("", text)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def word(text: str) -> str:
    """Return one of a few choices, such as how a stay began, cut where it cannot be one."""
    return clean(text, 40)


def ago(when: datetime, as_of: datetime) -> str:
    """Return how long ago in whole days, months or years; the evening before is not "today"."""
    days = (as_of - when).days
    if days < 1:
        return "today" if when.date() == as_of.date() else "1 day ago"
    if days < 60:
        return "1 day ago" if days == 1 else f"{days} days ago"
    return f"{days // 30} months ago" if days < 730 else f"{days // 365} years ago"


def count(n: int, noun: str) -> str:
    """Return the noun as it follows a number."""
    return noun if n == 1 else f"{noun}s"


def route_words(row: Row) -> str:
    """Return the route of an order in words, "" where none is given."""
    route = row.get("route", "").strip().upper()
    return ROUTES.get(route, word(route).lower())


def lab_unit(row: Row) -> str:
    """Return a lab's unit with the blank before it; "" where it has none."""
    unit = word(row.get("valueuom", ""))
    return f" {unit}" if unit else ""


def lab_note(row: Row) -> str:
    """Return "low" or "high" by the row's own range, "abnormal" by its flag alone, else ""."""
    if row["valuenum"] < row.get("ref_range_lower", row["valuenum"]):
        return "low"
    if row["valuenum"] > row.get("ref_range_upper", row["valuenum"]):
        return "high"
    return "abnormal" if row.get("flag") == "abnormal" else ""
