"""The tables and columns that a chart is read from."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from mimic_qlora.chart.facts import LAB_DAYS
from mimic_qlora.chart.rows import Row
from mimic_qlora.chart.vitals import VITALS

Spans = dict[int, tuple[datetime, datetime]]  # subject_id -> first and last time

# Every table and column that a context, a caution rule or a gold answer can rest on.
WANTED = {
    "patients": ("gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
    "admissions": (
        "hadm_id",
        "admittime",
        "dischtime",
        "deathtime",
        "edregtime",
        "admission_type",
        "discharge_location",
        "marital_status",
    ),
    "icustays": ("hadm_id", "stay_id", "intime"),
    "services": ("hadm_id", "transfertime", "curr_service"),
    "diagnoses_icd_labeled": ("hadm_id", "seq_num", "icd_code", "icd_version", "long_title"),
    "procedures_icd_labeled": ("hadm_id", "chartdate", "icd_code", "icd_version", "long_title"),
    "prescriptions": (
        "hadm_id",
        "pharmacy_id",
        "starttime",
        "stoptime",
        "drug_type",
        "drug",
        "route",
        "dose_val_rx",
        "dose_unit_rx",
    ),
    "pharmacy": ("pharmacy_id", "entertime"),
    "labevents": (
        "labevent_id",
        "itemid",
        "charttime",
        "storetime",
        "value",
        "valuenum",
        "valueuom",
        "ref_range_lower",
        "ref_range_upper",
        "flag",
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
    "edstays": ("stay_id", "hadm_id", "intime"),
    "triage": ("stay_id", "chiefcomplaint"),
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
    "edstays": ("stay_id", "intime"),
}


def within(times: Mapping[int, Sequence[datetime]]) -> dict[str, tuple[str, Spans]]:
    """Return the rows of big tables that contexts can rest on, for `reader.records`.

    `times` maps subject_id to prediction times. The result maps a table to its column of times and
    to each patient's first and last. All of pharmacy is read: without its row, an order that was
    entered late would seem to have been entered in time.
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


class Citation(NamedTuple):
    """A row as a gold answer cites it: what it proves, its table, and cells as "column=value"."""

    reason: str
    table: str
    cells: list[str]

    def as_json(self) -> dict[str, str | list[str]]:
        return {"for": self.reason, "table": self.table, "cells": self.cells}


def citation(reason: str, table: str, row: Row) -> Citation:
    """Cite a row for what it proves, by the cells that name it and that were read of it."""
    return Citation(reason, table, [f"{c}={row[c]}" for c in CITED[table] if c in row])
