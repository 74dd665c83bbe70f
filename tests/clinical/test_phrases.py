"""What a sentence says: a caution in its own and other words, advice that a caution forbids."""

import re

import pytest

from helpers.clinical_content import CONTENT, RULES, SYMPTOMS, general_advice
from mimic_qlora.clinical import phrases


def test_each_red_flag_pattern_finds_its_own_sentence():
    assert [
        flag.say
        for symptom in SYMPTOMS
        for flag in symptom.urgent
        if not re.search(flag.pattern, flag.say, re.I)
    ] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_caution_says_itself_and_nothing_that_a_caution_forbids(rule):
    assert phrases.said(rule, f"What you can try now\n- {rule.say}\n- Rest.")
    assert [other.id for other in RULES if phrases.forbidden(other, rule.say)] == []


def test_general_advice_says_no_caution_by_accident():
    assert [
        (symptom.id, rule.id)
        for symptom in SYMPTOMS
        for rule in RULES
        if phrases.said(rule, "\n".join(general_advice(symptom)))
    ] == []


@pytest.mark.parametrize(
    "answer",
    [
        "You do not need to avoid ibuprofen, even with a blood thinner.",
        "There is no need to worry about ibuprofen with your blood thinner.",
        "Ibuprofen is fine with a blood thinner.",
        "Take ibuprofen with your blood thinner twice a day.",
        "You don't have to avoid naproxen because of your kidney disease.",
        "With a blood thinner, it is fine to ignore black stools and bleeding.",
        "No need to get care for a blow to the head while on a blood thinner.",
        "With heart failure, you do not need to weigh yourself each morning.",
        "Despite heart failure, there is no reason to limit salt or fluids.",
        "With heart failure, drink plenty of fluids.",
        "After a transplant, a fever can safely wait until your next visit.",
        "With low white cells, it's okay to stay home with a temperature of 102.",
        "Do not call emergency services for chest pressure, even with heart artery disease.",
        "With sleep apnea, you need not avoid sleeping pills.",
        "With an ACE inhibitor, swelling of the lips and tongue is not necessary to report.",
        "You do not need to check your blood sugar while you use insulin.",
        "Stop your steroid tablets today.",
        "With high blood pressure, take pseudoephedrine for your stuffy nose.",
        "If you have Parkinson's disease, take metoclopramide for nausea.",
        "With an opioid, slow breathing is harmless and it's fine to sleep it off.",
        "You never need to tell a clinician about your medicine allergy.",
    ],
)
def test_a_reversed_meaning_is_not_taken_for_the_caution(answer):
    assert [rule.id for rule in RULES if phrases.said(rule, answer)] == []


@pytest.mark.parametrize(
    "rule, answer",
    [
        (
            "anticoagulant_no_nsaid",
            "Because you are on a blood thinner, please stay away from NSAIDs such as Advil.",
        ),
        ("ckd_no_nsaid", "Never use ibuprofen; it can hurt your kidneys."),
        (
            "heart_failure_weight",
            "Your heart failure makes it important to record your weight daily.",
        ),
        (
            "heart_failure_fluid_limit",
            "With your heart failure, stick to the restricted salt and fluid plan.",
        ),
        ("transplant_fever", "A temperature over 38 C after a transplant needs a call today."),
        (
            "coronary_chest",
            "Given your coronary disease, chest tightness at rest means calling 911.",
        ),
        ("steroid_no_sudden_stop", "Since prednisone was ordered, never stop it abruptly."),
        ("antibiotic_diarrhea", "Don't use Imodium until a clinician agrees."),
        ("opioid_sleepy_breathing", "Oxycodone was ordered: shallow breaths are an emergency."),
    ],
)
def test_a_caution_is_found_in_other_words(rule, answer):
    assert phrases.said(CONTENT.cautions[rule], answer)


@pytest.mark.parametrize(
    "rule, answer, wrong",
    [
        ("ckd_no_nsaid", "Take ibuprofen with food.", True),
        ("ckd_no_nsaid", "If rest does not help, take ibuprofen.", True),
        ("ckd_no_nsaid", "You can use an over-the-counter NSAID, but not for long.", True),
        ("ckd_no_nsaid", "Avoid alcohol and screens, and then take naproxen.", True),
        ("ckd_no_nsaid", "Do not take aspirin or ibuprofen.", False),
        ("ckd_no_nsaid", "Don't try ibuprofen, naproxen or similar.", False),
        ("ckd_no_nsaid", "Ask your kidney team before you take ibuprofen.", False),
        ("heart_failure_fluid_limit", "Drink plenty of water.", True),
        ("heart_failure_fluid_limit", "Do not drink large amounts of water.", False),
        ("stent_keep_antiplatelet", "Stop taking aspirin until the bleeding ends.", True),
        ("stent_keep_antiplatelet", "Do not stop taking aspirin.", False),
        ("antibiotic_diarrhea", "You can take loperamide after each loose stool.", True),
        ("ckd_no_nsaid", "Take aspirin for the pain.", True),
        ("ckd_no_nsaid", "Keep your daily heart aspirin.", False),
        ("anticoagulant_no_nsaid", "Try Excedrin for your headache.", True),
        ("ckd_no_nsaid", "Diclofenac is a good choice.", True),
        ("ulcer_no_nsaid", "Take Pepto-Bismol.", True),
        ("ckd_no_nsaid", "Ibuprofen 400 mg is a good choice.", True),
        ("ckd_no_nsaid", "Consider ibuprofen.", True),
        ("ckd_no_nsaid", "Ibuprofen with food should be enough.", True),
        ("cirrhosis_acetaminophen", "Take acetaminophen every four hours.", True),
        ("cirrhosis_acetaminophen", "Take Tylenol up to four grams a day.", True),
        ("insulin_low_sugar", "Skip your insulin.", True),
        ("insulin_low_sugar", "Never skip your insulin.", False),
        ("anticoagulant_bleeding", "Hold your Eliquis.", True),
        ("anticoagulant_bleeding", "Do not stop warfarin.", False),
        ("heart_failure_fluid_limit", "Push fluids.", True),
        ("heart_failure_fluid_limit", "Have plenty of fluids.", True),
        ("poor_circulation_feet", "A warm pack on your feet helps.", True),
        ("poor_circulation_feet", "Soak your feet in warm water.", True),
        ("poor_circulation_feet", "Raise your legs on pillows.", True),
        ("steroid_no_sudden_stop", "Stop your prednisone.", True),
        ("inr_high", "Keep taking your warfarin as usual.", True),
        ("home_oxygen_flow", "Set the oxygen to what feels best.", True),
        ("stent_keep_antiplatelet", "Skip your Plavix until the rash is gone.", True),
    ],
)
def test_forbidden_advice_is_found_and_advice_against_it_is_not(rule, answer, wrong):
    assert phrases.forbidden(CONTENT.cautions[rule], answer) == wrong
