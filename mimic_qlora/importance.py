"""On which columns the models rest: permutation on patients held out, column by column and cluster by cluster, beside
shadows: copies of the same columns that can tell nothing."""

from typing import NamedTuple

from mimic_qlora import boosters, clusters, discrimination

REPEATS = 5  # permutations of each column
MAX_PERMUTED = 2000  # patients of a turn: more do not change a mean of drops
NULL_QUANTILE = 0.95
RESAMPLES = 100  # of the patients of each turn, for how often a column is selected
STRATA = 10  # groups of patients with like numbers of rows


class Units(NamedTuple):
    """What is permuted as one: each column, then each cluster of two or more columns; then the shadows of all these."""

    columns: list  # names
    groups: object  # the column number of each feature
    cluster: object  # the cluster number of each column
    features: list  # of each unit: its places in the matrix of features and shadows
    rows: object  # of each unit: how many rows of its table each patient has
    members: dict  # unit number -> the column numbers of a cluster

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
    # a number of rows itself is permuted over all patients
    rows = [built.rows[c.partition(".")[0]] * (not c.endswith(".*")) for c in columns]
    features = [np.flatnonzero(groups == c) for c in range(len(columns))]
    members = {}
    for name in np.flatnonzero(np.bincount(cluster) > 1):
        members[len(features)] = of_it = np.flatnonzero(cluster == name)
        features.append(np.concatenate([features[c] for c in of_it]))
        rows.append(rows[of_it[0]])
    features += [own + len(groups) for own in features]
    return Units(columns, groups, cluster, features, np.tile(np.array(rows), (2, 1)), members)


