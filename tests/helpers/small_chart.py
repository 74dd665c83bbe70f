"""A small typed record of one patient, and the context that is made of it."""

from datetime import datetime, timedelta
from typing import Any

from helpers.prompt_records import context_settings, count_words
from mimic_qlora.chart import context

LABELS = {50912: "Creatinine", 50971: "Potassium"}


def day(text: str) -> datetime:
    return datetime.fromisoformat(text)


def chart(**more: Any) -> dict[str, Any]:
    """A small typed record: two stays, the first one coded; `more` replaces tables."""
    tables_ = {
        "subject_id": 1,
        "patients": [{"gender": "F", "anchor_age": 60, "anchor_year": 2150}],
        "admissions": [
            {
                "hadm_id": 10,
                "admittime": day("2150-01-01"),
                "dischtime": day("2150-01-05 12:00"),
                "discharge_location": "HOME",
            },
            {
                "hadm_id": 11,
                "admittime": day("2150-01-11 12:00"),
                "dischtime": day("2150-01-20"),
                "discharge_location": "DIED",
                "deathtime": day("2150-01-20"),
                "hospital_expire_flag": 1,
            },
        ],
        "diagnoses_icd_labeled": [
            {
                "hadm_id": 10,
                "seq_num": 1,
                "icd_code": "I4891",
                "icd_version": 10,
                "long_title": "Atrial fibrillation",
            },
            {
                "hadm_id": 11,
                "seq_num": 1,
                "icd_code": "J449",
                "icd_version": 10,
                "long_title": "COPD",
            },
        ],
        "procedures_icd_labeled": [],
        "prescriptions": [
            {
                "hadm_id": 10,
                "pharmacy_id": 1,
                "starttime": day("2150-01-02"),
                "drug_type": "MAIN",
                "drug": "Apixaban",
                "route": "PO",
            },
            {
                "hadm_id": 10,
                "starttime": day("2150-01-02"),
                "drug_type": "MAIN",
                "drug": "Heparin Flush",
                "route": "IV",
            },
        ],
        "pharmacy": [{"pharmacy_id": 1, "entertime": day("2150-01-02 09:00")}],
        "labevents": [
            {
                "labevent_id": n,
                "itemid": 50912,
                "charttime": when,
                "storetime": when + timedelta(hours=stored),
                "valuenum": value,
                "valueuom": "mg/dL",
                "ref_range_lower": 0.4,
                "ref_range_upper": 1.1,
            }
            for n, (when, stored, value) in enumerate(
                [
                    (day("2150-01-02"), 1, 1.0),
                    (day("2150-01-04"), 1, 1.9),
                    (day("2150-01-05"), 300, 7.7),
                ]
            )
        ],
        "omr": [
            {"chartdate": day("2150-01-07"), "result_name": "BMI (kg/m2)", "result_value": "31.0"}
        ],
        "icustays": [],
        "services": [],
    }
    return tables_ | more


def built(record: dict[str, Any], as_of: str, **settings: Any) -> context.Context:
    return context.build(
        record,
        day(as_of),
        context_settings(**{"token_budget": 700} | settings),
        LABELS,
        count_words,
    )
