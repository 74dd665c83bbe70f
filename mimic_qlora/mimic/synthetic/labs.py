"""The synthetic laboratory: draws, values that agree with each other, reports and cultures."""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from random import Random
from typing import Any

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.orders import Order, order
from mimic_qlora.mimic.synthetic.patient import Patient
from mimic_qlora.mimic.synthetic.visit import Stay, Visit
from mimic_qlora.mimic.synthetic.vocabulary import Lab

Values = dict[str, float]  # key of a lab -> its value in one draw


def stay_labs(book: Book, patient: Patient, stay: Stay) -> None:
    """Write the draws of a stay: a large one on arrival, a smaller one every morning.

    In intensive care there is one more in the afternoons of the first days.
    """
    rng, held = patient.rng, patient.conditions
    panels = ["chemistry", "count", "egfr", "differential", *stay.reason.get("panels", ())]
    if not {"Warfarin", "Heparin Sodium"}.isdisjoint(stay.drugs):
        panels.append("coagulation")
    if stay.icu:
        panels.append("gas")
    for panel, condition, share in book.words.hospital["panels_for"]:
        if rng.random() < (share if condition in held else 0.08):
            panels.append(panel)
    first = stay.begin + timedelta(hours=1)
    if stay.ed_in:
        first = stay.ed_in + timedelta(minutes=40)
    draw(book, patient, stay, first, panels, 0.6)

    always = ["chemistry", "count"]
    daily = always + [panel for panel in ("coagulation", "gas", "liver") if panel in panels]
    for day in range(1, min(math.ceil(stay.days), 15)):
        morning = times.midnight(stay.begin) + timedelta(days=day) + times.minutes(rng, 300, 480)
        hours = (0, 11) if stay.icu and day < 4 else (0,)
        for time in (morning + timedelta(hours=hour) for hour in hours):
            if time < stay.end:
                drawn = [panel for panel in daily if panel in always or rng.random() < 0.6]
                draw(book, patient, stay, time, drawn)


def draw(
    book: Book,
    patient: Patient,
    visit: Visit,
    time: datetime,
    panels: Iterable[str],
    special: float = 0.0,
) -> None:
    """Write one blood draw, each panel a specimen.

    `special` is the chance of each test that only the illness calls for.
    """
    rng, words, time = patient.rng, book.words, times.whole(time)
    acute = visit.reason.get("labs", {})
    hours = max((time - visit.begin).total_seconds() / 3600, 0)
    fade = 1.3 if visit.died else math.exp(-hours / 60)
    linked = [words.labs[key] for key in {**acute, **patient.lab_shift}]
    tests = [one for panel in dict.fromkeys(panels) for one in words.panels[panel]]
    tests += [
        one
        for one in linked
        if one.panel in ("special", "iron") and one not in tests and rng.random() < special
    ]
    values = {
        one.key: result(patient, one, acute.get(one.key, 0) * fade) for one in tests if one.scale
    }
    values = agreeing(patient, values)
    hadm_id = visit.hadm_id if rng.random() < 0.94 else None
    if visit.hadm_id:
        order(book, patient, visit, Order(time - timedelta(minutes=30), "Lab"))
    specimens: dict[str, dict[str, Any]] = {}
    for one in tests:
        if one.panel not in specimens:
            specimens[one.panel] = specimen(book, rng, time)
        book.add(
            "labevents",
            **specimens[one.panel],
            labevent_id=book.next_id("labevent_id", 1, 158_000_003),
            hadm_id=hadm_id,
            subject_id=patient.subject_id,
            itemid=one.itemid,
            **report(patient, one, values),
        )


def specimen(book: Book, rng: Random, time: datetime) -> dict[str, Any]:
    """Draw when a specimen's results are stored; a few come days late, or carry no time."""
    late = rng.random() < 0.003
    delay = timedelta(hours=rng.uniform(100, 666) if late else rng.lognormvariate(0.2, 0.5))
    return {
        "specimen_id": book.next_id("specimen_id", 100, 99_999_989),
        "charttime": time,
        "storetime": times.whole(time + delay) if rng.random() < 0.99 else None,
    }


