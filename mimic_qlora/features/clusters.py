"""Clusters of near-duplicate columns.

Permuting one of two near-duplicates costs little while the other remains, so they are also
permuted together.
"""

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

MIN_SIMILARITY = 0.7  # within a cluster, on average
PATIENTS = 2000  # train patients on whom similarity is measured


def similarity(matrix: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the similarity of each pair of columns: float [columns, columns], 0 to 1.

    matrix: float [patients, features]. groups: int [features], the column of each feature.
    similarity(a -> b) averages, over a's features, the highest absolute rank correlation with any
    feature of b. The similarity of two columns is the smaller of both directions. The average
    keeps a column of many features from resembling one that repeats a single feature of it.
    """
    ranks = rankdata(matrix[:PATIENTS], axis=0).astype(np.float32)
    ranks -= ranks.mean(axis=0)
    ranks /= np.maximum(np.sqrt((ranks**2).sum(axis=0)), 1e-9)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
    ranks = ranks[:, order]
    best = np.empty((len(order), len(starts)), np.float32)  # per feature and column
    for part in np.array_split(np.arange(len(order)), max(1, len(order) // 500)):
        best[part] = np.maximum.reduceat(np.abs(ranks[:, part].T @ ranks), starts, axis=1)
    sizes = np.diff(np.r_[starts, len(order)])
    one_way = np.add.reduceat(best, starts, axis=0) / sizes[:, None]
    return np.minimum(one_way, one_way.T)


def cluster(matrix: np.ndarray, groups: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Return the cluster number of each column: int [columns], numbered by first column.

    Average linkage, cut at MIN_SIMILARITY. Columns with `apart` (bool [columns]) stay alone.
    """
    n = groups.max() + 1
    if n < 2 or len(matrix) < 3:
        return np.arange(n)
    distance = 1 - np.clip(similarity(matrix, groups), 0, 1)
    distance[apart] = distance[:, apart] = 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    first: dict[int, int] = {}
    names = fcluster(tree, 1 - MIN_SIMILARITY, "distance")
    return np.array([first.setdefault(name, len(first)) for name in names])
