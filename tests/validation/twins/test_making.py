"""Twins differ from their chart by one finding, and nothing is left that implies it."""

from datetime import datetime

import pytest

from helpers.prompt_records import context_settings, count_words
from helpers.step7 import QUESTIONS
from mimic_qlora.chart import context
from mimic_qlora.clinical import content
from mimic_qlora.tasks import composing
from mimic_qlora.validation.twins import drawing, making

AS_OF = datetime(2150, 3, 20)
RULES = content.load().cautions
EMPTY = ("icustays", "services", "pharmacy", "omr", "procedures_icd_labeled")


def record(codes=("Z8709",), drugs=(), labs=(), age=50, anchor_year=2150, **stay):
    """A made-up record of one stay; a lab is (itemid, days ago, value, low, high, unit)."""
    stay = {"hadm_id": 9, "discharge_location": "HOME", "marital_status": "MARRIED", **stay}
    stay |= {"admittime": datetime(2150, 3, 1), "dischtime": datetime(2150, 3, 15)}
    coded = {"hadm_id": 9, "icd_version": 10, "long_title": "A code"}
    ordered = {"hadm_id": 9, "starttime": datetime(2150, 3, 2), "drug_type": "MAIN", "route": "PO"}
    return {
        "subject_id": 1,
        "patients": [{"gender": "F", "anchor_age": age, "anchor_year": anchor_year}],
        "admissions": [stay],
        "diagnoses_icd_labeled": [
            coded | {"seq_num": n, "icd_code": code} for n, code in enumerate(codes)
        ],
        "prescriptions": [ordered | {"drug": drug} for drug in drugs],
        "labevents": [
            {
                "labevent_id": n,
                "itemid": item,
                "charttime": datetime(2150, 3, 20 - days),
                "storetime": datetime(2150, 3, 20 - days),
                "valuenum": value,
                "value": str(value),
                "valueuom": unit,
                "ref_range_lower": low,
                "ref_range_upper": high,
                "flag": "abnormal",
            }
            for n, (item, days, value, low, high, unit) in enumerate(labs)
        ],
        **{table: [] for table in EMPTY},
    }


def build(rows):
    return context.build(rows, AS_OF, context_settings(), {50971: "Potassium"}, count_words)


def twin_of(rule, **chart):
    rows = record(**chart)
    before = str(rows)
    twin = making.without(RULES[rule], rows, build(rows), build)
    assert str(rows) == before, "the record itself stays as it was"
    return build(rows), twin


def called(shown):
    return {rule.id for rule in composing.called_for(shown.facts)}


def test_a_condition_is_gone_with_its_code_and_nothing_else_changes():
    chart, twin = twin_of("asthma_inhaler", codes=("J45909", "M109"))
    assert "asthma" in chart.text and twin.context.text == chart.text.replace("asthma; ", "")
    assert called(chart) - called(twin.context) == {"asthma_inhaler"}
    assert twin.change == "not a diagnosis of asthma"


def test_a_medicine_is_gone_with_all_orders_of_its_class():
    chart, twin = twin_of("metformin_sick_day", drugs=("MetFORMIN (Glucophage)", "Docusate"))
    assert "MetFORMIN" in chart.text and "MetFORMIN" not in twin.context.text
    assert "Docusate" in twin.context.text


def test_a_result_moves_across_its_bound_with_its_flag_and_the_one_before_it():
    labs = [
        (50971, 2, 2.9, 3.4, 5.0, "mEq/L"),
        (50971, 3, 2.7, 3.4, 5.0, "mEq/L"),
        (50971, 4, 4.1, 3.4, 5.0, "mEq/L"),
    ]
    chart, twin = twin_of("low_potassium_lab", labs=labs)
    assert "Potassium 2.9 mEq/L (low, range 3.4-5, was 2.7), 2 days ago" in chart.text
    assert "Potassium 4.2 mEq/L (was 4.1), 2 days ago" in twin.context.text
    assert called(chart) - called(twin.context) == {"low_potassium_lab"}


@pytest.mark.parametrize(("born", "age"), [(2080, "70"), (2050, "over 89")])
def test_an_age_moves_across_its_bound(born, age):
    chart, twin = twin_of("older_no_sedating_antihistamine", age=2145 - born, anchor_year=2145)
    assert f"Age: {age}" in chart.text and "Age: 60" in twin.context.text


@pytest.mark.parametrize(
    ("rule", "chart"),
    [
        # another rule begins to hold in its place: the order alone
        ("anticoagulant_no_nsaid", {"codes": ("Z7901",), "drugs": ("Warfarin",)}),
        # what is ordered tells it
        ("asthma_inhaler", {"codes": ("J45909", "M109"), "drugs": ("Albuterol Inhaler",)}),
        # several rules rest on the code
        ("diabetes_sick_day", {"codes": ("E119", "M109")}),
        # the title of another code tells it
        ("asthma_inhaler", {"codes": ("J45909",), "title": "Cough variant, asthma ruled out"}),
        # without a code no chart can be asked about
        ("asthma_inhaler", {"codes": ("J45909",)}),
    ],
)
def test_what_leaves_a_trace_or_changes_more_is_no_twin(rule, chart):
    title = chart.pop("title", None)
    rows = record(**chart)
    if title:
        other = rows["diagnoses_icd_labeled"][0] | {"icd_code": "R69", "long_title": title}
        rows["diagnoses_icd_labeled"].append(other)
    shown = build(rows)
    assert rule in called(shown)
    assert making.without(RULES[rule], rows, shown, build) is None


def test_an_unrelated_fact_is_one_that_no_rule_reads():
    rows = record(codes=("J45909", "M109"))
    shown = build(rows)
    twin = making.unrelated(rows, shown, build)
    assert twin.change == "another marital status" and twin.context.text != shown.text
    assert called(twin.context) == called(shown)
    alone = record(codes=("J45909", "M109"), marital_status="")
    alone["admissions"][0].pop("marital_status")
    twin = making.unrelated(alone, build(alone), build)
    assert twin.change == "the other sex" and "Sex: male" in twin.context.text
    pregnant = record(codes=("J45909", "Z3490"))
    pregnant["admissions"][0].pop("marital_status")
    assert making.unrelated(pregnant, build(pregnant), build) is None


def test_what_implies_a_finding_is_an_entry_of_the_content():
    clinical = content.load()
    known = {
        *(f"phenotypes/{name}" for name in clinical.phenotypes),
        *(f"drugs/{name}" for name in clinical.drugs),
        *(f"procedures/{name}" for name in clinical.procedures),
    }
    named = {key for found, more in making._implied().items() for key in (found, *more)}
    assert named <= known


def test_a_rule_that_the_ideal_of_a_twin_is_heard_to_say_is_told_from_one_that_it_is_not():
    """Who must not stop drinking suddenly either is heard to say the rule on calming medicines."""
    rule = RULES["benzodiazepine_no_sudden_stop"]
    asked = next(q for q in QUESTIONS if "three hours a night" in q.question)

    def heard(**chart):
        return drawing._is_heard(rule, asked, build(record(**chart)))

    assert heard(codes=("M109",), drugs=("Diazepam",)) and not heard(codes=("M109",))
    assert heard(codes=("F1020",))
