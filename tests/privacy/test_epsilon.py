import numpy as np
import pytest

from mimic_qlora.privacy import epsilon


@pytest.mark.parametrize(
    ("guesses", "correct", "expected"), [(100, 70, 0.47), (100, 90, 1.63), (200, 200, 4.2)]
)
def test_without_delta_it_is_the_bound_of_a_binomial_share(guesses, correct, expected):
    found = epsilon.at_least(200, guesses, correct, delta=0.0)
    assert found == pytest.approx(expected, abs=0.02)
    assert epsilon.at_least(200, guesses, correct, delta=1e-3) < found


def test_half_right_shows_nothing():
    assert epsilon.at_least(200, 132, 66) == 0
    assert epsilon.at_least(200, 0, 0) == 0


def test_the_middle_third_is_not_guessed():
    is_in = np.arange(30) >= 15
    found = epsilon.bound(np.arange(30.0), is_in)
    assert (found.correct, found.guesses, found.canaries) == (20, 20, 30)
    assert found.at_least == found.most > 1.5
    found = epsilon.bound(-np.arange(30.0), is_in)
    assert (found.correct, found.at_least) == (0, 0)
