"""Predicted and observed risk."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from mimic_qlora.features import cohort, skill


def test_the_tenths_of_risk_are_those_of_a_calibration_curve():
    rng = np.random.default_rng(0)
    risk = rng.random(500)
    target = cohort.Target("t", "t", rng.random(500) < risk, np.ones(500, bool))
    tenths = skill.reliability([target], risk[None])
    found, told = calibration_curve(target.y, risk, n_bins=10, strategy="quantile")
    assert [row.predictions for row in tenths] == [50] * 10
    assert [row.predicted_share for row in tenths] == pytest.approx(told, abs=1e-12)
    assert [row.observed_share for row in tenths] == pytest.approx(found, abs=1e-12)
