"""Verdicts on columns."""

import numpy as np

from mimic_qlora.features import permutation, verdicts


def judged(drops: list, above: list) -> permutation.Judged:
    n = len(drops)
    zeros, rest = np.zeros(n), dict.fromkeys(permutation.Judged._fields)
    rest |= dict.fromkeys(("low", "high", "spread", "best", "selected", "gain"), zeros)
    rest |= {"best_target": np.zeros(n, int), "limit": 0.01, "best_limit": 0.1}
    return permutation.Judged(**{**rest, "drop": np.array(drops), "above": np.array(above)})


def test_of_twins_that_matter_together_one_stays():
    names = ["admissions.a", "admissions.b", "patients.gender"]
    own = permutation.Units(names, None, np.zeros(3, int), [], {3: np.array([0, 1, 2])}, None, None)
    two = permutation.Units(
        names[:2], None, np.zeros(2, int), [], {2: np.array([0, 1])}, None, None
    )
    stays = verdicts.representatives(two, judged([0.001, 0.003, 0.05], [False, False, True]))
    assert stays == {0: [1], 1: [1]}
    alone = verdicts.representatives(two, judged([0.001, 0.03, 0.05], [False, True, True]))
    assert alone == {0: [1], 1: [1]}
    safe = verdicts.representatives(
        own, judged([0.001, 0.003, 0.0, 0.05], [False, False, False, True])
    )
    assert safe == {0: [2], 1: [2], 2: [2]}  # the protected one stays anyway
    assert verdicts.representatives(two, judged([0.001, 0.003, 0.005], [False] * 3)) == {}
