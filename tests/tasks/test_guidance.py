"""Guidance: gold answers keep their sections, their words, and every rule of the chart."""

from collections import Counter
from dataclasses import replace
from datetime import datetime

from helpers.prompt_records import answer_of, count_words, of_task
from mimic_qlora.chart import columns, context
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.chart.facts import Facts
from mimic_qlora.clinical import content as clinical
from mimic_qlora.clinical import levels, phrases
from mimic_qlora.prompts import audit_guidance
from mimic_qlora.subjects import reader
from mimic_qlora.tasks import composing, guidance
from mimic_qlora.tasks.composing import ANYBODY

FACTS = Facts(
    phenotypes={},
    drug_classes={},
    lab_history={},
    labs={},
    derived={},
    procedures=[],
    procedure_rows=[],
    person={},
    age=50,
    sex="M",
)


def test_held_out_symptoms_and_rules_are_in_no_record(demo_prompts):
    content = clinical.load()
    for one in of_task(demo_prompts, "guidance"):
        assert not content.symptoms[one["symptom"]].held_out
        assert not any(content.cautions[c].held_out for c in one["cautions"])
    answers = "\n".join(map(answer_of, demo_prompts.records))
    assert not any(rule.say in answers for rule in content.cautions.values() if rule.held_out)


def test_every_answer_has_the_three_sections_the_words_and_the_cautions_of_its_chart(demo_prompts):
    content = clinical.load()
    for one in of_task(demo_prompts, "guidance"):
        answer = answer_of(one)
        start, headings = audit_guidance.parts(answer)[0], answer.splitlines()
        headings = [line for line in headings if not line.startswith("- ") and line]
        assert headings == [*filter(None, [start]), *clinical.SECTIONS.values()]
        assert bool(start) == start.startswith(levels.OPENING)
        assert 120 <= composing.words(answer) <= 180 and len(one["cautions"]) <= 3
        for caution in map(content.cautions.get, one["cautions"]):
            assert phrases.said(caution, answer) and not phrases.forbidden(caution, answer)


def test_no_answer_advises_what_any_rule_of_the_chart_forbids_held_out_or_not(demo_prompts):
    settings, labels = (
        ContextSettings.read(demo_prompts.store),
        context.lab_labels(demo_prompts.store),
    )
    content, checked = clinical.load(), 0
    advice = {i: {t.say: t.unless for t in s.self_care} for i, s in content.symptoms.items()}
    for one in of_task(demo_prompts, "guidance")[::3]:
        record = reader.record(demo_prompts.store, one["subject_id"], columns.WANTED)
        as_of = datetime.fromisoformat(one["as_of"])
        known = context.build(
            record, as_of, replace(settings, token_budget=10_000), labels, count_words
        ).facts
        called = {c.id: c for c in composing.called_for(known)}
        for line in answer_of(one).splitlines():
            unless = advice[one["symptom"]].get(line.removeprefix("- "), [])
            assert called.keys().isdisjoint(unless), line
            assert not any(phrases.forbidden(c, line) for c in called.values()), line
            checked += bool(unless)
    assert checked > 2


def told(symptom, facts, key):
    """The answer to a question on a symptom from a patient who is shown all of the chart."""
    cautions = guidance.cautions_for(symptom, facts)
    return composing.compose(symptom, cautions, key, composing.patient_of(facts, facts))


def test_advice_gives_way_to_a_rule_that_is_held_out_or_bears_on_another_symptom():
    symptom = clinical.load().symptoms["frequent_urination"]
    known = replace(FACTS, phenotypes={"alcohol_use_disorder": {}})
    rule = clinical.load().cautions["alcohol_no_sudden_stop"]
    assert not guidance.bearing(rule, symptom) and any(
        rule.id in t.unless for t in symptom.self_care
    )
    spoken_of = 0
    for key in map(str, range(20)):
        free = composing.compose(symptom, [], key, ANYBODY)
        bound = composing.compose(symptom, [], key, composing.patient_of(known, known))
        assert "alcohol" not in bound, key
        spoken_of += "alcohol" in free
    assert spoken_of > 2


