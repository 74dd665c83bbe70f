"""The cohort of the urgency task: by what is known at arrival alone, and one visit a patient."""

from datetime import datetime, timedelta

import pytest

from mimic_qlora.tasks.urgency import cohort, symptoms, task
from mimic_qlora.tasks.urgency.visits import LEVELS

AT = datetime(2150, 3, 1, 8)
DAY = timedelta(days=1)


def chart(**tables) -> dict:
    return {
        "subject_id": 1,
        **{table: [] for table in cohort.WANTED},
        "patients": [{"gender": "F", "anchor_age": 60, "anchor_year": 2150}],
        "edstays": [{"stay_id": 1, "hadm_id": 9, "intime": AT}],
        "triage": [{"stay_id": 1, "chiefcomplaint": "Abd pain, N/V"}],
        **tables,
    }


def stay(hadm_id: int, begin: datetime, end: datetime) -> dict:
    return {"hadm_id": hadm_id, "admittime": begin, "dischtime": end}


def why(record: dict) -> str | None:
    return cohort.left_out(record, record["edstays"][0], cohort.exclusions())


def says(text: str) -> list[dict]:
    return [{"stay_id": 1, "chiefcomplaint": text}]


LEFT_OUT = {
    "child": ({"patients": [{"gender": "F", "anchor_age": 17, "anchor_year": 2150}]}, "under 18"),
    "no age": ({"patients": [{"gender": "F"}]}, "age or sex"),
    "no complaint": ({"triage": [{"stay_id": 1}]}, "no complaint"),
    "blacked out": ({"triage": says("___")}, "no complaint"),
    "of another visit": ({"triage": [{"stay_id": 2, "chiefcomplaint": "Fall"}]}, "no complaint"),
    "sent here": ({"triage": says("ABDOMINAL PAIN, TRANSFER")}, "another hospital"),
    "arrest": ({"triage": says("Cardiac arrest")}, "told from"),
    "in hospital": ({"admissions": [stay(5, AT - DAY, AT + DAY)]}, "in hospital"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_visit_is_left_out_for_what_is_known_at_arrival(case):
    tables, reason = LEFT_OUT[case]
    assert reason in (why(chart(**tables)) or "")


def test_an_empty_chart_and_the_own_stay_leave_nobody_out():
    assert why(chart()) is None
    assert why(chart(admissions=[stay(9, AT - DAY / 24, AT + DAY)])) is None


def test_the_primary_set_has_a_coded_stay_that_had_ended():
    codes = [{"hadm_id": n, "icd_code": "I10", "icd_version": 10} for n in (5, 9)]
    for begin, end, expected in ((-9, -8, True), (-9, 1, False), (2, 3, False)):
        stays = [stay(5, AT + begin * DAY, AT + end * DAY), stay(9, AT, AT + DAY)]
        record = chart(admissions=stays, diagnoses_icd_labeled=codes)
        assert cohort.is_primary(record, record["edstays"][0]) == expected
        record = chart(admissions=stays, diagnoses_icd_labeled=codes[1:])
        assert not cohort.is_primary(record, record["edstays"][0])


def test_the_drawn_visit_does_not_depend_on_order_and_is_neither_first_nor_last():
    places = []
    for patient in range(300):
        visits = [{"stay_id": 1000 * patient + n} for n in range(3)]
        one = cohort.drawn(visits, 42)
        assert one == cohort.drawn(visits[::-1], 42)
        places.append(visits.index(one))
    assert all(75 < places.count(n) < 125 for n in range(3))


def test_nothing_of_the_visit_nor_of_a_stay_that_is_on_is_before_arrival():
    record = chart(
        admissions=[stay(5, AT - 9 * DAY, AT - 8 * DAY), stay(9, AT - DAY / 24, AT + DAY)],
        medrecon=[{"stay_id": 1, "charttime": AT, "name": "insulin"}],
        services=[{"hadm_id": 9, "transfertime": AT - DAY / 24}],
        icustays=[{"hadm_id": n, "stay_id": 10 * n, "intime": AT - DAY / 24} for n in (5, 9)],
        chartevents=[{"stay_id": 10 * n, "itemid": 220045, "charttime": AT} for n in (5, 9)],
    )
    before = task.before_arrival(record, 1)
    assert [one["hadm_id"] for one in before["admissions"]] == [5]
    assert before["medrecon"] == before["services"] == before["edstays"] == []
    assert [one["stay_id"] for one in before["icustays"] + before["chartevents"]] == [50, 50]


def test_an_answer_is_scored_by_its_first_word():
    words = dict(task.LEVEL_WORDS)
    assert len(words) == 4 and {*words, *task.STANDS_FOR} == {*LEVELS}
    due = [task.Criterion("begins with: Hospital", 1, ["level", "B"])]
    assert task.score(due, "**Hospital**\nOn record: gout") == ("B", True)
    assert task.score(due, "emergency. Go now") == ("A", False)
    assert task.score(due, "") == task.score(due, "It is a Hospital") == (None, False)


def test_each_symptom_has_a_wording_and_complaints_are_counted():
    rows = {row.what: row for row in symptoms.coverage(["Abd pain, N/V", "SOB"] + ["MVC"] * 10)}
    assert rows["all visits"].visits == 12 and rows["with a symptom of ours"].visits == 2
    assert rows["symptom: vomiting"].visits == 1 and rows["none: mvc"].visits == 10
    wordings = symptoms.load()
    assert symptoms.of_complaint("CP", wordings) == {"chest_discomfort"}
    assert symptoms.of_complaint("Suture removal", wordings) == set()
