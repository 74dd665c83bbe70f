"""On which columns the models rest: permutation on patients held out, column by column and cluster by cluster, beside
shadows: copies of the same columns that can tell nothing."""

from typing import NamedTuple

from mimic_qlora.features import auroc, boosting, clusters

REPEATS = 5  # permutations of each column
MAX_PERMUTED = 2000  # patients of a turn: more do not change a mean of drops
NULL_QUANTILE = 0.95
RESAMPLES = 100  # of the patients of each turn, for how often a column is selected
SELECTED = (
    0.6  # of these draws: the least share that Meinshausen and Buehlmann (2010) take for stable
)
STRATA = 10  # groups of patients with like numbers of rows, besides those without any


class Units(NamedTuple):
    """What is permuted as one: each column, then each cluster of two or more columns; then the shadows of all these."""

    columns: list  # names
    groups: object  # the column number of each feature
    cluster: object  # the cluster number of each column
    features: list  # of each unit: its places in the matrix of features and shadows
    members: dict  # unit number -> the column numbers of a cluster
    rows: object  # how many rows of a table, or of one item in it, each patient has: counts x patients
    counted: object  # the number of the count that each feature, each shadow is taken from

    @property
    def n(self) -> int:
        """Units that are no shadows."""
        return len(self.features) // 2


def units(built, people) -> Units:
    import numpy as np

    columns = sorted({f.column for f in built.features})
    groups = np.array([columns.index(f.column) for f in built.features])
    is_count = np.array([c.endswith(".*") for c in columns])
    cluster = clusters.cluster(built.matrix[(people.split == "train").to_numpy()], groups, is_count)
    features = [np.flatnonzero(groups == c) for c in range(len(columns))]
    members = {}
    for name in np.flatnonzero(np.bincount(cluster) > 1):
        members[len(features)] = of_it = np.flatnonzero(cluster == name)
        features.append(np.concatenate([features[c] for c in of_it]))
    features += [own + len(groups) for own in features]
    keys = [_count_of(feature, built.rows) for feature in built.features]
    names = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    rows = np.array([built.rows.get(key, np.zeros(len(people))) for key in names])
    return Units(
        columns, groups, cluster, features, members, rows, np.tile([names[key] for key in keys], 2)
    )


def _count_of(feature, rows: dict) -> tuple | None:
    """Which number of rows a feature is taken from; a number of rows itself is permuted over all patients."""
    table = feature.column.partition(".")[0]
    if feature.column.endswith(".*"):
        return None
    of_item = (table, feature.item)
    return of_item if feature.statistic != "rows" and of_item in rows else (table, "")


def permuted(rows, rng):
    """The places of the patients, permuted among those with like numbers of rows.

    A share, a least or a greatest value tells by itself how many rows it was taken from, and whether there were any;
    permuted over all patients, a column of noise would look important for what its number of rows says.
    """
    import numpy as np

    some = rows[rows > 0]
    edges = np.unique(np.quantile(some, np.linspace(0, 1, STRATA + 1)[:-1])) if len(some) else []
    stratum = np.searchsorted(edges, rows, "right")
    places = np.empty(len(rows), int)
    places[np.argsort(stratum, kind="stable")] = np.lexsort((rng.random(len(rows)), stratum))
    return places


def shadows(matrix, own: Units, parts: list, rng):
    """A copy in which patients swap their values (see `permuted`) within each part: it can tell nothing, but is spread
    and tied together like the features, so that the shadows of twins are twins."""
    import numpy as np

    copy, counted = np.empty_like(matrix), own.counted[: matrix.shape[1]]
    for count, rows in enumerate(own.rows):
        features = np.flatnonzero(counted == count)
        for places in map(np.flatnonzero, parts):
            copy[np.ix_(places, features)] = matrix[
                np.ix_(places[permuted(rows[places], rng)], features)
            ]
    return copy


