"""The values that follow from lab results: the formula, the specimen, the newest."""

from datetime import datetime, timedelta

import pytest

from mimic_qlora.chart import derived_values
from mimic_qlora.clinical import derived

NOW = datetime(2150, 5, 20, 12)


def row(item, value, unit, days_ago=1.0):
    when = NOW - timedelta(days=days_ago)
    return item, {"itemid": item, "valuenum": value, "valueuom": unit, "charttime": when}


def history(*rows):
    by_item = {}
    for item, one in rows:
        by_item.setdefault(item, []).append(one)
    return by_item


def values(*rows, age=75, sex="F"):
    found = derived_values.of_history(history(*rows), age, sex, NOW)
    return {name: (round(fact.value, 2), fact.days_ago) for name, fact in found.items()}


@pytest.mark.parametrize(
    ("creatinine", "age", "sex", "filtration"),
    [(1.5, 75, "F", 36), (1.5, 75, "M", 48), (0.6, 40, "F", 116), (1.0, 50, "M", 92)],
)
def test_the_filtration_is_that_of_ckd_epi_2021(creatinine, age, sex, filtration):
    """As the calculator of the National Kidney Foundation gives it."""
    assert round(derived.egfr(creatinine, age, sex)) == filtration


def test_the_filtration_needs_age_sex_and_the_unit():
    assert values(row(50912, 1.5, "mg/dL"))["egfr"][0] == pytest.approx(36, abs=0.5)
    assert values(row(50912, 1.5, "mg/dL"), age=None) == {}
    assert values(row(50912, 1.5, "mg/dL"), sex=None) == {}
    assert values(row(50912, 132.0, "umol/L")) == {}
    assert values(row(50912, 0.0, "mg/dL")) == {}


def test_neutrophils_are_counted_or_white_cells_times_percent_of_one_specimen():
    counted = row(52075, 0.8, "K/uL")
    assert values(counted, sex=None) == {"neutrophils": (0.8, 1)}
    pair = (row(51301, 2.0, "K/uL", 3), row(51256, 20.0, "%", 3), row(51144, 5.0, "%", 3))
    assert values(*pair) == {"neutrophils": (0.5, 3)}
    assert values(pair[0], row(51256, 20.0, "%", 2)) == {}, "percent of another specimen"
    assert values(*pair, counted)["neutrophils"] == (0.8, 1), "the newest"
    assert values(row(51301, 0.4, "K/uL")) == {"neutrophils": (0.4, 1)}, "no more than all"
    assert values(row(51301, 4.0, "K/uL")) == {}


def test_no_value_is_older_than_a_result_without_a_number():
    for number, unread in (
        (row(50912, 1.5, "mg/dL", 3), row(52546, None, "mg/dL")),
        (row(52075, 0.8, "K/uL", 3), row(51301, None, "K/uL")),
    ):
        assert len(values(number)) == 1 and values(number, unread) == {}
