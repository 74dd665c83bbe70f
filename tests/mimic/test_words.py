"""The words that steps compare: each is in the list by which other capitals are read."""

import pytest

from mimic_qlora.chart import measurements, prediction_times, wording
from mimic_qlora.clinical import conditions, content
from mimic_qlora.mimic.words import WORDS
from mimic_qlora.prompts import audit_chart
from mimic_qlora.tasks.urgency import label
from mimic_qlora.validation.twins import making

CONTENT = content.load()
RULES = [rule.when for rule in label.load().values()]
LABS = [
    leaf.lab
    for rule in CONTENT.cautions.values()
    for leaf in conditions.leaves(rule.when)
    if isinstance(leaf, conditions.HasLab)
]
COMPARED = {
    "patients.gender": {*wording.SEXES, *audit_chart.SEXES},
    "admissions.admission_type": {
        *wording.ADMISSIONS,
        *(word for rule in RULES for word in getattr(rule, "admission_types", ())),
    },
    "admissions.discharge_location": {
        *(*prediction_times.HOME, "DIED"),
        *(*wording.PLACES, *audit_chart.PLACES),
    },
    "admissions.insurance": {*making.CHANGES["insurance"]},
    "admissions.marital_status": {*making.CHANGES["marital_status"]},
    "prescriptions.drug_type": {"MAIN"},
    "prescriptions.route": {
        *wording.ROUTES,
        *(route for entry in CONTENT.drugs.values() for route in entry.routes),
    },
    "labevents.flag": {"abnormal"},
    "labevents.valueuom": {*("mg/dL", "K/uL", "%"), *(lab.unit for lab in LABS if lab.unit)},
    "omr.result_name": {
        *(measurements.WEIGHT, measurements.BMI),
        *(*wording.MEASURED, *audit_chart.OMR),
    },
    "edstays.disposition": {
        "EXPIRED",
        *(word for rule in RULES for word in getattr(rule, "to", ())),
    },
    "d_labitems.fluid": {"Blood"},
    "d_labitems.category": {"Blood Gas"},
}


@pytest.mark.parametrize("place", COMPARED)
def test_every_word_that_is_compared_is_read_in_other_capitals_too(place):
    table, column = place.split(".")
    assert COMPARED[place] and not COMPARED[place] - {*WORDS[table][column]}


def test_no_two_words_of_a_column_differ_in_capitals_alone():
    for columns in WORDS.values():
        for words in columns.values():
            assert len({word.upper() for word in words}) == len(words)
