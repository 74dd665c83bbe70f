import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from mimic_qlora.privacy import separation


def drawn(n, m, shift=0.0, attacks=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (attacks, n)), rng.normal(0, 1, (attacks, m))


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_auc_is_that_of_scikit_learn_with_ties_too(digits):
    members, others = (side[0].round(digits) for side in drawn(30, 20, 0.5))
    truth = [1] * 30 + [0] * 20
    expected = roc_auc_score(truth, np.concatenate([members, others]))
    assert separation.auc(members, others) == pytest.approx(expected)


def test_tpr_is_measured_where_at_most_one_percent_of_the_others_lie_above():
    others = np.arange(1000.0)
    assert separation.tpr(np.array([988.5, 989.0, 989.5, 2000.0]), others) == 0.5
    assert separation.tpr(np.full(4, 990.0), np.full(1000, 990.0)) == 0  # ties are not told apart


def test_fewer_than_a_thousand_non_members_have_no_tpr(monkeypatch):
    monkeypatch.setattr(separation, "SHUFFLES", 500)
    found = separation.separations(*drawn(20, 999))[0]
    assert found.tpr is None and found.tpr_p is None
    found = separation.separations(*drawn(20, 1000, shift=3))[0]
    assert found.tpr.value > 0.5 and found.tpr_p < 0.01


def test_p_is_that_of_the_rank_sum_test(monkeypatch):
    monkeypatch.setattr(separation, "SHUFFLES", 4000)
    members, others = drawn(30, 20, 0.4, attacks=3)
    found = separation.separations(members, others)
    for one, a, b in zip(found, members, others, strict=True):
        expected = stats.mannwhitneyu(a, b, alternative="greater").pvalue
        assert one.auc_p == pytest.approx(expected, abs=0.025)


def test_intervals_hold_the_truth_and_the_bound_lies_within(monkeypatch):
    rng, inside, times = np.random.default_rng(0), 0, 200
    monkeypatch.setattr(separation, "SHUFFLES", 1)  # no p is looked at
    for _ in range(times):
        members, others = rng.normal(0.3582, 1, 60), rng.normal(0, 1, 40)  # AUC 0.6
        seed = int(rng.integers(1 << 30))
        one = separation.separations(members[None], others[None], seed)[0].auc
        assert one.low < one.value < one.upper < one.high
        inside += one.low <= 0.6 <= one.high
    assert 0.91 <= inside / times <= 0.99


def test_the_same_scores_give_the_same_figures():
    sides = drawn(20, 10)
    assert separation.separations(*sides) == separation.separations(*sides)


def test_the_null_of_untied_scores_is_shared_and_that_of_tied_ones_is_their_own(monkeypatch):
    monkeypatch.setattr(separation, "SHUFFLES", 2000)
    scores = np.random.default_rng(1).normal(size=50)
    areas, rates = separation.nulls(scores, 20)
    assert areas is separation.nulls(np.arange(50.0), 20)[0]
    expected = np.sqrt(51 / 12 / 20 / 30)  # of the rank sum, as a share
    assert (areas.mean(), areas.std()) == pytest.approx((0.5, expected), rel=0.05)
    assert rates.mean() == pytest.approx(1 / 31, rel=0.2)  # above the highest of 30 others
    half, _ = separation.nulls((scores > 0).astype(float), 20)
    assert half.mean() == pytest.approx(0.5, abs=0.01) and len(np.unique(half)) < 21


def test_sides_that_do_not_overlap_have_the_interval_of_the_exact_binomial():
    """No draw of the bootstrap differs there, which says nothing of so few patients."""
    scores = np.arange(20.0)
    (found,) = separation.separations([scores[10:]], [scores[:10]])
    exact = stats.binomtest(10, 10).proportion_ci()
    assert found.auc == pytest.approx((1, exact.low, 1, 1)) and 0.6 < exact.low < 0.7
    (found,) = separation.separations([scores[:10]], [scores[10:]])
    assert found.auc[:3] == pytest.approx((0, 0, 1 - exact.low)) and found.auc.upper < 0.3
    (tied,) = separation.separations([np.ones(10)], [np.ones(10)])
    assert tied.auc.low < 0.25 and tied.auc.high > 0.75 and tied.auc.value == 0.5
