"""A made-up hospital with the tables of MIMIC-IV v3.1.

It has coherent patients, the real data's oddities, and planted truths. Patients have chronic
conditions (data/conditions.yaml) and come for acute reasons (data/reasons.yaml). These drive codes,
drugs, labs and vitals. The columns of data/noise.yaml come from random streams of their own and
tell nothing of them. No row of real data is in it.
"""

import contextlib
import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import STRIDE, Book
from mimic_qlora.mimic.synthetic.emergency import emergency as emergency_department
from mimic_qlora.mimic.synthetic.labs import draw
from mimic_qlora.mimic.synthetic.patient import LAST_DAY, Patient, new_patient
from mimic_qlora.mimic.synthetic.stay import hospital_stay, move
from mimic_qlora.mimic.synthetic.visit import Visit
from mimic_qlora.mimic.synthetic.vocabulary import Entry, Vocabulary, vocabulary
from mimic_qlora.step import storage
from mimic_qlora.step.errors import UpToDate


def in_storage(store: Path, n_patients: int, seed: int, emergency: bool = False) -> Path:
    """Return the folder of the built-in data, written unless it is there for these arguments."""
    settings = {"patients": n_patients, "seed": seed}
    settings |= {"emergency": True} if emergency else {}
    with (
        contextlib.suppress(UpToDate),
        storage.step_output(store, "synthetic", settings, {}) as out,
    ):
        write(out.path, n_patients, seed, emergency=emergency)
    return store / "synthetic"


def write(
    folder: Path,
    n_patients: int = 300,
    seed: int = 0,
    progress: bool = True,
    uncoded_share: float = 0.39,
    emergency: bool = False,
) -> None:
    """Write hosp/*.csv.gz, icu/*.csv.gz and planted_truths.json into `folder`.

    The same arguments give the same bytes. `uncoded_share` is the share of patients without a coded
    stay; most of these are seen in clinics or the emergency department only. `emergency` adds ed/
    and note/radiology.csv.gz and leaves all other tables as they are.
    """
    words = vocabulary()
    book = Book(words, seed, emergency)
    levels: dict[int, str] = {}
    disable = None if progress else True
    for number in tqdm(range(n_patients), "synthetic patients", unit="patient", disable=disable):
        rng = Random(f"{seed}:{number}")
        coded = rng.random() >= uncoded_share
        subject_id = 10_000_000 + ((number + 1) * STRIDE + seed * 104_729) % 10_000_000
        patient = new_patient(words, rng, subject_id, coded)
        live_through(book, patient, coded)
        if book.watched is not None:
            written, book.watched = book.watched, {}
            levels |= emergency_department(book, patient, Random(f"{seed}:{number}:ed"), written)
            book.watched = {}
    for table, rows in words.dictionaries.items():
        for row in rows:
            book.add(table, **row)
    for table, column in (("provider", "provider_id"), ("caregiver", "caregiver_id")):
        for staff_id in book.staff[table]:
            book.add(table, **{column: staff_id})
    book.save(folder)
    noise = [{key: one[key] for key in ("table", "column", "kind")} for one in words.noise]
    planted: dict[str, Any] = {"signal": signals(words), "noise": noise}
    planted |= {"urgency": levels} if emergency else {}
    truths = json.dumps(planted, indent=1)
    (folder / "planted_truths.json").write_text(truths + "\n", encoding="utf-8")


def live_through(book: Book, patient: Patient, coded: bool) -> None:
    """Write all visits of one patient, and then the row in patients."""
    rng, now, illness = patient.rng, patient.start, len(patient.conditions)
    leave = now
    stays = 1 + min(int(rng.expovariate(1 / (0.6 + 0.18 * illness))), 14) if coded else 0
    for _ in range(stays):
        if now > LAST_DAY or patient.dod:
            break
        leave = hospital_stay(book, patient, now, why(book.words, patient, now))
        now = leave + timedelta(days=min(rng.lognormvariate(5.0, 1.2), 1500))
    if stays and not patient.dod and rng.random() < 0.008 * max(patient.age - 50, 0):
        later = timedelta(days=1 + rng.lognormvariate(4.5, 0.9))
        patient.dod = (leave + patient.shift + later).date()
    if not coded and rng.random() < 0.1:
        observed = next(one for one in book.words.reasons if one["name"] == "chest_pain")
        hospital_stay(book, patient, now, observed, coded=False)
    n_clinic = int(rng.expovariate(1 / (2 + illness / 2)))
    clinic(book, patient, visits=n_clinic if coded else n_clinic + 1)
    n_emergency = int(rng.expovariate(1.4))
    if not coded and rng.random() < 0.5:
        n_emergency += 1
    for _ in range(n_emergency):
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


def why(words: Vocabulary, patient: Patient, now: datetime) -> Entry:
    """Draw the reason for a stay, among those that fit age, sex, year and conditions."""
    weights = []
    for one in words.reasons:
        (low, high), (first, last) = one.get("ages", (0, 120)), one.get("years", (0, 9999))
        fits = low <= patient.age <= high and first <= now.year <= last
        fits = fits and ("needs" not in one or bool(patient.conditions.keys() & set(one["needs"])))
        boost = math.prod(
            factor for name, factor in one.get("boost", {}).items() if name in patient.conditions
        )
        weight = one["weight"] * one.get("sex", {}).get(patient.sex, 1.0) * boost
        weights.append(weight if fits else 0.0)
    return patient.rng.choices(words.reasons, weights)[0]


