"""Ablation: what may be dropped, and what may not."""

import numpy as np

from helpers.feature_tables import made_up
from mimic_qlora.features import ablation, boosting, cohort, verdicts
from mimic_qlora.features.columns_file import ColumnVerdict
from mimic_qlora.features.matrix import Feature, Features


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


def few_hold(n, effect, seed=0):
    """Patients with a signal x, noise y, and s: in 5% of them it tells, with this effect."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 3)).astype(np.float32)
    values[rng.random(n) >= 0.05, 2] = 0
    y = rng.random(n) < 1 / (1 + np.exp(-2 * values[:, 0] - effect * values[:, 2]))
    study, _ = made_up(n)
    features = [Feature(f"admissions.{c}", "", "mean") for c in "xys"]
    study = study._replace(built=Features(values, features, {}, {}, {}))
    return study, cohort.Target("t", "a target", y, np.ones(n, bool))


def test_a_column_that_matters_to_the_few_whom_it_tells_of_stays():
    """It hardly moves the mean AUROC: a refit without it loses less than the margin."""
    columns = [ColumnVerdict(f"admissions.{c}", "unproven", "why") for c in "sy"]
    for effect, verdict in ((6, "unproven"), (0, "least")):
        study, target = few_hold(1500, effect)
        scores = boosting.out_of_fold(study, study.built.matrix, [target], "all")
        names = [row.column for row in columns]
        tried = ablation.ablate_in_turn(study, [target], scores, names, 0.03)
        assert tried[0].holds and tried[0].low > -0.03
        sparse, noise = verdicts.settle(columns, tried)
        assert (sparse.verdict, noise.verdict) == (verdict, "least")
    held = int((ablation.holders(study.built, "admissions.s") & (study.fold >= 0)).sum())
    assert 50 < held < 80


def test_a_loss_for_one_target_is_not_hidden_by_the_mean_over_many():
    study, target = made_up(1500)
    rng = np.random.default_rng(1)
    others = [
        cohort.Target(f"other {k}", f"other {k}", rng.random(1500) < 0.5, target.who)
        for k in range(9)
    ]
    targets = [target, *others]
    scores = boosting.out_of_fold(study, study.built.matrix, targets, "all")
    both = ablation.ablate(study, targets, scores, {"admissions.x", "admissions.z"}, 0.1)
    assert both.low > -0.1 and both.doubt == "a loss of 0.3 or more for a target is not ruled out"


def test_a_few_patients_prove_nothing():
    for n, margin in ((150, 0.001), (90, 0.5)):  # too wide an interval; too few patients for any
        study, target = made_up(n)
        scores = boosting.out_of_fold(study, study.built.matrix, [target], "all")
        tried = ablation.ablate_in_turn(study, [target], scores, ["admissions.y"], margin)
        assert not tried[-1].holds
        (row,) = verdicts.settle([ColumnVerdict("admissions.y", "unproven", "why")], tried)
        assert row.verdict == "unproven" and "cannot rule out a loss" in row.reason