def test_every_symptom_gives_an_answer_within_the_words_whatever_the_chart_calls_for():
    content = clinical.load()
    for symptom in content.symptoms.values():
        rules = sorted(
            (c for c in content.cautions.values() if guidance.bearing(c, symptom)),
            key=lambda c: -guidance.severity(c, symptom),
        )
        patient = replace(ANYBODY, called=tuple(rules))
        for start in range(0, max(1, len(rules)), 3):
            some = rules[start : start + 3]
            answer = composing.compose(symptom, some, f"{start}", patient)
            assert 120 <= composing.words(answer) <= 180
            assert all(rule.say in answer for rule in some)


def test_charts_that_call_for_different_cautions_never_get_the_same_answer(demo_prompts):
    content = clinical.load()
    symptom = content.symptoms["back_pain"]
    plain = guidance.cautions_for(symptom, FACTS)
    thinner = guidance.cautions_for(
        symptom, replace(FACTS, phenotypes={"long_term_anticoagulant": {}})
    )
    assert [c.id for c in plain] != [c.id for c in thinner]
    assert composing.compose(symptom, plain, "same", ANYBODY) != composing.compose(
        symptom, thinner, "same", ANYBODY
    )
    answers = {}
    for one in of_task(demo_prompts, "guidance"):
        assert answers.setdefault(answer_of(one), one["cautions"]) == one["cautions"]


def test_the_most_severe_cautions_come_first():
    content = clinical.load()
    everything = replace(FACTS, phenotypes=dict.fromkeys(content.phenotypes, {}), age=80)
    called = composing.called_for(everything)
    for symptom in content.symptoms.values():
        chosen = guidance.cautions_for(symptom, everything, called)
        raising = [guidance.bearing(c, symptom) == 4 for c in chosen]
        assert raising == sorted(raising, reverse=True)
        severities = [guidance.severity(c, symptom) for c in chosen]
        severities = severities[sum(raising) :]
        assert severities == sorted(severities, reverse=True)


def test_advice_is_not_given_twice_for_two_reasons():
    content = clinical.load()
    reasons = {"long_term_anticoagulant": {}, "chronic_kidney_disease": {}, "heart_failure": {}}
    chosen = guidance.cautions_for(
        content.symptoms["back_pain"], replace(FACTS, phenotypes=reasons)
    )
    assert chosen and sum("ibuprofen" in c.say for c in chosen) == 1


def test_an_order_in_hospital_is_never_said_to_be_taken_at_home(demo_prompts):
    """A blood thinner is spoken of as taken only where a code for long-term use says so."""
    proof = {
        "Because your record lists long-term blood thinner use": "diagnoses_icd",
        "Because a blood thinner was ordered during your last stay": "prescriptions",
    }
    said = Counter()
    for one in of_task(demo_prompts, "guidance"):
        rows = [row for row in one["evidence"] if row["for"].startswith("anticoagulant")]
        for words, table in proof.items():
            if words in answer_of(one):
                said[table] += 1
                assert any(row["table"] == table for row in rows)
                assert not any("drug=Heparin" in cell for row in rows for cell in row["cells"])
    assert min(said.values()) >= 5


def test_a_share_of_patients_is_asked_where_their_chart_calls_for_nothing():
    """So that silence is learned; where everything calls for a caution there is no such symptom."""
    known = replace(FACTS, phenotypes={"asthma": {}})
    called = composing.called_for(known)
    silent = 0
    for key in map(str, range(60)):
        (gold,) = guidance.golds(known, known, 1, key)
        symptom = clinical.load().symptoms[gold.symptom]
        bears = any(guidance.bearing(rule, symptom) for rule in called)
        assert bool(gold.cautions) == bears == (not guidance.is_silent(key))
        silent += not gold.cautions
    assert 0.1 < silent / 60 < 0.35
