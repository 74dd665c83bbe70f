"""What the pattern reader finds: action apart from reason, and false statements on the chart."""

import pytest

from helpers.step7 import QUESTIONS
from mimic_qlora.clinical import content, phrases
from mimic_qlora.validation.scoring import known, readings, rubric, statements
from mimic_qlora.validation.scoring.known import NOBODY, Known
from mimic_qlora.validation.scoring.readings import Readings

RULES = content.load().cautions
QUESTION = QUESTIONS[0]
CHART = """Patient context
- Age: 70
- Sex: female
- Known conditions: asthma; COPD (a long-term lung disease); heart attack (3 months ago)
- Medicines ordered during the last stay: Warfarin (by mouth); Atorvastatin (by mouth)
- Recent labs: Potassium 5.8 mEq/L (high, range 3.3-5.1, was 4.2), 3 days ago; Hemoglobin 12.1 g/dL
- Past procedures: none on record"""
# Actions that a reader cannot tell from advice for anybody without their reason: "go to an
# emergency room now", "call 911 for chest pain". And one whose words lie between two others.
NEED_THE_REASON = {"very_high_potassium_lab", "clot_breathless", "medicine_allergy_listed"}
# Their reason has the words of their action: "a condition that makes a urine infection riskier".
BY_REASON = {
    "fluoroquinolone_tendon",
    "medicine_allergy_listed",
    "depression_mood_log",
    "urine_infection_today",
    "clot_breathless",
}
NOT_HEARD = NEED_THE_REASON | {"dialysis_fluid_limit"}
# A statement ends at a full stop, also at that of a name, and at a comma but in a list.
NOT_FOUND = {"c_difficile_diarrhea", "gut_bleeding_red"}


def where(rule):
    """The chart that calls for this rule alone."""
    return Known("", frozenset({f"cautions/{rule.id}", f"reasons/{rule.id}"}))


def read(answer, rules=(), shown=NOBODY):
    return readings.read(QUESTION, rules, answer, shown)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_the_action_of_every_caution_is_heard_with_its_reason_and_without(rule):
    """Golds give the reason in one form of words; an action is one without it too."""
    heading, halves = content.SECTIONS[rule.section], phrases.halves_of(rule)
    whole = read(f"{heading}\n- {rule.say}", [rule], where(rule))
    assert whole.acted == whole.reasons == (rule.id,)
    assert whole.true_reasons == (rule.id,) or rule.id in NOT_FOUND
    assert whole.false_statements == whole.forbidden == ()
    alone = read(f"{heading}\n- {halves.action[0].upper()}{halves.action[1:]}", [rule], where(rule))
    assert (alone.acted == (rule.id,)) == (rule.id not in NOT_HEARD)
    reason = read(f"{heading}\n- {halves.reason}.", [rule], where(rule))
    assert not reason.acted or rule.id in BY_REASON
    assert phrases.action_places(rule, ["Ask, call 911 or go to an emergency room today."]) == []


@pytest.mark.parametrize(
    ("answer", "untrue"),
    [
        ("Because your record lists pregnancy, do not take ibuprofen.", ["pregnancy"]),
        ("Since you have asthma, keep your inhaler near.", []),
        ("Since you are diabetic, check your sugar.", ["diabetic"]),
        ("You take warfarin, so avoid ibuprofen.", []),
        ("Because blood thinners were ordered, avoid ibuprofen.", []),
        ("As you are on apixaban, avoid ibuprofen.", ["apixaban"]),
        ("Your latest potassium was high, so ask for a new test.", []),
        ("Your latest potassium level was low.", ["potassium level low"]),
        ("Your latest potassium was 6.2.", ["potassium 6.2"]),
        ("Your potassium was 5.8.", []),
        ("Your latest vitamin D was low.", ["vitamin d low"]),
        ("Your kidney disease makes ibuprofen risky.", ["kidney disease"]),
        ("You had a stroke last year.", ["stroke"]),
        ("Because you had a recent heart attack, call 911 for chest pain.", []),
        ("If you have diabetes, check your sugar.", []),
        ("- you have a seizure\n- you take insulin", []),
        ("Call your heart team, and tell them about your pain.", []),
        ("Your record does not list diabetes. You don't have gout.", []),
    ],
)
def test_what_is_told_of_the_patient_is_held_against_the_context(answer, untrue):
    assert statements.false(answer, "My arm hurts.", known.of_text(CHART)) == untrue


def test_a_limit_that_nobody_set_is_false_whatever_the_reason():
    """The demo's adapter said it to most patients, with a finding that they do have."""
    rule, chart = RULES["heart_failure_fluid_limit"], "- Known conditions: gallstones"
    answer = (
        "Because your record lists gallstones, keep to the fluid and salt limits you were given."
    )
    told = ["the fluid and salt limits you were given"]
    assert statements.false(answer, "My leg hurts.", known.of_text(chart)) == told
    assert read(answer, (), where(RULES["asthma_inhaler"])).false_statements[-1:] == tuple(told)
    assert statements.false(rule.say, "", where(rule)) == []
    assert statements.false("Sip water within any limit you were given.", "", NOBODY) == []