def permutation_drops(booster, gain, own: Units, rows, matrix, y, seed: int) -> tuple:
    """How much AUROC falls when the features of a unit are permuted (see `permuted`), for each unit.

    `rows` are those of the units, for the patients of `matrix`. A unit that no tree uses has 0 and costs
    nothing: only the features in use are predicted on, as a sparse matrix. Returns the mean over REPEATS permutations,
    and how each patient moves it (units x patients, see discrimination.influence); nan where AUROC is not defined.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    used = np.flatnonzero(gain)
    drops, moves = np.zeros(len(own.features)), np.zeros((len(own.features), len(y)), np.float32)
    if y.all() or not y.any():
        return drops * np.nan, moves
    base, place = matrix[:, used], np.full(matrix.shape[1], -1)
    place[used] = np.arange(len(used))
    reference, of_reference = auroc.influence(
        y, booster.inplace_predict(_sparse(base, used, matrix.shape[1]))
    )
    for unit, features in enumerate(own.features):
        features = features[place[features] >= 0]
        if not len(features):
            continue
        by_count = [
            (count, place[features[own.counted[features] == count]])
            for count in set(own.counted[features])
        ]
        copies = np.tile(base, (REPEATS, 1, 1))
        for copy in copies:
            for count, some in sorted(by_count, key=lambda pair: pair[0]):
                copy[:, some] = base[permuted(rows[count], rng)][:, some]
        scores = booster.inplace_predict(
            _sparse(copies.reshape(-1, len(used)), used, matrix.shape[1])
        )
        areas, of_copies = zip(
            *(auroc.influence(y, s) for s in scores.reshape(REPEATS, -1)), strict=True
        )
        drops[unit] = reference - np.mean(areas)
        moves[unit] = of_reference - np.mean(of_copies, axis=0)
    return drops, moves


def _sparse(rows, used, width: int):
    """Rows over the features in use as a sparse matrix over all features; the others are never looked at."""
    import numpy as np
    from scipy.sparse import csr_matrix

    n = len(rows)
    return csr_matrix(
        (rows.ravel(), np.tile(used, n), np.arange(n + 1) * len(used)), shape=(n, width)
    )


class Explored(NamedTuple):
    """What the turns found, for targets with skill alone."""

    drops: object  # targets x turns x units
    moves: list  # of each turn: units x patients held out, of the mean over the targets
    variance: object  # targets x units: of the mean drop over the turns, from drawing patients
    gains: object  # targets x turns x columns, as shares of the model's total gain


def explore(built, people, own: Units, targets: list, fold, on: str) -> Explored:
    """Per target and turn: a model over all columns and their shadows, its gains and its permutation drops."""
    import numpy as np
    from tqdm import tqdm

    matrix, n, c = built.matrix, built.matrix.shape[1], len(own.columns)
    turns = boosting.turns(people, fold)
    drops = np.full((len(targets), len(turns), len(own.features)), np.nan)
    shares, moves, variance = (
        np.zeros((len(targets), len(turns), c)),
        [],
        np.zeros((len(targets), len(own.features))),
    )
    bar = tqdm(total=len(targets) * len(turns), desc="importance", unit="model", disable=None)
    for seed, (fitted, stops, held) in enumerate(turns):
        parts = [people.split.to_numpy() == "test", fitted, stops, held]
        doubled = np.concatenate(
            [matrix, shadows(matrix, own, parts, np.random.default_rng(seed))], axis=1
        )
        binned = boosting.bins(doubled, fitted, stops)
        here = np.flatnonzero(held)[:MAX_PERMUTED]
        moved = np.zeros((len(own.features), len(here)), np.float32)
        for t, target in enumerate(targets):
            bar.update()
            judged = np.flatnonzero(target.who[here])
            booster = boosting.fit(binned, target, fitted, stops, seed, on)
            if booster is None or not len(judged):
                continue
            gain, at = boosting.gains(booster, 2 * n), here[judged]
            shares[t, seed] = np.bincount(own.groups, gain[:n], c) / max(gain.sum(), 1e-12)
            drops[t, seed], of_them = permutation_drops(
                booster, gain, own, own.rows[:, at], doubled[at], target.y[at], seed
            )
            moved[:, judged] += of_them
            variance[t] += (of_them**2).sum(axis=1)
        moves.append(moved / max(1, np.isfinite(drops[:, seed, 0]).sum()))
    bar.close()
    of_turns = np.maximum(1, np.isfinite(drops[:, :, 0]).sum(axis=1))
    return Explored(drops, moves, variance / of_turns[:, None] ** 2, shares)


def mean(values, axis=None):
    """The mean of what is defined; nan where nothing is."""
    import warnings

    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


class Judged(NamedTuple):
    """How each unit (shadows left out) did, beside the null that the shadows give."""

    drop: object  # mean over targets and turns
    low: object  # 95% interval of it over patients
    high: object
    spread: object  # standard deviation over turns
    best: object  # mean over turns in the target where it matters most
    best_target: object  # its place among the targets with skill
    by_target: object  # targets x units, mean over turns
    selected: object  # share of resampled patients and turns in which it is above the null of the same draw
    gain: object  # columns only
    above: object
    null: object  # the shadows' mean drops
    limit: float
    best_limit: float


def judge(found: Explored, own: Units) -> Judged:
    """A unit matters if its mean drop is above 95% of the shadows', and stays so when patients are drawn again; or if
    its drop in one target is above all of theirs in any, and above 0 for sure (95% for all targets together)."""
    import numpy as np
    from scipy.stats import norm

    n = own.n
    overall, by_target, by_turn = (
        mean(found.drops, (0, 1)),
        mean(found.drops, 1),
        mean(found.drops, 0),
    )
    limit, best_limit = np.quantile(overall[n:], NULL_QUANTILE), np.nanmax(by_target[:, n:])
    best = np.nanmax(by_target[:, :n], axis=0)
    surely = (
        by_target[:, :n] - norm.ppf(1 - 0.025 / len(by_target)) * np.sqrt(found.variance[:, :n]) > 0
    )
    alone = ((by_target[:, :n] > max(best_limit, 0)) & surely).any(axis=0)
    selected, turns = _selected(by_turn, found.moves, n), np.isfinite(by_turn[:, 0]).sum()
    half = 1.96 * np.sqrt(sum((moved[:n] ** 2).sum(axis=1) for moved in found.moves)) / turns
    return Judged(
        drop=overall[:n],
        low=overall[:n] - half,
        high=overall[:n] + half,
        spread=np.nanstd(by_turn[:, :n], axis=0),
        best=best,
        best_target=np.nanargmax(by_target[:, :n], axis=0),
        by_target=by_target[:, :n],
        selected=selected,
        gain=found.gains.mean(axis=(0, 1)),
        above=((overall[:n] > max(limit, 0)) & (selected >= SELECTED)) | alone,
        null=overall[n:],
        limit=float(limit),
        best_limit=float(best_limit),
    )


def _selected(by_turn, moves: list, n: int):
    """How often a unit is above the null when the patients of each turn are drawn again: stability selection."""
    import numpy as np

    counts, rng = [], np.random.default_rng(0)
    for drops, moved in zip(by_turn, moves, strict=True):
        if not np.isfinite(drops[0]):
            continue
        weights = rng.multinomial(
            moved.shape[1], np.full(moved.shape[1], 1 / moved.shape[1]), size=RESAMPLES
        )
        drawn = drops[:, None] + moved @ (weights.T - 1)
        limits = np.maximum(np.quantile(drawn[n:], NULL_QUANTILE, axis=0), 0)
        counts.append((drawn[:n] > limits).mean(axis=1))
    return np.mean(counts, axis=0)
