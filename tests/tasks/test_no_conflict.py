"""Answers composed for made-up patients: no opposites, one level a sign, nothing presumed."""

import re
from itertools import product

import pytest
import yaml

from helpers.charts import Chart
from helpers.paths import ROOT
from mimic_qlora.clinical import conflicts, content, presumptions
from mimic_qlora.prompts import audit_guidance
from mimic_qlora.tasks import composing, guidance

CONTENT = content.load()
BENCHMARKS = ROOT / "benchmarks"


def made_up(age=60, sex="F", procedures=(), **found):
    """A chart of made_up_patients.yaml or self_care_pairs.yaml."""
    done = [((group,), days) for group, days in procedures]
    derived = {name: (*value, ()) for name, value in found.pop("derived", {}).items()}
    return Chart(age=age, sex=sex, procedures=done, derived=derived, **found)


PATIENTS = {
    name: made_up(**found)
    for name, found in yaml.safe_load((BENCHMARKS / "made_up_patients.yaml").read_text()).items()
}
PAIRS = yaml.safe_load((BENCHMARKS / "self_care_pairs.yaml").read_text())


def said_to(symptom, facts, key):
    """The cautions and the answer of a patient who is shown all of the chart."""
    patient = composing.patient_of(facts, facts)
    cautions = guidance.cautions_for(symptom, facts)[: composing.MOST_CAUTIONS]
    answer = composing.compose(symptom, cautions, key, patient)
    return patient, cautions, audit_guidance.parts(answer)[1]


@pytest.mark.parametrize("name", PATIENTS)
def test_no_answer_contradicts_itself_or_the_chart(name):
    facts = PATIENTS[name]
    for symptom in CONTENT.symptoms.values():
        if symptom.needs is not None and not symptom.needs.holds(facts):
            continue
        patient, cautions, text = said_to(symptom, facts, name)
        everything = [*symptom.self_care, *symptom.urgent, *symptom.track, *cautions]
        said = [one for one in everything if one.say in text]
        assert len(said) == len(text)
        assert list(conflicts.of(said)) == [], symptom.id
        for one in said:
            for rule in patient.called:
                assert not conflicts.opposes(one, rule), (symptom.id, one.say, rule.id)
                assert not conflicts.outranked(one, [rule]), (symptom.id, one.say, rule.id)
            assert presumptions.unfounded(one.say, facts) == [], (symptom.id, one.say)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['symptoms'][0]}-{pair['words']}")
def test_self_care_that_harms_beside_a_finding_is_not_given(pair):
    rules = set(pair.get("rules", ()))
    for symptom, chart in product(map(CONTENT.symptoms.get, pair["symptoms"]), pair["charts"]):
        facts = made_up(**chart)
        patient = composing.patient_of(facts, facts)
        told = guidance.cautions_for(symptom, facts)[: composing.MOST_CAUTIONS]
        given = [
            line.say
            for line in (*symptom.self_care, *symptom.track)
            if re.search(pair["words"], line.say, re.IGNORECASE)
            and composing.fits(line, told, patient)
        ]
        assert given == [] or not rules.isdisjoint(c.id for c in told), (symptom.id, chart)


def test_the_words_of_a_pair_are_in_the_self_care_of_its_symptoms():
    idle = [
        (name, pair["words"])
        for pair in PAIRS
        for name in pair["symptoms"]
        for symptom in [CONTENT.symptoms[name]]
        if not any(
            re.search(pair["words"], line.say, re.IGNORECASE)
            for line in (*symptom.self_care, *symptom.track)
        )
    ]
    assert idle == []


def test_no_drug_is_lost_where_one_caution_is_said_for_two():
    """Ibuprofen and naproxen for the kidneys; aspirin too for an ulcer: the ulcer's words stay."""
    rules = CONTENT.cautions.values()
    lost = []
    for one in rules:
        for other in rules:
            if one is not other and guidance._covers(one.id, other.id):
                acts = other.asks.forbidden if other.asks else ()
                drugs = [drug.casefold() for act in acts for drug in act.drugs]
                said, kept = other.say.casefold(), one.say.casefold()
                lost += [(one.id, other.id, d) for d in drugs if d in said and d not in kept]
    assert lost == []


@pytest.mark.parametrize(
    ("name", "phenotypes", "words"),
    [
        ("stuffy_nose", {"hypertension", "bladder_emptying"}, "antihistamine"),
        ("back_pain", {"chronic_kidney_disease", "peptic_ulcer"}, "aspirin"),
        ("back_pain", {"heart_failure", "bowel_bleeding", "long_term_anticoagulant"}, "aspirin"),
    ],
)
def test_a_distinct_warning_is_not_lost_by_de_duplication(name, phenotypes, words):
    facts = Chart(phenotypes=phenotypes, age=50, sex="M")
    chosen = guidance.cautions_for(CONTENT.symptoms[name], facts)
    assert words in " ".join(c.say for c in chosen[: composing.MOST_CAUTIONS])
