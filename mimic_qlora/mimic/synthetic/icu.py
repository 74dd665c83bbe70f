"""Synthetic intensive care: vitals, infusions, outputs, procedures and dates."""

import math
from datetime import datetime, timedelta
from random import Random
from typing import Any

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.patient import Patient
from mimic_qlora.mimic.synthetic.visit import IcuStay, Stay
from mimic_qlora.mimic.synthetic.vocabulary import Entry

LAST_HOUR = 72  # events are charted for the first three days


def intensive_care(book: Book, patient: Patient, stay: Stay, icu: IcuStay) -> None:
    """Write the six event tables of intensive care."""
    rng = patient.rng
    hours = max(min(int((icu.end - icu.begin).total_seconds() / 3600), LAST_HOUR), 1)
    weight = weight_of(patient)
    vitals(book, patient, stay, icu, hours)
    for one in book.words.icu["inputs"]:
        given = one["drug"] in stay.drugs if "drug" in one else rng.random() < one["share"]
        for _ in range(max(1, round(one["daily"] * hours / 24)) if given else 0):
            infuse(book, rng, icu, _any_time(rng, icu, hours), one, weight)
    outputs(book, rng, icu, hours)
    processes(book, rng, icu, hours, weight)
    dates(book, rng, icu, hours)


def weight_of(patient: Patient) -> float:
    """Return a patient's weight in kg."""
    return round(patient.bmi * (patient.inches * 0.0254) ** 2, 1)


def _any_time(rng: Random, icu: IcuStay, hours: int) -> datetime:
    """Draw a minute within the charted hours."""
    return times.whole(icu.begin) + times.minutes(rng, 1, hours * 60)


