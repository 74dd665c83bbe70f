"""How far raters agree beyond chance: Krippendorff's alpha and Cohen's kappa, with intervals by bootstrap of clusters.

Both are computed from how often each pair of values meets in each unit (coincidences for alpha, a confusion table for
kappa), so that a bootstrap sample is a weighted sum of the units' tables. Own code, since the packaged alpha is under
the GPL and drops Python 3.10; the tests hold it to published examples and kappa to scikit-learn.
"""

from typing import NamedTuple

import numpy as np

SAMPLES = 2_000
FEWEST = 5  # clusters for an interval: a bootstrap of fewer shows next to nothing


class Agreement(NamedTuple):
    """`value` is 1 for full agreement and 0 for chance; None where nothing varies or nothing was rated twice.

    `low` and `high` bound the 95% interval over bootstrap samples of clusters; None with fewer than FEWEST clusters.
    `units` is what was rated twice or more. benchmarks/raters.py shows what the intervals hold.
    """

    value: float | None
    low: float | None
    high: float | None
    units: int
    clusters: int


def alpha(units: list, values: list, level: str, clusters: list) -> Agreement:
    """Krippendorff's alpha. `units`: for each unit the values that its raters gave (any number; fewer than two say
    nothing); `values`: all that can be given, in order; `level`: "nominal", "ordinal" or "interval"; `clusters`: the
    cluster of each unit. Source: Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, sections C to E.
    """
    place = {value: i for i, value in enumerate(values)}
    tables, kept = [], []
    for given, cluster in zip(units, clusters, strict=True):
        if len(given) >= 2:
            counts = np.bincount([place[value] for value in given], minlength=len(values)).astype(
                float
            )
            tables.append((np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1))
            kept.append(cluster)

    def value(tables):
        sizes = tables.sum(axis=2)  # n_c of every sample
        n = sizes.sum(axis=1)
        distance = _distance(sizes, level)
        observed = (tables * distance).sum(axis=(1, 2))
        expected = (sizes[:, :, None] * sizes[:, None, :] * distance).sum(axis=(1, 2))
        return 1 - (n - 1) * observed / np.where(expected > 0, expected, np.nan)

    return _with_interval(tables, kept, value)


def kappa(pairs: list, values: list, weights: str | None, clusters: list) -> Agreement:
    """Cohen's kappa of two raters' values, [(first, second)]; `weights` is None or "quadratic" (for marks 1 to 5).

    Source: Cohen, Educational and Psychological Measurement 20 (1960); weighted: Psychological Bulletin 70 (1968).
    """
    place = {value: i for i, value in enumerate(values)}
    tables = np.zeros((len(pairs), len(values), len(values)))
    for table, (first, second) in zip(tables, pairs, strict=True):
        table[place[first], place[second]] = 1
    steps = np.subtract.outer(np.arange(len(values)), np.arange(len(values)))
    distance = steps**2 if weights == "quadratic" else (steps != 0)

    def value(tables):
        by_chance = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :]
        expected = (by_chance * distance).sum(axis=(1, 2)) / tables.sum(axis=(1, 2))
        return 1 - (tables * distance).sum(axis=(1, 2)) / np.where(expected > 0, expected, np.nan)

    return _with_interval(list(tables), clusters, value)


def _distance(sizes, level: str):
    """Squared differences between values: (1 or samples, values, values)."""
    steps = np.subtract.outer(np.arange(sizes.shape[1]), np.arange(sizes.shape[1]))
    if level == "nominal":
        return (steps != 0)[None].astype(float)
    if level == "interval":
        return (steps**2)[None].astype(float)
    ends = (
        np.cumsum(sizes, axis=1) - sizes / 2
    )  # half of a value's own ratings lie below its middle
    return (ends[:, :, None] - ends[:, None, :]) ** 2


def _with_interval(tables: list, clusters: list, value) -> Agreement:
    """The value over all units, and over samples of whole clusters, drawn with a fixed seed."""
    if not tables:
        return Agreement(None, None, None, 0, 0)
    names = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(names), *tables[0].shape))
    np.add.at(sums, [names[cluster] for cluster in clusters], np.array(tables))
    with np.errstate(invalid="ignore", divide="ignore"):
        point = value(sums.sum(axis=0, keepdims=True))[0]
        draws = np.random.default_rng(0).multinomial(
            len(names), [1 / len(names)] * len(names), size=SAMPLES
        )
        found = value(np.tensordot(draws.astype(float), sums, axes=1))
    found = found[np.isfinite(found)]
    low, high = (
        np.percentile(found, _ends(len(names)))
        if len(names) >= FEWEST and len(found)
        else (None, None)
    )
    numbers = (None if x is None or not np.isfinite(x) else float(x) for x in (point, low, high))
    return Agreement(*numbers, len(tables), len(names))


def _ends(k: int) -> tuple:
    """The percentiles that bound a 95% interval over samples of k clusters: expanded, as samples of few vary less.

    Source: Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69 (2015).
    """
    from scipy import stats

    low = 100 * stats.norm.sf((k / (k - 1)) ** 0.5 * stats.t.ppf(0.975, k - 1))
    return low, 100 - low
