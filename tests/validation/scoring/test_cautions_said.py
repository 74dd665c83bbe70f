"""A caution counts as said only where an action is: sentences that reassure score nothing."""

import pytest

from helpers.paths import ROOT
from mimic_qlora.clinical import content
from mimic_qlora.validation.scoring import advice, readings, rubric

(QUESTION, *_) = content.load_questions(ROOT / "run_files")
RULES = content.load().cautions
# the rule, and sentences that speak of its finding without a warning
REASSURING = {
    "digoxin_signs": [
        "Digoxin often causes mild nausea in the first weeks.",
        "Most people on digoxin see a yellow tinge now and then.",
    ],
    "lithium_signs": [
        "A slight tremor is usual with lithium, so carry on with your day.",
        "Lithium gives many people a little shaking, which fades.",
    ],
    "ascites_fever": [
        "With fluid in the belly, a low fever comes and goes.",
        "Ascites makes a warm temperature feel higher than it is.",
    ],
    "dialysis_access": [
        "Some redness at the dialysis access heals by itself.",
        "A missed dialysis session is made up for at the next one.",
    ],
    "poor_circulation_feet": [
        "Poor circulation makes feet feel cold, so wear two pairs of socks.",
        "With a leg ulcer, a pale toe warms up under a blanket.",
    ],
    "immune_medicine_fever": [
        "A medicine that lowers your immune defenses can bring a short fever.",
        "Your immune defenses rise with a temperature, so rest and sleep.",
    ],
    "heart_valve_fever": [
        "Chills are no surprise with a new heart valve; put on a sweater.",
        "A fever after a valve operation shows that the body heals.",
    ],
    "fluoroquinolone_tendon": [
        "The antibiotic can make your heel sore, so stretch it well.",
        "Ciprofloxacin and a stiff Achilles tendon go together.",
    ],
    "seizure_medicine_rash": [
        "A light rash from a seizure medicine fades with cream.",
        "Lamotrigine sometimes gives a harmless rash.",
        "Nobody on lamotrigine has to go to an emergency room for a rash with fever.",
    ],
    "heart_failure_fluid_limit": [
        "The fluid and salt limits you were given for your heart do not apply on hot days.",
    ],
    "home_oxygen_flow": [
        "Set the oxygen to the setting that feels best.",
        "With oxygen at home, any setting works.",
    ],
    "coronary_chest": [
        "Your stent protects your chest, so rest first.",
        "Chest tightness is part of coronary disease.",
    ],
    "anticoagulant_bleeding": [
        "Stop warfarin until the nosebleed ends.",
        "On a blood thinner a little blood in the urine is to be expected.",
    ],
}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [(name, sentence) for name, said in REASSURING.items() for sentence in said],
)
def test_a_sentence_that_reassures_says_no_caution(name, sentence):
    """Alone, as an item of a list, and among good advice."""
    for answer in (sentence, f"What you can try now\n- {sentence}", f"{sentence}\n\nRest today."):
        given = rubric.rubric(QUESTION, [RULES[name]], answer, True)
        assert given.said == () and given.cautions == 0, answer


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_every_caution_is_heard_in_its_own_words_under_its_heading(rule):
    heading = content.SECTIONS[rule.section]
    assert rubric.rubric(QUESTION, [rule], f"{heading}\n- {rule.say}", True).said == (rule.id,)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("coronary_chest", "When to seek urgent care\n- Chest pressure, given your stent"),
        ("heart_valve_fever", "With your new valve, a fever needs a doctor today."),
        ("ascites_fever", "Fluid in your belly and a fever? Go to the emergency room."),
        ("home_oxygen_flow", "Keep the oxygen at the setting you were given; never turn it up."),
    ],
)
def test_a_caution_is_heard_in_other_words(name, answer):
    assert rubric.rubric(QUESTION, [RULES[name]], answer, True).said == (name,)


def test_what_anybody_is_told_of_other_signs_says_no_caution():
    """An answer that mixes lines of other symptoms says few cautions never trained on: of all
    pairs of such a caution and a line that shares no sign and no advice with it, 2% at most.
    """
    lines = [
        (line, advice.given(f"{content.SECTIONS['urgent']}\n- {line.say}", []))
        for symptom in content.load().symptoms.values()
        for line in symptom.urgent
    ]
    heard = [
        (rule.id, line.say)
        for rule in RULES.values()
        if rule.held_out and rule.section == "urgent"
        for line, given in lines
        if not {*line.signs, *line.tells} & {*rule.signs, *rule.tells}
        and readings.sentences_of(rule, given)
    ]
    assert len(heard) / len(lines) / sum(r.held_out for r in RULES.values()) < 0.02
    assert not {
        ("statin_muscle", "Call 911 for weakness, numbness, a drooping face or trouble speaking."),
        ("dialysis_access", "Get seen today if you have a catheter."),
    } & {*heard}


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("statin_muscle", "Call 911 for a drooping face, weakness or trouble speaking."),
        ("blood_pressure_sick_day", "Do not skip breakfast.\nRest.\nCall 911 for a seizure."),
        ("medicine_allergy_listed", "Note your mood. Share changes with your care team."),
        ("antibiotic_allergic_signs", "Go to an emergency room for a swollen leg."),
    ],
)
def test_words_of_another_matter_say_no_caution(name, answer):
    """What the demo's adapter said, and was credited with."""
    for section in content.SECTIONS.values():
        assert rubric.rubric(QUESTION, [RULES[name]], f"{section}\n{answer}", True).said == ()


def test_a_numb_groin_is_no_numb_limb():
    named = {"leg_pain": "numb leg", "sore_hip": "numb", "swollen_arm": "hand", "cut_hand": "numb"}
    for question in content.load_questions(ROOT / "run_files"):
        answer = "Go to an emergency room for a numb groin or lost bladder control."
        found = rubric.rubric(question, [], answer, True).red_flags_named
        assert not any(named.get(question.id, "none of them") in name for name in found)