def outputs(book: Book, rng: Random, icu: IcuStay, hours: int) -> None:
    """Write outputevents, in ml."""
    for itemid, share, volume in book.words.icu["outputs"]:
        for _ in range(hours // 3 if rng.random() < share else 0):
            time = _any_time(rng, icu, hours)
            value = round(volume * rng.lognormvariate(0, 0.5) / 5) * 5
            book.add(
                "outputevents",
                **icu.who,
                charttime=time,
                storetime=times.stored(rng, time, 0.15, 90),
                itemid=itemid,
                value=value,
                valueuom="ml",
            )


def processes(book: Book, rng: Random, icu: IcuStay, hours: int, weight: float) -> None:
    """Write procedureevents; those with a unit run for a while, in minutes."""
    for itemid, share, unit, location, location_category, category in book.words.icu["processes"]:
        if rng.random() >= share:
            continue
        time, order_id = _any_time(rng, icu, hours), book.next_id("orderid", 1, 9_999_973)
        lasts = times.minutes(rng, 30, hours * 60 + 31) if unit else timedelta(minutes=1)
        end = min(time + lasts, times.whole(icu.end))
        minutes = max(int((end - time).total_seconds() / 60), 1)
        stored: str | datetime = times.seconds(rng, end + times.minutes(rng, 0, 40))
        if rng.random() < 0.2:
            stored = f"{stored}.{rng.randrange(1, 1000):03d}"
        book.add(
            "procedureevents",
            **icu.who,
            starttime=time,
            endtime=end,
            itemid=itemid,
            value=minutes,
            valueuom=unit,
            location=location,
            storetime=stored,
            locationcategory=location_category,
            orderid=order_id,
            linkorderid=order_id,
            ordercategoryname=category,
            patientweight=weight,
            isopenbag=1 if unit else 0,
            ordercategorydescription="ContinuousProcess" if unit else "Task",
            continueinnextdept=0,
            statusdescription="FinishedRunning",
            ORIGINALAMOUNT=minutes,
            ORIGINALRATE=1 if unit else 0,
        )


def dates(book: Book, rng: Random, icu: IcuStay, hours: int) -> None:
    """Write datetimeevents: a date, such as that of a line's insertion, charted again and again."""
    for itemid, share, unit in book.words.icu["dates"]:
        placed = times.whole(icu.begin) - times.minutes(rng, 0, 4000)
        value = placed if unit == "Date and Time" else times.midnight(placed)
        for _ in range(hours // 8 if rng.random() < share else 0):
            time = _any_time(rng, icu, hours)
            book.add(
                "datetimeevents",
                **icu.who,
                charttime=time,
                storetime=times.stored(rng, time, 0, 60),
                itemid=itemid,
                value=value,
                valueuom=unit,
            )


def vitals(book: Book, patient: Patient, stay: Stay, icu: IcuStay, hours: int) -> None:
    """Write chartevents: vitals every hour, temperature and nursing scores every four."""
    rng, charted, acute = patient.rng, book.words.icu, stay.reason.get("vitals", {})
    line = Random(f"arterial line {icu.who['stay_id']}")
    has_line = line.random() < charted["arterial_line"]["share"]
    usual = {"hr": patient.hr - 80, "sbp": patient.sbp - 122, "dbp": (patient.sbp - 122) / 2}
    acute = {"dbp": acute.get("sbp", 0) / 2} | acute

    start = times.hour(icu.begin) + timedelta(hours=1)
    kilograms, centimetres = f"{weight_of(patient):g}", f"{patient.inches * 2.54:.0f}"
    chart(book, rng, icu, start, (226512, kilograms, kilograms, "kg"))
    chart(book, rng, icu, start, (226730, centimetres, centimetres, "cm"))
    for hour in range(hours):
        time, fade = start + timedelta(hours=hour), 1.0 if stay.died else math.exp(-hour / 40)
        for itemid, center, spread, key, unit in charted["vitals"]:
            expected = center + usual.get(key, 0) + acute.get(key, 0) * fade
            value = round(expected + rng.gauss(0, spread))
            value = min(value, 100) if key == "spo2" else max(value, 6)
            chart(book, rng, icu, time, (itemid, value, value, unit))
            if has_line and (cuff_to_line := charted["arterial_line"]["items"].get(itemid)):
                of_line = max(round(value + line.gauss(4, 8)), 6)
                chart(book, line, icu, time, (cuff_to_line, of_line, of_line, unit))
        if hour % 4 == 0:
            celsius = 36.8 + acute.get("temp", 0) * fade + rng.gauss(0, 0.3)
            scales = ((223761, celsius * 1.8 + 32, "°F"), (223762, celsius, "°C"))
            itemid, degrees, unit = rng.choice(scales)
            chart(book, rng, icu, time, (itemid, f"{degrees:.1f}", f"{degrees:.1f}", unit))
            for itemid, levels in charted["texts"]:
                value, number = levels[min(int(rng.expovariate(1.2)), len(levels) - 1)]
                chart(book, rng, icu, time, (itemid, value, number, None))


def chart(
    book: Book, rng: Random, icu: IcuStay, time: datetime, item: tuple[int, Any, Any, str | None]
) -> None:
    """Write one row of chartevents; `item` is its itemid, value, valuenum and unit."""
    itemid, value, number, unit = item
    book.add(
        "chartevents",
        **icu.who,
        charttime=time,
        storetime=times.stored(rng, time, 0.05, 60),
        itemid=itemid,
        value=value,
        valuenum=number,
        valueuom=unit,
    )


def infuse(
    book: Book, rng: Random, icu: IcuStay, time: datetime, one: Entry, weight: float
) -> None:
    """Write one row of inputevents, with its water and its class in ingredientevents."""
    order_id, unit, rate_unit = book.next_id("orderid", 1, 9_999_973), one["unit"], one.get("rate")
    amount = one["amount"] * rng.choice((0.5, 1, 1, 1.5))
    minutes = rng.randrange(30, 360) if rate_unit else 1
    statuses = [
        ["FinishedRunning", 70],
        ["ChangeDose/Rate", 20 if rate_unit else 0],
        ["Stopped", 6],
        ["Paused", 4],
    ]
    status = weighted(rng, statuses)[0]
    common = {
        **icu.who,
        "starttime": time,
        "endtime": time + timedelta(minutes=minutes),
        "storetime": times.stored(rng, time, 0.05, minutes // 2 + 5),
        "orderid": order_id,
        "linkorderid": order_id,
        "statusdescription": status,
    }
    rate = _per_hour(amount, minutes) if rate_unit else None
    if rate_unit == "mcg/kg/min":
        rate = repr(amount * 1000 / weight / minutes)
    total = 250 if one["description"].startswith("Continuous") else None
    book.add(
        "inputevents",
        **common,
        itemid=one["itemid"],
        amount=repr(float(amount)),
        amountuom=unit,
        rate=rate,
        rateuom=rate_unit,
        ordercategoryname=one["category"],
        secondaryordercategoryname="02-Fluids (Crystalloids)" if rate_unit else None,
        ordercomponenttypedescription="Main order parameter",
        ordercategorydescription=one["description"],
        patientweight=weight,
        totalamount=total,
        totalamountuom="ml" if total else None,
        continueinnextdept=0,
        originalamount=f"{amount:g}",
        originalrate=rate or f"{amount:g}",
    )
    volume = amount if unit == "ml" else 50
    for itemid in (220490, _ingredient(one["category"])):
        book.add(
            "ingredientevents",
            **common,
            itemid=itemid,
            amount=repr(float(volume)),
            amountuom="ml",
            rate=_per_hour(volume, minutes) if rate_unit else None,
            rateuom="mL/hour" if rate_unit else None,
            originalamount=0,
        )


def _per_hour(amount: float, minutes: int) -> str:
    return repr(amount * 60 / minutes)


def _ingredient(category: str) -> int:
    """Return the itemid of the class of what is given."""
    if "Oral" in category:
        return 227075
    return 226509 if "Blood" in category else 227074
