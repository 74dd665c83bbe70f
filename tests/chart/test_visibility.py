"""What is known at a time: no cell before it was written, no outcome."""

import random
from datetime import datetime, timedelta

from helpers.small_chart import built, chart, day
from mimic_qlora.chart import visibility
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import reader


def test_nothing_is_shown_before_it_was_known():
    early = built(chart(), "2150-01-04 12:00").text
    assert "none coded" in early and "still in hospital" in early and "Creatinine 1.9" in early
    after = built(chart(), "2150-01-07 12:00").text
    assert "irregular heartbeat" in after and "COPD" not in after
    # the third creatinine was measured before this time and stored after it
    assert "7.7" not in after and "Creatinine 1.9 mg/dL (high, range 0.4-1.1, was 1)" in after
    # a date counts from the end of its day
    assert "BMI" not in after and "BMI 31.0" in built(chart(), "2150-01-08").text


def test_an_order_is_known_when_the_pharmacy_has_entered_it_or_else_a_day_after_it_starts():
    def drugs(as_of, **more):
        return [
            row["drug"] for row in visibility.visible(chart(**more), day(as_of))["prescriptions"]
        ]

    assert drugs("2150-01-02 08:59") == [] and drugs("2150-01-02 09:00") == ["Apixaban"]
    assert drugs("2150-01-03") == ["Apixaban", "Heparin Flush"]
    assert drugs("2150-01-02 23:59", pharmacy=[{"pharmacy_id": 1}]) == []


def test_the_last_time_of_an_id_that_stands_twice_counts_and_no_id_has_none():
    def drugs(as_of, *entered):
        pharmacy = [{"pharmacy_id": one, "entertime": day(time)} for one, time in entered]
        view = visibility.visible(chart(pharmacy=pharmacy), day(as_of))
        return [row["drug"] for row in view["prescriptions"]]

    twice = [(1, "2150-01-02 12:00"), (1, "2150-01-02 09:00")]
    assert drugs("2150-01-02 11:59", *twice) == [] and drugs("2150-01-02 12:00", *twice)
    assert drugs("2150-01-02 23:59", (-1, "2150-01-01")) == []  # some write -1 for none


def test_no_time_in_a_view_lies_ahead_and_outcomes_are_masked():
    view = visibility.visible(chart(), day("2150-01-15"))
    assert [sorted(stay) for stay in view["admissions"]][1] == ["admittime", "hadm_id"]


def test_no_time_in_a_view_of_the_real_demo_lies_ahead(demo_dir, demo_storage):
    wanted = {
        name: s.columns for name, s in tables.find(demo_dir).items() if "subject_id" in s.columns
    }
    draw, seen = random.Random(0), 0
    for record in reader.records(demo_storage, wanted, sorted(reader.split_of(demo_storage))[:15]):
        as_of = draw.choice(record["admissions"])["admittime"] + timedelta(
            hours=draw.uniform(0, 200)
        )
        view = visibility.visible(record, as_of)
        times = [
            (table, column, v)
            for table, rows in view.items()
            if table
            not in ("subject_id", "datetimeevents")  # its value is a date that a clinician entered
            for row in rows
            for column, v in row.items()
            if isinstance(v, datetime)
        ]
        ahead = {(table, column) for table, column, v in times if v > as_of}
        # when something is scheduled for, or expires, is known beforehand
        assert ahead <= {("emar", "scheduletime"), ("pharmacy", "expirationdate")}, ahead
        seen += len(times)
    assert seen > 10_000


def test_every_table_of_a_patient_has_a_rule_and_every_rule_names_columns_that_exist():
    rules = visibility.rules()
    for name, table in tables.schema().items():
        if not {"subject_id", "hadm_id", "stay_id"}.isdisjoint(table.columns):
            assert "*" in rules[name], name
    for name, by_column in rules.items():
        columns = tables.schema()[name.removesuffix("_labeled")].columns
        terms = {t.partition("@")[0] for terms in by_column.values() for t in terms}
        assert by_column.keys() - {"*"} <= columns.keys(), name
        assert terms <= columns.keys() | {"always", "never", "discharge", "entered"}, name


def test_no_cell_that_is_written_when_something_ends_is_shown_before_it_ends():
    later = {
        "stoptime",
        "endtime",
        "status",
        "order_status",
        "los",
        "outtime",
        "last_careunit",
        "discharge_location",
        "hospital_expire_flag",
        "dod",
        "deathtime",
        "dischtime",
        "edouttime",
        "disposition",
    }
    for name, table in tables.schema().items():
        masked = visibility.rules().get(name, {})
        assert table.columns.keys() & later <= masked.keys() or masked["*"] in (
            ["discharge"],
            ["never"],
        ), name


def test_which_stay_a_visit_led_to_is_known_when_it_ends():
    begin, end = day("2150-01-07 10:00"), day("2150-01-07 14:00")
    row = {"hadm_id": 10, "intime": begin, "outtime": end}
    visit = row | {"race": "WHITE", "arrival_transport": "AMBULANCE", "disposition": "ADMITTED"}
    tables = {"edstays": [visit], "transfers": [row]}
    view = visibility.visible(chart(**tables), begin)
    assert view["edstays"] == view["transfers"] == [{"intime": begin}]
    view = visibility.visible(chart(**tables), end)
    assert view["edstays"] == [visit] and view["transfers"] == [row]
