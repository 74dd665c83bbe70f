"""The curated questions, the knowledge questions and the system prompt."""

import re

import pytest

from helpers.clinical_content import CONTENT, CURATED, QUESTIONS, RULES, RUN_FILES, SYMPTOMS
from mimic_qlora.clinical import content, levels, phrases
from mimic_qlora.tasks import guidance

# what is right for most, and wrong for charts with this rule, for which no ideal is written
HARMS_ONLY_WITH = {
    "too_hot": {"poor_circulation_feet"},
    "puffy_ankles": {"poor_circulation_feet"},
    "always_thirsty": {"swallowing_texture"},
}


def flags_of(question):
    """The warning signs of the question's symptom, where symptoms.yaml knows it."""
    symptom = CONTENT.symptoms.get(question.symptom)
    return symptom.urgent if symptom else ()


def test_the_curated_questions_come_first_and_their_ideals_are_whole():
    assert [question.symptom for question in QUESTIONS[:8]] == CURATED
    for question in QUESTIONS:
        ideal = question.ideal
        lines = [line for line in ideal.splitlines() if line]
        start = guidance.opening(question.signs, [*question.red_flags, *flags_of(question)], [])
        assert [line for line in lines if not line.startswith("- ")] == [
            *([levels.LEVELS[start].opening] if start else []),
            *content.SECTIONS.values(),
        ]
        assert 120 <= len(ideal.replace("- ", "").split()) <= 180
        urgent = ideal.split(content.SECTIONS["urgent"])[1].split(content.SECTIONS["track"])[0]
        assert [
            flag.name for flag in question.red_flags if not re.search(flag.pattern, urgent, re.I)
        ] == []
        assert [rule.id for rule in RULES if phrases.said(rule, ideal)] == []
        wrong = {rule.id for rule in RULES if phrases.forbidden(rule, ideal)}
        assert wrong <= HARMS_ONLY_WITH.get(question.id, set()), question.id


def test_the_curated_questions_are_worded_afresh():
    """No question shares more than 60% of its words, in order, with any that training asks."""
    from mimic_qlora.validation.scoring import likeness

    known = [
        phrasing.text
        for symptom in SYMPTOMS
        if not symptom.held_out
        for phrasing in symptom.phrasings
    ]
    near = [
        (q.id, max(likeness.rouge_l(phrasing, q.question) for phrasing in known)) for q in QUESTIONS
    ]
    assert [(name, like) for name, like in near if like > 0.6] == []


def test_most_questions_are_on_symptoms_never_trained_on_each_on_its_own():
    assert len(QUESTIONS) == 32 and len({q.symptom for q in QUESTIONS}) == 32
    assert sum(content.symptom_of(q).held_out for q in QUESTIONS) == 20
    for question in QUESTIONS:
        symptom = content.symptom_of(question)
        assert any(guidance.bearing(rule, symptom) > 1 and rule.held_out for rule in RULES), (
            question.id
        )


def test_the_knowledge_ideals_hold_their_key_points():
    knowledge = content.load_knowledge(RUN_FILES)
    assert (
        len(knowledge) == 8
        and knowledge[0].question == "Summarize the key risk factors for sepsis."
    )
    assert knowledge[0].ideal.startswith("Key risk factors for sepsis include")
    for entry in knowledge:
        assert 60 <= len(entry.ideal.split()) <= 120 and len(entry.key_points) >= 6
        assert [
            p.point for p in entry.key_points if not re.search(p.pattern, entry.ideal, re.I)
        ] == []


def test_the_system_prompt_is_short_and_names_the_sections():
    prompt = (RUN_FILES / "system_prompt.txt").read_text()
    assert levels.OPENING in prompt
    assert len(prompt.split()) < 205 and all(
        f"\n{title}\n" in prompt for title in content.SECTIONS.values()
    )


@pytest.mark.parametrize(
    ("question", "sign", "text"),
    [
        ("loose_stools", "severe belly pain", "Some belly pain is common with this."),
        ("keeps_vomiting", "severe belly pain", "Keep your stomach at rest, then sip water."),
        ("hard_stools", "severe pain or swollen belly", "A mild pain in the belly comes and goes."),
        ("heartburn", "severe belly pain", "Call 911 for severe chest pain."),
        ("leg_pain", "fever with redness", "Write down any fever."),
        ("light_headed", "severe headache", "Note any headache."),
    ],
)
def test_a_mild_form_of_a_warning_sign_does_not_name_it(question, sign, text):
    (asked,) = [one for one in QUESTIONS if one.id == question]
    flags = {flag.name: flag.pattern for flag in asked.red_flags}
    assert not phrases.names(flags[sign], text)


@pytest.mark.parametrize(
    ("prompt", "point", "text"),
    [
        ("fall_prevention", "home hazards", "Ask about each drug."),
        ("fall_prevention", "rails", "Walk a flat trail."),
        ("fall_prevention", "lighting", "Get up slowly when light-headed."),
        ("fall_prevention", "report falls", "I can tell you more."),
        ("warfarin_safety", "tell clinicians", "I cannot tell how much you take."),
        ("warfarin_safety", "head injury", "A headache may come."),
        ("kidney_protection", "regular tests", "There are tests."),
        ("heart_attack_signs", "spreads to arm, jaw or back", "Come back later."),
    ],
)
def test_a_word_that_happens_to_be_there_makes_no_key_point(prompt, point, text):
    (asked,) = [one for one in content.load_knowledge(RUN_FILES) if one.id == prompt]
    patterns = {made.point: made.pattern for made in asked.key_points}
    assert not re.search(patterns[point], text, re.I)
