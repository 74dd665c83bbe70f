"""Permutation importance of columns and of clusters, out of fold, against shadow features.

Shadow features are permuted copies of all features: their importance is the null distribution
(Boruta: Kursa and Rudnicki 2010).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import xgboost
from scipy.sparse import csr_matrix
from scipy.stats import norm
from tqdm import tqdm

from mimic_qlora.features import auroc, boosting, clusters
from mimic_qlora.features.boosting import Study
from mimic_qlora.features.cohort import Target
from mimic_qlora.features.matrix import Feature, Features, in_split

REPEATS = 5  # permutations of each column
MAX_PERMUTED = 2000  # patients per fold: more do not change a mean of drops
NULL_QUANTILE = 0.95
RESAMPLES = 100  # of the patients of each fold, for how often a column is selected
SELECTED = 0.6  # of the resamples: least share called stable by Meinshausen and Buehlmann (2010)
STRATA = 10  # groups of patients with similar row counts, besides those without rows


class Units(NamedTuple):
    """The units of permutation: each column, then each cluster of columns, then their shadows.

    columns: names. groups: int [features], the column of each feature.
    cluster: int [columns], the cluster of each column.
    features: of each unit, its positions among the features followed by their shadows.
    members: number of a cluster's unit -> int array of its columns.
    rows: float [counts, patients], the row counts of tables and items.
    counted: int [2 * features], the count that each feature and shadow is computed from.
    """

    columns: list[str]
    groups: np.ndarray
    cluster: np.ndarray
    features: list[np.ndarray]
    members: dict[int, np.ndarray]
    rows: np.ndarray
    counted: np.ndarray

    @property
    def n(self) -> int:
        """Return the number of units that are not shadows."""
        return len(self.features) // 2


def units(built: Features, people: pd.DataFrame) -> Units:
    """Return the units of the feature matrix; clusters are found on train patients."""
    columns = sorted({feature.column for feature in built.features})
    groups = np.array([columns.index(feature.column) for feature in built.features])
    is_count = np.array([column.endswith(".*") for column in columns])
    cluster = clusters.cluster(built.matrix[in_split(people, "train")], groups, is_count)
    features = [np.flatnonzero(groups == c) for c in range(len(columns))]
    members = {}
    for number in np.flatnonzero(np.bincount(cluster) > 1):
        members[len(features)] = inside = np.flatnonzero(cluster == number)
        features.append(np.concatenate([features[c] for c in inside]))
    features += [own + len(groups) for own in features]
    keys = [_count_of(feature, built.rows) for feature in built.features]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    nobody = np.zeros(len(people))
    rows = np.array([nobody if key is None else built.rows.get(key, nobody) for key in places])
    counted = np.tile([places[key] for key in keys], 2)
    return Units(columns, groups, cluster, features, members, rows, counted)


def _count_of(feature: Feature, rows: dict[tuple[str, str], np.ndarray]) -> tuple[str, str] | None:
    """Return the row count that a feature is computed from: (table, item) or (table, "").

    None for a row count itself, which is permuted over all patients.
    """
    table = feature.column.partition(".")[0]
    if feature.column.endswith(".*"):
        return None
    of_item = (table, feature.item)
    return of_item if feature.statistic != "rows" and of_item in rows else (table, "")


def permuted(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the patients permuted among those with similar row counts: int [patients].

    rows: row count of each patient. Shares, minima and maxima leak how many rows they were
    computed from. Permuted across all patients, a noise column would look important merely because
    of its row count. Patients are therefore permuted only within strata of similar counts.
    """
    some = rows[rows > 0]
    edges = np.empty(0)
    if len(some):
        edges = np.unique(np.quantile(some, np.linspace(0, 1, STRATA + 1)[:-1]))
    stratum = np.searchsorted(edges, rows, "right")
    places = np.empty(len(rows), int)
    places[np.argsort(stratum, kind="stable")] = np.lexsort((rng.random(len(rows)), stratum))
    return places


