import numpy as np
import pytest

from mimic_qlora.privacy import exposure


def test_the_likeliest_secret_has_ten_bits_and_the_unlikeliest_none():
    scores = np.tile(np.arange(1024.0), (2, 1))
    scores[0, 0], scores[1, 0] = 5000, -1
    assert exposure.exposures(scores) == pytest.approx([10, 0])


def test_ties_stand_in_the_middle():
    assert exposure.exposures(np.zeros((1, 1024))) == pytest.approx([1], abs=0.01)


def test_where_nothing_leaks_the_mean_is_1_44_bits_and_p_is_not_small():
    rng = np.random.default_rng(3)
    found = exposure.mean(exposure.exposures(rng.normal(size=(100, 1024))))
    assert exposure.NULL == pytest.approx(1.4358, abs=1e-3)
    assert found.low < exposure.NULL < found.high and found.p > 0.05
    assert found.upper < 2.2


def test_a_few_canaries_that_leak_wholly_are_seen():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 1024))
    scores[:10, 0] = 10
    found = exposure.mean(exposure.exposures(scores))
    assert found.p < 0.001 and found.upper > 3
