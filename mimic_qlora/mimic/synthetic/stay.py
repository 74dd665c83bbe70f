"""One synthetic hospital stay, from admission to the bill."""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.icu import intensive_care
from mimic_qlora.mimic.synthetic.labs import culture, stay_labs
from mimic_qlora.mimic.synthetic.orders import orders
from mimic_qlora.mimic.synthetic.patient import Patient
from mimic_qlora.mimic.synthetic.visit import IcuStay, Stay
from mimic_qlora.mimic.synthetic.vocabulary import Entry, Vocabulary

ICD10_SINCE = datetime(2015, 10, 1)


class Arrival(NamedTuple):
    """The way into the hospital."""

    type: str  # admission_type
    location: str  # admission_location
    ed_in: datetime | None  # in the emergency department
    ed_out: datetime | None


def hospital_stay(
    book: Book, patient: Patient, arrival: datetime, reason: Entry, coded: bool = True
) -> datetime:
    """Write one hospital stay into every table that it touches.

    Returns the time of discharge, not shifted, as `arrival` is not.
    """
    stay, location = _new_stay(book, patient, arrival, reason, coded)
    admission(book, patient, stay, location)
    icu_stay = movements(book, patient, stay)
    orders(book, patient, stay)
    stay_labs(book, patient, stay)
    screened = ["MRSA SCREEN"] if stay.icu else []
    for specimen in reason.get("cultures", []) + screened:
        time = stay.begin + times.minutes(patient.rng, 0, 1200)
        culture(book, patient, stay, time, specimen)
    if coded:
        billing(book, patient, stay)
    if icu_stay:
        intensive_care(book, patient, stay, icu_stay)
    return stay.end - patient.shift


def _new_stay(
    book: Book, patient: Patient, arrival: datetime, reason: Entry, coded: bool
) -> tuple[Stay, str]:
    """Draw a stay. Returns it and its admission_location."""
    rng = patient.rng
    kind, version = reason.get("kind", "emergency"), 10 if arrival >= ICD10_SINCE else 9
    hadm_id = book.next_id("hadm_id", 20_000_000, 9_999_991)
    icu = rng.random() < reason["icu"]
    died = coded and rng.random() < min(reason["death"] * (patient.age / 68) ** 2, 0.5)
    begin = times.whole(arrival + patient.shift)
    if kind == "elective":
        begin = begin.replace(hour=rng.choice((6, 7, 8)))
    days = min(max(rng.lognormvariate(math.log(reason["los"]), 0.45), 0.5), 30)
    end = begin + timedelta(days=days)
    if not died:
        end = max(end.replace(hour=rng.randrange(10, 19)), begin + timedelta(hours=7))
    has_emar = rng.random() < (0.98 if version == 10 else 0.4)
    drugs = stay_drugs(book.words, patient, reason, icu)
    way_in = _arrival(book.words, rng, kind, begin)
    stay = Stay(
        who={"subject_id": patient.subject_id, "hadm_id": hadm_id},
        hadm_id=hadm_id,
        reason=reason,
        begin=begin,
        died=died,
        kind=kind,
        type=way_in.type,
        version=version,
        icu=icu,
        end=times.whole(end),
        ed_in=way_in.ed_in,
        ed_out=way_in.ed_out,
        has_emar=has_emar,
        drugs=drugs,
    )
    return stay, way_in.location


def stay_drugs(words: Vocabulary, patient: Patient, reason: Entry, icu: bool) -> list[str]:
    """Draw what is ordered: drugs from home, for the reason, and what wards give to anybody."""
    rng, hospital = patient.rng, words.hospital
    avoid = patient.avoid | set(reason.get("avoid", ()))
    if reason.get("kind") == "obstetric":
        avoid |= set(hospital["not_in_pregnancy"])
    urgent = [drug for drug in reason.get("drugs", ()) if rng.random() < 0.7]
    families = [set(members) for members in hospital["families"]]
    replaced = set().union(*(members for members in families if members & set(urgent)))
    taken = [drug for drug in patient.drugs if drug not in {*urgent, *replaced}]
    wanted = dict.fromkeys(urgent, 1.0) | dict.fromkeys(taken, 0.93)
    ward = hospital["ward_drugs"] | (hospital["icu_drugs"] if icu else {})
    for drug, share in ward.items():
        wanted.setdefault(drug, share)
    if "type_2_diabetes" in patient.conditions:
        wanted["Dextrose 50%"] = 0.6
    return [drug for drug, share in wanted.items() if rng.random() < share and drug not in avoid]


