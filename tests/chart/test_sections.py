"""The sections of a context: age and sex, stays, medicines, labs, vital signs."""

import re
from datetime import timedelta

import pytest

from helpers.small_chart import built, chart, day
from mimic_qlora.chart import context
from mimic_qlora.clinical import codes, content
from mimic_qlora.tasks import chart_qa


def test_age_and_sex_come_from_patients_and_age_moves_with_time():
    text = built(chart(), "2153-01-08").text
    assert "- Age: 63\n- Sex: female" in text
    assert "- Age: unknown\n- Sex: unknown" in built(chart(patients=[]), "2150-01-08").text
    old = chart(patients=[{"gender": "M", "anchor_age": 88, "anchor_year": 2150}])
    told = [built(old, f"{year}-01-08") for year in (2151, 2152, 2154)]
    assert [one.facts.age for one in told] == [89, 91, 91], "which MIMIC-IV gives all above 89"
    assert "- Age: over 89\n- Sex: male" in told[1].text


def test_what_was_the_evening_before_is_not_called_today():
    evening = {"hadm_id": 10, "admittime": day("2150-01-01 18:00")}
    for as_of, told in (
        ("01-01 23:00", "today"),
        ("01-02 17:00", "1 day ago"),
        ("01-02 19:00", "1 day ago"),
    ):
        assert (
            f"Current stay: admitted {told}, still"
            in built(chart(admissions=[evening]), f"2150-{as_of}").text
        )


def test_early_in_a_stay_the_context_calls_it_the_current_one_and_knows_no_end():
    text = built(chart(), "2150-01-02 12:00").text
    assert (
        "- Current stay: admitted 1 day ago, still in hospital" in text and "Last stay" not in text
    )
    assert (
        "Medicines ordered during this stay: Apixaban" in text and "irregular heartbeat" not in text
    )
    again = built(chart(), "2150-01-12").text
    assert "irregular heartbeat" in again and "- Prior stays: 1, the last one 6 days ago" in again
    assert "Medicines ordered during this stay: none on record" in again and "died" not in again


def test_a_flush_is_no_medicine_and_an_order_is_called_an_order():
    text = built(chart(), "2150-01-08").text
    assert (
        "Medicines ordered during the last stay: Apixaban (by mouth)\n" in text
        and "Flush" not in text
    )


def test_home_medicines_come_from_the_newest_emergency_visit_alone():
    told = [
        {"stay_id": 7, "charttime": day("2150-01-01 01:00"), "name": "warfarin"},
        {"stay_id": 6, "charttime": day("2149-01-01"), "name": "aspirin"},
        {"stay_id": 8, "charttime": day("2151-01-01"), "name": "insulin"},
    ]
    vitals = [
        {
            "stay_id": 7,
            "charttime": day("2150-01-01 01:00"),
            "heartrate": 99.0,
            "sbp": 120.0,
            "dbp": 70.0,
        }
    ]
    text = built(chart(medrecon=told, vitalsign=vitals), "2150-01-07").text
    assert "- Medicines taken at home: warfarin\n" in text and "insulin" not in text
    assert "blood pressure 120/70, 5 days ago; heart rate 99/min, 5 days ago" in text
    assert "- Medicines taken at home: the record does not say" in built(chart(), "2150-01-07").text


def test_home_medicines_are_all_that_the_newest_visit_told_of_within_a_year():
    times = {"aspirin": "00:30", "warfarin": "01:00", "zinc": "01:10"}
    told = [
        {"stay_id": 7, "charttime": day(f"2150-01-01 {time}"), "name": name}
        for name, time in times.items()
    ] + [{"stay_id": 6, "charttime": day("2149-12-30"), "name": "digoxin"}]
    found = built(chart(medrecon=told), "2150-01-07")
    assert "- Medicines taken at home: aspirin; warfarin; zinc\n" in found.text
    later = built(chart(medrecon=told), "2152-01-07")
    assert "- Medicines taken at home: the record does not say\n" in later.text
    assert not later.facts.home_drug_classes