def clinic(book: Book, patient: Patient, visits: int) -> None:
    """Write omr, and blood draws that belong to no stay."""
    rng, bmi = patient.rng, patient.bmi
    first = patient.start + patient.shift
    drawn = sorted(first + timedelta(days=rng.uniform(-60, 1200)) for _ in range(visits))
    for time in drawn:
        time = times.whole(time).replace(hour=rng.randrange(8, 17))
        if patient.dod and time.date() >= patient.dod:
            continue
        bmi, sbp = max(15, bmi + rng.gauss(0, 0.4)), rng.gauss(patient.sbp, 8)
        measure(book, patient, time, bmi, sbp)
        if rng.random() < 0.5:
            panels = ["chemistry", "count"]
            panels += [p for p in ("lipids", "thyroid", "liver", "iron") if rng.random() < 0.25]
            if "type_2_diabetes" in patient.conditions:
                panels.append("a1c")
            if "Warfarin" in patient.drugs:
                panels.append("coagulation")
            draw(book, patient, _outside(patient, time), time, panels, special=0.5)


def measure(book: Book, patient: Patient, time: datetime, bmi: float, sbp: float) -> None:
    """Write one visit's rows of omr; a few of them twice, as in the real table."""
    rng, inches = patient.rng, patient.inches
    pounds = f"{bmi * inches**2 / 703:.2f}".rstrip("0").rstrip(".")
    pressure = f"{sbp:.0f}/{sbp * 0.45 + rng.gauss(20, 5):.0f}"
    for name, value, share in (
        ("Blood Pressure", pressure, 0.95),
        ("Weight (Lbs)", pounds, 0.85),
        ("BMI (kg/m2)", f"{bmi:.1f}", 0.75),
        ("Height (Inches)", f"{inches:g}", 0.4),
    ):
        if rng.random() < share:
            for number in range(1, 3 if rng.random() < 0.03 else 2):
                row = {"seq_num": number, "result_name": name, "result_value": value}
                book.add("omr", subject_id=patient.subject_id, chartdate=time.date(), **row)


def emergency_visit(book: Book, patient: Patient) -> None:
    """Write a visit that ends at home: a transfer without hadm_id, and a blood draw."""
    rng = patient.rng
    time = times.whole(patient.start + patient.shift + timedelta(days=rng.uniform(-30, 1000)))
    if not patient.dod or time.date() < patient.dod:
        until = time + times.minutes(rng, 90, 700)
        move(book, {"subject_id": patient.subject_id}, "ED", "Emergency Department", time, until)
        panels = ["chemistry", "count"]
        if rng.random() < 0.4:
            panels.append("urine")
        draw(book, patient, _outside(patient, time), time + timedelta(minutes=50), panels)


def _outside(patient: Patient, time: datetime) -> Visit:
    """Return a visit that is no hospital stay."""
    who = {"subject_id": patient.subject_id}
    return Visit(who=who, hadm_id=None, reason={}, begin=time, died=False)


VITALS = {"hr": 220045, "sbp": 220179, "rr": 220210, "spo2": 220277, "temp": 223761}  # -> itemid


def signals(words: Vocabulary) -> list[dict[str, Any]]:
    """Return what tells of which condition or reason, read off the data of the generator itself."""
    found = []
    for one in words.conditions + words.reasons + words.status_codes:
        target = {
            "target": one["name"],
            "icd9": sorted(set(one["icd9"])),
            "icd10": sorted(set(one["icd10"])),
        }
        for place, effect in _tells(words, one):
            found.append({**place, **target, "effect": effect})
    return found


def _tells(words: Vocabulary, one: Entry) -> list[tuple[dict[str, Any], str]]:
    """Return the columns (with the item or the value in them) that tell of an entry, and how."""
    tells: list[tuple[dict[str, Any], str]] = []
    for key, amount in one.get("labs", {}).items():
        place = {"table": "labevents", "column": "valuenum", "itemid": int(words.labs[key].itemid)}
        tells.append((place, f"{key} {amount:+g} standard deviations"))
    groups = [[group] if isinstance(group, str) else group for group in one.get("drugs", ())]
    for drug in dict.fromkeys(words.drugs[key]["drug"] for group in groups for key in group):
        place = {"table": "prescriptions", "column": "drug", "value": drug}
        tells.append((place, "ordered more often"))
    for key, name in (("bmi", "BMI (kg/m2)"), ("sbp", "Blood Pressure")):
        if key in one:
            place = {"table": "omr", "column": "result_value", "value": name}
            tells.append((place, f"{one[key]:+g}"))
    for key, itemid in VITALS.items():
        if key in one.get("vitals", {}):
            place = {"table": "chartevents", "column": "valuenum", "itemid": itemid}
            tells.append((place, f"{one['vitals'][key]:+g} at admission"))
    return tells
