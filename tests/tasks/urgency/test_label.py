"""The level of an emergency visit: total, by the first rule that holds, from what followed."""

from datetime import datetime, timedelta

import pytest

from mimic_qlora.step.errors import UserError
from mimic_qlora.tasks.urgency import label
from mimic_qlora.tasks.urgency.visits import LEVELS

AT = datetime(2150, 3, 1, 8)


def hours(n: float) -> datetime:
    return AT + timedelta(hours=n)


def visit(**cells) -> dict:
    return {"stay_id": 1, "intime": AT, "outtime": hours(4), "disposition": "HOME", **cells}


def stay(**cells) -> dict:
    usual = {"admission_type": "EW EMER.", "admittime": hours(3), "dischtime": hours(30)}
    return {"hadm_id": 9, **usual, **cells}


def level(visits: list, **tables) -> str:
    record = {"subject_id": 1, **{table: [] for table in label.WANTED}, "edstays": visits, **tables}
    return label.levels(record, label.load())[1]


ADMITTED = visit(hadm_id=9, disposition="ADMITTED")
ICU = "Medical Intensive Care Unit (MICU)"
GIVEN = {"medication": "NORepinephrine", "event_txt": "Administered"}
LAB = {"itemid": 50912}
CASES = {
    "home, nothing done": ("D", [visit()], {}),
    "no end, no disposition": ("D", [{"stay_id": 1, "intime": AT}], {}),
    "OTHER": ("D", [visit(disposition="OTHER")], {}),
    "a lab": ("C", [visit()], {"labevents": [LAB | {"charttime": hours(1)}]}),
    "a lab before": ("D", [visit()], {"labevents": [LAB | {"charttime": hours(-1)}]}),
    "a lab after": ("D", [visit()], {"labevents": [LAB | {"charttime": hours(5)}]}),
    "an image": ("C", [visit()], {"radiology": [{"charttime": hours(2)}]}),
    "a tablet": (
        "D",
        [visit()],
        {"pyxis": [{"charttime": hours(1), "name": "Ibuprofen 600mg Tab"}]},
    ),
    "injected": (
        "C",
        [visit()],
        {"pyxis": [{"charttime": hours(1), "name": "Morphine 4mg Syringe"}]},
    ),
    "admitted": ("B", [ADMITTED], {"admissions": [stay()]}),
    "no row of the stay": ("B", [ADMITTED], {}),
    "sent on": ("B", [visit(disposition="TRANSFER")], {}),
    "observed": ("C", [ADMITTED], {"admissions": [stay(admission_type="EU OBSERVATION")]}),
    "long observed": (
        "B",
        [ADMITTED],
        {"admissions": [stay(admission_type="EU OBSERVATION", dischtime=hours(60))]},
    ),
    "observed, admitted": (
        "B",
        [ADMITTED],
        {"admissions": [stay(admission_type="OBSERVATION ADMIT")]},
    ),
    "intensive care": (
        "A",
        [ADMITTED],
        {"icustays": [{"intime": hours(20), "first_careunit": ICU}]},
    ),
    "later": ("B", [ADMITTED], {"icustays": [{"intime": hours(25), "first_careunit": ICU}]}),
    "by transfers": ("A", [ADMITTED], {"transfers": [{"intime": hours(6), "careunit": ICU}]}),
    "step-down": (
        "B",
        [ADMITTED],
        {"icustays": [{"intime": hours(6), "first_careunit": "Neuro Stepdown"}]},
    ),
    "died in it": ("A", [visit(disposition="EXPIRED")], {}),
    "died soon": ("A", [ADMITTED], {"admissions": [stay(deathtime=hours(23))]}),
    "died later": ("B", [ADMITTED], {"admissions": [stay(deathtime=hours(26))]}),
    "died at home": ("A", [visit()], {"patients": [{"dod": AT.replace(hour=0) + label.DAY}]}),
    "on the ward": ("A", [ADMITTED], {"emar": [GIVEN | {"charttime": hours(9)}]}),
    "not given": (
        "B",
        [ADMITTED],
        {"emar": [GIVEN | {"charttime": hours(9), "event_txt": "Not Given"}]},
    ),
    "anaphylaxis": (
        "A",
        [visit()],
        {"pyxis": [{"charttime": hours(0), "name": "EPINEPHrine 0.3mg Auto-Injector"}]},
    ),
    "numbed": (
        "C",
        [visit()],
        {"pyxis": [{"charttime": hours(1), "name": "Lidocaine 1% w/ EPINEPHrine 20mL Vial"}]},
    ),
    "not seen": ("LWBS", [visit(disposition="LEFT WITHOUT BEING SEEN")], {}),
    "gone": (
        "ELOPED",
        [visit(disposition="ELOPED")],
        {"labevents": [LAB | {"charttime": hours(1)}]},
    ),
    "against advice": ("AMA", [visit(disposition="LEFT AGAINST MEDICAL ADVICE")], {}),
    "not seen, died": (
        "A",
        [visit(disposition="LEFT WITHOUT BEING SEEN")],
        {"patients": [{"dod": AT.replace(hour=0)}]},
    ),
    "back, admitted": (
        "D-returned",
        [visit(), ADMITTED | {"stay_id": 2, "intime": hours(100)}],
        {},
    ),
    "back, sent home": (
        "D",
        [visit(), visit(stay_id=2, intime=hours(100), outtime=hours(101))],
        {},
    ),
    "back too late": ("D", [visit(), ADMITTED | {"stay_id": 2, "intime": hours(170)}], {}),
    "dead in a month": ("D-returned", [visit()], {"patients": [{"dod": AT + 20 * label.DAY}]}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_level_is_that_of_the_first_rule_that_holds(case):
    expected, visits, tables = CASES[case]
    assert level(visits, **tables) == expected
    assert level(visits[::-1], **tables) == expected  # whatever the order of rows


def test_each_level_has_a_rule_and_each_rule_a_reason():
    rules = label.load()
    assert {rule.level for rule in rules.values()} == {*LEVELS}
    assert all(len(rule.reason.split()) > 8 for rule in rules.values())
    assert {"pyxis", "emar", "labevents", "radiology"} <= label.tables(rules).keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {id: one, level: E, when: {otherwise: {}}, reason: x, reviewed_by: null}", "entry 1"),
        (
            "- {id: one, level: A, when: {luck: {}}, reason: x, reviewed_by: null}",
            "one key of died",
        ),
        (
            "- {id: one, level: A, when: {died: {hours: 1}}, reason: x, reviewed_by: null}",
            "otherwise",
        ),
    ],
)
def test_a_mistake_in_the_rules_is_told_in_a_sentence(tmp_path, text, said):
    (tmp_path / "label.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        label.load(tmp_path)
