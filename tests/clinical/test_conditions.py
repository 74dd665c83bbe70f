"""When a chart calls for a caution: by its phenotypes, drug classes, labs, procedures and age."""

import pytest

from helpers.charts import Chart
from helpers.clinical_content import RULES
from mimic_qlora.clinical import codes, conditions, content


def matched(**found):
    return {rule.id for rule in RULES if rule.when.holds(Chart(**found))}


def test_a_chart_calls_for_the_cautions_of_its_findings():
    assert matched() == set()
    assert "heart_failure_weight" in matched(phenotypes={"heart_failure"})
    assert "gut_bleeding_red" in matched(phenotypes={"portal_hypertension"})
    assert "opioid_benzodiazepine" not in matched(drug_classes={"opioid"})
    assert "opioid_benzodiazepine" in matched(drug_classes={"opioid", "sleep_medicine"})
    assert "anticoagulant_order_no_nsaid" in matched(drug_classes={"oral_anticoagulant"})
    assert "anticoagulant_order_no_nsaid" not in matched(
        drug_classes={"oral_anticoagulant"}, phenotypes={"long_term_anticoagulant"}
    )
    assert matched(age=64) == set() and matched(age=65) == {"older_no_sedating_antihistamine"}


@pytest.mark.parametrize(
    "latest, calls",
    [
        ((5.6, "mEq/L", 3), True),
        ((5.5, "mEq/L", 3), False),
        ((5.6, "mEq/L", 31), False),
        ((5.6, "mmol/L", 3), False),
        ((None, "mEq/L", 3), False),
        ((5.6, "mEq/L", -1), False),
    ],
)
def test_a_lab_counts_by_value_unit_and_age(latest, calls):
    assert ("high_potassium_lab" in matched(labs={50971: latest})) == calls


def test_the_newest_of_several_labs_counts_and_a_lab_without_unit_is_read():
    assert "high_potassium_lab" not in matched(
        labs={50971: (6.0, "mEq/L", 9), 50822: (4.0, "mEq/L", 1)}
    )
    assert "high_potassium_lab" not in matched(  # of one day the first is the newest
        labs={50822: (4.0, "mEq/L", 1), 50971: (6.0, "mEq/L", 1)}
    )
    assert "inr_high" in matched(labs={51237: (4.5, None, 1)})


@pytest.mark.parametrize(
    "code, version, days_ago, calls",
    [
        ("8154", 9, 20, True),
        ("8154", 9, 91, False),
        ("8154", 10, 20, False),
        ("0SRC0J9", 10, 0, True),
        ("0SRC0J9", 10, -2, False),
    ],
)
def test_a_procedure_counts_by_code_version_and_age(code, version, days_ago, calls):
    done = [(codes.procedures_of_code(code, version), days_ago)]
    assert ("recent_joint_replacement_leg" in matched(procedures=done)) == calls


@pytest.mark.parametrize(
    "found, called, not_called",
    [
        ({"procedures": [(("dialysis_treatment",), 60)]}, "dialysis_access", None),
        ({"procedures": [(("dialysis_treatment",), 61)]}, None, "dialysis_access"),
        ({"phenotypes": {"lung_injury"}}, "lung_injury_breathing", None),
        ({"procedures": [(("lung_operation",), 18)]}, "lung_injury_breathing", None),
        ({"labs": {50983: (124, "mEq/L", 3)}}, "very_low_sodium_repeat", None),
        ({"labs": {50983: (126, "mEq/L", 3)}}, "low_sodium_lab", "very_low_sodium_repeat"),
        (
            {"labs": {50917: (2.4, "ng/mL", 3)}, "drug_classes": {"digoxin"}},
            "digoxin_level_high",
            "digoxin_signs",
        ),
        (
            {"labs": {50957: (1.6, "mmol/L", 3)}, "drug_classes": {"lithium"}},
            "lithium_level_high",
            "lithium_signs",
        ),
        ({"labs": {50971: (6.2, "mEq/L", 3)}}, "very_high_potassium_lab", "high_potassium_lab"),
        (
            {"drug_classes": {"opioid", "benzodiazepine"}},
            "opioid_benzodiazepine",
            "opioid_sleepy_breathing",
        ),
        (
            {"drug_classes": {"opioid"}, "phenotypes": {"bowel_blockage"}},
            "bowel_blockage_signs",
            "opioid_constipation",
        ),
    ],
)
def test_one_rule_speaks_where_two_would_say_the_same_or_the_opposite(found, called, not_called):
    rules = matched(**found)
    assert called is None or called in rules
    assert not_called not in rules


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("warfarin [Coumadin]", {"oral_anticoagulant"}),
        ("Ibuprofen 600mg tablet", {"nsaid"}),
        ("diclofenac gel", set()),
        ("enoxaparin", set()),  # nobody says whether the dose treats or prevents
    ],
)
def test_a_home_medicine_counts_by_its_name_where_no_dose_is_needed(name, classes):
    found = codes.home_drug_classes_of(name)
    assert found & {"oral_anticoagulant", "nsaid", "injected_anticoagulant"} == classes
    if classes:
        when = conditions.HasHomeDrug(home_drug_class=next(iter(classes)))
        names = content.names()
        assert "among the medicines taken at home" in when.in_words(names)
        assert when.holds(Chart(home_drug_classes=found)) and not when.holds(Chart())
