"""The facts of a chart that contexts and caution rules rest on: stays, codes, orders, labs, vitals, age and sex."""

from datetime import datetime, timedelta

from mimic_qlora.clinical import codes, content

LAB_DAYS = 365


def stays(record: dict) -> list:
    """The hospital stays, oldest first."""
    return sorted(record["admissions"], key=lambda a: (a["admittime"], a["hadm_id"]))


def last_stay(view: dict) -> dict:
    """The newest stay that is known in this view; an empty dict when there is none."""
    return stays(view)[-1] if view["admissions"] else {}


def of(view: dict, as_of: datetime) -> dict:
    """What the caution rules match on (see clinical.matches), with the rows that it rests on.

    `phenotypes` and `drug_classes` map a name to its row; `labs` and `procedures` have theirs in `lab_rows`
    (itemid -> row; all of a year are in `lab_history`) and `procedure_rows`, `age` and `sex` in `person`.
    Acute phenotypes count for 90 days after the discharge of the stay that they were coded for, all others for good.
    Drug classes are those ordered during the last stay. A lab is the newest value of its itemid.
    """
    catalogue = content.load()
    by_id = {a["hadm_id"]: a for a in view["admissions"]}
    stay = last_stay(view)
    person = view["patients"][0] if view["patients"] else {}
    found = {"phenotypes": {}, "drug_classes": {}, "labs": {}, "procedures": []}
    for row in newest_first(view["diagnoses_icd_labeled"], by_id):
        for name in codes.phenotypes_of_code(row["icd_code"], row["icd_version"]):
            days = (as_of - by_id[row["hadm_id"]]["dischtime"]).days
            if catalogue.phenotypes[name].kind != "acute" or days <= 90:
                found["phenotypes"].setdefault(name, row)
    for row in view["prescriptions"]:
        if row.get("hadm_id") == stay.get("hadm_id") and row.get("drug"):
            for name in codes.drug_classes_of(row["drug"], row.get("route")):
                found["drug_classes"].setdefault(name, row)
    found["lab_history"] = latest_labs(view, as_of)
    newest = {itemid: rows[0] for itemid, rows in found["lab_history"].items()}
    found["labs"] = {
        itemid: (row["valuenum"], row.get("valueuom"), (as_of - row["charttime"]).days)
        for itemid, row in newest.items()
        if "valuenum" in row
    }
    found["lab_rows"] = newest
    found["procedures"] = [
        (row["icd_code"], row["icd_version"], (as_of - row["chartdate"]).days)
        for row in view["procedures_icd_labeled"]
    ]
    found["procedure_rows"] = view["procedures_icd_labeled"]
    found["person"] = person
    found["age"] = _age(person, as_of)
    found["sex"] = person.get("gender")
    return found


def as_shown(known: dict, shown: dict) -> dict:
    """The facts that a reader of a context can see: `known` without what the sections (name -> Items) do not show.

    No answer can be asked to name a reason that was cut. A lab that is hidden counts as one without a value, so that an
    older one of the same substance does not take its place.
    """
    rows = {}
    for items in shown.values():
        for item in items:
            for table, row in item.rows:
                rows.setdefault(table, []).append(row)
    catalogue = content.load().phenotypes
    names = {item.name for item in shown["Known conditions"]}
    labs = {row["labevent_id"] for row in rows.get("labevents", ())}
    classes = {}
    for row in rows.get("prescriptions", ()):
        for name in codes.drug_classes_of(row["drug"], row.get("route")):
            classes.setdefault(name, row)
    done = [id(row) for row in rows.get("procedures_icd", ())]
    procedures = [
        pair
        for pair in zip(known["procedures"], known["procedure_rows"], strict=True)
        if id(pair[1]) in done
    ]
    return known | {
        "phenotypes": {
            i: row for i, row in known["phenotypes"].items() if catalogue[i].name in names
        },
        "drug_classes": classes,
        "labs": {
            item: (value if known["lab_rows"][item]["labevent_id"] in labs else None, *rest)
            for item, (value, *rest) in known["labs"].items()
        },
        "procedures": [fact for fact, _ in procedures],
        "procedure_rows": [row for _, row in procedures],
    }


def _age(person: dict, as_of: datetime) -> int | None:
    """Age in years: MIMIC-IV gives the age in one shifted year; those above 89 all carry 91."""
    if "anchor_age" not in person or "anchor_year" not in person:
        return None
    return person["anchor_age"] + as_of.year - person["anchor_year"]


def newest_first(rows: list, by_id: dict) -> list:
    """Coded rows by their stay, the newest stay first, then by seq_num; `by_id` maps hadm_id to the stay."""
    return sorted(
        rows, key=lambda r: (datetime.max - by_id[r["hadm_id"]]["admittime"], r.get("seq_num", 0))
    )


def is_administrative(icd_code: str, icd_version: int) -> bool:
    """Whether a code tells of an external cause, a history or a status: E and V in ICD-9, V to Z in ICD-10."""
    return icd_code.startswith(("E", "V") if icd_version == 9 else ("V", "W", "X", "Y", "Z"))


def latest_labs(view: dict, as_of: datetime) -> dict:
    """itemid -> its rows within a year, newest first."""
    since = as_of - timedelta(days=LAB_DAYS)
    rows = [
        r
        for r in view["labevents"]
        if r["charttime"] >= since and ("valuenum" in r or is_value(r.get("value")))
    ]
    by_item = {}
    for row in sorted(
        rows,
        key=lambda r: (r["charttime"], r.get("storetime", r["charttime"]), r["labevent_id"]),
        reverse=True,
    ):
        by_item.setdefault(row["itemid"], []).append(row)
    return by_item


def is_value(text) -> bool:
    """Whether a text is there and not blacked out by de-identification."""
    return bool(text) and "___" not in text
