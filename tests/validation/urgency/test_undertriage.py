"""Undertriage: exact bounds over patients."""

import numpy as np
import pytest

from mimic_qlora.validation.urgency import undertriage


def test_the_bound_is_exact_over_patients():
    waits = undertriage.waits(["A", "D", "D", "C", "D"])
    level = ["A", "A", "B", "D-returned", "A"]
    found = undertriage.of(np.array([1, 2, 3, 4, 2]), level, waits, ["A"])
    assert (found.called, found.n, found.rate) == (1, 2, 0.5)  # patient 2 counts once
    assert found.most == pytest.approx(0.975**0.5)


def test_none_in_three_hundred_leaves_about_three_over_n():
    n = 300
    found = undertriage.of(np.arange(n), ["A"] * n, np.zeros(n, bool), ["A"])
    assert found.most == pytest.approx(1 - 0.025 ** (1 / n)) and found.most < 0.0123


def test_nobody_has_no_rate():
    found = undertriage.of(np.arange(1), ["B"], np.ones(1, bool), ["A"])
    assert (found.called, found.n, found.rate, found.most) == (0, 0, None, 1.0)
