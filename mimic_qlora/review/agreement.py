"""Agreement between raters beyond chance: Krippendorff's alpha, Cohen's kappa, their intervals.

Both rest on counts of how often each pair of values meets in a unit: coincidences for alpha, a
confusion table for kappa. A sample of the cluster bootstrap is thus a weighted sum of tables. Own
code, since the packaged alpha is under the GPL and drops Python 3.10; the tests compare it with
published examples and kappa with scikit-learn.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tables = NDArray[np.float64]  # [samples, values, values]: counts of pairs of values
SAMPLES = 2_000
FEWEST = 5  # clusters for an interval: a bootstrap of fewer shows next to nothing


class Agreement(NamedTuple):
    """`value` is 1 for full agreement and 0 for chance; None where it is undefined.

    `low` and `high` bound the 95% interval over bootstrap samples of clusters; None with fewer than
    FEWEST clusters. `units` were rated twice or more. benchmarks/raters.py measures the coverage.
    """

    value: float | None
    low: float | None
    high: float | None
    units: int
    clusters: int


def alpha(
    units: Sequence[Sequence[Hashable]],
    values: Sequence[Hashable],
    level: str,
    clusters: Sequence[Hashable],
) -> Agreement:
    """Return Krippendorff's alpha.

    `units`: for each unit the values that its raters gave; fewer than two say nothing. `values`:
    all that can be given, in order. `level`: "nominal", "ordinal" or "interval". `clusters`: the
    cluster of each unit. Source: Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011,
    sections C to E.
    """
    place = {value: i for i, value in enumerate(values)}
    tables, kept = [], []
    for given, cluster in zip(units, clusters, strict=True):
        if len(given) >= 2:
            places = [place[value] for value in given]
            counts = np.bincount(places, minlength=len(values)).astype(float)
            tables.append((np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1))
            kept.append(cluster)

    def value(tables: Tables) -> Tables:
        sizes = tables.sum(axis=2)  # n_c of every sample
        n = sizes.sum(axis=1)
        distance = _distance(sizes, level)
        observed = (tables * distance).sum(axis=(1, 2))
        expected = (sizes[:, :, None] * sizes[:, None, :] * distance).sum(axis=(1, 2))
        return 1 - (n - 1) * observed / np.where(expected > 0, expected, np.nan)

    return _with_interval(tables, kept, value)


def kappa(
    pairs: Sequence[tuple[Hashable, Hashable]],
    values: Sequence[Hashable],
    weights: str | None,
    clusters: Sequence[Hashable],
) -> Agreement:
    """Return Cohen's kappa of two raters' values, (first, second) of each unit.

    `weights` is None or "quadratic" (for marks 1 to 5). Source: Cohen, Educational and
    Psychological Measurement 20 (1960); weighted: Psychological Bulletin 70 (1968).
    """
    place = {value: i for i, value in enumerate(values)}
    tables = np.zeros((len(pairs), len(values), len(values)))
    for table, (first, second) in zip(tables, pairs, strict=True):
        table[place[first], place[second]] = 1
    steps = np.subtract.outer(np.arange(len(values)), np.arange(len(values)))
    distance = steps**2 if weights == "quadratic" else (steps != 0)

    def value(tables: Tables) -> Tables:
        by_chance = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :]
        expected = (by_chance * distance).sum(axis=(1, 2)) / tables.sum(axis=(1, 2))
        return 1 - (tables * distance).sum(axis=(1, 2)) / np.where(expected > 0, expected, np.nan)

    return _with_interval(list(tables), clusters, value)


def _distance(sizes: Tables, level: str) -> Tables:
    """Return the squared differences between values: [1 or samples, values, values].

    `sizes` [samples, values] are the numbers of ratings by value.
    """
    steps = np.subtract.outer(np.arange(sizes.shape[1]), np.arange(sizes.shape[1]))
    if level == "nominal":
        return (steps != 0)[None].astype(float)
    if level == "interval":
        return (steps**2)[None].astype(float)
    # half of a value's own ratings lie below its middle
    ends = np.cumsum(sizes, axis=1) - sizes / 2
    return (ends[:, :, None] - ends[:, None, :]) ** 2


def _with_interval(
    tables: Sequence[Tables], clusters: Sequence[Hashable], value: Callable[[Tables], Tables]
) -> Agreement:
    """Return the value over all units, with an interval over samples of whole clusters.

    The samples are drawn with a fixed seed.
    """
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
    ends: Sequence[float | None] = (None, None)
    if len(names) >= FEWEST and len(found):
        ends = np.percentile(found, _ends(len(names))).tolist()
    numbers = [None if x is None or not np.isfinite(x) else float(x) for x in (point, *ends)]
    return Agreement(numbers[0], numbers[1], numbers[2], len(tables), len(names))


def _ends(k: int) -> tuple[float, float]:
    """Return the percentiles that bound a 95% interval over samples of k clusters.

    They are expanded, as samples of few clusters vary less. Source: Hesterberg, What Teachers
    Should Know About the Bootstrap, The American Statistician 69 (2015).
    """
    from scipy import stats

    low = 100 * stats.norm.sf((k / (k - 1)) ** 0.5 * stats.t.ppf(0.975, k - 1))
    return low, 100 - low
