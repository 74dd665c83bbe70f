"""Logistic regression and XGBoost on what a prompt shows: planted truth, and nothing beside it."""

import numpy as np
import pytest

from helpers.small_chart import built, chart
from mimic_qlora.features import auroc
from mimic_qlora.validation.urgency import simple


def test_the_facts_are_those_of_the_prompt():
    shown = built(chart(), "2150-01-06")
    found = simple.facts(shown, "Chest pain, SOB")
    assert found["Age (0)"] == 60 and found["Sex = female"] == 1
    assert found["complaint: chest pain"] == found["complaint: sob"] == 1
    assert found["Latest labs: Creatinine (0)"] == 1.9
    assert found["Latest labs: Creatinine (before)"] == 1.0
    assert [name for name in found if name.startswith("Known conditions") and "fibril" in name]
    # of each fact the prompt has the words; the second stay is in the future
    names = {name.partition(": ")[2].partition(" (")[0] for name in found if ": " in name}
    assert not [name for name in names if "COPD" in name]


def test_what_the_budget_cuts_is_no_fact():
    cut = built(chart(), "2150-01-06", token_budget=72)
    assert cut.cuts and "and 1 more" in cut.text
    found = simple.facts(cut, None)
    assert set(simple.facts(built(chart(), "2150-01-06"), None)) - set(found)
    assert {name for name in found if name.endswith(": more")} == {f"{s}: more" for s in cut.cuts}


def test_a_chart_that_is_not_there_has_no_facts():
    empty = built(
        chart(admissions=[], diagnoses_icd_labeled=[], prescriptions=[], labevents=[], omr=[]),
        "2150-01-06",
    )
    assert set(simple.facts(empty, None)) == {"Age", "Age (0)", "Sex", "Sex = female"}


def visits(n: int, seed: int) -> tuple[list[simple.Facts], np.ndarray]:
    """Visits whose risk depends on complaint and chart together, among many words of no use."""
    rng = np.random.default_rng(seed)
    pain, failing = rng.random(n) < 0.4, rng.random(n) < 0.4
    positive = rng.random(n) < 0.03 + 0.25 * pain + 0.2 * failing + 0.35 * (pain & failing)
    found = []
    for i in range(n):
        words = [f"complaint: word {k}" for k in rng.integers(0, 40, 3)]
        own = dict.fromkeys(words, 1.0) | {"Age (0)": float(rng.integers(18, 92))}
        own |= {"complaint: chest pain": 1.0} if pain[i] else {}
        own |= {"Known conditions: heart failure": 1.0} if failing[i] else {}
        found.append(own)
    return found, positive


@pytest.fixture(scope="module")
def fitted():
    return simple.fit(*visits(900, 0), seed=0)


@pytest.mark.parametrize("name", [simple.LOGISTIC, simple.XGBOOST])
def test_planted_truth_is_found_and_each_part_of_it_counts(fitted, name):
    facts, positive = visits(900, 1)

    def area(kept: list[simple.Facts]) -> float:
        return auroc.auroc(positive, fitted[name].risks(kept))

    complaint = [{k: v for k, v in one.items() if not k.startswith("Known")} for one in facts]
    history = [{k: v for k, v in one.items() if not k.startswith("compl")} for one in facts]
    whole = area(facts)
    assert whole > 0.75 and whole > area(complaint) + 0.05 and whole > area(history) + 0.05
    other = [
        a | {k: v for k, v in b.items() if k.startswith("Known")}
        for a, b in zip(complaint, [*facts[1:], facts[0]], strict=True)
    ]
    assert area(other) < whole - 0.05


def test_two_fits_are_the_same_and_rare_facts_are_left_out(fitted):
    facts, positive = visits(900, 0)
    again = simple.fit([one | {f"rare {i}": 1.0} for i, one in enumerate(facts)], positive, 0)
    for name, model in again.items():
        assert (model.risks(facts) == fitted[name].risks(facts)).all()


def test_nothing_is_fitted_to_a_class_of_few():
    facts, positive = visits(60, 0)
    few = np.zeros(60, bool)
    few[:9] = True
    assert simple.fit(facts, few, 0) == {} and simple.fit(facts, ~few, 0) == {}
    assert simple.better({"a": 0.6, "b": 0.7}) == "b"
