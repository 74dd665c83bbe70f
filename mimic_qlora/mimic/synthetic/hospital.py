"""A made-up hospital with the tables of MIMIC-IV v3.1: coherent patients, the real data's oddities, and planted truths.

Patients have chronic conditions (synthetic_data/conditions.yaml) and come for acute reasons (reasons.yaml); these drive
codes, drugs, labs and vitals. The columns of noise.yaml come from random streams of their own and tell nothing of them.
No row of real data is in it.
"""

import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import STRIDE, Book, vocabulary
from mimic_qlora.mimic.synthetic.labs import draw
from mimic_qlora.mimic.synthetic.patient import LAST_DAY, Patient, new_patient
from mimic_qlora.mimic.synthetic.stay import move, stay


def write(
    folder: Path,
    n_patients: int = 300,
    seed: int = 0,
    progress: bool = True,
    uncoded_share: float = 0.39,
) -> None:
    """Write hosp/*.csv.gz, icu/*.csv.gz and planted_truths.json into `folder`: the same bytes for the same arguments.

    uncoded_share: share of patients without a coded stay (most are seen in clinics or the emergency department only).
    """
    from tqdm import tqdm

    words = vocabulary()
    book = Book(words, seed)
    for number in tqdm(
        range(n_patients), "synthetic patients", unit="patient", disable=None if progress else True
    ):
        rng = Random(f"{seed}:{number}")
        coded = rng.random() >= uncoded_share
        patient = new_patient(
            words, rng, 10_000_000 + ((number + 1) * STRIDE + seed * 104_729) % 10_000_000, coded
        )
        live_through(book, patient, coded)
    for table, rows in words.dictionaries.items():
        for row in rows:
            book.add(table, **row)
    for table, column in (("provider", "provider_id"), ("caregiver", "caregiver_id")):
        for staff_id in book.staff[table]:
            book.add(table, **{column: staff_id})
    book.save(folder)
    noise = [{key: one[key] for key in ("table", "column", "kind")} for one in words.noise]
    truths = json.dumps({"signal": signals(words), "noise": noise}, indent=1)
    (folder / "planted_truths.json").write_text(truths + "\n", encoding="utf-8")


def live_through(book: Book, patient: Patient, coded: bool) -> None:
    """Stays, clinic visits and emergency visits of one patient, then the row in `patients`."""
    rng, now, illness = patient.rng, patient.start, len(patient.conditions)
    stays = 1 + min(int(rng.expovariate(1 / (0.6 + 0.18 * illness))), 14) if coded else 0
    for _ in range(stays):
        if now > LAST_DAY or patient.dod:
            break
        leave = stay(book, patient, now, why(book.words, patient, now))
        now = leave + timedelta(days=min(rng.lognormvariate(5.0, 1.2), 1500))
    if stays and not patient.dod and rng.random() < 0.008 * max(patient.age - 50, 0):
        patient.dod = (
            leave + patient.shift + timedelta(days=1 + rng.lognormvariate(4.5, 0.9))
        ).date()
    if not coded and rng.random() < 0.1:
        observed = next(one for one in book.words.reasons if one["name"] == "chest_pain")
        stay(book, patient, now, observed, coded=False)
    clinic(book, patient, visits=int(rng.expovariate(1 / (2 + illness / 2))) + (not coded))
    for _ in range(int(rng.expovariate(1.4)) + (not coded and rng.random() < 0.5)):
        emergency_visit(book, patient)
    book.add(
        "patients",
        subject_id=patient.subject_id,
        gender=patient.sex,
        anchor_age=patient.age if patient.age <= 89 else 91,
        anchor_year=patient.anchor_year,
        anchor_year_group=patient.year_group,
        dod=patient.dod,
    )


def why(words: SimpleNamespace, patient: Patient, now: datetime) -> dict:
    """The reason for a stay, among those that fit age, sex, year and conditions."""
    weights = []
    for one in words.reasons:
        (low, high), (first, last) = one.get("ages", (0, 120)), one.get("years", (0, 9999))
        fits = low <= patient.age <= high and first <= now.year <= last
        fits = fits and ("needs" not in one or bool(patient.conditions.keys() & set(one["needs"])))
        boost = math.prod(
            times for name, times in one.get("boost", {}).items() if name in patient.conditions
        )
        weights.append(one["weight"] * one.get("sex", {}).get(patient.sex, 1.0) * boost * fits)
    return patient.rng.choices(words.reasons, weights)[0]


