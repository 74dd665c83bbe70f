"""The tables of an urgency run tell of no few visits."""

from types import SimpleNamespace

import numpy as np
import pytest

from mimic_qlora.validation.urgency import tables
from mimic_qlora.validation.urgency.endpoint import NURSE


@pytest.fixture
def over_time():
    """Return a function that makes the temporal table: emergencies and others of both times."""

    def made(late: tuple[int, int], before: tuple[int, int]) -> dict[str, dict]:
        cells = [("2020", True), ("2020", False), ("2008", True), ("2008", False)]
        every = [cell for cell, n in zip(cells, (*late, *before), strict=True) for _ in range(n)]
        positive = np.array([is_positive for _, is_positive in every])
        visits = SimpleNamespace(every=[SimpleNamespace(year_group=year) for year, _ in every])
        study = SimpleNamespace(held=np.ones(len(every), bool), positive=positive)
        called = SimpleNamespace(called=positive)
        of = SimpleNamespace(study=study, found={"adapter": called, NURSE: called})
        rows = tables.over_time(visits, of, ["adapter"]).rows
        return {str(row["patients of"]).split(" ")[0]: row for row in rows}

    return made


def test_a_small_cell_in_time_hides_the_one_that_its_total_would_tell_it_by(over_time):
    """ "before" was shown, and "Found: 90% of 47" beside it told how many the latest years had."""
    rows = over_time(late=(7, 20), before=(40, 100))
    for row in rows.values():
        assert row["emergencies"] == row["sensitivity, adapter"] == "hidden"
        assert row["sensitivity, nurse"] == "hidden" and row["specificity, nurse"] == "100.0%"
    assert [row["others"] for row in rows.values()] == [20, 100]


def test_nothing_is_hidden_in_time_where_no_cell_is_small(over_time):
    rows = over_time(late=(0, 20), before=(40, 100))
    assert [row["emergencies"] for row in rows.values()] == [0, 40]
    assert [row["sensitivity, adapter"] for row in rows.values()] == ["", "100.0%"]


@pytest.mark.parametrize(
    ("told", "shown"),
    [("Medicare", "Medicare"), ("", "not recorded"), ("Smith's own fund", "another text")],
)
def test_an_insurance_that_nobody_publishes_is_not_named(told, shown):
    """Its counts were hidden, and its text, which may be one patient's, was the group's name."""
    assert tables.GROUPS["insurance"](SimpleNamespace(insurance=told)) == shown
