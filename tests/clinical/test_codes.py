"""What ICD codes, drug orders and procedures stand for."""

import pytest

from helpers.clinical_content import CONTENT
from mimic_qlora.clinical import codes


@pytest.mark.parametrize(
    "code, version, name",
    [
        ("4019", 9, "hypertension"),
        ("E785", 10, "hyperlipidemia"),
        ("I10", 10, "hypertension"),
        ("2724", 9, "hyperlipidemia"),
        ("Z87891", 10, "past_tobacco_use"),
        ("K219", 10, "reflux"),
        ("53081", 9, "reflux"),
        ("25000", 9, "diabetes"),
        ("F329", 10, "depression"),
        ("I2510", 10, "coronary_artery_disease"),
        ("F419", 10, "anxiety"),
        ("41401", 9, "coronary_artery_disease"),
        ("42731", 9, "atrial_fibrillation"),
        ("311", 9, "depression"),
        ("N179", 10, "acute_kidney_injury"),
        ("4280", 9, "heart_failure"),
        ("Z20822", 10, "covid_contact"),
        ("V1582", 9, "past_tobacco_use"),
        ("Z7901", 10, "long_term_anticoagulant"),
        ("2449", 9, "hypothyroidism"),
        ("4019  ", "9", "hypertension"),
        ("49320", 9, "copd"),
        ("4350", 9, "past_stroke_or_tia"),
        ("T86810", 10, "organ_or_stem_cell_transplant"),
        ("V4582", 9, "coronary_stent_or_bypass"),  # an angioplasty, which ICD-9 has stents under
        ("30553", 9, "past_opioid_use_disorder"),
        ("F1121", 10, "past_opioid_use_disorder"),
        ("F1421", 10, "past_other_substance_use"),
        ("20501", 9, "blood_cancer_in_remission"),
        ("C9101", 10, "blood_cancer_in_remission"),
        ("20500", 9, "blood_cancer"),  # without mention of having achieved remission
        ("C9102", 10, "blood_cancer"),  # in relapse
        ("29625", 9, "depression_in_remission"),
        ("F3340", 10, "depression_in_remission"),
        ("29624", 9, "depression"),
        ("I70222", 10, "peripheral_artery_disease"),
    ],
)
def test_the_common_codes_have_their_phenotype(code, version, name):
    assert name in codes.phenotypes_of([(code, version)])


def test_a_code_means_nothing_in_the_other_version_and_exclusions_hold():
    assert codes.phenotypes_of([("4019", 10), ("I10", 9), ("ZZZ", 10)]) == []
    assert "chronic_kidney_disease" not in codes.phenotypes_of([("N186", 10)])
    assert codes.phenotypes_of([("F17211", 10)]) == ["past_tobacco_use"]
    assert codes.phenotypes_of([("I10", 10), ("4019", 9)]) == ["hypertension"]


@pytest.mark.parametrize(
    "code, version, name",
    [
        ("36501", 9, "glaucoma"),  # open angle with borderline findings: a suspicion
        ("H4001", 10, "glaucoma"),
        ("42611", 9, "heart_block"),  # first degree, which has no entry in ICD-10 either
        ("07982", 9, "covid_19"),  # SARS of 2003
        ("T86821", 10, "organ_or_stem_cell_transplant"),  # a skin graft
        ("5110", 9, "fluid_around_lungs"),  # pleurisy without effusion
        ("30553", 9, "opioid_use_disorder"),  # in remission
        ("F1111", 10, "opioid_use_disorder"),
        ("F1190", 10, "opioid_use_disorder"),  # use, not a disorder
        ("F10920", 10, "alcohol_use_disorder"),
        ("30423", 9, "other_substance_use"),
        ("20501", 9, "blood_cancer"),
        ("20501", 9, "cancer"),
        ("C91A1", 10, "blood_cancer"),
        ("C9001", 10, "cancer"),
        ("V4500", 9, "pacemaker_or_defibrillator"),  # an unspecified device
        ("I70208", 10, "peripheral_artery_disease"),  # of an arm
        ("M8448XA", 10, "spine_fracture"),  # another bone
        ("S128XXA", 10, "spine_fracture"),  # such as the larynx
        ("F3281", 10, "depression"),  # premenstrual
        ("29636", 9, "depression"),  # in full remission
        ("F325", 10, "depression"),
        ("F3341", 10, "depression"),
    ],
)
def test_a_code_is_not_taken_for_more_than_its_title_says(code, version, name):
    assert name not in codes.phenotypes_of([(code, version)])