def permuted(rows, rng):
    """The places of the patients, permuted among those with like numbers of rows in the column's table.

    A share, a least or a greatest value tells by itself how many rows it was taken from; permuted over all patients,
    a column of noise would look important for what its table's number of rows says.
    """
    import numpy as np

    order = np.lexsort((rng.random(len(rows)), rows))
    places = np.empty(len(rows), int)
    for stratum in np.array_split(order, max(1, min(STRATA, len(rows) // 5))):
        places[stratum] = rng.permutation(stratum)
    return places


def shadows(matrix, own: Units, parts: list, rng):
    """A copy in which the features of each cluster are permuted together (see `permuted`) within each part: the shadows
    of twins are twins."""
    import numpy as np

    copy = np.empty_like(matrix)
    for name in range(own.cluster.max() + 1):
        columns = np.flatnonzero(own.cluster == name)
        features = np.flatnonzero(np.isin(own.groups, columns))
        for part in parts:
            places = np.flatnonzero(part)
            copy[np.ix_(places, features)] = matrix[
                np.ix_(places[permuted(own.rows[columns[0]][places], rng)], features)
            ]
    return copy


def permutation_drops(booster, gain, features: list, rows, matrix, y, seed: int) -> tuple:
    """How much AUROC falls when all features of a unit are permuted together (see `permuted`), for each unit.

    `features` and `rows` are those of the units, for the patients of `matrix`. A unit that no tree uses has 0 and costs
    nothing: only the features in use are predicted on, as a sparse matrix. Returns the mean over REPEATS permutations,
    and how each patient moves it (units x patients, see discrimination.influence); nan where AUROC is not defined.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    used = np.flatnonzero(gain)
    drops, moves = np.zeros(len(features)), np.zeros((len(features), len(y)), np.float32)
    if y.all() or not y.any():
        return drops * np.nan, moves
    base, place = matrix[:, used], np.full(matrix.shape[1], -1)
    place[used] = np.arange(len(used))
    reference, of_reference = discrimination.influence(y, booster.inplace_predict(_sparse(base, used, matrix.shape[1])))
    for unit, of_unit in enumerate(features):
        own = place[of_unit][place[of_unit] >= 0]
        if not len(own):
            continue
        copies = np.tile(base, (REPEATS, 1, 1))
        for copy in copies:
            copy[:, own] = base[permuted(rows[unit], rng)][:, own]
        scores = booster.inplace_predict(_sparse(copies.reshape(-1, len(used)), used, matrix.shape[1]))
        areas, of_copies = zip(*(discrimination.influence(y, s) for s in scores.reshape(REPEATS, -1)), strict=True)
        drops[unit] = reference - np.mean(areas)
        moves[unit] = of_reference - np.mean(of_copies, axis=0)
    return drops, moves


def _sparse(rows, used, width: int):
    """Rows over the features in use as a sparse matrix over all features; the others are never looked at."""
    import numpy as np
    from scipy.sparse import csr_matrix

    n = len(rows)
    return csr_matrix((rows.ravel(), np.tile(used, n), np.arange(n + 1) * len(used)), shape=(n, width))


class Explored(NamedTuple):
    """What the turns found, for targets with skill alone."""

    drops: object  # targets x turns x units
    moves: list  # of each turn: units x patients held out, of the mean over the targets
    gains: object  # targets x turns x columns, as shares of the model's total gain


def explore(built, people, own: Units, targets: list, fold, on: str) -> Explored:
    """Per target and turn: a model over all columns and their shadows, its gains and its permutation drops."""
    import numpy as np
    from tqdm import tqdm

    matrix, n, c = built.matrix, built.matrix.shape[1], len(own.columns)
    turns = boosters.turns(people, fold)
    drops = np.full((len(targets), len(turns), len(own.features)), np.nan)
    shares, moves = np.zeros((len(targets), len(turns), c)), []
    bar = tqdm(total=len(targets) * len(turns), desc="importance", unit="model", disable=None)
    for seed, (fitted, held) in enumerate(turns):
        parts = [people.split.to_numpy() == "test", fitted, held]
        doubled = np.concatenate([matrix, shadows(matrix, own, parts, np.random.default_rng(seed))], axis=1)
        binned = boosters.bins(doubled, fitted, held)
        here = np.flatnonzero(held)[:MAX_PERMUTED]
        moved = np.zeros((len(own.features), len(here)), np.float32)
        for t, target in enumerate(targets):
            bar.update()
            judged = np.flatnonzero(target.who[here])
            booster = boosters.fit(binned, target, fitted, held, seed, on)
            if booster is None or not len(judged):
                continue
            gain, at = boosters.gains(booster, 2 * n), here[judged]
            shares[t, seed] = np.bincount(own.groups, gain[:n], c) / max(gain.sum(), 1e-12)
            drops[t, seed], of_them = permutation_drops(
                booster, gain, own.features, own.rows[:, at], doubled[at], target.y[at], seed
            )
            moved[:, judged] += of_them
        moves.append(moved / max(1, np.isfinite(drops[:, seed, 0]).sum()))
    bar.close()
    return Explored(drops, moves, shares)


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
    """A unit matters if its mean drop is above 95% of the shadows', or its drop in one target above all of theirs."""
    import numpy as np

    n = own.n
    overall, by_target, by_turn = mean(found.drops, (0, 1)), mean(found.drops, 1), mean(found.drops, 0)
    limit, best_limit = np.quantile(overall[n:], NULL_QUANTILE), np.nanmax(by_target[:, n:])
    best = np.nanmax(by_target[:, :n], axis=0)
    turns = np.isfinite(by_turn[:, 0]).sum()
    half = 1.96 * np.sqrt(sum((moved[:n] ** 2).sum(axis=1) for moved in found.moves)) / turns
    return Judged(
        drop=overall[:n],
        low=overall[:n] - half,
        high=overall[:n] + half,
        spread=np.nanstd(by_turn[:, :n], axis=0),
        best=best,
        best_target=np.nanargmax(by_target[:, :n], axis=0),
        by_target=by_target[:, :n],
        selected=_selected(by_turn, found.moves, n),
        gain=found.gains.mean(axis=(0, 1)),
        above=(overall[:n] > max(limit, 0)) | (best > max(best_limit, 0)),
        null=overall[n:],
        limit=float(limit),
        best_limit=float(best_limit),
    )


def _selected(by_turn, moves: list, n: int):
    """How often a unit is above the null when the patients of each turn are drawn again (Meinshausen and Buehlmann
    2010 call it stability selection)."""
    import numpy as np

    counts, rng = [], np.random.default_rng(0)
    for drops, moved in zip(by_turn, moves, strict=True):
        if not np.isfinite(drops[0]):
            continue
        weights = rng.multinomial(moved.shape[1], np.full(moved.shape[1], 1 / moved.shape[1]), size=RESAMPLES)
        drawn = drops[:, None] + moved @ (weights.T - 1)
        limits = np.maximum(np.quantile(drawn[n:], NULL_QUANTILE, axis=0), 0)
        counts.append((drawn[:n] > limits).mean(axis=1))
    return np.mean(counts, axis=0)
