"""One synthetic hospital stay, from admission to the bill."""

import math
from datetime import datetime, timedelta
from types import SimpleNamespace

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.icu import intensive_care
from mimic_qlora.mimic.synthetic.labs import culture, stay_labs
from mimic_qlora.mimic.synthetic.orders import orders
from mimic_qlora.mimic.synthetic.patient import Patient

ICD10_SINCE = datetime(2015, 10, 1)


def stay(
    book: Book, patient: Patient, arrival: datetime, reason: dict, coded: bool = True
) -> datetime:
    """One hospital stay, into every table that it touches. Returns the time of discharge, not shifted."""
    rng = patient.rng
    here = SimpleNamespace(
        reason=reason,
        kind=reason.get("kind", "emergency"),
        version=10 if arrival >= ICD10_SINCE else 9,
    )
    here.hadm_id = book.next_id("hadm_id", 20_000_000, 9_999_991)
    here.who = {"subject_id": patient.subject_id, "hadm_id": here.hadm_id}
    here.icu = rng.random() < reason["icu"]
    here.died = coded and rng.random() < min(reason["death"] * (patient.age / 68) ** 2, 0.5)
    here.begin = times.whole(arrival + patient.shift)
    if here.kind == "elective":
        here.begin = here.begin.replace(hour=rng.choice((6, 7, 8)))
    here.end = here.begin + timedelta(
        days=min(max(rng.lognormvariate(math.log(reason["los"]), 0.45), 0.5), 30)
    )
    if not here.died:
        here.end = max(
            here.end.replace(hour=rng.randrange(10, 19)), here.begin + timedelta(hours=7)
        )
    here.end = times.whole(here.end)
    here.days = (here.end - here.begin).total_seconds() / 86400
    here.has_emar = rng.random() < (0.98 if here.version == 10 else 0.4)
    here.drugs = stay_drugs(book.words, patient, here)
    admission(book, patient, here)
    movements(book, patient, here)
    orders(book, patient, here)
    stay_labs(book, patient, here)
    for specimen in reason.get("cultures", []) + ["MRSA SCREEN"] * here.icu:
        culture(book, patient, here, here.begin + times.minutes(rng, 0, 1200), specimen)
    if coded:
        billing(book, patient, here)
    if here.icu:
        intensive_care(book, patient, here)
    return here.end - patient.shift


def stay_drugs(words: SimpleNamespace, patient: Patient, here: SimpleNamespace) -> list:
    """What is ordered in a stay: drugs from home, for the reason, and what the wards give to anybody."""
    rng, hospital = patient.rng, words.hospital
    avoid = patient.avoid | set(here.reason.get("avoid", ()))
    avoid |= set(hospital["not_in_pregnancy"]) if here.kind == "obstetric" else set()
    urgent = [drug for drug in here.reason.get("drugs", ()) if rng.random() < 0.7]
    families = [set(members) for members in hospital["families"]]
    replaced = set().union(*(members for members in families if members & set(urgent))) - set(
        urgent
    )
    wanted = dict.fromkeys(urgent, 1.0) | {
        drug: 0.93 for drug in patient.drugs if drug not in {*urgent, *replaced}
    }
    for drug, share in (
        hospital["ward_drugs"] | (hospital["icu_drugs"] if here.icu else {})
    ).items():
        wanted.setdefault(drug, share)
    if "type_2_diabetes" in patient.conditions:
        wanted["Dextrose 50%"] = 0.6
    return [drug for drug, share in wanted.items() if rng.random() < share and drug not in avoid]


