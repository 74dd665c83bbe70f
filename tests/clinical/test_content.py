"""The clinical content is complete, and safe by its own rules."""

import re

from helpers.clinical_content import (
    CONTENT,
    CURATED,
    QUESTIONS,
    RULES,
    RUN_FILES,
    SYMPTOMS,
    general_advice,
)
from mimic_qlora.clinical import conditions, conflicts, content, phrases, schema


def test_the_content_is_large_enough_and_the_readme_says_whether_anybody_has_reviewed_it():
    assert len(SYMPTOMS) >= 44 and len(RULES) >= 50 and len(CONTENT.phenotypes) >= 70
    entries = (
        [entry for part in CONTENT for entry in part.values() if isinstance(entry, schema.Entry)]
        + QUESTIONS
        + content.load_knowledge(RUN_FILES)
        + content.load_crisis(RUN_FILES)
    )
    reviewed = [entry.id for entry in entries if entry.reviewed_by is not None]
    assert [entry.id for entry in entries if entry.reviewed_on] == reviewed, (
        "a review has a name and a day"
    )
    readme = " ".join((RUN_FILES.parent / "README.md").read_text().split())
    says_nobody = "**No clinician has reviewed them yet**" in readme
    assert says_nobody == (not reviewed), (
        f"README.md is at odds with the files, which name reviewers of {reviewed}"
    )


def test_what_is_held_out_is_the_curated_symptoms_and_four_more_and_rules_of_all_sections():
    held_out = [symptom.id for symptom in SYMPTOMS if symptom.held_out]
    assert held_out[:8] == CURATED and len(held_out) == 12
    assert {rule.section for rule in RULES if rule.held_out} >= {"try", "urgent"}


def test_sentences_have_the_length_that_fits_an_answer():
    assert [
        item.say
        for symptom in SYMPTOMS
        for item in symptom.self_care
        if not 8 <= len(item.say.split()) <= 16
    ] == []
    assert [rule.id for rule in RULES if not 12 <= len(rule.say.split()) <= 34] == []


def test_every_caution_can_come_up_for_at_least_one_symptom():
    tags = {name for symptom in SYMPTOMS for name in ["any", symptom.id, *symptom.tags]}
    assert [rule.id for rule in RULES if not tags & set(rule.symptoms)] == []


def test_the_severity_for_a_symptom_is_its_own_then_that_of_its_tags():
    rule = RULES[0].model_copy(update={"severity": {"default": 1, "fall": 2, "pain": 3}})
    assert rule.severity_for("fall", ["pain"]) == 2 and rule.severity_for("x", ["pain"]) == 3
    assert rule.severity_for("x", []) == 1 and RULES[0].severity_for("x", []) == 3


def test_an_order_is_called_an_order_and_a_code_is_called_a_record():
    for rule in RULES:
        kinds = {leaf.kind for leaf in conditions.leaves(rule.when, negated=False)}
        if kinds == {"drug_class"}:
            assert "ordered during your last stay" in rule.say, rule.id
        elif "drug_class" not in kinds:
            assert re.search(
                r"your record (lists|shows)|your latest|you are \d+ or older", rule.say
            ), rule.id


def test_no_question_or_general_advice_names_a_cause():
    cause = re.compile(
        r"\b(?:this|it|that) (?:may|might|could) (?:be|mean)\b|sign of a|caused by|because of a|"
        r"\b(?:flu|angina|pneumonia|migraine|sciatica|gout|appendicitis|dehydration|anxiety attack|"
        r"panic attack|heart attack|stroke|infection)\b",
        re.I,
    )
    texts = [
        text
        for symptom in SYMPTOMS
        for text in [*general_advice(symptom), *(p.text for p in symptom.phrasings)]
    ]
    texts += [text for question in QUESTIONS for text in (question.question, question.ideal)]
    assert [text for text in texts if cause.search(text)] == []


def test_a_sign_of_an_emergency_is_called_one_wherever_it_stands():
    """Training never teaches that the same sign can wait in one answer and not in the next."""
    signs = re.compile(
        r"chest (?:pain|pressure)|vomit\w* blood|not fade|confus|stiff neck|droop|"
        r"seizure(?! medicine)|"
        r"hard to wake|lips .*blue|pink froth|(?:blow to|hit) (?:the|your) head|head injury|"
        r"control of your bladder|bowel control|shaking chills|lose sight|loss of sight|"
        r"(?:limb|leg|arm|foot|toe|hand).* (?:cold|pale|numb)|black stool|turns black|"
        r"severe belly|"
        r"swollen belly|belly pain is severe|bleed\w* (?:that )?does not stop|"
        r"heartbeat that does not settle|cannot pass (?:any )?urine",
        re.I,
    )
    texts = [flag.say for symptom in SYMPTOMS for flag in symptom.urgent]
    texts += [rule.say for rule in RULES if rule.section == "urgent"]
    texts += [
        line
        for question in QUESTIONS
        for line in question.ideal.split("urgent care\n")[1].split("\n\n")[0].splitlines()
    ]
    named = [text for text in texts if signs.search(text)]
    at_once = re.compile(r"call 911|emergency room", re.I)
    assert len(named) > 100 and [text for text in named if not at_once.search(text)] == []


def test_no_general_advice_is_forbidden_by_a_caution_that_it_does_not_give_way_to():
    """Answers leave out what gives way; they do not search sentences for what is forbidden."""
    for symptom in SYMPTOMS:
        for line in (*symptom.self_care, *symptom.urgent, *symptom.track):
            assert [
                rule.id
                for rule in RULES
                if rule.id not in line.unless
                and phrases.forbidden(rule, line.say)
                and not conflicts.opposes(line, rule)
            ] == [], line.say


def test_advice_to_cut_alcohol_gives_way_where_a_sudden_stop_is_dangerous():
    drinks = [
        item
        for symptom in SYMPTOMS
        for item in symptom.self_care
        if re.search("alcohol", item.say, re.I) and "powders" not in item.say
    ]
    assert drinks and all("alcohol_no_sudden_stop" in item.unless for item in drinks)
