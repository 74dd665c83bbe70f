"""Agreement beyond chance: published examples, the packaged kappa, intervals that hold."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mimic_qlora.review import agreement

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers,
# twelve units, gaps
UNITS = [
    [1, 1, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [5, 5, 5],
    [1, 1],
    [3],
]


@pytest.mark.parametrize(
    "level, published", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_that_of_krippendorffs_own_example(level, published):
    found = agreement.alpha(UNITS, [1, 2, 3, 4, 5], level, list(range(12)))
    assert found.value == pytest.approx(published, abs=0.0005) and found.units == 11


def test_alpha_of_two_observers_is_that_of_krippendorffs_binary_example():
    # section A: ten units, two observers, 0.095
    pairs = zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True)
    assert agreement.alpha(
        [*map(list, pairs)], [0, 1], "nominal", list(range(10))
    ).value == pytest.approx(0.095, abs=5e-4)


@pytest.mark.parametrize("weights", [None, "quadratic"])
def test_kappa_is_that_of_scikit_learn(weights):
    rng = np.random.default_rng(3)
    first = rng.integers(1, 6, 200)
    second = np.clip(first + rng.integers(-1, 2, 200), 1, 5)
    pairs = [*zip(first.tolist(), second.tolist(), strict=True)]
    found = agreement.kappa(pairs, [1, 2, 3, 4, 5], weights, list(range(200)))
    assert found.value == pytest.approx(cohen_kappa_score(first, second, weights=weights))
    assert found.low < found.value < found.high


def test_kappa_is_that_of_cohens_own_example():
    # Cohen (1960), table 1: proportions of 200 judgments in three categories, kappa .492
    table = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    pairs = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    assert agreement.kappa(pairs, [0, 1, 2], None, list(range(200))).value == pytest.approx(
        0.492, abs=5e-4
    )


def test_nothing_is_claimed_where_nothing_varies_or_was_rated_twice():
    assert agreement.alpha([[3, 3], [3, 3]], [1, 2, 3], "ordinal", [1, 2])[:3] == (None, None, None)
    assert agreement.alpha([[3], [2]], [1, 2, 3], "ordinal", [1, 2]) == (None, None, None, 0, 0)
    assert agreement.kappa([], [1, 2], None, []) == (None, None, None, 0, 0)
    few = agreement.kappa([(1, 1), (2, 2), (1, 2)], [1, 2], None, ["q1", "q2", "q3"])
    assert few.value is not None and few.low is None, "three questions show nothing about others"


def test_whole_questions_are_drawn_so_alike_units_widen_the_interval():
    rng = np.random.default_rng(5)
    agree = np.repeat(
        rng.random(20) < 0.7, 10
    )  # within a question raters agree on all or on nothing
    pairs = [
        (x, x if same else 3 - x)
        for x, same in zip(rng.integers(1, 3, 200).tolist(), agree, strict=True)
    ]
    by_question = agreement.kappa(pairs, [1, 2], None, [i // 10 for i in range(200)])
    naive = agreement.kappa(pairs, [1, 2], None, list(range(200)))
    assert by_question.value == naive.value
    assert by_question.high - by_question.low > 2 * (naive.high - naive.low)