def admission(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    rng, hospital = patient.rng, book.words.hospital
    here.type, location, _ = weighted(rng, hospital["kinds"][here.kind])
    here.ed_in = here.ed_out = deathtime = None
    if location in ("EMERGENCY ROOM", "WALK-IN/SELF REFERRAL"):
        here.ed_in, here.ed_out = (
            here.begin - times.minutes(rng, 60, 600),
            here.begin + times.minutes(rng, 20, 200),
        )
    facility = here.reason.get("facility", 0.12) + max(patient.age - 62, 0) * 0.015
    goes_to = weighted(rng, hospital["facilities" if rng.random() < facility else "homes"])[0]
    if here.kind == "observation" and rng.random() < 0.75:
        goes_to = None
    if here.died:
        goes_to, deathtime, patient.dod = (
            "DIED",
            here.end - times.minutes(rng, 1, 90),
            here.end.date(),
        )
    book.add(
        "admissions",
        **here.who,
        admittime=here.begin,
        dischtime=here.end,
        deathtime=deathtime,
        admission_type=here.type,
        admission_location=location,
        discharge_location=goes_to,
        edregtime=here.ed_in,
        edouttime=here.ed_out,
        insurance=patient.payer if rng.random() < 0.98 else None,
        hospital_expire_flag=int(here.died),
    )


def movements(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """transfers, services and icustays: a stay in intensive care carries the id of its transfer."""
    rng, reason = patient.rng, here.reason
    if here.ed_in:
        move(book, here.who, "ED", "Emergency Department", here.ed_in, here.ed_out)
    time, end = times.seconds(rng, here.ed_out or here.begin), times.seconds(rng, here.end)
    units, icu = (
        [reason["careunit"]],
        rng.choice(book.words.hospital["icu_by_service"][reason["service"]]),
    )
    if here.icu:
        units = [icu] if here.died or here.days < 1.5 else [icu, *units]
    elif here.days > 3 and rng.random() < 0.25:
        units.append(rng.choice(("Med/Surg", "Medicine", "Discharge Lounge")))
    for number, unit in enumerate(units):
        until = (
            end
            if number == len(units) - 1
            else times.seconds(rng, time + (end - time) * rng.uniform(0.25, 0.7))
        )
        transfer_id = move(book, here.who, "transfer" if number else "admit", unit, time, until)
        if here.icu and number == 0:
            here.stay_id, here.icu_in, here.icu_out = transfer_id, time, until
            days = repr((until - time).total_seconds() / 86400)
            book.add(
                "icustays",
                **here.who,
                stay_id=transfer_id,
                first_careunit=unit,
                last_careunit=unit,
                intime=time,
                outtime=until,
                los=days,
            )
        time = until
    move(book, here.who, "discharge", None, end, None)
    first = (
        rng.choice(("MED", "SURG", reason["service"])) if rng.random() < 0.15 else reason["service"]
    )
    book.add(
        "services", **here.who, transfertime=times.seconds(rng, here.begin), curr_service=first
    )
    if first != reason["service"]:
        later = here.begin + (here.end - here.begin) * rng.uniform(0.1, 0.5)
        book.add(
            "services",
            **here.who,
            transfertime=times.seconds(rng, later),
            prev_service=first,
            curr_service=reason["service"],
        )


def move(
    book: Book,
    who: dict,
    event: str,
    careunit: str | None,
    intime: datetime,
    outtime: datetime | None,
) -> int:
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


def billing(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """diagnoses_icd, procedures_icd, drgcodes and hcpcsevents."""
    rng, reason, which, icd = patient.rng, here.reason, here.version - 9, f"icd{here.version}"
    some = lambda rows: [row[which] for row in rows if rng.random() < row[-1]]  # noqa: E731
    chronic = [
        code
        for both in patient.conditions.values()
        if rng.random() < 0.88
        for code in both[here.version]
    ]
    home = set(patient.drugs)
    chronic += [
        one[icd][0]
        for one in book.words.status_codes
        if home & set(one["drugs"]) and rng.random() < one["p"]
    ]
    chronic += some(book.words.hospital["incidental"]) + [
        pair[which] for pair in reason.get("status", ())
    ]
    rng.shuffle(chronic)
    listed = [rng.choice(reason[icd]), *some(reason.get("extra", ())), *chronic]
    for number, code in enumerate(list(dict.fromkeys(listed))[:39], 1):
        book.add(
            "diagnoses_icd", **here.who, seq_num=number, icd_code=code, icd_version=here.version
        )
    done = some(reason.get("procedures", ()))
    done += [("3995", "5A1D70Z")[which]] * ("end_stage_renal_disease" in patient.conditions)
    done = [
        code
        for code in dict.fromkeys(done)
        if here.icu or code not in book.words.hospital["icu_procedures"]
    ]
    for number, code in enumerate(done, 1):
        day = (here.begin + timedelta(days=rng.random() ** 2 * here.days)).date()
        book.add(
            "procedures_icd",
            **here.who,
            seq_num=number,
            chartdate=day,
            icd_code=code,
            icd_version=here.version,
        )
    if here.kind != "observation" and rng.random() < 0.9:
        severity = min(4, 1 + len(patient.conditions) // 4 + here.icu)
        mortality = min(4, max(1, severity + here.died * 2 - (patient.age < 60)))
        book.add(
            "drgcodes",
            **here.who,
            drg_type="HCFA",
            drg_code=reason["hcfa"][0],
            description=reason["hcfa"][1],
        )
        book.add(
            "drgcodes",
            **here.who,
            drg_type="APR",
            drg_code=reason["apr"][0],
            description=reason["apr"][1],
            drg_severity=severity,
            drg_mortality=mortality,
        )
    for number, code in enumerate(
        (code for code in reason.get("hcpcs", ()) if rng.random() < 0.6), 1
    ):
        row = {"hcpcs_cd": code, "seq_num": number, "short_description": book.words.hcpcs[code]}
        book.add("hcpcsevents", **here.who, chartdate=here.begin.date(), **row)
