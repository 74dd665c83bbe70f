"""Emergencies and others are drawn apart, and those without the nurse's level are left out."""

import numpy as np
import pytest

from helpers.urgency_visits import visit
from mimic_qlora.validation.urgency import drawn


def test_half_are_emergencies_and_each_visit_has_its_weight():
    found = drawn.draw([visit(i) for i in range(9000)], 1000, 0)
    positive = np.array([one.level == "A" for one in found.visits])
    assert (positive.sum(), (~positive).sum()) == (500, 500)
    assert found.weight[positive] == pytest.approx(900 / 500)
    assert found.weight[~positive] == pytest.approx(8100 / 500)
    assert (found.there, found.emergencies, found.no_level) == (9000, 900, 0)


def test_there_are_three_hundred_emergencies_where_there_are_so_many():
    few = drawn.draw([visit(i) for i in range(9000)], 20, 0)
    assert sum(one.level == "A" for one in few.visits) == 300 and len(few.visits) == 600
    all_there = drawn.draw([visit(i) for i in range(1000)], 20, 0)
    assert sum(one.level == "A" for one in all_there.visits) == 100 and len(all_there.visits) == 400


def test_a_visit_without_the_nurses_level_is_left_out_and_counted():
    every = [visit(0), visit(1), visit(2, acuity=None), visit(3, primary=False, acuity=None)]
    found = drawn.draw(every, 20, 0)
    assert [one.subject_id for one in found.visits] == [0, 1] and found.no_level == 1


def test_the_draw_is_that_of_the_seed_whatever_the_order():
    every = [visit(i) for i in range(4000)]
    ids = [one.subject_id for one in drawn.draw(every, 700, 1).visits]
    assert [one.subject_id for one in drawn.draw(every[::-1], 700, 1).visits] == ids
    assert [one.subject_id for one in drawn.draw(every, 700, 2).visits] != ids