def shadows(
    matrix: np.ndarray, own: Units, parts: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Return shadow features: a copy of the matrix, permuted (see `permuted`) within each part.

    matrix: [patients, features]. parts: disjoint bool [patients]. Features of the same count are
    permuted alike, so the shadows of near-duplicates are near-duplicates.
    """
    copy, counted = np.empty_like(matrix), own.counted[: matrix.shape[1]]
    for count, rows in enumerate(own.rows):
        features = np.flatnonzero(counted == count)
        for places in map(np.flatnonzero, parts):
            taken = places[permuted(rows[places], rng)]
            copy[np.ix_(places, features)] = matrix[np.ix_(taken, features)]
    return copy


class Sample(NamedTuple):
    """The patients of one fold and target on whom drops are measured.

    matrix: float32 [patients, 2 * features], shadows last. rows: row counts [counts, patients].
    y: bool [patients].
    """

    matrix: np.ndarray
    rows: np.ndarray
    y: np.ndarray


class Drops(NamedTuple):
    """The fall of AUROC when each unit is permuted, and the influence of each patient on it.

    drops: float [units], mean over REPEATS permutations; nan where the AUROC is undefined, 0 for a
    unit that no tree uses. moves: float32 [units, patients], see `auroc.influence`.
    """

    drops: np.ndarray
    moves: np.ndarray


def permutation_drops(
    booster: xgboost.Booster, gain: np.ndarray, own: Units, sample: Sample, seed: int
) -> Drops:
    """Return the permutation importance of each unit.

    gain: float [2 * features], total gain of the booster. Units that no tree uses cost nothing:
    predictions read the features in use alone, as a sparse matrix.
    """
    matrix, rows, y = sample
    rng, width = np.random.default_rng(seed), matrix.shape[1]
    used = np.flatnonzero(gain)
    drops, moves = np.zeros(len(own.features)), np.zeros((len(own.features), len(y)), np.float32)
    if y.all() or not y.any():
        return Drops(drops * np.nan, moves)
    base, place = matrix[:, used], np.full(width, -1)
    place[used] = np.arange(len(used))
    reference = auroc.influence(y, booster.inplace_predict(_sparse(base, used, width)))
    for unit, features in enumerate(own.features):
        features = features[place[features] >= 0]
        if not len(features):
            continue
        counted = own.counted[features]
        by_count = [(count, place[features[counted == count]]) for count in sorted(set(counted))]
        copies = np.tile(base, (REPEATS, 1, 1))
        for copy in copies:
            for count, some in by_count:
                copy[:, some] = base[permuted(rows[count], rng)][:, some]
        scores = booster.inplace_predict(_sparse(copies.reshape(-1, len(used)), used, width))
        found = [auroc.influence(y, s) for s in scores.reshape(REPEATS, -1)]
        drops[unit] = reference.value - np.mean([one.value for one in found])
        moves[unit] = reference.moves - np.mean([one.moves for one in found], axis=0)
    return Drops(drops, moves)


def _sparse(rows: np.ndarray, used: np.ndarray, width: int) -> csr_matrix:
    """Return rows over the features in use, [n, used], as a sparse matrix [n, width]."""
    n = len(rows)
    starts = np.arange(n + 1) * len(used)
    return csr_matrix((rows.ravel(), np.tile(used, n), starts), shape=(n, width))


class Explored(NamedTuple):
    """Importance in each fold, for the targets with skill alone.

    drops: float [targets, folds, units], nan without a model.
    moves: per fold, float [units, patients held out], influences on the mean over the targets.
    variance: float [targets, units], of the mean drop over the folds, from sampling patients.
    gains: float [targets, folds, columns], shares of the model's total gain.
    feature_gain: float [features], mean share of the total gain.
    """

    drops: np.ndarray
    moves: list[np.ndarray]
    variance: np.ndarray
    gains: np.ndarray
    feature_gain: np.ndarray


class Measured(NamedTuple):
    """One model's total gain, float [2 * features], and its `Drops`."""

    gain: np.ndarray
    drops: np.ndarray
    moves: np.ndarray


def permuted_patients(turn: boosting.Turn) -> np.ndarray:
    """Return the places of the patients held out on whom drops are measured."""
    return np.flatnonzero(turn.held)[:MAX_PERMUTED]


def measure(
    study: Study, own: Units, targets: list[Target], turn: boosting.Turn, seed: int
) -> Iterator[Measured | None]:
    """Fit a model over all features and shadows per target; yield None where there is none."""
    matrix, held = study.built.matrix, permuted_patients(turn)
    parts = [in_split(study.people, "test"), turn.fitted, turn.stopping, turn.held]
    copy = shadows(matrix, own, parts, np.random.default_rng(seed))
    doubled = np.concatenate([matrix, copy], axis=1)

    def of_one(binned: boosting.Bins, target: Target) -> Measured | None:
        at_risk = held[target.who[held]]
        booster = boosting.fit(binned, target, turn.fitted, turn.stopping, seed, study.device)
        if booster is None or not len(at_risk):
            return None
        gain = boosting.gains(booster, doubled.shape[1])
        sample = Sample(doubled[at_risk], own.rows[:, at_risk], target.y[at_risk])
        return Measured(gain, *permutation_drops(booster, gain, own, sample, seed))

    return boosting.each_target(doubled, turn, targets, study.device, of_one)


def explore(study: Study, own: Units, targets: list[Target]) -> Explored:
    """Fit a model over all features and shadows per target and fold; measure gains and drops."""
    n, n_units, n_columns = len(study.built.features), len(own.features), len(own.columns)
    turns = boosting.turns(study.people, study.fold)
    drops = np.full((len(targets), len(turns), n_units), np.nan)
    shares = np.zeros((len(targets), len(turns), n_columns))
    feature_gain = np.zeros(n)
    variance = np.zeros((len(targets), n_units))
    moves = []
    bar = tqdm(total=len(targets) * len(turns), desc="importance", unit="model", disable=None)
    for seed, turn in enumerate(turns):
        held = permuted_patients(turn)
        moved = np.zeros((n_units, len(held)), np.float32)
        for t, measured in enumerate(measure(study, own, targets, turn, seed)):
            bar.update()
            if measured is None:
                continue
            gain = measured.gain
            shares[t, seed] = np.bincount(own.groups, gain[:n], n_columns) / max(gain.sum(), 1e-12)
            feature_gain += gain[:n] / max(gain.sum(), 1e-12) / (len(targets) * len(turns))
            drops[t, seed] = measured.drops
            moved[:, targets[t].who[held]] += measured.moves
            variance[t] += (measured.moves**2).sum(axis=1)
        moves.append(moved / max(1, np.isfinite(drops[:, seed, 0]).sum()))
    bar.close()
    n_folds = np.maximum(1, np.isfinite(drops[:, :, 0]).sum(axis=1))
    return Explored(drops, moves, variance / n_folds[:, None] ** 2, shares, feature_gain)


class Judged(NamedTuple):
    """The importance of each unit that is not a shadow, beside the null of the shadows.

    All arrays are float [units] where nothing else is said; drops are differences of AUROC.
    drop: mean over targets and folds. low, high: its 95% interval over patients.
    spread: standard deviation over folds.
    best: mean over folds for the target where it is largest. best_target: int, that target.
    by_target: [targets, units], mean over folds.
    selected: share of the resamples in which the drop exceeds the null of the same resample.
    gain: [columns], mean share of the total gain. feature_gain: [features], likewise.
    above: bool, important (see `judge`).
    null: the shadows' mean drops. limit: their NULL_QUANTILE.
    best_limit: the largest drop of any shadow for any target.
    """

    drop: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray
    best: np.ndarray
    best_target: np.ndarray
    by_target: np.ndarray
    selected: np.ndarray
    gain: np.ndarray
    feature_gain: np.ndarray
    above: np.ndarray
    null: np.ndarray
    limit: float
    best_limit: float


def judge(found: Explored, own: Units) -> Judged:
    """Return the importance of each unit.

    A unit is important in either of two ways. (1) Its mean drop exceeds the NULL_QUANTILE of the
    shadow drops, also in a share SELECTED of the resamples. (2) For one target, its drop exceeds
    every shadow's drop for any, and its Bonferroni-corrected interval is above 0.
    """
    n = own.n
    overall = auroc.defined_mean(found.drops, (0, 1))
    by_target = auroc.defined_mean(found.drops, 1)
    by_fold = auroc.defined_mean(found.drops, 0)
    limit, best_limit = np.quantile(overall[n:], NULL_QUANTILE), np.nanmax(by_target[:, n:])
    drops = by_target[:, :n]
    z = norm.ppf(1 - 0.025 / len(drops))
    surely = drops - z * np.sqrt(found.variance[:, :n]) > 0
    alone = ((drops > max(best_limit, 0)) & surely).any(axis=0)
    selected, n_folds = _selected(by_fold, found.moves, n), np.isfinite(by_fold[:, 0]).sum()
    variance = sum((moved[:n] ** 2).sum(axis=1) for moved in found.moves)
    half = 1.96 * np.sqrt(variance) / n_folds
    return Judged(
        drop=overall[:n],
        low=overall[:n] - half,
        high=overall[:n] + half,
        spread=np.nanstd(by_fold[:, :n], axis=0),
        best=np.nanmax(drops, axis=0),
        best_target=np.nanargmax(drops, axis=0),
        by_target=drops,
        selected=selected,
        gain=found.gains.mean(axis=(0, 1)),
        feature_gain=found.feature_gain,
        above=((overall[:n] > max(limit, 0)) & (selected >= SELECTED)) | alone,
        null=overall[n:],
        limit=float(limit),
        best_limit=float(best_limit),
    )


def _selected(by_fold: np.ndarray, moves: list[np.ndarray], n: int) -> np.ndarray:
    """Return the share of resamples in which each unit exceeds the null: float [n].

    Stability selection (Meinshausen and Buehlmann 2010). by_fold: float [folds, units].
    moves: per fold, float [units, patients]. n: units that are not shadows.
    """
    shares, rng = [], np.random.default_rng(0)
    for drops, moved in zip(by_fold, moves, strict=True):
        if not np.isfinite(drops[0]):
            continue
        n_patients = moved.shape[1]
        weights = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), RESAMPLES)
        drawn = drops[:, None] + moved @ (weights.T - 1)
        limits = np.maximum(np.quantile(drawn[n:], NULL_QUANTILE, axis=0), 0)
        shares.append((drawn[:n] > limits).mean(axis=1))
    return np.mean(shares, axis=0)
