"""The content does not contradict itself: levels, tags, what sentences take for granted."""

import re
from itertools import combinations

import pytest

from helpers.charts import Chart, charts_that_fulfil
from helpers.clinical_content import CONTENT, QUESTIONS, RULES, SYMPTOMS
from mimic_qlora.clinical import conflicts, presumptions
from mimic_qlora.clinical.levels import LEVELS
from mimic_qlora.tasks import guidance


def lines(symptom):
    return [*symptom.self_care, *symptom.urgent, *symptom.track]


def together(*rules) -> bool:
    """Whether some chart calls for all of these."""
    return any(True for _ in charts_that_fulfil(*(rule.when for rule in rules)))


def test_a_sentence_says_its_own_level_and_no_other():
    leveled = [one for s in SYMPTOMS for one in lines(s) if one.level]
    leveled += [rule for rule in RULES if rule.level]
    wrong = [
        one.say
        for one in leveled
        if [level for level, how in LEVELS.items() if re.search(how.pattern, one.say, re.I)]
        != [one.level]
    ]
    assert wrong == []


def test_a_sentence_with_the_words_of_a_kind_of_advice_has_its_tag_or_the_opposite():
    untagged = [
        (one.say, tell.id)
        for symptom in SYMPTOMS
        for one in (*symptom.self_care, *symptom.track)
        for tell in CONTENT.tells.values()
        if tell.pattern and re.search(tell.pattern, one.say, re.IGNORECASE)
        if not {tag.partition(":")[0] for tag in one.tells} & {tell.id, *tell.opposed}
    ]
    assert untagged == []


def test_no_two_general_sentences_of_a_symptom_contradict_each_other():
    assert [(s.id, found) for s in SYMPTOMS for found in conflicts.of(lines(s))] == []


def test_no_two_cautions_that_can_come_together_tell_opposites():
    opposed = [pair for pair in combinations(RULES, 2) if conflicts.opposes(*pair)]
    assert [(one.id, other.id) for one, other in opposed if together(one, other)] == []


def test_a_caution_that_another_outranks_can_give_way_to_it():
    """Else an answer would give a sign two levels, or lose what only the lower one warns of."""
    outranked = [
        (one, other)
        for one in RULES
        for other in RULES
        if conflicts.outranked(one, [other]) and not conflicts.above(one, [other])
    ]
    assert [(one.id, other.id) for one, other in outranked if together(one, other)] == []


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.id)
def test_no_sentence_of_a_symptom_takes_for_granted_what_its_chart_need_not_hold(symptom):
    for text, when in [
        *((line.say, line.when) for line in lines(symptom)),
        *((phrasing.text, phrasing.when) for phrasing in symptom.phrasings),
    ]:
        wanted = [condition for condition in (when, symptom.needs) if condition is not None]
        for chart in charts_that_fulfil(*wanted) if wanted else [Chart()]:
            assert presumptions.unfounded(text, chart) == [], text


def test_no_caution_and_no_question_takes_for_granted_what_its_chart_need_not_hold():
    wrong = [
        (rule.id, found)
        for rule in RULES
        for chart in charts_that_fulfil(rule.when)
        if (found := presumptions.unfounded(rule.say, chart))
    ]
    for question in QUESTIONS:
        for chart in charts_that_fulfil(question.needs) if question.needs else [Chart()]:
            for text in (question.question, *question.ideal.splitlines()):
                if found := presumptions.unfounded(text, chart):
                    wrong.append((question.id, found))
    assert wrong == []


# the words by which a caution names what a question is about: "call today about any vomiting"
COMPLAINTS = {
    "cough": "cough",
    "burning_urination": "burning urine",
    "frequent_urination": "urine|thirst",
    "constipation": "constipation",
    "nausea": "nausea",
    "vomiting": "vomiting",
    "diarrhea": "loose stools|diarrhea",
    "belly_pain": "belly pain",
    "sore_throat": "sore throat",
    "earache": "ear pain",
    "shaking_hands": "shaking",
    "numbness": "tingling",
    "weakness": "(?<!with )weakness",
    "headache": "headache",
    "back_pain": "back or neck pain",
    "neck_pain": "back or neck pain",
    "blurred_vision": "vision",
    "bruising": "bruises",
    "itching": "itching",
}


@pytest.mark.parametrize(("name", "words"), COMPLAINTS.items())
def test_nobody_is_told_to_wait_with_what_a_caution_calls_for_today(name, words):
    """The line "tell a clinician if it lasts three days" gives way to "call today about nausea"."""
    symptom = CONTENT.symptoms[name]
    calls = re.compile(rf"\b(?:about|today for)\b[^.]*\b(?:{words})")
    today = [
        rule
        for rule in RULES
        if rule.level and calls.search(rule.say) and guidance.bearing(rule, symptom) > 1
    ]
    later = [line for line in lines(symptom) if "call_later" in line.tells]
    assert [
        (line.say, rule.id)
        for line in later
        for rule in today
        if rule.id not in line.unless and not conflicts.opposes(line, rule)
    ] == []
    assert today or not later, "the words name no caution: another would be found idle"


def test_every_sign_that_a_question_names_has_a_level():
    levels = {sign for s in SYMPTOMS for flag in s.urgent if flag.level for sign in flag.signs}
    levels |= {sign for q in QUESTIONS for flag in q.red_flags if flag.level for sign in flag.signs}
    named = {sign for s in SYMPTOMS for phrasing in s.phrasings for sign in phrasing.signs}
    assert named | {sign for q in QUESTIONS for sign in q.signs} <= levels
