"""Sensitivity at the nurse's specificity: thresholds from other patients, bootstrap with all."""

import numpy as np
import pytest

from mimic_qlora.validation.urgency import endpoint
from mimic_qlora.validation.urgency.endpoint import NURSE, Study, Turn


def study(n: int = 200, seed: int = 0, final: bool = False) -> tuple[Study, np.ndarray]:
    """A study of n visits, of which a third are to be found, and the scores of one arm."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 1 / 3
    nurse = rng.normal(size=n) + 1.5 * positive > 0.4
    scores = rng.normal(size=n) + 1.5 * positive
    patient = np.arange(n)
    is_test = patient >= n // 2
    turns = [Turn(~is_test, is_test)]
    if not final:
        turns = endpoint.cross_fitted(endpoint.folds(patient, positive, 0))
    stratum = 2 * (is_test & final) + positive
    return Study(patient, positive, nurse, np.ones(n), stratum, turns), scores


def test_a_threshold_leaves_the_share_of_the_weight_at_or_below_it():
    scores = np.array([0.4, 0.1, 0.3, 0.2])
    weights = np.array([[1.0, 1, 1, 1], [1, 1, 1, 3], [1, 1, 1, 1]])
    found = endpoint.thresholds(scores, weights, np.array([0.75, 0.5, 0.0]))
    assert found.tolist() == [0.3, 0.2, -np.inf]


def test_ties_at_the_threshold_are_not_called():
    scores = np.array([0.1, 0.5, 0.5, 0.5])
    (limit,) = endpoint.thresholds(scores, np.ones((1, 4)), np.array([0.5]))
    assert (scores > limit).sum() == 0  # none of three equal ones may be called alone


@pytest.mark.parametrize("final", [False, True])
def test_no_visit_changes_the_threshold_that_applies_to_itself(final):
    of, scores = study(final=final)
    before = endpoint.limits(of, scores)
    for turn in of.turns:
        other = np.where(turn.held, -scores, scores)
        nurse = np.where(turn.held, ~of.nurse, of.nurse)
        changed = Study(of.patient, of.positive, nurse, of.weight, of.stratum, of.turns)
        assert (endpoint.limits(changed, other)[turn.held] == before[turn.held]).all()


def test_each_validation_patient_is_held_out_once_and_folds_share_the_emergencies():
    of, _ = study()
    assert sum(turn.held.astype(int) for turn in of.turns).tolist() == [1] * len(of.patient)
    counts = [int((turn.held & of.positive).sum()) for turn in of.turns]
    assert max(counts) - min(counts) <= 1


def test_visits_of_one_patient_stay_in_one_fold_and_are_drawn_together():
    patient = np.repeat(np.arange(30), 2)
    positive = np.arange(60) % 4 == 0
    fold = endpoint.folds(patient, positive, 0)
    assert (fold[::2] == fold[1::2]).all()
    turns = endpoint.cross_fitted(fold)
    of = Study(patient, positive, positive, np.ones(60), positive.astype(int), turns)
    (drawn,) = endpoint.draws(of, 20, 0)
    assert (drawn[:, ::2] == drawn[:, 1::2]).all() and drawn.sum(axis=1).tolist() == [60] * 20


def test_the_threshold_has_the_nurses_specificity_on_other_patients():
    of, scores = study(20_000)
    found = endpoint.measure(of, {"arm": scores}, 0, 20)
    nurse, arm = found[NURSE].at, found["arm"].at
    assert arm.specificity[0] == pytest.approx(nurse.specificity[0], abs=0.01)
    assert arm.sensitivity[0] == pytest.approx(nurse.sensitivity[0], abs=0.02)


def test_a_draw_counts_a_visit_as_often_as_it_was_drawn():
    of, scores = study(60)
    times = np.array([3, *[1] * 58, 2.0])
    (drawn,) = endpoint.rates(of, scores, times[None]).sensitivity
    places = np.repeat(np.arange(60), times.astype(int))
    turns = [Turn(turn.fitted[places], turn.held[places]) for turn in of.turns]
    parts = (of.patient, of.positive, of.nurse, of.weight, of.stratum)
    repeated = Study(*(part[places] for part in parts), turns)
    assert endpoint.rates(repeated, scores[places], np.ones((1, 63))).sensitivity[0] == drawn


def test_the_bootstrap_carries_threshold_and_nurse():
    of, scores = study(400)
    found = endpoint.measure(of, {"arm": scores}, 0, 300)
    fixed = found["arm"].called[of.positive].mean()
    binomial = np.sqrt(fixed * (1 - fixed) / of.positive.sum())
    assert found["arm"].drawn.sensitivity.std() > 1.15 * binomial
    assert found[NURSE].drawn.specificity.std() > 0.01


def test_nothing_is_measured_without_visits_to_set_a_threshold_on():
    of, _ = study()
    assert endpoint.is_measurable(of)
    one = Study(of.patient, ~of.positive | True, of.nurse, of.weight, of.stratum, of.turns)
    assert not endpoint.is_measurable(one)


def test_a_draw_without_a_visit_to_set_the_threshold_on_calls_none():
    of, scores = study(20)
    (turn, *_) = of.turns
    none = np.where(turn.fitted & ~of.positive, 0.0, 1.0)
    assert endpoint.of_turn(of, turn, scores, np.array([none, np.ones(20)]))[0] == np.inf
