"""Figures of the population from a sample in which emergencies were drawn apart."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, cohen_kappa_score

from mimic_qlora.features import auroc
from mimic_qlora.validation.urgency import population


def test_each_visit_stands_for_its_share_of_the_population():
    positive = np.array([True, True, False, False, False, False])
    drawn = np.array([True, True, True, True, False, False])
    assert population.weights(drawn, positive).tolist() == [1, 1, 2, 2, 0, 0]
    assert population.weights(positive, positive).sum() == 2  # of a side of which none was drawn


def test_calibration_is_that_of_the_population():
    rng = np.random.default_rng(0)
    risk = rng.random(300)
    positive = rng.random(300) < risk**2
    weight = np.where(positive, 1.0, 3.0)
    found = population.calibration(risk, positive, weight)
    places = np.repeat(np.arange(300), weight.astype(int))
    whole = auroc.calibration(positive[places], risk[places])
    assert found.slope == pytest.approx(whole.slope, abs=1e-3)
    assert found.brier == pytest.approx(brier_score_loss(positive[places], risk[places]))
    assert found.predicted == pytest.approx(risk[places].mean())
    assert found.observed == pytest.approx(positive[places].mean())
    assert sum(part.n for part in found.bins) == 300
    predicted = [part.predicted for part in found.bins]
    assert len(predicted) == 10 and predicted == sorted(predicted)


def test_one_class_has_no_slope():
    found = population.calibration(np.array([0.2, 0.4]), np.zeros(2, bool), np.ones(2))
    assert (found.slope, found.intercept) == (None, None) and found.brier == pytest.approx(0.1)


def test_kappa_is_that_of_the_population_and_leaves_levels_of_their_own_out():
    said, level = list("ABCDDA"), ["A", "C", "C", "D", "LWBS", "B"]
    weight = np.array([1.0, 2, 3, 1, 5, 1])
    places = [i for i in range(6) if i != 4 for _ in range(int(weight[i]))]
    expected = cohen_kappa_score(
        ["ABCD".index(said[i]) for i in places],
        ["ABCD".index(level[i]) for i in places],
        weights="quadratic",
    )
    assert population.kappa(said, level, weight) == pytest.approx(expected)
    assert population.kappa(["A"], ["LWBS"], np.ones(1)) is None
