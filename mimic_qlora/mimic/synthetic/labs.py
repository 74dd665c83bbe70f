"""The synthetic laboratory: draws, values that agree with each other, reports and cultures."""

import math
from datetime import datetime, timedelta
from types import SimpleNamespace

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.orders import order
from mimic_qlora.mimic.synthetic.patient import Patient


def stay_labs(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """A large draw on arrival, a smaller one every morning, and one more in the afternoons of intensive care."""
    rng, held, drugs = patient.rng, patient.conditions, set(here.drugs)
    panels = ["chemistry", "count", "egfr", "differential", *here.reason.get("panels", ())]
    panels += ["coagulation"] * bool(drugs & {"Warfarin", "Heparin Sodium"}) + ["gas"] * here.icu
    for panel, condition, share in book.words.hospital["panels_for"]:
        panels += [panel] * (rng.random() < (share if condition in held else 0.08))
    draw(
        book,
        patient,
        here,
        here.ed_in + timedelta(minutes=40) if here.ed_in else here.begin + timedelta(hours=1),
        panels,
        0.6,
    )
    daily = ["chemistry", "count"] + [
        panel for panel in ("coagulation", "gas", "liver") if panel in panels
    ]
    for day in range(1, min(math.ceil(here.days), 15)):
        morning = times.midnight(here.begin) + timedelta(days=day) + times.minutes(rng, 300, 480)
        for time in (morning, morning + timedelta(hours=11))[: 1 + (here.icu and day < 4)]:
            if time < here.end:
                draw(
                    book,
                    patient,
                    here,
                    time,
                    [
                        panel
                        for panel in daily
                        if panel in ("chemistry", "count") or rng.random() < 0.6
                    ],
                )


def draw(
    book: Book,
    patient: Patient,
    here: SimpleNamespace,
    time: datetime,
    panels: list,
    special: float = 0.0,
) -> None:
    """One blood draw, each panel a specimen. special: chance of each test that only the illness calls for."""
    rng, words, time = patient.rng, book.words, times.whole(time)
    acute, hours = here.reason.get("labs", {}), max((time - here.begin).total_seconds() / 3600, 0)
    fade = 1.3 if here.died else math.exp(-hours / 60)
    linked = [
        words.labs[key]
        for key in {**acute, **patient.lab_shift}
        if words.labs[key].panel in ("special", "iron")
    ]
    tests = [one for panel in dict.fromkeys(panels) for one in words.panels[panel]]
    tests += [one for one in linked if one not in tests and rng.random() < special]
    values = {
        one.key: result(patient, one, acute.get(one.key, 0) * fade) for one in tests if one.scale
    }
    agree(patient, values)
    hadm_id = here.hadm_id if rng.random() < 0.94 else None
    if here.hadm_id:
        order(book, patient, here, time - timedelta(minutes=30), "Lab")
    specimens = {}
    for one in tests:
        if one.panel not in specimens:
            delay = timedelta(
                hours=rng.uniform(100, 666)
                if rng.random() < 0.003
                else rng.lognormvariate(0.2, 0.5)
            )
            stored = times.whole(time + delay) if rng.random() < 0.99 else None
            specimens[one.panel] = {
                "specimen_id": book.next_id("specimen_id", 100, 99_999_989),
                "charttime": time,
                "storetime": stored,
            }
        book.add(
            "labevents",
            **specimens[one.panel],
            labevent_id=book.next_id("labevent_id", 1, 158_000_003),
            hadm_id=hadm_id,
            subject_id=patient.subject_id,
            itemid=one.itemid,
            **report(patient, one, values),
        )


def result(patient: Patient, one: SimpleNamespace, acute: float) -> float:
    """A test's value: the patient's habit, chronic shifts, the acute shift and chance, in standard deviations."""
    habit = patient.lab_habit.setdefault(one.key, patient.rng.gauss(0, 0.6))
    z = habit + patient.lab_shift.get(one.key, 0) + acute + patient.rng.gauss(0, 0.45)
    return (
        one.center * math.exp(one.spread * z) if one.scale == "log" else one.center + one.spread * z
    )


def agree(patient: Patient, values: dict) -> None:
    """Make the values that arithmetic ties together agree."""
    male = patient.sex == "M"
    if "Hemoglobin" in values:
        values["Hemoglobin"] = max(values["Hemoglobin"] + male, 4.5)
        values["Hematocrit"] = values["Hemoglobin"] * 3 + patient.rng.gauss(0, 0.4)
        values["Red Blood Cells"] = values["Hematocrit"] / values["MCV"] * 10
        values["MCH"] = values["Hemoglobin"] / values["Red Blood Cells"] * 10
        values["MCHC"] = values["Hemoglobin"] / values["Hematocrit"] * 100
    if "Creatinine" in values:
        values["Creatinine"] = min(values["Creatinine"] * (1.12 if male else 1), 14)
        values["Bicarbonate"] = max(values["Bicarbonate"], 6)
        values["Anion Gap"] = (
            values["Sodium"] + values["Potassium"] - values["Chloride"] - values["Bicarbonate"]
        )
        filtered = (
            175 * values["Creatinine"] ** -1.154 * patient.age**-0.203 * (1 if male else 0.742)
        )
        values["Estimated GFR (MDRD equation)"] = filtered
    if "Neutrophils" in values:
        values["Neutrophils"] = min(values["Neutrophils"], 88)
        others = sum(
            values[key] for key in ("Neutrophils", "Monocytes", "Eosinophils", "Basophils")
        )
        values["Lymphocytes"] = max(100 - others, 1)
    if "PT" in values:
        values["PT"] = values["INR(PT)"] * 11.1
    if "pH" in values:
        bicarbonate = 0.0307 * values["pCO2"] * 10 ** (values["pH"] - 6.1)
        values["Calculated Total CO2"] = bicarbonate + 0.0307 * values["pCO2"]
        values["Base Excess"] = 0.93 * (bicarbonate - 24.4 + 14.8 * (values["pH"] - 7.4))
    if "Triglycerides" in values:
        fats = (
            values["Cholesterol, HDL"]
            + values["Cholesterol, LDL, Calculated"]
            + values["Triglycerides"] / 5
        )
        values["Cholesterol, Total"] = fats


def report(patient: Patient, one: SimpleNamespace, values: dict) -> dict:
    """value, valuenum, flag and the rest, as the laboratory prints them."""
    rng, (low, high) = patient.rng, one.ranges[patient.sex]
    short = lambda number: None if number is None else f"{number:g}"  # noqa: E731
    cells = {
        "valueuom": one.unit,
        "ref_range_lower": short(low),
        "ref_range_upper": short(high),
        "comments": one.comment,
    }
    if one.panel == "egfr":
        return {
            "comments": f"Estimated GFR = {values[one.key]:.0f} mL/min/1.73 m2, from age, sex and creatinine."
        }
    if one.scale is None:
        infected = values.get("WBC (urine)", 0) > 15
        texts = {
            "Specimen Type": ("ART.", "VEN."),
            "Nitrite": ("POS",) if infected else ("NEG",),
            "Yeast": ("NONE", "None"),
        }
        texts |= {
            "Urine Color": ("Yellow", "Straw", "DKYELLOW"),
            "Epithelial Cells": ("0-2", "<1", "3-5", "N/A"),
        }
        return {
            "value": rng.choice(texts[one.key]),
            "valueuom": one.unit,
            "comments": "___" if rng.random() < 0.02 else None,
        }
    number = round(
        values[one.key] if one.key == "Base Excess" else max(values[one.key], 0), one.decimals
    )
    cells |= {"value": f"{number:.{one.decimals}f}", "valuenum": short(number)}
    if one.key in ("Glucose (urine)", "Protein (urine)") and number < 50:
        return cells | {"value": None, "valuenum": None, "comments": "NEG."}
    if low is not None and not low <= number <= high:
        cells["flag"] = "abnormal"
    if one.key == "Troponin T" and number < 0.01:
        cells |= {"value": "<0.01", "valuenum": None, "flag": None}
    elif one.key in ("WBC (urine)", "RBC (urine)") and not 2 < number <= 50:
        cells |= {"value": ">50" if number > 50 else "0-2", "valuenum": None}
    elif one.key == "Glucose" and rng.random() < 0.7 or rng.random() < 0.01:
        cells |= {"value": "___", "comments": one.comment or "New reference range as of ___."}
    return cells


def culture(
    book: Book, patient: Patient, here: SimpleNamespace, time: datetime, specimen: str
) -> None:
    """microbiologyevents: one row when nothing grew, else one for each antibiotic tried on the organism."""
    rng, hospital = patient.rng, book.words.hospital
    spec_itemid, test_itemid, test_name, positive = hospital["cultures"][specimen]
    stored = times.whole(time + timedelta(days=rng.uniform(1, 4)))
    row = {
        "subject_id": patient.subject_id,
        "hadm_id": here.hadm_id if rng.random() < 0.8 else None,
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
    nothing = (
        ("No MRSA isolated.  ",)
        if specimen == "MRSA SCREEN"
        else ("NO GROWTH.  ", "NO GROWTH.  ", "___")
    )
    findings = [{"comments": rng.choice(nothing)}]
    if rng.random() < positive:
        found = hospital["organisms"].get(specimen, hospital["organisms"]["other"])
        row["org_itemid"], row["org_name"], _ = weighted(rng, found)
        row["isolate_num"], findings = 1, [{"comments": "SPARSE GROWTH.  "}]
        if specimen != "MRSA SCREEN" and row["org_name"] != "YEAST":
            findings = []
            for ab_itemid, ab_name in rng.sample(hospital["antibiotics"], 5):
                text, comparison, value, reading, _ = weighted(rng, hospital["dilutions"])
                dilution = {
                    "dilution_text": text,
                    "dilution_comparison": comparison,
                    "dilution_value": value,
                    "interpretation": reading,
                }
                findings.append({"ab_itemid": ab_itemid, "ab_name": ab_name, **dilution})
    for finding in findings:
        book.add(
            "microbiologyevents",
            microevent_id=book.next_id("microevent_id", 1, 3_999_971),
            **row,
            **finding,
        )
