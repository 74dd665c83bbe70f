"""A synthetic stay's orders, and the drugs that are prescribed, dispensed and given."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.patient import Patient
from mimic_qlora.mimic.synthetic.visit import Stay, Visit

Drug = dict[str, str]  # a row of drugs.csv
AMOUNTS = ("prod_strength", "dose_val_rx", "dose_unit_rx", "form_val_disp", "form_unit_disp")
SCHEDULES = {"1": "10", "2": "08, 20", "3": "08, 14, 20", "4": "0, 6, 12, 18"}  # by doses a day
MOST_DOSES = 14  # of an order that are charted


@dataclass(frozen=True)
class Order:
    """One provider order."""

    time: datetime
    kind: str
    subtype: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)  # rows of poe_detail
    seq: int | None = None  # its sequence number, None for the patient's next one
    stops: int | None = None  # the order that it ends
    stopped_by: int | None = None  # the order that ends it


@dataclass(frozen=True)
class Prescription:
    """One drug as it is ordered in a stay."""

    drug: Drug
    seq: int  # of its order
    pharmacy_id: int
    ordered: datetime
    start: datetime
    stop: datetime  # before the start in a few, as in the real tables
    given_until: datetime
    once: bool
    stopped: bool  # ahead of discharge

    @property
    def fluid(self) -> bool:
        """Tell whether it is a bag of fluid and not a drug."""
        return self.drug["proc_type"] == "IV Large Volume"


def orders(book: Book, patient: Patient, stay: Stay) -> None:
    """Write poe and poe_detail, and for each drug pharmacy, prescriptions, emar and emar_detail."""
    rng, hospital = patient.rng, book.words.hospital
    time = times.seconds(rng, stay.begin + times.minutes(rng, 5, 60))
    observed = "OBSERVATION" in stay.type
    admit = {
        "Admit category": "Place in observation" if observed else "Admit to inpatient",
        "Admit to": "ICU" if stay.icu else hospital["admit_to"][stay.reason["service"]],
    }
    order(book, patient, stay, Order(time, "ADT orders", "Admit", admit))
    for kind, subtype in hospital["routine_orders"]:
        if rng.random() < 0.6:
            order(book, patient, stay, Order(time, kind, subtype))
    if rng.random() < 0.5:
        status = rng.choices(hospital["code_status"], (70, max(1, patient.age - 60), 15))[0]
        code = {"Code status": status}
        order(book, patient, stay, Order(time, "General Care", "Code status", code))
    if stay.icu:
        tube = {"Tubes & Drains type": "Indwelling urinary catheter (IUC) - Foley"}
        order(book, patient, stay, Order(time, "General Care", "Tubes/Drains", tube))
    for key in stay.drugs:
        late = timedelta(hours=rng.expovariate(1 / 20)) if rng.random() < 0.35 else timedelta()
        starts = min(times.seconds(rng, time + late), stay.end - timedelta(hours=2))
        prescribe(book, book.words.drugs[key], patient, stay, starts)
    leave = {"Discharge Planning": "Finalized", "Discharge When": "Discharge Now"}
    left = stay.end - times.minutes(rng, 20, 240)
    order(book, patient, stay, Order(left, "ADT orders", "Discharge", leave))


def order(book: Book, patient: Patient, visit: Visit, one: Order) -> None:
    """Write one provider order, with its details."""
    seq = one.seq or patient.next_poe()
    change = patient.rng.choice(("D/C", "Change")) if one.stops else "New"
    book.add(
        "poe",
        **visit.who,
        poe_id=_poe_id(patient, seq),
        poe_seq=seq,
        ordertime=one.time,
        order_type=one.kind,
        order_subtype=one.subtype,
        transaction_type=change,
        discontinue_of_poe_id=_poe_id(patient, one.stops),
        discontinued_by_poe_id=_poe_id(patient, one.stopped_by),
        order_status="Inactive",
    )
    for name, value in one.details.items():
        book.add(
            "poe_detail",
            poe_id=_poe_id(patient, seq),
            poe_seq=seq,
            subject_id=patient.subject_id,
            field_name=name,
            field_value=value,
        )


def _poe_id(patient: Patient, seq: int | None) -> str | None:
    return None if seq is None else f"{patient.subject_id}-{seq}"


def prescribe(book: Book, drug: Drug, patient: Patient, stay: Stay, time: datetime) -> None:
    """Write the order of a drug at `time`, and all that follows from it."""
    rng = patient.rng
    given = _prescription(book, drug, patient, stay, time)
    ids = {
        **stay.who,
        "pharmacy_id": given.pharmacy_id,
        "poe_id": _poe_id(patient, given.seq),
    }
    common = {
        **ids,
        "starttime": given.start,
        "stoptime": given.stop,
        "doses_per_24_hrs": drug["doses_per_24_hrs"],
        "route": drug["route"],
    }
    dispense(book, given, common, given.ordered + timedelta(seconds=rng.randrange(900)))
    dose = _dose(patient, drug)
    book.add(
        "prescriptions",
        **common,
        **dose,
        poe_seq=given.seq,
        formulary_drug_cd=drug["formulary_drug_cd"],
        gsn=drug["gsn"],
        ndc=drug["ndc"],
        drug_type="BASE" if given.fluid else "MAIN",
        drug="" if rng.random() < 0.001 else drug["drug"],
        form_rx="" if rng.random() < 0.15 else "TAB" if rng.random() < 0.01 else None,
    )
    if drug["base"]:
        bag = dict(zip(AMOUNTS, ("100 mL Bag", "100", "mL", "1", "BAG"), strict=True))
        base = {"formulary_drug_cd": "BASE", "ndc": "0", "drug_type": "BASE", "drug": drug["base"]}
        book.add("prescriptions", **common, **bag, poe_seq=given.seq, **base)
    if stay.has_emar and not given.fluid:
        administer(book, patient, given, dose, ids)


def _prescription(
    book: Book, drug: Drug, patient: Patient, stay: Stay, time: datetime
) -> Prescription:
    """Draw how long a drug is given, and write its order and the one that stops it."""
    rng, once = patient.rng, drug["frequency"] in ("ONCE", "NOW X1")
    start, stop = times.hour(time + timedelta(hours=1)), times.hour(stay.end + timedelta(hours=1))
    stopped = not once and rng.random() < 0.25
    if once:
        stop = min(stop, start + timedelta(hours=rng.choice((1, 6, 23))))
    elif stopped:
        stop = times.hour(start + (stop - start) * rng.random())
    kind, subtype = "Medications", None
    if drug["proc_type"] == "IV Large Volume":
        kind, subtype = "IV therapy", "IV fluids"
    seq = patient.next_poe()
    ender = patient.next_poe() if stopped else None
    order(book, patient, stay, Order(time, kind, subtype, seq=seq, stopped_by=ender))
    if stopped:
        order(book, patient, stay, Order(stop, kind, subtype, seq=ender, stops=seq))
    given_until = max(stop, start + timedelta(hours=1))
    if rng.random() < 0.035:
        stop = start - timedelta(hours=rng.randrange(1, 5))
    return Prescription(
        drug=drug,
        seq=seq,
        pharmacy_id=book.next_id("pharmacy_id", 1_000_000, 98_999_987),
        ordered=time,
        start=start,
        stop=stop,
        given_until=given_until,
        once=once,
        stopped=stopped,
    )


def dispense(book: Book, given: Prescription, common: dict[str, Any], entered: datetime) -> None:
    """Write the row of pharmacy."""
    drug, status = given.drug, "Discontinued via patient discharge"
    if given.stopped:
        status = "Discontinued"
    elif given.once:
        status = "Expired"
    book.add(
        "pharmacy",
        **common,
        medication=None if given.fluid else drug["drug"],
        proc_type=drug["proc_type"],
        entertime=entered,
        verifiedtime=entered,
        frequency=drug["frequency"],
        duration_interval="Doses" if given.once else "Ongoing",
        status=status,
        disp_sched=SCHEDULES.get(drug["doses_per_24_hrs"]),
        infusion_type="C" if drug["route"] == "IV DRIP" else None,
        sliding_scale="Y" if drug["key"] == "Insulin" else None,
    )


def _dose(patient: Patient, drug: Drug) -> dict[str, str]:
    """Draw the dose: a quarter of the tablets is taken in twice the usual one."""
    dose = {key: drug[key] for key in AMOUNTS}
    tablet = drug["form_unit_disp"] in ("TAB", "CAP")
    regular = drug["frequency"] in ("DAILY", "BID", "QHS")
    doubled = ("dose_val_rx", "form_val_disp")
    if tablet and regular and patient.rng.random() < 0.25:
        if all(drug[key].isdigit() for key in doubled):
            dose |= {key: str(2 * int(dose[key])) for key in doubled}
    return dose


def administer(
    book: Book,
    patient: Patient,
    given: Prescription,
    dose: dict[str, str],
    ids: dict[str, Any],
) -> None:
    """Write emar and emar_detail: the doses due between start and stop, up to MOST_DOSES."""
    rng, drug = patient.rng, given.drug
    a_day = drug["doses_per_24_hrs"]
    every = 24 / float(a_day) if a_day else rng.choice((6, 9, 14))  # hours
    events = [
        ["Administered", 80],
        ["Not Given", 9],
        ["Confirmed", 7],
        ["Hold Dose", 2],
        ["Delayed Administered", 2],
    ]
    if "Flush" in drug["drug"]:
        events = [["Flushed", 75], ["Not Flushed", 25]]
    hours = (given.given_until - given.start).total_seconds() / 3600
    for number in range(min(math.ceil(hours / every), MOST_DOSES)):
        patient.last_emar += 1
        due = given.start + timedelta(hours=every * number)
        time, event = due + times.minutes(rng, -20, 60), weighted(rng, events)[0]
        emar = {
            "emar_id": f"{patient.subject_id}-{patient.last_emar}",
            "emar_seq": patient.last_emar,
        }
        gaps = {
            column: None
            for column, share in (("hadm_id", 0.03), ("pharmacy_id", 0.18))
            if rng.random() < share
        }
        book.add(
            "emar",
            **ids | emar | gaps,
            charttime=time,
            medication=drug["drug"] if rng.random() < 0.96 else None,
            event_txt=event if rng.random() < 0.99 else None,
            scheduletime=due,
            storetime=times.stored(rng, time, 0.03, 15),
        )
        emar["subject_id"] = patient.subject_id
        dose_details(book, patient, given, dose, emar, event)


def dose_details(
    book: Book,
    patient: Patient,
    given: Prescription,
    dose: dict[str, str],
    emar: dict[str, Any],
    event: str,
) -> None:
    """Write the rows of emar_detail of one dose: what was due, and what was given."""
    rng, drug = patient.rng, given.drug
    complete = "No" if event == "Administered" else None
    book.add(
        "emar_detail",
        **emar,
        administration_type=_administration_type(drug),
        complete_dose_not_given=complete,
        dose_due=dose["dose_val_rx"],
        dose_due_unit=dose["dose_unit_rx"],
        will_remainder_of_dose_be_given=complete,
    )
    if event in ("Administered", "Flushed", "Delayed Administered"):
        by_mouth = drug["route"].startswith("PO") and rng.random() < 0.3
        book.add(
            "emar_detail",
            **emar,
            parent_field_ordinal="1.1",
            pharmacy_id=given.pharmacy_id,
            dose_given_unit=dose["dose_unit_rx"],
            dose_given="___" if rng.random() < 0.02 else dose["dose_val_rx"],
            product_amount_given=dose["form_val_disp"],
            product_unit=dose["form_unit_disp"],
            product_code=drug["formulary_drug_cd"],
            route="PO" if by_mouth else None,
            product_description=f"{drug['drug']} {drug['prod_strength']}",
        )


def _administration_type(drug: Drug) -> str:
    """Return administration_type: flushes and sliding scales have their own."""
    if "Flush" in drug["drug"]:
        return "IV Flush"
    if drug["key"] == "Insulin":
        return "Insulin SC Sliding Scale"
    by_route = {"IV DRIP": "IV Infusion", "TD": "Transdermal Patch"}
    return by_route.get(drug["route"], "Standard Maintenance Medication")
