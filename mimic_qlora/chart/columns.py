"""Which columns of which tables a chart is read from."""

from datetime import datetime, timedelta

from mimic_qlora.chart.facts import LAB_DAYS
from mimic_qlora.chart.vitals import VITALS

# Every table and column that a context, a caution rule or a gold answer can rest on.
WANTED = {
    "patients": ("gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
    "admissions": (
        *(
            "hadm_id",
            "admittime",
            "dischtime",
            "deathtime",
            "edregtime",
            "admission_type",
            "discharge_location",
        ),
        *("insurance", "language", "marital_status"),
    ),
    "icustays": ("hadm_id", "stay_id", "intime"),
    "services": ("hadm_id", "transfertime", "curr_service"),
    "diagnoses_icd_labeled": ("hadm_id", "seq_num", "icd_code", "icd_version", "long_title"),
    "procedures_icd_labeled": ("hadm_id", "chartdate", "icd_code", "icd_version", "long_title"),
    "prescriptions": ("hadm_id", "pharmacy_id", "starttime", "drug_type", "drug", "route"),
    "pharmacy": ("pharmacy_id", "entertime"),
    "labevents": (
        *("labevent_id", "itemid", "charttime", "storetime", "value", "valuenum", "valueuom"),
        *("ref_range_lower", "ref_range_upper", "flag"),
    ),
    "omr": ("chartdate", "result_name", "result_value"),
    "chartevents": ("stay_id", "itemid", "charttime", "storetime", "valuenum"),
    "vitalsign": (
        "stay_id",
        "charttime",
        "temperature",
        "heartrate",
        "resprate",
        "o2sat",
        "sbp",
        "dbp",
    ),
    "medrecon": ("stay_id", "charttime", "name"),
}
# Of a big table, only these values of a column are ever read.
ONLY = {"chartevents": {"itemid": sorted(VITALS)}}
# The columns that name a row and what was read of it, as gold answers cite it.
CITED = {
    "patients": ("gender", "anchor_age", "anchor_year"),
    "admissions": (
        "hadm_id",
        "admittime",
        "dischtime",
        "admission_type",
        "discharge_location",
        "insurance",
        "language",
        "marital_status",
    ),
    "icustays": ("hadm_id", "stay_id", "intime"),
    "services": ("hadm_id", "transfertime", "curr_service"),
    "diagnoses_icd": ("hadm_id", "seq_num", "icd_code", "icd_version"),
    "procedures_icd": ("hadm_id", "chartdate", "icd_code", "icd_version"),
    "prescriptions": ("hadm_id", "starttime", "drug", "route"),
    "labevents": ("labevent_id", "itemid", "charttime", "valuenum", "valueuom"),
    "omr": ("chartdate", "result_name", "result_value"),
    "chartevents": ("stay_id", "itemid", "charttime", "valuenum"),
    "vitalsign": (
        "stay_id",
        "charttime",
        "temperature",
        "heartrate",
        "resprate",
        "o2sat",
        "sbp",
        "dbp",
    ),
    "medrecon": ("stay_id", "charttime", "name"),
}


def within(times: dict) -> dict:
    """What of the big tables contexts at these times (subject_id -> [as_of]) can rest on, for `subjects.records`.

    All of pharmacy is read: without its row, an order that was entered late would seem to have been entered in time.
    """
    known = {subject_id: (datetime.min, max(when)) for subject_id, when in times.items()}
    recent = {
        subject_id: (min(when) - timedelta(days=LAB_DAYS), max(when))
        for subject_id, when in times.items()
    }
    return {
        "prescriptions": ("starttime", known),
        "labevents": ("charttime", recent),
        "chartevents": ("charttime", known),
    }


def citation(why: str, table: str, row: dict) -> dict:
    """A row as a gold answer cites it: {"for": what it proves, "table": ..., "cells": ["column=value", ...]}."""
    return {
        "for": why,
        "table": table,
        "cells": [f"{c}={row[c]}" for c in CITED[table] if c in row],
    }
