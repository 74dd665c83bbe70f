"""Clusters of near-duplicate columns."""

import numpy as np

from mimic_qlora.features import clusters


def test_twins_are_one_cluster_and_strangers_are_not():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400))
    twin = np.exp(a) + rng.normal(0, 0.05, 400)  # another scale
    matrix = np.column_stack([a, b, twin, rng.normal(size=400), a])
    groups = np.array(
        [0, 1, 2, 3, 3]
    )  # the last column echoes a in one of its two features: no twin
    assert clusters.cluster(matrix, groups, np.zeros(4, bool)).tolist() == [0, 1, 0, 2]
    assert clusters.cluster(matrix, groups, np.array([True, False, False, False])).tolist() == [
        0,
        1,
        2,
        3,
    ]