def _arrival(words: Vocabulary, rng: Random, kind: str, begin: datetime) -> Arrival:
    """Draw the way in; who comes through the emergency department begins there."""
    type_, location, _ = weighted(rng, words.hospital["kinds"][kind])
    ed_in = ed_out = None
    if location in ("EMERGENCY ROOM", "WALK-IN/SELF REFERRAL"):
        ed_in = begin - times.minutes(rng, 60, 600)
        ed_out = begin + times.minutes(rng, 20, 200)
    return Arrival(type_, location, ed_in, ed_out)


def admission(book: Book, patient: Patient, stay: Stay, location: str) -> None:
    """Write the row in admissions, and the date of death of who dies in the stay."""
    rng, hospital = patient.rng, book.words.hospital
    deathtime = None
    facility = stay.reason.get("facility", 0.12) + max(patient.age - 62, 0) * 0.015
    goes_to = weighted(rng, hospital["facilities" if rng.random() < facility else "homes"])[0]
    if stay.kind == "observation" and rng.random() < 0.75:
        goes_to = None
    if stay.died:
        goes_to, deathtime = "DIED", stay.end - times.minutes(rng, 1, 90)
        patient.dod = stay.end.date()
    book.add(
        "admissions",
        **stay.who,
        admittime=stay.begin,
        dischtime=stay.end,
        deathtime=deathtime,
        admission_type=stay.type,
        admission_location=location,
        discharge_location=goes_to,
        edregtime=stay.ed_in,
        edouttime=stay.ed_out,
        insurance=patient.payer if rng.random() < 0.98 else None,
        hospital_expire_flag=int(stay.died),
    )


def movements(book: Book, patient: Patient, stay: Stay) -> IcuStay | None:
    """Write transfers, services and icustays; return the stay in intensive care, if there is one.

    That stay carries the id of its transfer.
    """
    rng, icu_stay = patient.rng, None
    if stay.ed_in:
        move(book, stay.who, "ED", "Emergency Department", stay.ed_in, stay.ed_out)
    time, end = times.seconds(rng, stay.ed_out or stay.begin), times.seconds(rng, stay.end)
    units = _careunits(book.words, rng, stay)
    for number, unit in enumerate(units):
        until = end
        if number < len(units) - 1:
            until = times.seconds(rng, time + (end - time) * rng.uniform(0.25, 0.7))
        transfer_id = move(book, stay.who, "transfer" if number else "admit", unit, time, until)
        if stay.icu and number == 0:
            icu_stay = IcuStay({**stay.who, "stay_id": transfer_id}, time, until)
            book.add(
                "icustays",
                **icu_stay.who,
                first_careunit=unit,
                last_careunit=unit,
                intime=time,
                outtime=until,
                los=repr((until - time).total_seconds() / 86400),
            )
        time = until
    move(book, stay.who, "discharge", None, end, None)
    services(book, rng, stay)
    return icu_stay


def _careunits(words: Vocabulary, rng: Random, stay: Stay) -> list[str]:
    """Draw the units of a stay, in order."""
    reason = stay.reason
    icu = rng.choice(words.hospital["icu_by_service"][reason["service"]])
    if stay.icu:
        return [icu] if stay.died or stay.days < 1.5 else [icu, reason["careunit"]]
    units = [reason["careunit"]]
    if stay.days > 3 and rng.random() < 0.25:
        units.append(rng.choice(("Med/Surg", "Medicine", "Discharge Lounge")))
    return units


def services(book: Book, rng: Random, stay: Stay) -> None:
    """Write services: a few stays begin in another service than their own."""
    own = first = stay.reason["service"]
    if rng.random() < 0.15:
        first = rng.choice(("MED", "SURG", own))
    time = times.seconds(rng, stay.begin)
    book.add("services", **stay.who, transfertime=time, curr_service=first)
    if first != own:
        later = times.seconds(rng, stay.begin + (stay.end - stay.begin) * rng.uniform(0.1, 0.5))
        changed = {"prev_service": first, "curr_service": own}
        book.add("services", **stay.who, transfertime=later, **changed)


