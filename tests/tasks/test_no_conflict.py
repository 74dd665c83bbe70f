"""Answers composed for made-up patients: no opposites, one level a sign, nothing presumed."""

import re

import pytest

from helpers.charts import Chart
from mimic_qlora.clinical import conflicts, content, presumptions
from mimic_qlora.prompts import audit_guidance
from mimic_qlora.tasks import composing, guidance

CONTENT = content.load()
PATIENTS = {
    "dialysis": Chart(phenotypes={"dialysis", "kidney_failure"}, age=62, sex="M"),
    "pregnancy": Chart(phenotypes={"pregnancy"}, age=29, sex="F"),
    "lithium": Chart(drug_classes={"lithium"}, phenotypes={"bipolar_disorder"}, age=44, sex="F"),
    "fresh stent": Chart(
        phenotypes={"coronary_artery_disease", "coronary_stent_or_bypass", "heart_attack"},
        drug_classes={"antiplatelet", "statin", "beta_blocker"},
        age=58,
        sex="M",
    ),
    "transplant": Chart(
        phenotypes={"organ_or_stem_cell_transplant"},
        drug_classes={"immunosuppressant", "systemic_corticosteroid"},
        age=50,
        sex="F",
    ),
    "neutropenia": Chart(
        phenotypes={"neutropenia", "cancer"}, drug_classes={"chemotherapy"}, age=66, sex="M"
    ),
    "cirrhosis with alcohol": Chart(
        phenotypes={"cirrhosis", "ascites", "varices", "alcohol_use_disorder"}, age=54, sex="M"
    ),
    "type 1 on insulin": Chart(
        phenotypes={"diabetes", "long_term_insulin"}, drug_classes={"insulin"}, age=24, sex="F"
    ),
    "poor circulation with diabetes": Chart(
        phenotypes={"diabetes", "peripheral_artery_disease", "foot_or_leg_ulcer"}, age=71, sex="M"
    ),
    "opioid with benzodiazepine": Chart(
        drug_classes={"opioid", "benzodiazepine"}, phenotypes={"sleep_apnea"}, age=49, sex="M"
    ),
    "cancer in the spine": Chart(phenotypes={"cancer"}, drug_classes={"opioid"}, age=69, sex="F"),
    "heart failure on many medicines": Chart(
        phenotypes={"heart_failure", "atrial_fibrillation", "chronic_kidney_disease", "gout"},
        drug_classes={
            "oral_anticoagulant",
            "loop_diuretic",
            "ace_inhibitor",
            "digoxin",
            "antibiotic",
        },
        labs={51237: (4.6, "", 2), 50971: (5.8, "mEq/L", 2)},
        age=82,
        sex="F",
    ),
    "nothing": Chart(age=40, sex="M"),
}


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


# Self-care, and the finding of a chart beside which it does harm.
HARMFUL = [
    ("leg_swelling", r"raise|prop", {"phenotypes": {"peripheral_artery_disease", "diabetes"}}),
    ("foot_pain", r"raise|prop|soak|warm", {"phenotypes": {"foot_or_leg_ulcer", "diabetes"}}),
    ("fainting", r"raise your legs", {"phenotypes": {"heart_failure"}}),
    ("shoulder_pain", r"pendulum|cool pack", {"phenotypes": {"sickle_cell_disease"}}),
    ("joint_pain", r"cool pack|\bice\b", {"phenotypes": {"sickle_cell_disease"}}),
    ("muscle_cramps", r"rub the muscle", {"phenotypes": {"venous_clot"}}),
    ("muscle_cramps", r"stretch|stand .*heels", {"drug_classes": {"fluoroquinolone"}}),
    ("constipation", r"whole grain|fiber|laxative", {"phenotypes": {"bowel_blockage"}}),
    ("blood_in_stool", r"add fiber", {"phenotypes": {"bowel_blockage"}}),
    ("shaking_hands", r"do not stop any", {"drug_classes": {"lithium"}}),
    ("bruising", r"keep taking", {"labs": {51237: (5.2, "", 1)}}),
    ("fever", r"stay home|fever medicine", {"drug_classes": {"chemotherapy"}}),
    ("new_rash", r"before you take another dose", {"drug_classes": {"systemic_corticosteroid"}}),
    ("cough", r"\bsips?\b|suck|gargle", {"phenotypes": {"trouble_swallowing"}}),
    ("poor_appetite", r"alcohol", {"phenotypes": {"alcohol_use_disorder"}}),
    ("frequent_urination", r"drink less", {"drug_classes": {"lithium"}}),
]


@pytest.mark.parametrize(("name", "words", "found"), HARMFUL)
def test_self_care_that_harms_beside_a_finding_is_not_given(name, words, found):
    symptom, facts = CONTENT.symptoms[name], Chart(age=60, sex="F", **found)
    patient = composing.patient_of(facts, facts)
    cautions = guidance.cautions_for(symptom, facts)
    given = [
        line.say
        for line in (*symptom.self_care, *symptom.track)
        if re.search(words, line.say, re.IGNORECASE) and composing.fits(line, cautions, patient)
    ]
    assert given == []


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
