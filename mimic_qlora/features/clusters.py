"""Columns that tell much the same, grouped: of twins, each alone looks unimportant while the other is there."""

LIKE = 0.7  # from here on, two columns are of one cluster
PATIENTS = 2000  # train patients on whom likeness is measured


def likeness(matrix, groups):
    """How like each two columns are, 0 to 1: columns x columns.

    matrix: patients x features; groups: the column number of each feature. How well a column is found in another is
    the mean, over its features, of the greatest rank correlation with one of the other's; two columns are as like as
    the worse found of them. The mean keeps a column of many features from being like one that echoes a single one.
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(matrix[:PATIENTS], axis=0).astype(np.float32)
    ranks -= ranks.mean(axis=0)
    ranks /= np.maximum(np.sqrt((ranks**2).sum(axis=0)), 1e-9)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
    ranks = ranks[:, order]
    best = np.empty((len(order), len(starts)), np.float32)  # of each feature, in each column
    for part in np.array_split(np.arange(len(order)), max(1, len(order) // 500)):
        best[part] = np.maximum.reduceat(np.abs(ranks[:, part].T @ ranks), starts, axis=1)
    found = np.add.reduceat(best, starts, axis=0) / np.diff(np.r_[starts, len(order)])[:, None]
    return np.minimum(found, found.T)


def cluster(matrix, groups, apart):
    """The cluster number of each column: clusters are numbered in the order of their first column.

    Average linkage cut at LIKE. Columns for which `apart` is true stay alone.
    """
    import numpy as np
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    n = groups.max() + 1
    if n < 2 or len(matrix) < 3:
        return np.arange(n)
    far = 1 - np.clip(likeness(matrix, groups), 0, 1)
    far[apart] = far[:, apart] = 2
    np.fill_diagonal(far, 0)
    names = fcluster(linkage(squareform(far, checks=False), "average"), 1 - LIKE, "distance")
    first = {}
    return np.array([first.setdefault(name, len(first)) for name in names])