def test_a_chart_reads_the_same_in_whichever_order_the_rows_of_one_time_come():
    named = ("warfarin", "zinc", "aspirin", "Eliquis", "iron")
    told = [{"stay_id": 7, "charttime": day("2150-01-01 01:00"), "name": name} for name in named]
    omr = [
        {"chartdate": day("2150-01-02"), "result_name": "Blood Pressure", "result_value": value}
        for value in ("139/99", "121/70")
    ]
    found = [built(chart(medrecon=told[::step], omr=omr[::step]), "2150-01-07") for step in (1, -1)]
    assert found[0].text == found[1].text and "blood pressure 121/70" in found[0].text
    assert found[0].facts == found[1].facts


def test_two_pressures_of_one_time_are_not_mixed():
    when = day("2150-01-01 01:00")
    rows = [
        {"stay_id": 7, "charttime": when, "sbp": above, "dbp": below}
        for above, below in ((120.0, 80.0), (90.0, 60.0))
    ]
    for vitals in (rows, rows[::-1]):
        text = built(chart(vitalsign=vitals), "2150-01-07").text
        assert "pressure 120/80" in text


@pytest.mark.parametrize("title", ["\u200b", "\x07 \u202e", "\ufeff"])
def test_a_name_of_which_nothing_can_be_shown_is_none(title):
    coded = {"hadm_id": 10, "icd_code": "L989", "icd_version": 10, "long_title": title}
    done = {"hadm_id": 10, "icd_code": "0016070", "icd_version": 10, "long_title": title}
    text = built(
        chart(
            diagnoses_icd_labeled=[coded],
            procedures_icd_labeled=[done | {"chartdate": day("2150-01-02")}],
            medrecon=[{"charttime": day("2150-01-02"), "name": title}],
        ),
        "2150-01-07",
    ).text
    assert "- Known conditions: none coded\n" in text
    assert "- Past procedures: none on record\n" in text
    assert "- Medicines taken at home: the record does not say\n" in text


def test_a_range_without_room_is_not_told():
    for bounds in ({"ref_range_lower": 0.0, "ref_range_upper": 0.0}, {"ref_range_upper": 1.1}):
        rows = [
            {c: v for c, v in row.items() if "range" not in c} | bounds
            for row in chart()["labevents"]
        ]
        assert (
            "Creatinine 1.9 mg/dL (high, was 1)" in built(chart(labevents=rows), "2150-01-07").text
        )


@pytest.mark.parametrize(
    ("unit", "told"),
    [("umol/L", "(high, range"), ("MG/DL", "was 1)"), (None, "was 1)")],
)
def test_a_value_in_another_unit_is_not_the_one_before(unit, told):
    newest = max(row["charttime"] for row in chart()["labevents"] if row["valuenum"] == 1.9)
    labs = [
        row if row["charttime"] == newest else {**row, "valueuom": unit}
        for row in chart()["labevents"]
    ]
    labs = [{c: v for c, v in row.items() if v is not None} for row in labs]
    text = built(chart(labevents=labs), "2150-01-07").text
    creatinine = re.search(r"Creatinine 1.9 mg/dL[^;\n]*", text)[0]
    assert told in creatinine and ("was" in creatinine) == ("was" in told)


def test_two_labs_of_one_name_are_told_apart(demo_storage):
    names = context.lab_labels(demo_storage)
    assert (names[50931], names[50809], names[50912]) == (
        "Glucose",
        "Glucose (blood gas)",
        "Creatinine",
    )


