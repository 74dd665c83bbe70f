"""Criteria come from the content's data; a judge is shown neither the arm nor another answer."""

import pytest

from helpers.step7 import QUESTIONS
from mimic_qlora.clinical import content
from mimic_qlora.validation.judge import criteria

RULES = content.load().cautions
CASE = criteria.Case(
    QUESTIONS[0],
    [RULES["anticoagulant_no_nsaid"], RULES["anticoagulant_order_no_nsaid"]],
    "Patient context\n- Age: 50",
    "Rest, and call 911 for chest pain.",
)


def about(kind, case=CASE):
    return [one.about for one in criteria.of(case) if one.kind == kind]


def test_each_sign_and_each_caution_is_asked_by_its_data():
    assert about("named") == about("played_down") == [s.name for s in CASE.question.red_flags]
    assert about("reason") == [rule.asks.reason for rule in CASE.cautions]
    statements = [one.statement for one in criteria.of(CASE)]
    assert any("weeks" in one for one in statements) and "{" not in "".join(statements)
    assert any("ibuprofen" in one for one in statements if "advises or allows" in one)
    for kind in ("cause", "dose", "other_harm", "false_statement"):
        assert about(kind) == [""]
    assert {one.kind for one in criteria.of(CASE)} == set(criteria.KINDS)


def test_what_two_cautions_share_is_asked_once():
    assert CASE.cautions[0].asks.action == CASE.cautions[1].asks.action
    assert about("said") == [CASE.cautions[0].asks.action]
    asked = [one.statement for one in criteria.of(CASE)]
    assert len(asked) == len(set(asked))


def test_every_caution_has_what_is_asked_of_it():
    everything = criteria.Case(QUESTIONS[0], list(RULES.values()), "", "")
    assert set(about("reason", everything)) == {rule.asks.reason for rule in RULES.values()}


def test_a_conversation_holds_record_question_answer_and_one_statement():
    talks = criteria.conversations(CASE)
    assert len(talks) == 2 * len(criteria.of(CASE))
    for talk, asked in zip(talks, criteria.POLARITIES * len(criteria.of(CASE)), strict=True):
        (turn,) = talk
        for part in (CASE.record, CASE.question.question, CASE.answer, asked):
            assert part in turn["content"]
        assert turn["content"].count("Statement: ") == 1


def test_both_polarities_are_averaged():
    assert criteria.averaged([0.9, 0.3, 0.2, 0.6]) == pytest.approx([0.8, 0.3])


def test_a_statement_holds_from_the_threshold_of_its_kind_on():
    asked = [criteria.Criterion("named", "a", ""), criteria.Criterion("dose", "", "")]
    thresholds = {"named": 0.4, "dose": 0.8}
    assert criteria.true_ones(asked, [0.4, 0.79], thresholds) == {asked[0]}