@pytest.mark.parametrize(
    "code, version, names",
    [
        ("3606", 9, ["coronary_angioplasty", "heart_artery_opened", "heart_catheter"]),
        ("0066", 9, ["coronary_angioplasty", "heart_artery_opened", "heart_catheter"]),
        ("027034Z", 10, ["coronary_angioplasty", "heart_artery_opened", "heart_catheter"]),
        ("02703ZZ", 10, ["coronary_angioplasty", "heart_artery_opened", "heart_catheter"]),
        ("02700ZZ", 10, ["coronary_angioplasty", "heart_artery_opened"]),  # by an open operation
        ("02C03ZZ", 10, ["heart_artery_opened", "heart_catheter"]),  # a clot is removed
        ("3609", 9, ["heart_artery_opened", "heart_catheter"]),
    ],
)
def test_an_opened_heart_artery_is_no_stent_or_angioplasty_unless_the_title_says_so(
    code, version, names
):
    found = codes.procedures_of_code(code, version)
    assert [name for name in found if name != "open_heart_surgery"] == names


def test_a_caution_says_of_heart_arteries_what_its_codes_say():
    stent = CONTENT.cautions["stent_keep_antiplatelet"]
    assert "a heart stent, angioplasty or bypass" in stent.say
    assert "heart_artery_opened" not in str(stent.when)  # such as a clot removed
    assert "angioplasty" in CONTENT.phenotypes["coronary_stent_or_bypass"].name
    assert "dissection" in CONTENT.cautions["aortic_aneurysm_pain"].say
    assert "dissection" in CONTENT.phenotypes["aortic_aneurysm"].name


@pytest.mark.parametrize(
    "drug, route, classes",
    [
        ("Warfarin", "PO/NG", {"oral_anticoagulant", "warfarin"}),
        ("Heparin Flush (10 units/ml)", "IV", set()),
        ("Heparin", "SC", set()),
        ("Heparin (Hemodialysis)", "IV", set()),
        ("Enoxaparin Sodium", "SC", set()),  # no dose is known
        ("Buprenorphine-Naloxone Film", "SL", {"opioid"}),
        ("Fentanyl Patch", "TP", {"opioid"}),
        ("Guaifenesin-CODEINE Phosphate", "PO/NG", {"opioid_cough_syrup"}),
        ("Linezolid", "IV", {"maoi", "linezolid", "antibiotic"}),
        ("Heparin Dwell (1000 Units/mL)", "DWELL", set()),
        ("Ciprofloxacin 0.3% Ophth Soln", "RIGHT EAR", set()),
        ("Ciprofloxacin HCl", "PO", {"antibiotic", "fluoroquinolone", "qt_prolonging"}),
        ("Morphine Sulfate", "IV", set()),
        ("Morphine SR (MS Contin)", "PO", {"opioid"}),
        ("Morphine Sulfate IR", None, set()),
        ("Insulin (Regular) for Hyperkalemia", "SC", set()),
        ("Insulin", "SC", {"insulin"}),
        ("Hydrocortisone Cream 2.5%", "TP", set()),
        ("PredniSONE", "PO", {"systemic_corticosteroid"}),
        ("Oxycodone-Acetaminophen (5mg-325mg)", "PO", {"opioid", "acetaminophen_combination"}),
        ("Butalbital-Aspirin-Caffeine", "PO", {"barbiturate"}),
    ],
)
def test_an_order_belongs_to_its_classes_by_word_and_route(drug, route, classes):
    assert codes.drug_classes_of(drug, route) == classes


def test_every_class_recognises_its_own_ingredients():
    for name, entry in CONTENT.drugs.items():
        route = (entry.routes or ["PO"])[0]
        for word in entry.ingredients:
            least = entry.least_dose.get(word)
            dose = (f"{least.dose:g}", least.unit) if least else (None, None)
            assert name in codes.drug_classes_of(word, route, *dose), (name, word)


@pytest.mark.parametrize(
    "dose, unit, counts",
    [
        ("40", "mg", False),
        ("50", "mg", True),
        ("30-80", "mg", True),
        ("80", "mL", False),
        (None, "mg", False),
    ],
)
def test_enoxaparin_counts_from_a_treatment_dose_on(dose, unit, counts):
    found = codes.drug_classes_of("Enoxaparin Sodium", "SC", dose, unit)
    assert found == ({"injected_anticoagulant"} if counts else set())
    assert codes.drug_classes_of("Enoxaparin (Prophylaxis)", "SC", "60", "mg") == set()
