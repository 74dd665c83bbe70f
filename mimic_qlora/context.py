"""The patient's context: what the chart says at a time, in words, within a token budget. Steps 4, 6 and 7 share it."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mimic_qlora import clinical, facts, subjects, terminal
from mimic_qlora.storage import UserError, read_manifest
from mimic_qlora.visibility import visible

# The most items that a section may show, before the token budget cuts further, newest or most telling first.
QUOTA = {"Known conditions": 18, "Medicines ordered during the last stay": 16, "Recent labs": 12, "Past procedures": 6}
CUT_ORDER = (
    "Past procedures",
    "Recent labs",
    "Medicines ordered during the last stay",
    "Known conditions",
    "Background",
)
ROUTES = {
    "PO": "by mouth", "PO/NG": "by mouth", "ORAL": "by mouth", "SL": "under the tongue", "NG": "by feeding tube",
    "IV": "IV", "IV DRIP": "IV", "IVPCA": "IV", "SC": "injection under the skin", "SUBCUT": "injection under the skin",
    "IM": "injection", "IH": "inhaled", "NEB": "inhaled", "INHALATION": "inhaled",
    "TP": "on the skin", "TD": "skin patch", "PR": "rectal",
    "OU": "eye drops", "BOTH EYES": "eye drops", "IN": "in the nose", "NU": "in the nose",
}  # fmt: skip
ADMISSIONS = {
    "EW EMER.": "emergency admission", "DIRECT EMER.": "emergency admission", "URGENT": "urgent admission",
    "ELECTIVE": "planned admission", "SURGICAL SAME DAY ADMISSION": "planned admission for surgery",
    "OBSERVATION ADMIT": "admitted after observation", "EU OBSERVATION": "emergency observation",
    "DIRECT OBSERVATION": "observation", "AMBULATORY OBSERVATION": "observation",
}  # fmt: skip
# Carriers and line care, not medicines that a patient would ask about.
NOT_A_MEDICINE = re.compile(
    r"flush|^sodium chloride 0|^0\.9% sodium|sterile water|^dextrose 5%|^d5|^d10|^lactated|^iso-osmotic|^syringe|^bag\b"
    r"|^vial\b|^sw$|^ns\b|isotonic|diluent|^\.|^neutra-phos$",
    re.IGNORECASE,
)
CONTROL_TOKEN = re.compile(r"<(?=[|/]|s>)|\|(?=>)|\[(?=/?INST)")  # where one begins or ends


class Context(NamedTuple):
    """The text that the model gets, the facts behind it, and how many items each section lost to quota and budget."""

    text: str
    facts: dict
    cuts: dict


def clean(text: str) -> str:
    """Text of a record as one line that cannot speak to a terminal or pose as a chat-control token."""
    text, before = terminal.folded(str(text)), None
    while text != before:  # what is left when a token is cut may be a token again
        before, text = text, CONTROL_TOKEN.sub("", text)
    return " ".join(text.split())


def ago(days: int) -> str:
    if days < 1:
        return "today"
    if days < 60:
        return "1 day ago" if days == 1 else f"{days} days ago"
    return f"{days // 30} months ago" if days < 730 else f"{days // 365} years ago"


def sections(view: dict, as_of: datetime, known: dict, labels: dict) -> dict:
    """The context's sections in order: name -> list of items, the most telling first.

    `known` is what `facts.of` gives for the same view; `labels` maps itemid to the name of the lab.
    """
    stay = facts.last_stay(view)
    others = [s for s in facts.stays(view) if s is not stay and "dischtime" in s]
    age = known["age"]
    return {
        "Age": ["unknown" if age is None else "over 89" if age > 89 else str(age)],
        "Sex": [{"F": "female", "M": "male"}.get(known["sex"], "unknown")],
        "Background": _background(stay),
        "Last stay": _stay_items(view, stay, as_of),
        "Prior stays": _prior_items(view, others, as_of),
        "Known conditions": _conditions(view, as_of),
        "Medicines ordered during the last stay": _medicines(view, stay),
        "Recent labs": _labs(view, as_of, labels),
        "Recent measurements": _measurements(view, as_of),
        "Past procedures": _procedures(view, as_of),
        "Allergies": _allergies(view),
    }


def _unique(rows: list, key: Callable) -> list:
    return list({key(row): row for row in reversed(rows)}.values())[::-1]


def _background(stay: dict) -> list:
    language = clean(stay.get("language", ""))
    marital = clean(stay.get("marital_status", "")).lower()
    insurance = clean(stay.get("insurance", ""))
    return [
        *([f"speaks {language.title()}"] if language and language not in ("?", "Other") else []),
        *([marital] if marital else []),
        *([f"{insurance} insurance"] if insurance and insurance != "Other" else []),
    ]


def _stay_items(view: dict, stay: dict, as_of: datetime) -> list:
    if not stay:
        return ["none on record"]
    items = []
    if "dischtime" in stay:
        days = max(0, (stay["dischtime"].date() - stay["admittime"].date()).days)
        where = {"HOME": "home", "HOME HEALTH CARE": "home with home health care"}.get(stay.get("discharge_location"))
        where = where or clean(stay.get("discharge_location", "")).lower()
        items.append(
            f"{days} {'day' if days == 1 else 'days'}, discharged {ago((as_of - stay['dischtime']).days)}"
            + (f" to {where}" if where else "")
        )
    else:
        items.append(f"admitted {ago((as_of - stay['admittime']).days)}, still in hospital")
    if "admission_type" in stay:
        items.append(clean(ADMISSIONS.get(stay["admission_type"], stay["admission_type"])).lower())
    if services := [s for s in view["services"] if s.get("hadm_id") == stay["hadm_id"] and "curr_service" in s]:
        items.append(f"service {clean(max(services, key=lambda s: s['transfertime'])['curr_service'])}")
    if icu := [s for s in view["icustays"] if s.get("hadm_id") == stay["hadm_id"]]:
        items.append(f"intensive care: {len(icu)} " + ("stay" if len(icu) == 1 else "stays"))
    return items


def _prior_items(view: dict, others: list, as_of: datetime) -> list:
    if not others:
        return ["none on record"]
    current = {s["hadm_id"] for s in others}
    icu = sum(s.get("hadm_id") in current for s in view["icustays"])
    items = [f"{len(others)}, the last one {ago((as_of - others[-1]['dischtime']).days)}"]
    return items + [f"{icu} ICU {'stay' if icu == 1 else 'stays'} in them"] if icu else items


def _conditions(view: dict, as_of: datetime) -> list:
    """Conditions by their plain names, once each, with those of the last stay first; other codes by their titles."""
    catalogue = clinical.load().phenotypes
    stays = {a["hadm_id"]: a for a in view["admissions"]}
    named, titled = {}, {}
    for row in facts.newest_first(view["diagnoses_icd_labeled"], stays):
        names = clinical.phenotypes_of([(row["icd_code"], row["icd_version"])])
        when = (as_of - stays[row["hadm_id"]]["dischtime"]).days
        for name in names:
            entry = catalogue[name]
            suffix = f" ({ago(when)})" if entry["kind"] == "acute" else ""
            named.setdefault(name, clean(entry["name"]) + suffix)
        # external causes and administrative codes tell a reader little; the phenotypes name those that matter
        if not names and "long_title" in row and not re.match(r"[EVYWXZ]", row["icd_code"]):
            titled.setdefault(row["long_title"], clean(row["long_title"]))
    return [*named.values(), *titled.values()] or ["none coded"]


def _medicines(view: dict, stay: dict) -> list:
    """The medicines ordered in the stay with their routes: those of a class that rules know first, then the latest."""
    routes, classed = {}, set()
    rows = [r for r in view["prescriptions"] if r.get("hadm_id") == stay.get("hadm_id") and r.get("drug")]
    for row in sorted(rows, key=lambda r: (r["starttime"], r["drug"]), reverse=True):
        drug = clean(row["drug"])
        if row.get("drug_type", "MAIN") == "MAIN" and drug and not NOT_A_MEDICINE.search(drug):
            route = row.get("route", "").strip().upper()
            routes.setdefault(drug, {})[ROUTES.get(route, clean(route).lower())] = None
            if clinical.drug_classes_of(row["drug"], row.get("route")):
                classed.add(drug)
    listed = sorted(routes.items(), key=lambda item: item[0] not in classed)
    return [f"{drug} ({', '.join(filter(None, by))})" if any(by) else drug for drug, by in listed] or ["none on record"]


def _labs(view: dict, as_of: datetime, labels: dict) -> list:
    """The newest value of each lab with unit and the one before it: those that a rule reads and out of range first."""
    read_by_rules = _rule_labs()
    items = []
    for itemid, (row, *before) in facts.latest_labs(view, as_of).items():
        if "valuenum" not in row:
            continue
        low, high = row.get("ref_range_lower"), row.get("ref_range_upper")
        note = (
            "low"
            if low is not None and row["valuenum"] < low
            else "high"
            if high is not None and row["valuenum"] > high
            else ""
        )
        note = note or ("abnormal" if row.get("flag") == "abnormal" else "")
        name, unit = labels.get(itemid) or f"item {itemid}", row.get("valueuom", "")
        text = f"{clean(name)} {row['valuenum']:g} {clean(unit)}".strip()
        details = [note] if note else []
        if note and low is not None and high is not None:
            details.append(f"range {low:g}-{high:g}")
        details += [f"was {b['valuenum']:g}" for b in before if "valuenum" in b and b["charttime"] < row["charttime"]][
            :1
        ]
        text += f" ({', '.join(details)})" * bool(details) + f", {ago((as_of - row['charttime']).days)}"
        items.append((itemid not in read_by_rules, not note, -row["charttime"].timestamp(), itemid, text))
    return [text for *_, text in sorted(items)] or ["none on record"]


@cache
def _rule_labs() -> frozenset:
    """The itemids of the labs that a caution rule reads."""

    def items(condition):
        kind, value = next(iter(condition.items()))
        nested = value if kind in ("any", "all", "none") else []
        return [*(value["itemid"] if kind == "lab" else []), *(i for part in nested for i in items(part))]

    return frozenset(i for caution in clinical.load().cautions.values() for i in items(caution["when"]))


def _measurements(view: dict, as_of: datetime) -> list:
    """The newest outpatient or inpatient measurement of each kind in omr: weight, height, BMI, blood pressure."""
    kinds = {
        "Blood Pressure": "blood pressure",
        "Weight (Lbs)": "weight in pounds",
        "BMI (kg/m2)": "BMI",
        "Height (Inches)": "height in inches",
    }
    newest = {}
    for row in sorted(view["omr"], key=lambda r: r["chartdate"]):
        if row.get("result_name") in kinds and facts.is_value(row.get("result_value")):
            newest[kinds[row["result_name"]]] = row
    return [
        f"{kind} {clean(row['result_value'])}, {ago((as_of - row['chartdate']).days)}"
        for kind, row in sorted(newest.items())
    ]


def _allergies(view: dict) -> list:
    """MIMIC-IV has no allergy table: only the codes for an allergy status tell of one."""
    titles = [r["long_title"] for r in view["diagnoses_icd_labeled"] if "long_title" in r]
    found = dict.fromkeys(
        clean(t) for t in titles if re.match("allergy status|personal history of allergy", t, re.IGNORECASE)
    )
    return list(found) or ["the record does not say"]


def _procedures(view: dict, as_of: datetime) -> list:
    rows = sorted(view["procedures_icd_labeled"], key=lambda r: (r["chartdate"], r["icd_code"]), reverse=True)
    rows = _unique([r for r in rows if "long_title" in r], lambda r: r["long_title"])
    return [f"{clean(r['long_title'])} ({ago((as_of - r['chartdate']).days)})" for r in rows] or ["none on record"]


def write(parts: dict, budget: int, count_tokens: Callable) -> tuple:
    """The sections as text of at most `budget` tokens, and how many items each section lost to quota and budget.

    Items are cut from the end of the longest section first, where they tell least; the other lines are never cut.
    """
    shown = {name: items[: QUOTA.get(name, len(items))] for name, items in parts.items() if items}

    def text():
        lines = []
        for name, items in shown.items():
            more = len(parts[name]) - len(items)
            lines.append(f"- {name}: " + "; ".join([*items, *([f"and {more} more"] * bool(more))]))
        return "Patient context\n" + "\n".join(lines)

    while count_tokens(text()) > budget:
        longest = max(CUT_ORDER, key=lambda name: len(" ".join(shown.get(name, ())[1:])))
        if len(shown.get(longest, ())) <= 1:
            raise UserError(
                f"a token budget of {budget} is too small for a patient context: give --token-budget 300 or more"
            )
        shown[longest] = shown[longest][:-1]
    return text(), {
        name: len(parts[name]) - len(items) for name, items in shown.items() if len(parts[name]) > len(items)
    }


def build(record: dict, as_of: datetime, settings: dict, labels: dict, count_tokens: Callable) -> Context:
    """The context of one patient at one time, by the settings that step 4 left in context.json."""
    view = visible(record, as_of, frozenset(settings["dropped_columns"]))
    known = facts.of(view, as_of)
    text, cuts = write(sections(view, as_of, known, labels), settings["token_budget"], count_tokens)
    return Context(text, known, cuts)


def messages(settings: dict, context: str, question: str) -> list:
    """The system and user turn of a prompt."""
    user = f"{context}\n\nQuestion\n{question}"
    return [{"role": "system", "content": settings["system_prompt"]}, {"role": "user", "content": user}]


def load_settings(storage: Path) -> dict:
    """What step 4 left for steps 5 to 7: system prompt, budget, dropped columns, tokenizer. UserError if missing."""
    read_manifest(storage, "prompts")
    return json.loads((storage / "prompts" / "context.json").read_text(encoding="utf-8"))


def lab_labels(storage: Path) -> dict:
    """itemid -> name of the lab, with the fluid where it is not blood."""
    names = subjects.labels(storage, "d_labitems")
    fluids = subjects.labels(storage, "d_labitems", value="fluid")
    return {i: f"{n} ({fluids[i].lower()})" if fluids.get(i, "Blood") != "Blood" else n for i, n in names.items() if n}
