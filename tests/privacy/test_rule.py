import pytest
from pydantic import ValidationError

from mimic_qlora.privacy import rule
from mimic_qlora.privacy.rule import Criterion


def criterion(name="loss", upper=0.55, p=0.5, limit=0.6):
    return Criterion(name, "auc", 0.5, 0.45, 0.56, upper, p, 0.5, limit)


def test_held_needs_every_upper_bound_under_its_limit():
    assert rule.decide([criterion("a"), criterion("b")]).verdict == rule.HELD
    found = rule.decide([criterion("a"), criterion("b", upper=0.6)])
    assert found.verdict == rule.CANNOT_TELL and "b" in found.why and found.worst.name == "b"


def test_exceeded_holds_after_holm_over_all_and_goes_before_held():
    alone = rule.decide([criterion("a", p=0.02)])
    assert alone.verdict == rule.EXCEEDED and "a lies above" in alone.why
    beside = rule.decide([criterion("a", p=0.02), criterion("b"), criterion("c")])
    assert beside.verdict == rule.HELD and beside.adjusted["a"] == pytest.approx(0.06)


def test_a_void_comparison_tells_nothing():
    found = rule.decide([criterion(p=0.0001)], void="the sides differ in age")
    assert found.verdict == rule.CANNOT_TELL and found.why == "the sides differ in age"


@pytest.mark.parametrize("wrong", [{"auc": 0.5}, {"gap": float("inf")}, {"tpr": float("nan")}])
def test_limits_that_no_leak_reaches_or_none_exceeds_are_refused(wrong):
    right = {"auc": 0.6, "tpr": 0.05, "exposure": 2.0, "extraction": 0.01, "gap": 0.08}
    assert rule.Limits(**right)
    with pytest.raises(ValidationError):
        rule.Limits(**{**right, **wrong})
