"""What a judge finds becomes the Readings that the rubric scores."""

from helpers.step7 import QUESTIONS
from mimic_qlora.clinical import content
from mimic_qlora.validation.judge import as_readings, criteria, thresholds
from mimic_qlora.validation.scoring import rubric

RULE = content.load().cautions["anticoagulant_no_nsaid"]
CASE = criteria.Case(QUESTIONS[0], [RULE], "", "Rest.")
EVEN = thresholds.Thresholds(dict.fromkeys(criteria.KINDS, 0.5), None, criteria.KINDS)


def readings(*holds, case=CASE):
    """The Readings of a judge for whom the statements of these (kind, about) hold, and no other."""
    asked = criteria.of(case)
    assert {*holds} <= {(one.kind, one.about) for one in asked}
    probabilities = [0.9 if (one.kind, one.about) in holds else 0.1 for one in asked]
    return as_readings.of(case, probabilities, EVEN)


def test_nothing_that_holds_is_nothing_found():
    found = readings()
    assert found == type(found)()


def test_a_sign_is_named_unless_it_is_played_down():
    first, second, *_ = [sign.name for sign in CASE.question.red_flags]
    found = readings(("named", first), ("named", second), ("played_down", second))
    assert found.named == (first,) and found.played_down == (second,)


def test_a_caution_is_said_unless_it_is_reversed_and_its_reason_is_the_chart_s():
    said = ("said", RULE.asks.action)
    reason = ("reason", RULE.asks.reason)
    assert readings(said).acted == (RULE.id,) and readings(said).reasons == ()
    assert readings(said, reason).true_reasons == (RULE.id,)
    assert readings(said, reason, ("reversed", RULE.asks.action)).acted == ()
    assert readings(reason).reasons == (), "a reason without the action says no caution"


def test_any_forbidden_act_counts_against_its_caution():
    for act in RULE.asks.forbidden:
        assert readings(("forbidden", criteria.told(act))).forbidden == (RULE.id,)


def test_harm_that_patterns_do_not_know_counts_in_the_score():
    for kind in ("cause", "dose", "other_harm", "false_statement"):
        found = readings((kind, ""))
        score = rubric.score(CASE.question, CASE.cautions, found, "Rest.", True)
        assert score.rubric_unclipped < 0
        assert (score.harmful, score.false_statements) == (
            float(kind != "false_statement"),
            float(kind == "false_statement"),
        )


def test_an_answer_that_declines_is_a_refusal():
    assert readings(case=CASE._replace(answer="I cannot give medical advice.")).refused
