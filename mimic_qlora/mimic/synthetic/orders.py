"""A synthetic stay's orders, and the drugs that are prescribed, dispensed and given."""

import math
from datetime import datetime, timedelta
from types import SimpleNamespace

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.patient import Patient


def orders(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """poe and poe_detail, and for each drug pharmacy, prescriptions, emar and emar_detail."""
    rng, hospital = patient.rng, book.words.hospital
    time = times.seconds(rng, here.begin + times.minutes(rng, 5, 60))
    category = "Place in observation" if "OBSERVATION" in here.type else "Admit to inpatient"
    ward = "ICU" if here.icu else hospital["admit_to"][here.reason["service"]]
    order(
        book,
        patient,
        here,
        time,
        "ADT orders",
        "Admit",
        {"Admit category": category, "Admit to": ward},
    )
    for kind, subtype in hospital["routine_orders"]:
        if rng.random() < 0.6:
            order(book, patient, here, time, kind, subtype)
    if rng.random() < 0.5:
        status = rng.choices(hospital["code_status"], (70, max(1, patient.age - 60), 15))[0]
        order(book, patient, here, time, "General Care", "Code status", {"Code status": status})
    if here.icu:
        tube = {"Tubes & Drains type": "Indwelling urinary catheter (IUC) - Foley"}
        order(book, patient, here, time, "General Care", "Tubes/Drains", tube)
    for key in here.drugs:
        late = timedelta(hours=rng.expovariate(1 / 20)) if rng.random() < 0.35 else timedelta()
        starts = min(times.seconds(rng, time + late), here.end - timedelta(hours=2))
        prescribe(book, book.words.drugs[key], patient, here, starts)
    leave = {"Discharge Planning": "Finalized", "Discharge When": "Discharge Now"}
    order(
        book,
        patient,
        here,
        here.end - times.minutes(rng, 20, 240),
        "ADT orders",
        "Discharge",
        leave,
    )


def order(
    book,
    patient,
    here,
    time,
    kind,
    subtype=None,
    details=None,
    seq=None,
    stops=None,
    stopped_by=None,
) -> int:
    """One provider order; `stops` and `stopped_by` are the sequence numbers of the orders it ends or is ended by."""
    seq = seq or patient.next_poe()
    poe_id = lambda number: number and f"{patient.subject_id}-{number}"  # noqa: E731
    change = patient.rng.choice(("D/C", "Change")) if stops else "New"
    book.add(
        "poe",
        **here.who,
        poe_id=poe_id(seq),
        poe_seq=seq,
        ordertime=time,
        order_type=kind,
        order_subtype=subtype,
        transaction_type=change,
        discontinue_of_poe_id=poe_id(stops),
        discontinued_by_poe_id=poe_id(stopped_by),
        order_status="Inactive",
    )
    for name, value in (details or {}).items():
        book.add(
            "poe_detail",
            poe_id=poe_id(seq),
            poe_seq=seq,
            subject_id=patient.subject_id,
            field_name=name,
            field_value=value,
        )
    return seq


def prescribe(
    book: Book, drug: dict, patient: Patient, here: SimpleNamespace, time: datetime
) -> None:
    rng, fluid, once = (
        patient.rng,
        drug["proc_type"] == "IV Large Volume",
        drug["frequency"] in ("ONCE", "NOW X1"),
    )
    start, stop = times.hour(time + timedelta(hours=1)), times.hour(here.end + timedelta(hours=1))
    stopped = not once and rng.random() < 0.25
    if once:
        stop = min(stop, start + timedelta(hours=rng.choice((1, 6, 23))))
    elif stopped:
        stop = times.hour(start + (stop - start) * rng.random())
    kind = ("IV therapy", "IV fluids") if fluid else ("Medications", None)
    seq, ender = patient.next_poe(), patient.next_poe() if stopped else None
    order(book, patient, here, time, *kind, seq=seq, stopped_by=ender)
    if stopped:
        order(book, patient, here, stop, *kind, seq=ender, stops=seq)
    given_until = max(stop, start + timedelta(hours=1))
    if rng.random() < 0.035:  # as in the real tables: an order stopped before it began
        stop = start - timedelta(hours=rng.randrange(1, 5))
    ids = {
        **here.who,
        "pharmacy_id": book.next_id("pharmacy_id", 1_000_000, 98_999_987),
        "poe_id": f"{patient.subject_id}-{seq}",
    }
    common = {
        **ids,
        "starttime": start,
        "stoptime": stop,
        "doses_per_24_hrs": drug["doses_per_24_hrs"],
        "route": drug["route"],
    }
    entered = time + timedelta(seconds=rng.randrange(900))
    book.add(
        "pharmacy",
        **common,
        medication=None if fluid else drug["drug"],
        proc_type=drug["proc_type"],
        entertime=entered,
        verifiedtime=entered,
        frequency=drug["frequency"],
        duration_interval="Doses" if once else "Ongoing",
        status="Discontinued"
        if stopped
        else "Expired"
        if once
        else "Discontinued via patient discharge",
        disp_sched={"1": "10", "2": "08, 20", "3": "08, 14, 20", "4": "0, 6, 12, 18"}.get(
            drug["doses_per_24_hrs"]
        ),
        infusion_type="C" if drug["route"] == "IV DRIP" else None,
        sliding_scale="Y" if drug["key"] == "Insulin" else None,
    )
    amounts = ("prod_strength", "dose_val_rx", "dose_unit_rx", "form_val_disp", "form_unit_disp")
    dose = {key: drug[key] for key in amounts}
    tablet = drug["form_unit_disp"] in ("TAB", "CAP") and drug["frequency"] in (
        "DAILY",
        "BID",
        "QHS",
    )
    if (
        tablet
        and rng.random() < 0.25
        and drug["dose_val_rx"].isdigit()
        and drug["form_val_disp"].isdigit()
    ):
        dose |= {key: str(2 * int(dose[key])) for key in ("dose_val_rx", "form_val_disp")}
    book.add(
        "prescriptions",
        **common,
        **dose,
        poe_seq=seq,
        formulary_drug_cd=drug["formulary_drug_cd"],
        gsn=drug["gsn"],
        ndc=drug["ndc"],
        drug_type="BASE" if fluid else "MAIN",
        drug="" if rng.random() < 0.001 else drug["drug"],
        form_rx="" if rng.random() < 0.15 else "TAB" if rng.random() < 0.01 else None,
    )
    if drug["base"]:
        bag = dict(zip(amounts, ("100 mL Bag", "100", "mL", "1", "BAG"), strict=True))
        book.add(
            "prescriptions",
            **common,
            **bag,
            poe_seq=seq,
            formulary_drug_cd="BASE",
            ndc="0",
            drug_type="BASE",
            drug=drug["base"],
        )
    if here.has_emar and not fluid:
        administer(book, drug, dose, patient, ids, start, given_until)


def administer(
    book: Book, drug: dict, dose: dict, patient: Patient, ids: dict, start: datetime, stop: datetime
) -> None:
    """emar and emar_detail: the doses due between start and stop, at most 14 of an order."""
    rng, flush = patient.rng, "Flush" in drug["drug"]
    every = (
        24 / float(drug["doses_per_24_hrs"]) if drug["doses_per_24_hrs"] else rng.choice((6, 9, 14))
    )
    kind = {"IV DRIP": "IV Infusion", "TD": "Transdermal Patch"}.get(
        drug["route"], "Standard Maintenance Medication"
    )
    kind = "IV Flush" if flush else "Insulin SC Sliding Scale" if drug["key"] == "Insulin" else kind
    events = [
        ["Administered", 80],
        ["Not Given", 9],
        ["Confirmed", 7],
        ["Hold Dose", 2],
        ["Delayed Administered", 2],
    ]
    events = [["Flushed", 75], ["Not Flushed", 25]] if flush else events
    for number in range(min(math.ceil((stop - start).total_seconds() / 3600 / every), 14)):
        patient.last_emar += 1
        due = start + timedelta(hours=every * number)
        time, event = due + times.minutes(rng, -20, 60), weighted(rng, events)[0]
        given = event in ("Administered", "Flushed", "Delayed Administered")
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
        complete = "No" if event == "Administered" else None
        book.add(
            "emar_detail",
            **emar,
            administration_type=kind,
            complete_dose_not_given=complete,
            dose_due=dose["dose_val_rx"],
            dose_due_unit=dose["dose_unit_rx"],
            will_remainder_of_dose_be_given=complete,
        )
        if given:
            by_mouth = drug["route"].startswith("PO") and rng.random() < 0.3
            book.add(
                "emar_detail",
                **emar,
                parent_field_ordinal="1.1",
                pharmacy_id=ids["pharmacy_id"],
                dose_given_unit=dose["dose_unit_rx"],
                dose_given="___" if rng.random() < 0.02 else dose["dose_val_rx"],
                product_amount_given=dose["form_val_disp"],
                product_unit=dose["form_unit_disp"],
                product_code=drug["formulary_drug_cd"],
                route="PO" if by_mouth else None,
                product_description=f"{drug['drug']} {drug['prod_strength']}",
            )
