"""Ablation: what may be dropped, and what may not."""

from helpers.feature_tables import made_up
from mimic_qlora.features import ablation, boosting, verdicts
from mimic_qlora.features.columns_file import ColumnVerdict


def test_a_refit_lets_noise_go_and_signal_not():
    study, target = made_up(1500)
    scores = boosting.out_of_fold(study, study.built.matrix, [target], "all")
    every = ["admissions.x", "admissions.z", "admissions.y"]  # the twins first
    tried = ablation.ablate_in_turn(study, [target], scores, every, 0.03)
    assert [step.columns for step in tried] == [3, 2] and [step.holds for step in tried] == [
        False,
        True,
    ]
    assert tried[0].high < -0.1 and tried[-1].low > -0.03
    twin = ablation.ablate(study, [target], scores, {"admissions.z"}, 0.03)
    assert twin.holds  # either of the twins may go, not both
    both = ablation.ablate(study, [target], scores, {"admissions.x", "admissions.z"}, 0.03)
    assert not both.holds and both.targets[0].high < -0.1


def test_a_few_patients_prove_nothing():
    for n, margin in ((150, 0.001), (90, 0.5)):  # too wide an interval; too few patients for any
        study, target = made_up(n)
        scores = boosting.out_of_fold(study, study.built.matrix, [target], "all")
        tried = ablation.ablate_in_turn(study, [target], scores, ["admissions.y"], margin)
        assert not tried[-1].holds
        (row,) = verdicts.settle([ColumnVerdict("admissions.y", "unproven", "why")], tried)
        assert row.verdict == "unproven" and "cannot rule out a loss" in row.reason
