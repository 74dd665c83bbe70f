"""Controls: what is taken away is gone, what stays is as it was, and the other sex is stated."""

import pytest

from helpers.small_chart import built, chart
from helpers.urgency_visits import visit
from mimic_qlora.validation.urgency import asked
from mimic_qlora.validation.urgency.asked import Part, Shown


def shown(number: int, complaint: str = "chest pain", sex: str = "F", **tables) -> Shown:
    record = chart(**tables)
    record["patients"] = [{"gender": sex, "anchor_age": 50 + number, "anchor_year": 2150}]
    context = built(record, "2150-01-06")
    one = visit(number, complaint=complaint, sex=sex)
    return Shown(one, context, f"Complaint at arrival: {complaint}\nHow urgent is this visit?")


EMPTY = {
    "admissions": [],
    "diagnoses_icd_labeled": [],
    "prescriptions": [],
    "labevents": [],
    "omr": [],
}
VISITS = [shown(1), shown(2, sex="M"), shown(3, "rash", **EMPTY)]


def prompt(part: Part, place: int = 0) -> str:
    content = asked.parts(place, VISITS)[part]
    return asked.turns("Help.", content)[-1]["content"]


def test_the_complaint_alone_shows_age_and_sex_and_nothing_of_the_chart():
    text = prompt(Part.COMPLAINT)
    assert text.startswith("Patient context\n- Age: 51\n- Sex: female\n\n")
    assert "chest pain" in text and "fibrillation" not in text


def test_the_chart_alone_shows_no_complaint():
    text = prompt(Part.CHART)
    assert VISITS[0].chart.text in text and "chest pain" not in text and "not told" in text


def test_another_chart_is_of_the_next_patient_of_the_same_sex():
    text = prompt(Part.OTHER_CHART)
    assert "- Age: 51\n- Sex: female" in text and "chest pain" in text
    assert "fibrillation" in VISITS[0].chart.text and "fibrillation" not in text
    other = asked.parts(1, VISITS)[Part.OTHER_CHART].chart  # no other man: the next patient
    assert "Sex: male" in other.text and "Age: 52" in other.text


def test_the_other_sex_is_all_that_changes():
    whole, swapped = prompt(Part.ALL), prompt(Part.OTHER_SEX)
    assert swapped == whole.replace("Sex: female", "Sex: male") != whole


@pytest.mark.parametrize("complaint", ["VAGINAL BLEEDING", "breast lump", "testicular pain"])
def test_sex_is_not_swapped_where_the_complaint_is_sex_linked(complaint):
    assert Part.OTHER_SEX not in asked.parts(0, [shown(1, complaint), *VISITS])
    assert Part.OTHER_SEX in asked.parts(1, [shown(1, complaint), *VISITS])


def test_sex_is_not_swapped_where_the_chart_is_sex_linked():
    coded = [
        {
            "hadm_id": 10,
            "seq_num": 1,
            "icd_code": "N400",
            "icd_version": 10,
            "long_title": "Benign prostatic hyperplasia",
        }
    ]
    one = shown(1, sex="M", diagnoses_icd_labeled=coded)
    assert "rostat" in one.chart.text and Part.OTHER_SEX not in asked.parts(0, [one])


def test_a_single_visit_has_no_other_chart():
    assert Part.OTHER_CHART not in asked.parts(0, VISITS[:1])


def test_the_prompt_as_asked_is_that_of_the_task():
    turns = asked.turns("Help.", asked.parts(0, VISITS)[Part.ALL])
    one = VISITS[0]
    assert turns[0] == {"role": "system", "content": "Help."}
    assert turns[1]["content"] == f"{one.chart.text}\n\nQuestion\n{one.question}"