def test_a_context_tells_what_an_answer_may_need_in_words_of_daily_life():
    stays = [
        stay | {"language": "KABUVERDIANU", "insurance": "Medicaid", "marital_status": "WIDOWED"}
        for stay in chart()["admissions"]
    ]
    weighed = [
        {"chartdate": day("2150-01-06"), "result_name": "Weight (Lbs)", "result_value": "96"}
    ]
    done = {
        "hadm_id": 10,
        "chartdate": day("2150-01-03"),
        "icd_code": "02HV33Z",
        "icd_version": 10,
        "long_title": "Insertion of Infusion Device into Superior Vena Cava, Percutaneous Approach",
    }
    record = chart(admissions=stays, omr=weighed, procedures_icd_labeled=[done])
    text = built(record, "2150-01-08").text
    assert "- Background: widowed\n" in text
    assert not re.search("Kabuverdianu|Medicaid", text, re.IGNORECASE)
    assert "- Latest measurements: weight 96 pounds, 2 days ago\n" in text
    assert "placing of an infusion line into large vein above the heart" in text


def vital(itemid, when, value, stored=0):
    time = day(when)
    return {
        "stay_id": 5,
        "itemid": itemid,
        "charttime": time,
        "storetime": time + timedelta(hours=stored),
        "valuenum": value,
    }


def section(record, as_of, name):
    """The words of a section of the context."""
    lines = built(record, as_of).text.splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith(f"- {name}"))


def test_vital_signs_are_the_newest_plausible_ones_in_one_unit():
    rows = [
        vital(220045, "2150-01-02 08:00", 90.0),
        vital(220045, "2150-01-02 09:00", 900.0),
        vital(220045, "2150-01-01 09:00", 70.0),
        vital(220045, "2150-01-02 10:00", 55.0, stored=500),
        vital(223762, "2150-01-02 08:00", 38.5),
        vital(223761, "2150-01-01 08:00", 98.6),
        vital(220179, "2150-01-02 08:00", 130.0),
        vital(220180, "2150-01-02 08:00", 80.0),
        vital(220050, "2150-01-02 09:00", 150.0),
        vital(220277, "2150-01-02 08:00", 100.0),
    ]
    line = next(
        x
        for x in built(chart(chartevents=rows, omr=[]), "2150-01-03").text.splitlines()
        if "measurements" in x
    )
    assert line == (
        "- Latest measurements: blood pressure 130/80, 1 day ago; "
        "heart rate 90/min (was 70/min), 1 day ago; "
        "oxygen saturation 100%, 1 day ago; temperature 101.3 F (was 98.6 F), 1 day ago"
    )


def test_a_cuff_and_an_arterial_line_make_no_trend():
    """Both are charted in one minute: the one is not what the other was before."""
    rows = [
        vital(item, when, value)
        for when, cuff, line in (
            ("2150-01-02 08:00", (130, 80), (71, 50)),
            ("2150-01-02 09:00", (136, 73), (68, 56)),
        )
        for item, value in zip((220179, 220180, 220050, 220051), (*cuff, *line), strict=True)
    ]
    for order in (rows, rows[::-1]):
        said = section(chart(chartevents=order, omr=[]), "2150-01-03", "Latest measurements")
        assert said == "blood pressure 136/73 (was 130/80), 1 day ago"
    one_minute = section(chart(chartevents=rows[4:], omr=[]), "2150-01-03", "Latest measurements")
    assert one_minute == "blood pressure 136/73, 1 day ago"


def test_an_order_that_has_stopped_is_called_so_within_the_stay_and_a_cancelled_one_is_none():
    def order(drug, begin, end=None, route="PO"):
        row = {"hadm_id": 11, "starttime": day(begin), "drug": drug, "route": route}
        return row | ({"stoptime": day(end)} if end else {})

    orders = [
        order("Stopped", "2150-01-12", "2150-01-13"),
        order("Stopped", "2150-01-12", "2150-01-14", "IV"),
        order("Runs", "2150-01-12", "2150-01-13"),
        order("Runs", "2150-01-13"),
        order("Ends later", "2150-01-12", "2150-01-19"),
        order("Warfarin", "2150-01-12 10:00", "2150-01-12 08:00"),
    ]
    record = chart(prescriptions=orders, pharmacy=[])
    assert set(section(record, "2150-01-15", "Medicines ordered during this").split("; ")) == {
        "Runs (by mouth)",
        "Ends later (by mouth)",
        "Stopped (by mouth, IV, stopped 1 day ago)",
    }
    assert "warfarin" not in built(record, "2150-01-15").chart.drug_classes
    assert "stopped" not in section(record, "2150-01-21", "Medicines ordered during the last")


