"""What may be claimed: in order, and of arms that are alike in one study of twenty at most."""

import numpy as np
import pytest
from scipy import stats

from helpers.paths import ROOT
from helpers.scripts import load_script
from mimic_qlora.validation.urgency import claims, endpoint
from mimic_qlora.validation.urgency.claims import CLAIMED, NOT_SHOWN, NOT_TESTED

nulls = load_script(ROOT / "benchmarks" / "urgency_statistics.py")
ORDER = claims.order("logistic", "base")


def said(shape, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    study, seen, _ = nulls.simulate(shape, rng)
    arms = {name: seen[name] for name in ("adapter", "base", "logistic")}
    found = endpoint.measure(study, arms, 0, 100)
    return [claim.outcome for claim in claims.in_order(study, found, "adapter", ORDER)]


@pytest.mark.parametrize("final", [False, True])
def test_alike_arms_are_claimed_to_differ_in_few_studies(final):
    shape = nulls.Shape(60, 60, final)
    row = nulls.of_shape(shape, 60, 60, np.random.default_rng(1))
    wrong = round(float(row["wrong"].rstrip("%")) * 0.6)
    # were it 5%, more than 7 of 60 would come once in a hundred times
    assert wrong <= 7 and stats.binom.sf(7, 60, 0.05) < 0.015


def test_what_is_better_is_found():
    assert said(nulls.Shape(300, 300, True, true=2))[:2] == [CLAIMED, CLAIMED]


def test_nothing_is_tested_after_a_claim_that_fails():
    # the base is worse than the adapter, but the simple model that comes before it is not
    rng = np.random.default_rng(3)
    study, seen, _ = nulls.simulate(nulls.Shape(300, 300, False), rng)
    arms = {"adapter": seen["adapter"], "logistic": seen["adapter"], "base": rng.normal(size=600)}
    found = endpoint.measure(study, arms, 0, 100)
    made = claims.in_order(study, found, "adapter", ORDER)
    assert [claim.outcome for claim in made] == [NOT_SHOWN, NOT_TESTED, NOT_TESTED]
    assert made[1].gain.p < 0.001 and made[0].gain.value == 0 and made[0].gain.p == 1


def test_nothing_is_claimed_of_few_visits():
    assert said(nulls.Shape(19, 300, True, true=2)) == [NOT_TESTED] * 3


def test_a_worse_arm_is_not_called_better():
    rng = np.random.default_rng(4)
    study, seen, _ = nulls.simulate(nulls.Shape(300, 300, False), rng)
    found = endpoint.measure(
        study,
        {"adapter": rng.normal(size=600), **{name: seen["base"] for name in ("logistic", "base")}},
        0,
        100,
    )
    (first, *_) = claims.in_order(study, found, "adapter", ORDER)
    assert first.outcome == NOT_SHOWN and first.gain.high < 0 and first.gain.p < 0.001


def test_a_few_visits_that_differ_are_no_claim_though_the_bootstrap_says_so():
    n = 60
    positive = np.arange(n) < 30
    turns = endpoint.cross_fitted(endpoint.folds(np.arange(n), positive, 0))
    nurse = np.arange(n) >= 50
    study = endpoint.Study(np.arange(n), positive, nurse, np.ones(n), positive.astype(int), turns)
    low = np.where(positive, 0.0, 1.0) + np.linspace(0, 0.01, n)
    high = np.where(np.arange(n) < 5, 3.0, low)  # finds five that the other does not
    found = endpoint.measure(study, {"one": high, "two": low}, 0, 400)
    by = claims.gain(study, found["one"], found["two"])
    assert (by.gained, by.lost) == (5, 0) and by.low > 0
    assert by.p == pytest.approx(2 * 0.5**5)


def test_the_interval_of_a_share_is_never_narrower_than_the_exact_one():
    low, high = claims.share(20, 20, np.ones(100))
    assert high == 1 and low == pytest.approx(stats.binomtest(20, 20).proportion_ci().low)


def test_two_arms_that_never_differ_on_few_visits_are_not_told_to_be_equal():
    """The bootstrap has no spread; of two visits, 84% may yet be found by one alone."""
    positive = np.arange(15) < 2
    turns = endpoint.cross_fitted(endpoint.folds(np.arange(15), positive, 0))
    scores = np.linspace(1, 0, 15)
    study = endpoint.Study(
        np.arange(15), positive, positive, np.ones(15), positive.astype(int), turns
    )
    found = endpoint.measure(study, {"one": scores, "two": scores}, 0, 50)
    by = claims.gain(study, found["one"], found["two"])
    at_most = stats.binomtest(0, 2).proportion_ci().high
    assert (by.value, by.p) == (0, 1) and (by.low, by.high) == pytest.approx((-at_most, at_most))