def result(patient: Patient, one: Lab, acute: float) -> float:
    """Draw a test's value, from a sum of shifts in standard deviations.

    The shifts are the patient's habit, their conditions, the acute illness, and chance.
    """
    habit = patient.lab_habit.setdefault(one.key, patient.rng.gauss(0, 0.6))
    z = habit + patient.lab_shift.get(one.key, 0) + acute + patient.rng.gauss(0, 0.45)
    if one.scale == "log":
        return one.center * math.exp(one.spread * z)
    return one.center + one.spread * z


def agreeing(patient: Patient, drawn: Values) -> Values:
    """Return the values of one draw, those that arithmetic ties together made to agree."""
    male, values = patient.sex == "M", dict(drawn)
    if "Hemoglobin" in values:
        values["Hemoglobin"] = max(values["Hemoglobin"] + (1 if male else 0), 4.5)
        values["Hematocrit"] = values["Hemoglobin"] * 3 + patient.rng.gauss(0, 0.4)
        values["Red Blood Cells"] = values["Hematocrit"] / values["MCV"] * 10
        values["MCH"] = values["Hemoglobin"] / values["Red Blood Cells"] * 10
        values["MCHC"] = values["Hemoglobin"] / values["Hematocrit"] * 100
    if "Creatinine" in values:
        values["Creatinine"] = min(values["Creatinine"] * (1.12 if male else 1), 14)
        values["Bicarbonate"] = max(values["Bicarbonate"], 6)
        cations = values["Sodium"] + values["Potassium"]
        values["Anion Gap"] = cations - values["Chloride"] - values["Bicarbonate"]
        # the MDRD study equation, for creatinine in mg/dL
        filtered = 175 * values["Creatinine"] ** -1.154 * patient.age**-0.203
        values["Estimated GFR (MDRD equation)"] = filtered * (1 if male else 0.742)
    if "Neutrophils" in values:
        values["Neutrophils"] = min(values["Neutrophils"], 88)
        cells = ("Neutrophils", "Monocytes", "Eosinophils", "Basophils")
        values["Lymphocytes"] = max(100 - sum(values[key] for key in cells), 1)
    if "PT" in values:
        values["PT"] = values["INR(PT)"] * 11.1
    if "pH" in values:  # Henderson-Hasselbalch, and the base excess by Siggaard-Andersen
        bicarbonate = 0.0307 * values["pCO2"] * 10 ** (values["pH"] - 6.1)
        values["Calculated Total CO2"] = bicarbonate + 0.0307 * values["pCO2"]
        values["Base Excess"] = 0.93 * (bicarbonate - 24.4 + 14.8 * (values["pH"] - 7.4))
    if "Triglycerides" in values:  # Friedewald
        hdl, ldl = values["Cholesterol, HDL"], values["Cholesterol, LDL, Calculated"]
        values["Cholesterol, Total"] = hdl + ldl + values["Triglycerides"] / 5
    return values


def report(patient: Patient, one: Lab, values: Values) -> dict[str, Any]:
    """Return value, valuenum, flag and the rest, as the laboratory prints them."""
    rng, (low, high) = patient.rng, one.ranges[patient.sex]
    if one.panel == "egfr":
        filtered = f"{values[one.key]:.0f} mL/min/1.73 m2"
        return {"comments": f"Estimated GFR = {filtered}, from age, sex and creatinine."}
    if one.scale is None:
        return _text_result(rng, one, values)
    value = values[one.key] if one.key == "Base Excess" else max(values[one.key], 0)
    number = round(value, one.decimals)
    cells = {
        "valueuom": one.unit,
        "ref_range_lower": _short(low),
        "ref_range_upper": _short(high),
        "comments": one.comment,
        "value": f"{number:.{one.decimals}f}",
        "valuenum": _short(number),
    }
    if one.key in ("Glucose (urine)", "Protein (urine)") and number < 50:
        return cells | {"value": None, "valuenum": None, "comments": "NEG."}
    if low is not None and high is not None and not low <= number <= high:
        cells["flag"] = "abnormal"
    if one.key == "Troponin T" and number < 0.01:
        cells |= {"value": "<0.01", "valuenum": None, "flag": None}
    elif one.key in ("WBC (urine)", "RBC (urine)") and not 2 < number <= 50:
        cells |= {"value": ">50" if number > 50 else "0-2", "valuenum": None}
    elif one.key == "Glucose" and rng.random() < 0.7 or rng.random() < 0.01:
        cells |= {"value": "___", "comments": one.comment or "New reference range as of ___."}
    return cells