def test_a_newer_result_without_a_number_is_not_hidden_by_an_older_one():
    labs = [
        {"labevent_id": n, "itemid": 50971, "charttime": day(when), "storetime": day(when)} | more
        for n, (when, more) in enumerate(
            [
                ("2150-01-02", {"valuenum": 6.0}),
                ("2150-01-04", {"valuenum": 5.0}),
                ("2150-01-06", {"value": "___"}),
            ]
        )
    ]
    record = chart(labevents=labs)
    before, after = built(record, "2150-01-05"), built(record, "2150-01-07")
    assert "Potassium 5 (was 6), 1 day ago\n" in before.text
    assert (
        "Potassium 5 (was 6), 3 days ago, newer result without a number 1 day ago\n" in after.text
    )
    assert before.facts.labs[50971].value == 5 and after.facts.labs[50971].value is None
    kinds = {one.kind for one in chart_qa.golds(after, 99, "key")}
    assert kinds and not {kind for kind in kinds if kind.startswith("lab")}


@pytest.mark.parametrize("wrong", [999999.0, 53.0, -1.0, 0.0])
def test_a_number_that_nobody_has_is_none(wrong):
    """Step 1 counts it; nothing is told by it, and an older result is not taken for the latest."""
    labs = [
        {"labevent_id": n, "itemid": 50971, "charttime": when, "storetime": when, "valuenum": v}
        for n, (when, v) in enumerate([(day("2150-01-02"), 5.0), (day("2150-01-03"), wrong)])
    ]
    found = built(chart(labevents=labs), "2150-01-07")
    assert "Potassium 5, 5 days ago, newer result without a number 4 days ago\n" in found.text
    assert found.facts.labs[50971].value is None


def test_codes_of_what_a_patient_lives_with_are_told_though_they_are_administrative():
    told = {
        ("V1253", 9): "Personal history of sudden cardiac arrest",
        ("E9342", 9): "Anticoagulants causing adverse effects in therapeutic use",
        ("V4986", 9): "Do not resuscitate status",
        ("Z931", 10): "Gastrostomy status",
        ("Z9911", 10): "Dependence on respirator [ventilator] status",
    }
    not_told = {
        ("E8859", 9): "Fall from other slipping",
        ("Y92239", 10): "Unspecified place in hospital",
        ("Z8249", 10): "Family history of ischemic heart disease",
        ("Z880", 10): "Allergy status to penicillin",
    }
    rows = [
        {"hadm_id": 10, "seq_num": n, "icd_code": code, "icd_version": version, "long_title": title}
        for n, ((code, version), title) in enumerate((told | not_told).items())
    ]
    context_ = built(chart(diagnoses_icd_labeled=rows), "2150-01-07")
    said = [item.name for item in context_.shown["Known conditions"]]
    catalogue = content.load().phenotypes
    for (code, version), title in told.items():
        named = [catalogue[i].name for i in codes.phenotypes_of_code(code, version)]
        assert title in said or set(named) & set(said), title
    assert not set(said) & set(not_told.values())


def test_a_home_medicine_that_a_rule_reads_is_a_fact_of_what_is_shown():
    told = [{"stay_id": 7, "charttime": day("2150-01-01 01:00"), "name": "warfarin [Coumadin]"}]
    found = built(chart(medrecon=told), "2150-01-07")
    assert found.facts.home_drug_classes["oral_anticoagulant"] == told[0]
    assert "oral_anticoagulant" not in built(chart(), "2150-01-07").facts.home_drug_classes
