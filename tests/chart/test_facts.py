"""How long a coded diagnosis counts, and what it becomes."""

from datetime import datetime, timedelta

import pytest

from mimic_qlora.chart import facts
from mimic_qlora.clinical import content

NOW = datetime(2150, 5, 20, 12)
EMPTY = {"patients": [], "prescriptions": [], "procedures_icd_labeled": [], "labevents": []}


def chart(*stays):
    """The view of stays given as (days since discharge, ICD-10 codes)."""
    view = {"admissions": [], "diagnoses_icd_labeled": [], **EMPTY}
    for number, (days, *codes) in enumerate(stays):
        end = NOW - timedelta(days=days)
        times = {"admittime": end - timedelta(days=3), "dischtime": end}
        view["admissions"].append({"hadm_id": number, **times})
        for place, code in enumerate(codes):
            view["diagnoses_icd_labeled"].append(
                {"hadm_id": number, "seq_num": place, "icd_code": code, "icd_version": 10}
            )
    return view


def known(*stays):
    return set(facts.facts_of_view(chart(*stays), NOW).phenotypes)


@pytest.mark.parametrize(
    ("code", "now", "later"),
    [
        ("I639", "stroke", "past_stroke_or_tia"),
        ("I619", "brain_bleed", "past_stroke_or_tia"),
        ("I214", "heart_attack", "past_heart_attack"),
        ("I2699", "venous_clot", "past_venous_clot"),
        ("K922", "bowel_bleeding", "past_bowel_bleeding"),
        ("I330", "endocarditis", "past_endocarditis"),
        ("T391X2A", "suicidal_thoughts_or_self_harm", "past_self_harm"),
    ],
)
def test_what_is_acute_becomes_past_after_90_days(code, now, later):
    assert now in known((90, code)) and later not in known((90, code))
    assert now not in known((91, code)) and later in known((91, code))


def test_a_past_stroke_is_shown_where_the_context_names_the_stroke():
    class Line:
        name, rows = "stroke or bleeding in the brain", ()

    found = facts.facts_of_view(chart((200, "I639")), NOW)
    shown = facts.as_shown(found, {"Known conditions": [Line]})
    assert set(shown.phenotypes) == {"past_stroke_or_tia"}
    assert facts.as_shown(found, {"Known conditions": []}).phenotypes == {}


def test_a_blood_thinner_of_old_counts_with_atrial_fibrillation_only():
    assert "long_term_anticoagulant" in known((365, "Z7901"))
    assert "long_term_anticoagulant" not in known((366, "Z7901"))
    assert "long_term_anticoagulant" in known((366, "Z7901", "I4891"))
    assert "long_term_insulin" in known((4000, "Z794"))


def test_dialysis_ends_with_the_injury_or_with_a_new_kidney():
    assert "dialysis" in known((50, "Z992", "N179"))
    assert "dialysis" not in known((91, "Z992", "N179")), "no end-stage disease"
    assert "dialysis" in known((400, "Z992", "N186"))
    assert known((400, "Z992", "N186"), (20, "Z940")).isdisjoint({"dialysis", "kidney_failure"})
    assert "dialysis" in known((400, "Z940"), (20, "Z992", "N186")), "the new kidney failed"
    assert "dialysis" in known((20, "Z992", "N186", "T8612"))


def test_labs_come_newest_first_and_one_without_a_number_counts_as_newest():
    """A rule reads several items that measure the same: of a day by the minute."""
    rows = [
        {"itemid": item, "charttime": NOW - timedelta(hours=hours), **number}
        for item, hours, number in (
            (50971, 8, {"valuenum": 6.2}),
            (50822, 3, {"valuenum": 4.1}),
            (52610, 2, {"value": "___"}),
            (50822, 9, {"valuenum": 6.4}),
            (50934, 1, {"valuenum": 40, "flag": "abnormal"}),  # hemolysis: of the specimen
        )
    ]
    labs = facts.facts_of_view(chart() | {"labevents": rows}, NOW).labs
    assert [(item, lab.value) for item, lab in labs.items()] == [
        (52610, None),
        (50822, 4.1),
        (50971, 6.2),
    ]


@pytest.mark.parametrize(
    ("first", "then", "now"),
    [
        ("F322", "F3340", "depression_in_remission"),
        ("F3342", "F332", "depression"),
        ("F17210", "Z87891", "past_tobacco_use"),
        ("Z87891", "F17210", "tobacco_use"),
        ("F1020", "F1021", "past_alcohol_use_disorder"),
        ("F1121", "F1120", "opioid_use_disorder"),
    ],
)
def test_of_what_is_there_and_what_is_past_the_later_code_counts(first, then, now):
    assert known((400, first), (40, then)) == {now}


def test_a_mood_log_is_for_depression_and_for_its_remission():
    called = content.load().cautions["depression_mood_log"].when
    for code in ("F332", "F3340"):
        assert called.holds(facts.facts_of_view(chart((40, code)), NOW))