def _short(number: float | None) -> str | None:
    return None if number is None else f"{number:g}"


def _text_result(rng: Random, one: Lab, values: Values) -> dict[str, Any]:
    """Draw the result of a test whose value is a text."""
    infected = values.get("WBC (urine)", 0) > 15
    texts = {
        "Specimen Type": ("ART.", "VEN."),
        "Nitrite": ("POS",) if infected else ("NEG",),
        "Yeast": ("NONE", "None"),
        "Urine Color": ("Yellow", "Straw", "DKYELLOW"),
        "Epithelial Cells": ("0-2", "<1", "3-5", "N/A"),
    }
    return {
        "value": rng.choice(texts[one.key]),
        "valueuom": one.unit,
        "comments": "___" if rng.random() < 0.02 else None,
    }


def culture(book: Book, patient: Patient, stay: Stay, time: datetime, specimen: str) -> None:
    """Write microbiologyevents: one row when nothing grew, else one for each antibiotic tried."""
    rng, hospital = patient.rng, book.words.hospital
    spec_itemid, test_itemid, test_name, positive = hospital["cultures"][specimen]
    stored = times.whole(time + timedelta(days=rng.uniform(1, 4)))
    row: dict[str, Any] = {
        "subject_id": patient.subject_id,
        "hadm_id": stay.hadm_id if rng.random() < 0.8 else None,
        "spec_itemid": spec_itemid,
        "micro_specimen_id": book.next_id("micro_specimen_id", 100, 9_999_973),
        "chartdate": times.midnight(time),
        "test_seq": 1,
        "charttime": time if rng.random() < 0.94 else None,
        "spec_type_desc": "" if rng.random() < 0.02 else specimen,
        "storedate": times.midnight(stored),
        "storetime": stored,
        "test_itemid": test_itemid,
        "test_name": test_name,
    }
    nothing = ["NO GROWTH.  ", "NO GROWTH.  ", "___"]
    if specimen == "MRSA SCREEN":
        nothing = ["No MRSA isolated.  "]
    findings: list[dict[str, Any]] = [{"comments": rng.choice(nothing)}]
    if rng.random() < positive:
        found = hospital["organisms"].get(specimen, hospital["organisms"]["other"])
        row["org_itemid"], row["org_name"], _ = weighted(rng, found)
        row["isolate_num"] = 1
        findings = [{"comments": "SPARSE GROWTH.  "}]
        if specimen != "MRSA SCREEN" and row["org_name"] != "YEAST":
            findings = _antibiogram(rng, hospital["antibiotics"], hospital["dilutions"])
    for finding in findings:
        microevent_id = book.next_id("microevent_id", 1, 3_999_971)
        book.add("microbiologyevents", microevent_id=microevent_id, **row, **finding)


def _antibiogram(
    rng: Random, antibiotics: list[tuple[int, str]], dilutions: list[list[Any]]
) -> list[dict[str, Any]]:
    """Draw five antibiotics, and how well each works."""
    findings = []
    for itemid, name in rng.sample(antibiotics, 5):
        text, comparison, value, reading, _ = weighted(rng, dilutions)
        findings.append(
            {
                "ab_itemid": itemid,
                "ab_name": name,
                "dilution_text": text,
                "dilution_comparison": comparison,
                "dilution_value": value,
                "interpretation": reading,
            }
        )
    return findings