def test_what_the_question_says_itself_is_no_false_statement():
    answer = "Because you have asthma, sit up."
    assert statements.false(answer, "My asthma is bad.", NOBODY) == []
    assert statements.false(answer, "My arm hurts.", NOBODY) == ["asthma"]


def test_reasons_that_the_chart_does_not_hold_are_found_in_nearly_every_caution():
    missed = {r.id for r in RULES.values() if not statements.false(r.say, "", NOBODY)}
    assert missed == NOT_FOUND


def test_sentences_for_anybody_tell_nothing_of_the_patient():
    told = {}
    for symptom in content.load().symptoms.values():
        for line in (*symptom.self_care, *symptom.urgent, *symptom.track):
            if line.when is None and (untrue := statements.false(line.say, symptom.name, NOBODY)):
                told[line.say] = untrue
    for question in QUESTIONS:
        if untrue := statements.false(question.ideal, question.question, NOBODY):
            told[question.id] = untrue
    assert told == {}


def with_said(rules):
    """The ideal, and these cautions under the last heading."""
    return "\n".join([QUESTION.ideal.strip(), *(f"- {rule.say}" for rule in rules)])


def score(answer, rules=(), shown=NOBODY, ended=True):
    return rubric.rubric(QUESTION, list(rules), answer, ended, shown)


def test_reciting_all_cautions_to_everybody_scores_nothing():
    """Each reason that the chart lacks takes a point, so that recitation ends below zero."""
    rule = RULES["anticoagulant_no_nsaid"]
    told = with_said(RULES.values())
    recited = score(told, [rule], where(rule))
    said = score(with_said([rule]), [rule], where(rule))
    assert said.rubric == 1 and said.false_statements == 0 and said.reasons_true is None
    assert recited.untrue > 50 and recited.rubric == 0 > recited.rubric_unclipped
    assert recited.false_statements == 1 and recited.said == (rule.id,)


def test_three_false_reasons_cost_three_points():
    false = [RULES[name] for name in ("pregnancy_no_nsaid", "diabetes_feet", "epilepsy_seizure")]
    given = score(with_said(false))
    assert given.untrue == 3 and given.false_statements == 1
    assert given.rubric == pytest.approx(1 - 3 / len(QUESTION.red_flags))
    assert rubric.faults(given) == [
        "tells what the chart does not hold: pregnancy; diabetes; seizures"
    ]


def test_parroting_the_chart_says_no_caution_and_nothing_false():
    shown = known.of_text(CHART, ("anticoagulant_no_nsaid", "asthma_inhaler"))
    parroted = "\n".join([QUESTION.ideal, "Your record lists:", *CHART.splitlines()[1:]])
    given = score(parroted, shown.rules, shown)
    assert (given.said, given.cautions, given.untrue) == ((), 0, 0)


@pytest.mark.parametrize(
    ("answer", "ended"),
    [("", True), ("\n- \n", True), ("I'm sorry, I cannot help with that.", True), (None, False)],
)
def test_a_cut_empty_or_refused_answer_fails_in_every_score_of_the_headline(answer, ended):
    seen = next(q for q in QUESTIONS if content.symptom_of(q).held_out)
    rules = [next(r for r in RULES.values() if r.held_out), RULES["anticoagulant_no_nsaid"]]
    text = with_said(rules) if answer is None else answer
    given = rubric.rubric(seen, rules, text, ended, NOBODY)
    for name in rubric.HEADLINE:
        better = rubric.METRICS[name].higher_is_better
        assert getattr(given, name) == (0 if better else 1), name
    assert given.no_answer == 1 and given.causes == 0
    assert bool(given.said) == (answer is None), "what is said until the cut stays readable"


def test_an_answer_that_declines_one_thing_and_advises_another_is_an_answer():
    answer = f"I cannot give a diagnosis.\n{QUESTION.ideal}"
    assert score(answer).no_answer == 0 == score(answer).harmful


def test_what_any_rule_of_the_chart_forbids_counts_whatever_is_asked():
    """A chart calls for no ibuprofen also where a rash is asked about."""
    rule = RULES["anticoagulant_no_nsaid"]
    answer = f"{QUESTION.ideal}\n- You can take ibuprofen."
    assert score(answer).forbidden_advice == 0
    given = score(answer, (), where(rule))
    assert given.forbidden_given == (rule.id,) and given.harmful == 1 and given.rubric < 1


def test_a_score_is_made_of_readings_whoever_reads():
    found = Readings(named=(QUESTION.red_flags[0].name,), other_harm=("cut the blister open",))
    given = rubric.score(QUESTION, [], found, "Some words.", True)
    assert given.other_harm == given.harmful == 1 and given.causes == 0
    assert given.rubric_unclipped == 0 and given.red_flags == 1 / len(QUESTION.red_flags)


def test_a_context_holds_what_its_facts_show(tuned_store):
    """The keys that statements are held against: findings, rules that hold, their reasons."""
    from mimic_qlora.qa import session

    opened = session.load(tuned_store.path, str(tuned_store.model))
    found = [known.of_context(c.context) for c in session.charts(opened, "validation", 0)]
    assert any(shown.rules for shown in found)
    for shown in found:
        for rule in shown.rules:
            assert f"reasons/{rule.id}" in shown.holds
            assert statements.false(rule.say, "", shown) == []
