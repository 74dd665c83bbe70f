"""Synthetic intensive care: vitals, infusions, outputs, procedures and dates."""

import math
from datetime import datetime, timedelta
from types import SimpleNamespace

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.patient import Patient


def intensive_care(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """The six event tables of intensive care, for its first three days."""
    rng, icu = patient.rng, book.words.icu
    who = {**here.who, "stay_id": here.stay_id}
    hours = max(min(int((here.icu_out - here.icu_in).total_seconds() / 3600), 72), 1)
    weight = round(patient.bmi * (patient.inches * 0.0254) ** 2, 1)
    at = lambda: times.whole(here.icu_in) + times.minutes(rng, 1, hours * 60)  # noqa: E731
    vitals(book, patient, here, who, hours, weight)
    for one in icu["inputs"]:
        drug = one["drug"] in here.drugs if "drug" in one else rng.random() < one["share"]
        for _ in range(max(1, round(one["daily"] * hours / 24)) if drug else 0):
            infuse(book, patient, who, at(), one, weight)
    for itemid, share, volume in icu["outputs"]:
        for _ in range(hours // 3 if rng.random() < share else 0):
            time, value = at(), round(volume * rng.lognormvariate(0, 0.5) / 5) * 5
            book.add(
                "outputevents",
                **who,
                charttime=time,
                storetime=times.stored(rng, time, 0.15, 90),
                itemid=itemid,
                value=value,
                valueuom="ml",
            )
    for itemid, share, unit, location, location_category, category in icu["processes"]:
        if rng.random() < share:
            time, order_id, runs = at(), book.next_id("orderid", 1, 9_999_973), int(bool(unit))
            runs_until = time + (
                times.minutes(rng, 30, hours * 60 + 31) if unit else timedelta(minutes=1)
            )
            end = min(runs_until, times.whole(here.icu_out))
            minutes = max(int((end - time).total_seconds() / 60), 1)
            stored = times.seconds(rng, end + times.minutes(rng, 0, 40))
            book.add(
                "procedureevents",
                **who,
                starttime=time,
                endtime=end,
                itemid=itemid,
                value=minutes,
                valueuom=unit,
                location=location,
                storetime=f"{stored}.{rng.randrange(1, 1000):03d}"
                if rng.random() < 0.2
                else stored,
                locationcategory=location_category,
                orderid=order_id,
                linkorderid=order_id,
                ordercategoryname=category,
                patientweight=weight,
                isopenbag=runs,
                ordercategorydescription="ContinuousProcess" if unit else "Task",
                continueinnextdept=0,
                statusdescription="FinishedRunning",
                ORIGINALAMOUNT=minutes,
                ORIGINALRATE=runs,
            )
    for itemid, share, unit in icu["dates"]:
        placed = times.whole(here.icu_in) - times.minutes(rng, 0, 4000)
        for _ in range(hours // 8 if rng.random() < share else 0):
            time, value = at(), placed if unit == "Date and Time" else times.midnight(placed)
            book.add(
                "datetimeevents",
                **who,
                charttime=time,
                storetime=times.stored(rng, time, 0, 60),
                itemid=itemid,
                value=value,
                valueuom=unit,
            )


def vitals(
    book: Book, patient: Patient, here: SimpleNamespace, who: dict, hours: int, weight: float
) -> None:
    """chartevents: signs every hour, temperature and nursing scores every four."""
    rng, icu, acute = patient.rng, book.words.icu, here.reason.get("vitals", {})
    usual = {"hr": patient.hr - 80, "sbp": patient.sbp - 122, "dbp": (patient.sbp - 122) / 2}
    acute = {"dbp": acute.get("sbp", 0) / 2} | acute

    def chart(time, itemid, value, number, unit):
        stored = times.stored(rng, time, 0.05, 60)
        book.add(
            "chartevents",
            **who,
            charttime=time,
            storetime=stored,
            itemid=itemid,
            value=value,
            valuenum=number,
            valueuom=unit,
        )

    start = times.hour(here.icu_in) + timedelta(hours=1)
    for itemid, value, unit in (
        (226512, f"{weight:g}", "kg"),
        (226730, f"{patient.inches * 2.54:.0f}", "cm"),
    ):
        chart(start, itemid, value, value, unit)
    for hour in range(hours):
        time, fade = start + timedelta(hours=hour), 1.0 if here.died else math.exp(-hour / 40)
        for itemid, center, spread, key, unit in icu["vitals"]:
            value = round(
                center + usual.get(key, 0) + acute.get(key, 0) * fade + rng.gauss(0, spread)
            )
            value = min(value, 100) if key == "spo2" else max(value, 6)
            chart(time, itemid, value, value, unit)
        if hour % 4 == 0:
            celsius = 36.8 + acute.get("temp", 0) * fade + rng.gauss(0, 0.3)
            itemid, degrees, unit = rng.choice(
                ((223761, celsius * 1.8 + 32, "°F"), (223762, celsius, "°C"))
            )
            chart(time, itemid, f"{degrees:.1f}", f"{degrees:.1f}", unit)
            for itemid, levels in icu["texts"]:
                value, number = levels[min(int(rng.expovariate(1.2)), len(levels) - 1)]
                chart(time, itemid, value, number, None)


def infuse(
    book: Book, patient: Patient, who: dict, time: datetime, one: dict, weight: float
) -> None:
    """One line of inputevents, with its water and class in ingredientevents."""
    rng, order_id, unit, rate_unit = (
        patient.rng,
        book.next_id("orderid", 1, 9_999_973),
        one["unit"],
        one.get("rate"),
    )
    amount, minutes = (
        one["amount"] * rng.choice((0.5, 1, 1, 1.5)),
        rng.randrange(30, 360) if rate_unit else 1,
    )
    status = weighted(
        rng,
        [
            ["FinishedRunning", 70],
            ["ChangeDose/Rate", 20 if rate_unit else 0],
            ["Stopped", 6],
            ["Paused", 4],
        ],
    )[0]
    common = {
        **who,
        "starttime": time,
        "endtime": time + timedelta(minutes=minutes),
        "storetime": times.stored(rng, time, 0.05, minutes // 2 + 5),
        "orderid": order_id,
        "linkorderid": order_id,
        "statusdescription": status,
    }
    per_hour = lambda quantity: repr(quantity * 60 / minutes) if rate_unit else None  # noqa: E731
    rate = repr(amount * 1000 / weight / minutes) if rate_unit == "mcg/kg/min" else per_hour(amount)
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
    ingredient = (
        227075 if "Oral" in one["category"] else 226509 if "Blood" in one["category"] else 227074
    )
    for itemid in (220490, ingredient):
        row = {
            "itemid": itemid,
            "amount": repr(float(volume)),
            "amountuom": "ml",
            "rate": per_hour(volume),
            "originalamount": 0,
        }
        book.add("ingredientevents", **common, **row, rateuom="mL/hour" if rate_unit else None)