def move(
    book: Book,
    who: dict[str, int],
    event: str,
    careunit: str | None,
    intime: datetime,
    outtime: datetime | None,
) -> int:
    """Write one row of transfers. Returns its transfer_id."""
    transfer_id = book.next_id("transfer_id", 30_000_000, 9_999_991)
    book.add(
        "transfers",
        **who,
        transfer_id=transfer_id,
        eventtype=event,
        careunit=careunit,
        intime=intime,
        outtime=outtime,
    )
    return transfer_id


def billing(book: Book, patient: Patient, stay: Stay) -> None:
    """Write diagnoses_icd, procedures_icd, drgcodes and hcpcsevents."""
    rng, version = patient.rng, stay.version
    for number, code in enumerate(diagnoses(book.words, patient, stay), 1):
        row = {"seq_num": number, "icd_code": code, "icd_version": version}
        book.add("diagnoses_icd", **stay.who, **row)
    for number, code in enumerate(procedures(book.words, patient, stay), 1):
        day = (stay.begin + timedelta(days=rng.random() ** 2 * stay.days)).date()
        row = {"seq_num": number, "chartdate": day, "icd_code": code, "icd_version": version}
        book.add("procedures_icd", **stay.who, **row)
    if stay.kind != "observation" and rng.random() < 0.9:
        drg_codes(book, patient, stay)
    billed = [code for code in stay.reason.get("hcpcs", ()) if rng.random() < 0.6]
    for number, code in enumerate(billed, 1):
        row = {"hcpcs_cd": code, "seq_num": number, "short_description": book.words.hcpcs[code]}
        book.add("hcpcsevents", **stay.who, chartdate=stay.begin.date(), **row)


def diagnoses(words: Vocabulary, patient: Patient, stay: Stay) -> list[str]:
    """Draw the codes of a stay, at most 39: its reason first, the others in any order."""
    rng, reason, version, icd = patient.rng, stay.reason, stay.version, f"icd{stay.version}"
    chronic = [
        code
        for both in patient.conditions.values()
        if rng.random() < 0.88
        for code in both[version]
    ]
    home = set(patient.drugs)
    chronic += [
        one[icd][0]
        for one in words.status_codes
        if home & set(one["drugs"]) and rng.random() < one["p"]
    ]
    chronic += _some(rng, words.hospital["incidental"], version)
    chronic += [pair[version - 9] for pair in reason.get("status", ())]
    rng.shuffle(chronic)
    main = rng.choice(reason[icd])
    listed = [main, *_some(rng, reason.get("extra", ()), version), *chronic]
    return list(dict.fromkeys(listed))[:39]


def procedures(words: Vocabulary, patient: Patient, stay: Stay) -> list[str]:
    """Draw the codes of what is done; some is done in intensive care only."""
    done = _some(patient.rng, stay.reason.get("procedures", ()), stay.version)
    if "end_stage_renal_disease" in patient.conditions:
        done.append("5A1D70Z" if stay.version == 10 else "3995")
    elsewhere = [] if stay.icu else words.hospital["icu_procedures"]
    return [code for code in dict.fromkeys(done) if code not in elsewhere]


def _some(rng: Random, rows: Iterable[list[Any]], version: int) -> list[str]:
    """Draw some of the rows (ICD-9 code, ICD-10 code, ..., share) and return their codes."""
    return [row[version - 9] for row in rows if rng.random() < row[-1]]


def drg_codes(book: Book, patient: Patient, stay: Stay) -> None:
    """Write the two rows in drgcodes, that of the APR with severity and mortality."""
    severity = min(4, 1 + len(patient.conditions) // 4 + int(stay.icu))
    risk = severity + (2 if stay.died else 0) - (1 if patient.age < 60 else 0)
    graded = {"drg_severity": severity, "drg_mortality": min(4, max(1, risk))}
    for kind, grades in (("HCFA", {}), ("APR", graded)):
        code, description = stay.reason[kind.lower()]
        row = {"drg_type": kind, "drg_code": code, "description": description}
        book.add("drgcodes", **stay.who, **row, **grades)
