"""AUROC, average precision and calibration, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from mimic_qlora.features import auroc


def test_auroc_and_average_precision_are_the_known_ones():
    rng = np.random.default_rng(0)
    y, scores = rng.random(50) < 0.4, np.round(rng.random(50), 1)
    weights = rng.multinomial(50, np.full(50, 1 / 50), size=3)
    assert auroc.auroc(y, scores) == pytest.approx(roc_auc_score(y, scores), abs=1e-12)
    areas = auroc.auroc_of_draws(y, scores, weights)
    precisions = auroc.average_precision_of_draws(y, scores, weights)
    for line, area, precision in zip(weights, areas, precisions, strict=True):
        again = np.repeat(np.arange(50), line)
        assert area == pytest.approx(roc_auc_score(y[again], scores[again]), abs=1e-12)
        expected = average_precision_score(y[again], scores[again])
        assert precision == pytest.approx(expected, abs=1e-12)
    expected = average_precision_score(y, scores)
    assert auroc.average_precision(y, scores) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(auroc.auroc(np.zeros(5, bool), np.arange(5.0)))


def test_patients_move_an_auroc_as_drawing_them_again_does():
    rng = np.random.default_rng(0)
    y, scores = rng.random(300) < 0.4, np.round(rng.normal(size=300), 1)
    scores += y
    area, moves = auroc.influence(y, scores)
    assert area == pytest.approx(auroc.auroc(y, scores)) and abs(moves.sum()) < 1e-9
    drawn = auroc.auroc_of_draws(y, scores, auroc.bootstrap_draws(300, 0))
    assert np.sqrt((moves**2).sum()) == pytest.approx(drawn.std(), rel=0.1)
    low, high = auroc.bounds(area, moves)
    assert np.quantile(drawn, (0.025, 0.975)) == pytest.approx((low, high), abs=0.01)


def test_calibration_tells_bold_models_from_timid_ones():
    rng = np.random.default_rng(0)
    logit = rng.normal(size=5000)
    y = rng.random(5000) < 1 / (1 + np.exp(-logit))
    slopes = [auroc.calibration(y, 1 / (1 + np.exp(-bold * logit))).slope for bold in (0.5, 1, 2)]
    assert slopes == pytest.approx([2, 1, 0.5], rel=0.1)
    apart = auroc.calibration(np.array([False, True]), np.array([0.2, 0.7]))
    assert apart.slope is None and apart.brier == pytest.approx((0.04 + 0.09) / 2)


@pytest.mark.parametrize("n", [60, 500])
def test_the_slope_of_calibration_is_that_of_a_logistic_regression(n):
    rng = np.random.default_rng(n)
    logit = rng.normal(size=n)
    y = rng.random(n) < 1 / (1 + np.exp(-logit))
    risk = 1 / (1 + np.exp(-1.5 * logit))
    model = LogisticRegression(C=np.inf, tol=1e-8).fit(1.5 * logit[:, None], y)
    assert auroc.calibration(y, risk).slope == pytest.approx(model.coef_[0, 0], abs=1e-6)
