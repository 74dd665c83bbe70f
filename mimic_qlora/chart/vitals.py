"""Vital signs from chartevents, omr and the emergency department."""

from datetime import datetime
from typing import NamedTuple

from mimic_qlora.chart.rows import Record, TableRow

# Itemids and plausible ranges of the bedside vital signs, from mimic-code's concept `vitalsign`
# (github.com/MIT-LCP/mimic-code, concepts/measurement/vitalsign.sql):
# itemid -> (kind, above, below).
VITALS = {
    220045: ("heart rate", 0, 300),
    **dict.fromkeys((220179, 220050, 225309), ("systolic", 0, 400)),
    **dict.fromkeys((220180, 220051, 225310), ("diastolic", 0, 300)),
    **dict.fromkeys((220210, 224690), ("breathing rate", 0, 70)),
    223761: ("fahrenheit", 70, 120),
    223762: ("celsius", 10, 50),
    220277: ("oxygen saturation", 0, 100.01),
}
# systolic itemid -> diastolic itemid of the same cuff or line
DIASTOLIC = {
    220179: 220180,
    220050: 220051,
    225309: 225310,
}
ED_VITALS = {
    "heartrate": 220045,
    "resprate": 220210,
    "o2sat": 220277,
    "temperature": 223761,
    "sbp": 220179,
    "dbp": 220180,
}


class Reading(NamedTuple):
    """One measurement: its kind, time, value and unit as written after the value, and its rows.

    `method` tells a cuff from an arterial line, by the itemid; only readings of one method make a
    trend.
    """

    kind: str
    when: datetime
    value: str
    unit: str
    rows: tuple[TableRow, ...]
    method: int = 0


class _Raw(NamedTuple):
    """One number as it was charted."""

    itemid: int
    when: datetime
    value: float
    row: TableRow


def vitals(view: Record) -> list[Reading]:
    """Return the bedside vital signs of intensive care and of emergency visits.

    A value outside the plausible range of its kind is left out, and so is a systolic pressure
    without its diastolic. Temperatures are given in Fahrenheit.
    """
    raw = [r for r in _charted(view) if VITALS[r.itemid][1] < r.value < VITALS[r.itemid][2]]
    # a pressure's two numbers share their time, and in the emergency department their row
    by_place = {(r.itemid, r.when, _place(r)): r for r in raw}
    readings = []
    for one in raw:
        itemid, when, value, row = one
        kind = VITALS[itemid][0]
        if kind == "systolic":
            below = by_place.get((DIASTOLIC[itemid], when, _place(one)))
            if below:
                rows = (row,) if row[1] is below.row[1] else (row, below.row)
                pressure = f"{value:g}/{below.value:g}"
                readings.append(Reading("blood pressure", when, pressure, "", rows, itemid))
        elif kind in ("fahrenheit", "celsius"):
            degrees = value if kind == "fahrenheit" else round(value * 9 / 5 + 32, 1)
            readings.append(Reading("temperature", when, f"{degrees:g}", " F", (row,)))
        elif kind != "diastolic":
            unit = "%" if kind == "oxygen saturation" else "/min"
            readings.append(Reading(kind, when, f"{value:g}", unit, (row,), itemid))
    return readings


def _place(raw: _Raw) -> str | int:
    table, row = raw.row
    return id(row) if table == "vitalsign" else table


def _charted(view: Record) -> list[_Raw]:
    """Return the numbers of chartevents, then those of the emergency department."""
    found = [
        _Raw(row["itemid"], row["charttime"], row["valuenum"], ("chartevents", row))
        for row in view.get("chartevents", ())
        if row.get("itemid") in VITALS and "valuenum" in row
    ]
    for row in view.get("vitalsign", ()):
        table_row = ("vitalsign", row)
        found += [
            _Raw(itemid, row["charttime"], row[column], table_row)
            for column, itemid in ED_VITALS.items()
            if column in row
        ]
    return found
