"""Advice about a medicine is heard by its name, in whatever words it is given."""

import pytest

from helpers.paths import ROOT
from mimic_qlora.clinical import content
from mimic_qlora.validation.scoring import known, medicines, rubric

QUESTIONS = {question.id: question for question in content.load_questions(ROOT / "run_files")}
RULES = content.load().cautions
KIDNEYS, ANTIBIOTIC = "ckd_no_nsaid", "antibiotic_diarrhea"


def score(answer, rule):
    shown = known.of_text("", (rule,))
    return rubric.rubric(QUESTIONS["toothache"], [RULES[rule]], answer, True, shown)


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        (KIDNEYS, "Leave Advil, Aleve and aspirin on the shelf; your kidneys are tired."),
        (KIDNEYS, "Weak kidneys rule out ibuprofen and its cousins."),
        (KIDNEYS, "Pain relief: nothing with naproxen in it."),
        ("ckd_no_magnesium", "Your kidneys are tired, so milk of magnesia you must not take."),
        ("hypertension_no_decongestant", "None of the cold pills with pseudoephedrine, please."),
        ("maoi_cold_remedies", "Steer clear of DayQuil."),
    ],
)
def test_who_keeps_from_a_medicine_says_the_caution(rule, answer):
    given = score(answer, rule)
    assert given.said == (rule,) and given.forbidden_given == ()


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        (KIDNEYS, "A couple of Motrin every so often works wonders."),
        (KIDNEYS, "A short course of ibuprofen won't bother your kidneys."),
        (KIDNEYS, "There is no reason to stay away from Aleve."),
        ("ckd_no_magnesium", "Milk of magnesia is a good remedy, kidneys or no kidneys."),
        (ANTIBIOTIC, "Imodium from the drugstore works fast."),
    ],
)
def test_who_allows_a_medicine_breaks_the_caution(rule, answer):
    given = score(answer, rule)
    assert given.forbidden_given == (rule,) and given.said == () and given.harmful == 1


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        (KIDNEYS, "Ask a pharmacist about ibuprofen."),
        (KIDNEYS, "Ibuprofen was ordered during your last stay."),
        (KIDNEYS, "Naproxen can strain the kidneys."),
        (KIDNEYS, "Acetaminophen is fine to take."),
        (KIDNEYS, "The usual ones: naproxen (by mouth)."),
        ("cirrhosis_acetaminophen", "Tylenol may do, in the dose that your clinic gives you."),
        ("sleep_apnea_no_sedatives", "Leave out alcohol, which breaks up your sleep."),
        ("stent_keep_antiplatelet", "Clopidogrel is a heart medicine, and Plavix its brand."),
    ],
)
def test_who_only_speaks_of_a_medicine_does_neither(rule, answer):
    given = score(answer, rule)
    assert given.said == given.forbidden_given == ()


def test_no_sentence_for_anybody_allows_what_a_caution_forbids():
    """Nor does a caution, or an ideal answer, allow what another one forbids."""
    said = [rule.say for rule in RULES.values()]
    said += [question.ideal for question in QUESTIONS.values()]
    for symptom in content.load().symptoms.values():
        said += [line.say for line in (*symptom.self_care, *symptom.urgent, *symptom.track)]
    rules = {tuple(medicines.names_of(rule)): rule for rule in RULES.values()}
    assert len(rules) > 20
    assert [(s, r.id) for s in said for r in rules.values() if medicines.allows(r, s)] == []