def clinic(book: Book, patient: Patient, visits: int) -> None:
    """omr, and blood draws that belong to no stay."""
    rng, bmi, inches = patient.rng, patient.bmi, patient.inches
    for time in sorted(
        patient.start + patient.shift + timedelta(days=rng.uniform(-60, 1200))
        for _ in range(visits)
    ):
        time = times.whole(time).replace(hour=rng.randrange(8, 17))
        if patient.dod and time.date() >= patient.dod:
            continue
        bmi, sbp = max(15, bmi + rng.gauss(0, 0.4)), rng.gauss(patient.sbp, 8)
        pounds = f"{bmi * inches**2 / 703:.2f}".rstrip("0").rstrip(".")
        seen = [
            ("Blood Pressure", f"{sbp:.0f}/{sbp * 0.45 + rng.gauss(20, 5):.0f}", 0.95),
            ("Weight (Lbs)", pounds, 0.85),
        ]
        seen += [("BMI (kg/m2)", f"{bmi:.1f}", 0.75), ("Height (Inches)", f"{inches:g}", 0.4)]
        for name, value, share in seen:
            if rng.random() < share:
                for number in range(1, 3 if rng.random() < 0.03 else 2):
                    row = {"seq_num": number, "result_name": name, "result_value": value}
                    book.add("omr", subject_id=patient.subject_id, chartdate=time.date(), **row)
        if rng.random() < 0.5:
            panels = ["chemistry", "count"] + [
                panel for panel in ("lipids", "thyroid", "liver", "iron") if rng.random() < 0.25
            ]
            panels += ["a1c"] * ("type_2_diabetes" in patient.conditions)
            panels += ["coagulation"] * ("Warfarin" in patient.drugs)
            draw(book, patient, _outside(patient, time), time, panels, special=0.5)


def emergency_visit(book: Book, patient: Patient) -> None:
    """Seen and sent home: a transfer without hadm_id, and a blood draw."""
    rng = patient.rng
    time = times.whole(patient.start + patient.shift + timedelta(days=rng.uniform(-30, 1000)))
    if not patient.dod or time.date() < patient.dod:
        until = time + times.minutes(rng, 90, 700)
        move(book, {"subject_id": patient.subject_id}, "ED", "Emergency Department", time, until)
        panels = ["chemistry", "count"] + ["urine"] * (rng.random() < 0.4)
        draw(book, patient, _outside(patient, time), time + timedelta(minutes=50), panels)


def _outside(patient: Patient, time: datetime) -> SimpleNamespace:
    """A visit that is no hospital stay."""
    return SimpleNamespace(
        hadm_id=None, reason={}, begin=time, died=False, who={"subject_id": patient.subject_id}
    )


def signals(words: SimpleNamespace) -> list:
    """What tells of which condition or reason, read off the data that the generator itself uses."""
    found = []
    for one in words.conditions + words.reasons + words.status_codes:
        target = {
            "target": one["name"],
            "icd9": sorted(set(one["icd9"])),
            "icd10": sorted(set(one["icd10"])),
        }

        def tells(table, column, effect, target=target, **where):
            found.append({"table": table, "column": column, **where, **target, "effect": effect})

        for key, amount in one.get("labs", {}).items():
            tells(
                "labevents",
                "valuenum",
                f"{key} {amount:+g} standard deviations",
                itemid=int(words.labs[key].itemid),
            )
        groups = [[group] if isinstance(group, str) else group for group in one.get("drugs", ())]
        for drug in dict.fromkeys(words.drugs[key]["drug"] for group in groups for key in group):
            tells("prescriptions", "drug", "ordered more often", value=drug)
        for key, name in (("bmi", "BMI (kg/m2)"), ("sbp", "Blood Pressure")):
            if key in one:
                tells("omr", "result_value", f"{one[key]:+g}", value=name)
        for key, itemid in (
            ("hr", 220045),
            ("sbp", 220179),
            ("rr", 220210),
            ("spo2", 220277),
            ("temp", 223761),
        ):
            if key in one.get("vitals", {}):
                tells(
                    "chartevents",
                    "valuenum",
                    f"{one['vitals'][key]:+g} at admission",
                    itemid=itemid,
                )
    return found
