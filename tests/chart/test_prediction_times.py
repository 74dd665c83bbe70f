"""When a patient is asked about: after a discharge, or early in a stay."""

import pytest

from helpers.small_chart import chart, day
from mimic_qlora.chart import prediction_times
from mimic_qlora.step.errors import UserError


def test_a_moment_follows_a_live_discharge_home_and_precedes_the_next_stay_and_death():
    (only,) = prediction_times.after_discharge(chart(), seed=0)
    assert only.hadm_id == 10 and day("2150-01-06 12:00") <= only.as_of <= day("2150-01-11 12:00")
    assert not prediction_times.after_discharge(
        chart(patients=[{"dod": day("2150-01-06")}]), seed=0
    )
    with pytest.raises(UserError, match="no hospital stay"):
        prediction_times.latest(chart(admissions=[]), seed=0)


def test_nobody_is_asked_about_after_death():
    nursing, died = chart()["admissions"]
    nursing = {**nursing, "discharge_location": "SKILLED NURSING FACILITY"}
    moment = prediction_times.latest(chart(admissions=[nursing, died]), seed=0)
    assert tuple(moment) == (10, day("2150-01-06 12:00"))  # not the day after the death
    within = (11, day("2150-01-19"))
    assert tuple(prediction_times.latest(chart(admissions=[died]), seed=0)) == within
    flagged = {**died, "dischtime": day("2150-01-11 18:00")}
    del flagged["deathtime"]
    moment = prediction_times.latest(chart(admissions=[flagged]), seed=0)
    assert tuple(moment) == (11, day("2150-01-11 12:00"))
    soon = chart(admissions=[nursing], patients=[{"dod": day("2150-01-06")}])
    assert prediction_times.latest(soon, seed=0).as_of == day("2150-01-04 12:00")


def test_a_landmark_counts_from_arrival_and_only_coded_stays_that_last_have_one():
    stays = [
        {
            "hadm_id": 10,
            "admittime": day("2150-01-01 10:00"),
            "edregtime": day("2150-01-01 02:00"),
            "dischtime": day("2150-01-05 12:00"),
        },
        {"hadm_id": 11, "admittime": day("2150-01-11 12:00"), "dischtime": day("2150-01-12 11:00")},
        {"hadm_id": 12, "admittime": day("2150-02-01 12:00"), "dischtime": day("2150-02-09")},
        {
            "hadm_id": 13,
            "admittime": day("2150-03-02"),
            "edregtime": day("2150-03-01"),
            "dischtime": day("2150-03-09"),
        },
    ]
    codes = [{"hadm_id": h, "icd_code": "I10", "icd_version": 10} for h in (10, 11, 13)]
    record = chart(admissions=stays, diagnoses_icd_labeled=codes)
    assert [tuple(m) for m in prediction_times.landmarks(record, 24)] == [
        (10, day("2150-01-02 02:00")),
        (13, day("2150-03-02")),
    ]
    # a stay that begins only after the landmark could not be known at it
    assert [m.hadm_id for m in prediction_times.landmarks(record, 12)] == [10, 11]


def test_a_stay_after_death_has_no_landmark():
    """As of an organ donor, whose stay is coded."""
    stay = {"hadm_id": 10, "admittime": day("2150-01-05 23:00"), "dischtime": day("2150-01-08")}
    codes = [{"hadm_id": 10, "icd_code": "I10", "icd_version": 10}]
    for dod, n in (("2150-01-05", 0), ("2150-01-06", 1)):
        record = chart(admissions=[stay], diagnoses_icd_labeled=codes, patients=[{"dod": day(dod)}])
        assert len(prediction_times.landmarks(record, 24)) == n


def test_of_stays_that_overlap_the_one_that_a_context_tells_of_is_asked_about():
    """Guidance asked somebody who lay in hospital, and a landmark stood in another stay's chart."""
    long = {"hadm_id": 10, "admittime": day("2150-01-01"), "dischtime": day("2150-01-09 10:00")}
    within = {
        "hadm_id": 11,
        "admittime": day("2150-01-01 06:00"),
        "dischtime": day("2150-01-01 12:00"),
        "discharge_location": "HOME",
    }
    codes = [{"hadm_id": h, "icd_code": "I10", "icd_version": 10} for h in (10, 11)]
    record = chart(admissions=[long, within], diagnoses_icd_labeled=codes, patients=[{}])
    assert not prediction_times.landmarks(record, 24)
    assert [m.hadm_id for m in prediction_times.landmarks(record, 5)] == [10, 11]
    for seed in range(50):
        for moment in prediction_times.after_discharge(record, seed):
            assert moment.as_of >= long["dischtime"]
    assert prediction_times.latest(record, 0).as_of >= long["dischtime"]


def test_a_patient_who_is_back_in_the_emergency_department_is_not_at_home():
    home, back = chart()["admissions"]
    back = {**back, "edregtime": home["dischtime"] + 1.5 * prediction_times.DAY}
    record = chart(admissions=[home, back])
    for seed in range(20):
        (moment,) = prediction_times.after_discharge(record, seed)
        assert moment.as_of <= back["edregtime"]
