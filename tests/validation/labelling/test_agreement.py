"""The reader against people, arm by arm, weighted as the answers were drawn."""

import pytest

from helpers.labelled_results import QUESTIONS, answers
from mimic_qlora.validation.labelling import agreement
from mimic_qlora.validation.labelling.agreement import Judgement
from mimic_qlora.validation.labelling.label_file import ASKED, LISTED, Label
from mimic_qlora.validation.scoring.readings import Readings

NOTHING = Label(dict.fromkeys(LISTED, frozenset()), dict.fromkeys(ASKED, False))
CAUSE = Label(NOTHING.listed, NOTHING.asked | {"cause": True})


def on_cause(judgements, seen=None):
    (found,) = [
        one for one in agreement.accuracy(judgements, seen or {}) if one.criterion == "cause"
    ]
    return found


def test_a_reader_that_is_deaf_in_one_arm_is_measured_and_not_corrected():
    """People see a cause in every answer of both arms; the patterns see those of the base alone."""
    made = answers()
    judged = agreement.judged(made, dict.fromkeys([a.key for a in made], CAUSE), QUESTIONS)
    found = on_cause(judged, agreement.seen(made, QUESTIONS))
    assert (found.base.accuracy.sensitivity, found.adapter.accuracy.sensitivity) == (0.75, 0)
    assert found.difference == 0 and found.corrected is None
    (shown,) = agreement.shown([found])
    assert shown["found, base"] == "3 of 4" and shown["false, base"] == "none"


def judgements(arm, found, there, false_alarms, absent):
    """Judgements of one arm on a cause: found of there, false alarms of absent."""
    made = [("cause", arm, "q", True, i < found) for i in range(there)]
    made += [("cause", arm, "q", False, i < false_alarms) for i in range(absent)]
    return [Judgement(*one) for one in made]


def test_a_single_criterion_is_corrected_where_the_reader_tells_enough_in_both_arms():
    seen = {("cause", "base"): 0.26, ("cause", "adapter"): 0.42}
    good = [*judgements("base", 9, 10, 2, 20), *judgements("adapter", 9, 10, 2, 20)]
    # a share p is seen as 0.9 p + 0.1 (1 - p)
    assert on_cause(good, seen).corrected == pytest.approx(0.4 - 0.2)
    poor = [*judgements("base", 9, 10, 2, 20), *judgements("adapter", 6, 10, 2, 20)]
    assert on_cause(poor, seen).corrected is None
    assert on_cause(judgements("base", 9, 10, 2, 20), seen).corrected is None


def test_an_answer_weighs_as_many_as_it_stands_for():
    """A flagged answer was drawn for sure, the others one in ten."""
    rare = [
        Judgement("cause", "base", "q", True, True, 1.0),
        Judgement("cause", "base", "q", True, False, 10.0),
        Judgement("cause", "base", "q", False, False, 10.0),
    ]
    found = on_cause(rare).base
    assert found.accuracy.sensitivity == pytest.approx(1 / 11)
    assert found.person == pytest.approx(11 / 21) and (found.found, found.there) == (1, 2)


def test_what_a_reader_found_and_a_label_are_one_thing():
    (answer,) = answers()[:1]
    question = QUESTIONS[0]
    signs = [flag.name for flag in question.red_flags]
    found = Readings(
        named=(signs[0],),
        played_down=(signs[1],),
        acted=answer.cautions,
        reasons=answer.cautions,
        true_reasons=answer.cautions,
        forbidden=answer.cautions,
        doses=("5 mg",),
    )
    label = agreement.as_label(answer, question, found)
    assert label.listed["named"] == {1} and label.listed["plays_down"] == {2}
    assert [name for name, there in label.asked.items() if there] == ["dose"]
    again = agreement.as_readings(answer, question, label)
    assert again.named == found.named and again.true_reasons == found.true_reasons
    assert agreement.as_label(answer, question, again) == label


def test_the_reader_of_the_run_counts_where_it_is_kept():
    (answer,) = answers()[:1]
    kept = answer._replace(readings={"named": ["chest pain"], "refused": False})
    found = agreement.found_by_reader(kept, QUESTIONS[0])
    assert found == Readings(named=("chest pain",))
    assert agreement.found_by_reader(answer, QUESTIONS[0]).named, "else the patterns read it"


def test_a_sign_cannot_be_named_and_played_down():
    (answer,) = answers()[:1]
    both = Label(NOTHING.listed | {"named": {1, 2}, "plays_down": {2}}, NOTHING.asked)
    found = agreement.as_readings(answer, QUESTIONS[0], both)
    assert len(found.named) == len(found.played_down) == 1


def test_units_that_two_people_labelled_are_paired():
    (answer,) = answers()[:1]
    labels = {answer.key: NOTHING}, {answer.key: CAUSE}
    pairs = agreement.pairs(*labels, [(answer, QUESTIONS[0])])
    assert pairs["cause"] == [((False, True), answer.key)]
    assert len(pairs["named"]) == len(QUESTIONS[0].red_flags)
    assert agreement.pairs(labels[0], {}, [(answer, QUESTIONS[0])]) == {}
    part = {answer.key: Label(NOTHING.listed, {"cause": False})}  # not all columns were filled
    assert "dose" not in agreement.pairs(labels[0], part, [(answer, QUESTIONS[0])])
