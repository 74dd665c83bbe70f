"""Cautions that are told anyway test nothing: the primary endpoint leaves them out."""

import pytest

from helpers.paths import ROOT
from mimic_qlora.clinical import content
from mimic_qlora.validation import power
from mimic_qlora.validation.scoring import anyway, rubric

QUESTIONS = {q.id: q for q in content.load_questions(ROOT / "run_files")}
RULES = content.load().cautions


@pytest.mark.parametrize(
    ("question", "rules", "which"),
    [
        # anybody with new chest discomfort is told to call 911 for it
        ("chest_discomfort_on_stairs", ["recent_heart_artery_procedure"], []),
        ("toothache", ["antiplatelet_order_no_nsaid"], ["antiplatelet_order_no_nsaid"]),
        # a trained rule of this chart asks for the same, for another reason
        ("toothache", ["antiplatelet_order_no_nsaid", "pregnancy_no_nsaid"], []),
        ("toothache", ["ckd_no_nsaid", "asthma_inhaler"], ["ckd_no_nsaid"]),
        ("puffy_ankles", ["antiplatelet_order_no_nsaid"], []),  # a symptom that is trained on
        ("toothache", ["pregnancy_no_nsaid"], []),  # a rule that is trained on
    ],
)
def test_a_caution_counts_where_nothing_else_is_heard_as_it(question, rules, which):
    found = anyway.tested(QUESTIONS[question], [RULES[name] for name in rules])
    assert [rule.id for rule in found] == which


def test_a_general_answer_has_nothing_of_the_primary_endpoint():
    """The ideal for nobody in particular says no caution that counts, whatever the chart."""
    rules = [rule for rule in RULES.values() if rule.held_out]
    unseen = [q for q in QUESTIONS.values() if content.symptom_of(q).held_out]
    for question in unseen[::4]:
        given = rubric.rubric(question, rules, question.ideal, True)
        assert given.cautions_held_out == 0 and given.said, question.id


def test_power_reckons_with_the_rules_that_count_alone():
    questions, rules = power.clusters([*QUESTIONS.values()])
    assert (questions, rules) == (20, 38) and sum(r.held_out for r in RULES.values()) == 42
    assert power.counted(800) == 320 and power.of_trials(800) == 400
