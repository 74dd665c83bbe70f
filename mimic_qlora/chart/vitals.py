"""Vital signs from chartevents, omr and the emergency department."""

# The bedside vital signs by the itemids and the plausible ranges of mimic-code's concept `vitalsign`
# (github.com/MIT-LCP/mimic-code, concepts/measurement/vitalsign.sql): itemid -> (kind, above, below).
VITALS = {
    220045: ("heart rate", 0, 300),
    **dict.fromkeys((220179, 220050, 225309), ("systolic", 0, 400)),
    **dict.fromkeys((220180, 220051, 225310), ("diastolic", 0, 300)),
    **dict.fromkeys((220210, 224690), ("breathing rate", 0, 70)),
    223761: ("fahrenheit", 70, 120),
    223762: ("celsius", 10, 50),
    220277: ("oxygen saturation", 0, 100.01),
}
DIASTOLIC = {
    220179: 220180,
    220050: 220051,
    225309: 225310,
}  # by the systolic itemid of the same cuff or line
ED_VITALS = {
    "heartrate": 220045,
    "resprate": 220210,
    "o2sat": 220277,
    "temperature": 223761,
    "sbp": 220179,
    "dbp": 220180,
}


def vitals(view: dict) -> list:
    """The bedside vital signs as (kind, time, text, (table, row) ...), those of intensive care and of emergency visits.

    A value outside the plausible range of its kind is left out, and so is a systolic pressure without its diastolic.
    Temperatures are told in Fahrenheit.
    """
    charted = [
        row
        for row in view.get("chartevents", ())
        if row.get("itemid") in VITALS and "valuenum" in row
    ]
    readings = [
        (row["itemid"], row["charttime"], row["valuenum"], ("chartevents", row)) for row in charted
    ]
    for row in view.get("vitalsign", ()):
        here = (row["charttime"], ("vitalsign", row))
        readings += [
            (item, here[0], row[column], here[1])
            for column, item in ED_VITALS.items()
            if column in row
        ]
    readings = [r for r in readings if VITALS[r[0]][1] < r[2] < VITALS[r[0]][2]]
    lower = {(itemid, when, cited[0]): (value, cited) for itemid, when, value, cited in readings}
    found = []
    for itemid, when, value, cited in readings:
        kind = VITALS[itemid][0]
        if kind == "systolic" and (below := lower.get((DIASTOLIC[itemid], when, cited[0]))):
            rows = (cited,) if cited[1] is below[1][1] else (cited, below[1])
            found.append(("blood pressure", when, f"{value:g}/{below[0]:g}", *rows))
        elif kind in ("fahrenheit", "celsius"):
            value = value if kind == "fahrenheit" else round(value * 9 / 5 + 32, 1)
            found.append(("temperature", when, f"{value:g} F", cited))
        elif kind not in ("systolic", "diastolic"):
            unit = "%" if kind == "oxygen saturation" else "/min"
            found.append((kind, when, f"{value:g}{unit}", cited))
    return found
