"""The facts of a chart that contexts and caution rules rest on: stays, codes, orders, labs, procedures, age and sex."""

from datetime import datetime, timedelta

from mimic_qlora import clinical

# Every table and column that a context or a caution rule can rest on.
WANTED = {
    "patients": ("gender", "anchor_age", "anchor_year", "dod"),
    "admissions": (
        *("hadm_id", "admittime", "dischtime", "deathtime", "admission_type", "admission_location"),
        *("discharge_location", "insurance", "language", "marital_status", "hospital_expire_flag"),
    ),
    "icustays": ("hadm_id", "stay_id", "intime", "outtime", "los", "first_careunit"),
    "services": ("hadm_id", "transfertime", "curr_service"),
    "diagnoses_icd_labeled": ("hadm_id", "seq_num", "icd_code", "icd_version", "long_title"),
    "procedures_icd_labeled": ("hadm_id", "chartdate", "icd_code", "icd_version", "long_title"),
    "prescriptions": ("hadm_id", "starttime", "drug_type", "drug", "route"),
    "labevents": (
        *("labevent_id", "hadm_id", "itemid", "charttime", "storetime", "value", "valuenum", "valueuom"),
        *("ref_range_lower", "ref_range_upper", "flag"),
    ),
    "omr": ("chartdate", "result_name", "result_value"),
}
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
    (itemid -> row) and `procedure_rows`.
    Acute phenotypes count for 90 days after the discharge of the stay that they were coded for, all others for good.
    Drug classes are those ordered during the last stay. A lab is the newest value of its itemid.
    """
    catalogue = clinical.load()
    by_id = {a["hadm_id"]: a for a in view["admissions"]}
    stay = last_stay(view)
    person = view["patients"][0] if view["patients"] else {}
    found = {"phenotypes": {}, "drug_classes": {}, "labs": {}, "procedures": []}
    for row in newest_first(view["diagnoses_icd_labeled"], by_id):
        for name in clinical.phenotypes_of([(row["icd_code"], row["icd_version"])]):
            days = (as_of - by_id[row["hadm_id"]]["dischtime"]).days
            if catalogue.phenotypes[name]["kind"] != "acute" or days <= 90:
                found["phenotypes"].setdefault(name, row)
    for row in view["prescriptions"]:
        if row.get("hadm_id") == stay.get("hadm_id") and row.get("drug"):
            for name in clinical.drug_classes_of(row["drug"], row.get("route")):
                found["drug_classes"].setdefault(name, row)
    newest = {itemid: rows[0] for itemid, rows in latest_labs(view, as_of).items()}
    found["labs"] = {
        itemid: (row["valuenum"], row.get("valueuom"), (as_of - row["charttime"]).days)
        for itemid, row in newest.items()
        if "valuenum" in row
    }
    found["lab_rows"] = newest
    found["procedures"] = [
        (row["icd_code"], row["icd_version"], (as_of - row["chartdate"]).days) for row in view["procedures_icd_labeled"]
    ]
    found["procedure_rows"] = view["procedures_icd_labeled"]
    found["age"] = _age(person, as_of)
    found["sex"] = person.get("gender")
    return found


def _age(person: dict, as_of: datetime) -> int | None:
    """Age in years: MIMIC-IV gives the age in one shifted year; those above 89 all carry 91."""
    if "anchor_age" not in person or "anchor_year" not in person:
        return None
    return person["anchor_age"] + as_of.year - person["anchor_year"]


def newest_first(rows: list, by_id: dict) -> list:
    """Coded rows by their stay, the newest stay first, then by seq_num; `by_id` maps hadm_id to the stay."""
    return sorted(rows, key=lambda r: (-by_id[r["hadm_id"]]["admittime"].timestamp(), r.get("seq_num", 0)))


def latest_labs(view: dict, as_of: datetime) -> dict:
    """itemid -> its rows within a year, newest first."""
    since = as_of - timedelta(days=LAB_DAYS)
    by_item = {}
    for row in sorted(
        view["labevents"], key=lambda r: (r["charttime"], r["storetime"], r["labevent_id"]), reverse=True
    ):
        if row["charttime"] >= since and ("valuenum" in row or is_value(row.get("value"))):
            by_item.setdefault(row["itemid"], []).append(row)
    return by_item


def is_value(text) -> bool:
    """Whether a text is there and not blacked out by de-identification."""
    return bool(text) and "___" not in text
