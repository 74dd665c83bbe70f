"""Permutation importance against shadow features."""

import numpy as np

from mimic_qlora.features import boosting, cohort, permutation


def units_of(groups: list, rows: list, counted: list) -> permutation.Units:
    """Return units from the column of each feature, row counts, and the count of each feature."""
    groups = np.array(groups)
    one = [np.flatnonzero(groups == c) for c in range(groups.max() + 1)]
    shadows = [own + len(groups) for own in one]
    counted = np.array(counted * 2)
    return permutation.Units(
        ["t.c"] * len(one), groups, np.arange(len(one)), one + shadows, {}, np.array(rows), counted
    )


def test_shadows_keep_together_what_is_taken_from_the_same_rows():
    rng = np.random.default_rng(0)
    matrix = np.arange(40).repeat(3).reshape(40, 3).astype(float)
    parts = [np.arange(40) < 20, np.arange(40) >= 20]
    copy = permutation.shadows(
        matrix, units_of([0, 1, 2], [np.ones(40), np.ones(40)], [0, 0, 1]), parts, rng
    )
    assert (copy[:, 0] == copy[:, 1]).all() and not (copy[:, 0] == copy[:, 2]).all()
    assert sorted(copy[:20, 2]) == list(range(20))  # nobody's value crosses into another part


def test_patients_swap_values_with_those_of_like_numbers_of_rows():
    rows = np.arange(100.0)
    places = permutation.permuted(rows, np.random.default_rng(0))
    assert sorted(places) == list(range(100)) and abs(rows[places] - rows).max() < 11
    assert (places != np.arange(100)).any()
    few = np.array(
        [0] * 90 + [1] * 5 + [2] * 5
    )  # an item that few patients have: they swap among themselves
    assert (few[permutation.permuted(few, np.random.default_rng(0))] == few).all()


def test_noise_that_only_tells_whether_there_were_rows_of_an_item_is_no_better_than_its_shadow():
    """An item's value is the median for those without its rows: by itself it tells who had any."""
    rng = np.random.default_rng(0)
    has = rng.random(800) < 0.3
    noise = np.where(has, rng.normal(size=800), 0)
    y = rng.random(800) < np.where(has, 0.9, 0.1)
    matrix = np.column_stack([noise, rng.permutation(noise)])
    target = cohort.Target("t", "t", y, np.ones(800, bool))
    everybody = np.ones(800, bool)
    booster = boosting.fit(
        boosting.bins(matrix, everybody, ~everybody), target, everybody, ~everybody, 0, "cpu"
    )
    gain = boosting.gains(booster, 2)
    drops = [
        permutation.permutation_drops(
            booster, gain, own, permutation.Sample(matrix, own.rows, y), 0
        ).drops[0]
        for own in (units_of([0], [rows], [0]) for rows in (has.astype(float), np.zeros(800)))
    ]
    assert drops[0] < 0.05 < 0.3 < drops[1]  # among those with rows; among all


def test_a_column_is_important_only_if_it_stays_above_the_null_when_patients_are_drawn_again():
    own = units_of([0, 1], [np.zeros(50)], [0, 0])
    drops = np.array(
        [[[0.05, 0.02, 0.0, 0.01]]] * 2
    )  # targets x turns x units: two columns, their two shadows
    steady, shaky = np.full(50, 0.0001), np.random.default_rng(0).normal(0, 0.02, 50)
    moves = [np.array([steady, shaky - shaky.mean(), steady * 0, steady * 0])]
    found = permutation.Explored(
        drops, moves, np.array([[1e-6, 1e-2, 0, 0]] * 2), np.ones((2, 1, 2)), np.ones(2)
    )
    judged = permutation.judge(found, own)
    assert (
        judged.selected[0] == 1
        and judged.selected[1] < 0.75
        and judged.high[1] > 0.2 > judged.high[0]
    )
    assert judged.above.tolist() == [True, judged.selected[1] >= permutation.SELECTED]
    certain = permutation.judge(found._replace(variance=np.full((2, 4), 1e-6)), own)
    assert certain.above.all()  # above all shadows in one target, and surely above 0
