"""XGBoost models of many targets over one binned matrix, their skill, and which columns they rest on."""

from typing import NamedTuple

PARAMS = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "max_depth": 3,
    "eta": 0.15,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "min_child_weight": 2,
    "max_bin": 64,
}
ROUNDS = 120
PATIENCE = 10  # rounds without a better validation loss
REPEATS = 5  # permutations of each column
BOOTSTRAPS = 500
MAX_PERMUTED = 2000  # patients: more do not change a mean of drops
MIN_AUROC = 0.55  # on patients held out: below it a target has no skill
NULL_QUANTILE = 0.95
STRATA = 10  # groups of patients with like numbers of rows


class Bins(NamedTuple):
    """Train and validation patients as xgboost bins them, once for all targets."""

    train: object
    validation: object  # None when there are no such patients


def device() -> str:
    """ "cuda" where xgboost can use a GPU, else "cpu"."""
    import shutil

    import xgboost

    return "cuda" if xgboost.build_info().get("USE_CUDA") and shutil.which("nvidia-smi") else "cpu"


def bins(matrix, is_train, is_validation) -> Bins:
    import xgboost

    limit = PARAMS["max_bin"]
    train = xgboost.QuantileDMatrix(matrix[is_train], max_bin=limit)
    some = is_validation.any()
    return Bins(train, xgboost.QuantileDMatrix(matrix[is_validation], ref=train, max_bin=limit) if some else None)


def fit(binned: Bins, target, is_train, is_validation, seed: int, on: str):
    """One target's model over the binned patients, stopped where the validation loss was least.

    Patients outside `target.who` have no weight, so that all targets share the bins.
    """
    import xgboost

    for part, mask in zip(binned, (is_train, is_validation), strict=True):
        if part is not None:
            part.set_label(target.y[mask].astype(float))
            part.set_weight(target.who[mask].astype(float))
    stops = bool(target.who[is_validation].any())  # without patients to stop on: a quarter of the rounds
    booster = xgboost.train(
        {**PARAMS, "seed": seed, "device": on},
        binned.train,
        num_boost_round=ROUNDS if stops else ROUNDS // 4,
        evals=[(binned.validation, "validation")] if stops else [],
        early_stopping_rounds=PATIENCE if stops else None,
        verbose_eval=False,
    )
    return booster[: booster.best_iteration + 1] if stops else booster


def gains(booster, n_features: int):
    """Total gain of each feature; a feature that no tree used has 0, not no entry."""
    import numpy as np

    result = np.zeros(n_features)
    for name, gain in booster.get_score(importance_type="total_gain").items():
        result[int(name[1:])] = gain
    return result


def auroc(y, scores, weights=None):
    """Area under the ROC curve, ties counting half; nan where a class is missing.

    y: n booleans, scores: n, weights: k lines of n numbers (how often a patient counts). Returns k values, or one.
    """
    import numpy as np

    positives, negatives = _class_weights(y, scores, weights)
    total = positives.sum(axis=1) * negatives.sum(axis=1)
    above = positives.cumsum(axis=1) - positives / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (above * negatives).sum(axis=1) / total
    return values if weights is not None else float(values[0])


def average_precision(y, scores, weights=None):
    """Average precision, in the same terms as `auroc`; nan where no patient has the target."""
    import numpy as np

    positives, negatives = _class_weights(y, scores, weights)
    found, seen = positives.cumsum(axis=1), (positives + negatives).cumsum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(seen > 0, found / seen, 0)
        values = (positives * precision).sum(axis=1) / found[:, -1]
    return values if weights is not None else float(values[0])


def _class_weights(y, scores, weights):
    """The weights of both classes at each score, highest score first: two arrays of k x number of different scores."""
    import numpy as np

    y, weights = np.asarray(y, bool), np.ones((1, len(y))) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return tuple(np.add.reduceat(weights[:, order] * mask, starts, axis=1) for mask in (y[order], ~y[order]))


def bootstrap_weights(n: int, seed: int):
    """BOOTSTRAPS lines of how often each of n patients is drawn."""
    import numpy as np

    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS) if n else np.ones((0, 0))


def interval(values) -> tuple:
    """The 2.5% and 97.5% quantiles of what is defined; (None, None) where less than half is."""
    import numpy as np

    defined = values[np.isfinite(values)]
    if len(defined) < max(1, len(values) / 2):
        return None, None
    return tuple(float(q) for q in np.quantile(defined, (0.025, 0.975)))


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


def permutation_drops(booster, gain, groups, rows, matrix, y, seed: int):
    """How much AUROC falls when all features of a column are permuted together (see `permuted`), for each column.

    `rows` holds the numbers of rows of each column's table, columns x patients; `groups` is the column number of each
    feature. A column that no tree uses has 0 and costs nothing: only the features in use are predicted on, as a sparse
    matrix. Returns the mean over REPEATS permutations; nan where AUROC is not defined.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    used = np.flatnonzero(gain)
    drops = np.zeros(groups.max() + 1)
    if y.all() or not y.any():
        return drops * np.nan
    base, n = matrix[:, used], len(matrix)
    reference = auroc(y, booster.inplace_predict(_sparse(base, used, matrix.shape[1])))
    for column in np.unique(groups[used]):
        own = groups[used] == column
        copies = np.tile(base, (REPEATS, 1, 1))
        for copy in copies:
            copy[:, own] = base[permuted(rows[column], rng)][:, own]
        scores = booster.inplace_predict(_sparse(copies.reshape(-1, len(used)), used, matrix.shape[1]))
        drops[column] = reference - np.mean([auroc(y, line) for line in scores.reshape(REPEATS, n)])
    return drops


def _sparse(rows, used, width: int):
    """Rows over the features in use as a sparse matrix over all features; the others are never looked at."""
    import numpy as np
    from scipy.sparse import csr_matrix

    n = len(rows)
    return csr_matrix((rows.ravel(), np.tile(used, n), np.arange(n + 1) * len(used)), shape=(n, width))


class Explored(NamedTuple):
    """What the rotations found: arrays of targets x seeds (x columns, then as many shadows)."""

    columns: list
    drops: object
    gains: object  # columns only, as shares of the model's total gain
    auroc: object
    baseline: object  # AUROC of a model that knows the numbers of rows alone


def shadows(matrix, groups, rows, parts: list, rng):
    """A copy in which the features of each column are permuted together (see `permuted`) within each part."""
    import numpy as np

    copy = np.empty_like(matrix)
    for column in range(groups.max() + 1):
        own = np.flatnonzero(groups == column)
        for part in parts:
            places = np.flatnonzero(part)
            copy[np.ix_(places, own)] = matrix[np.ix_(places[permuted(rows[column, places], rng)], own)]
    return copy


def rotations(people, n: int) -> list:
    """n pairs (fitted on, held out) over the train and validation patients, each held out once; test patients never.

    The few validation patients alone would drown small drops in noise. With n = 1: the project's train and validation.
    """
    import numpy as np

    from mimic_qlora import draws

    develop = (people.split != "test").to_numpy()
    if n == 1:
        held = (people.split == "validation").to_numpy()
        return [(develop & ~held, held)]
    place = {s: i for i, s in enumerate(draws.order(people.subject_id[develop].tolist(), "rotation", 0))}
    turn = np.array([place.get(s, -1) % n if s in place else -1 for s in people.subject_id.tolist()])
    return [(develop & (turn != k), turn == k) for k in range(n)]


def explore(built, people, targets: list, seeds: int, on: str) -> Explored:
    """Per target and seed: a model over all columns and their shadows, its gains and its permutation drops."""
    import numpy as np
    from tqdm import tqdm

    matrix, features = built.matrix, built.features
    columns = sorted({f.column for f in features})
    # a number of rows itself is permuted over all patients
    rows = np.array([built.rows[c.partition(".")[0]] * (not c.endswith(".*")) for c in columns])
    groups = np.array([columns.index(f.column) for f in features])
    c, n = len(columns), len(features)
    counts = np.ascontiguousarray(matrix[:, [f.statistic == "*" for f in features]])
    both = np.r_[groups, groups + c]
    found = Explored(
        columns,
        drops=np.full((len(targets), seeds, 2 * c), np.nan),
        gains=np.zeros((len(targets), seeds, c)),
        auroc=np.full((len(targets), seeds), np.nan),
        baseline=np.full((len(targets), seeds), np.nan),
    )
    bar = tqdm(total=len(targets) * seeds, desc="importance", unit="model", disable=None)
    for seed, (fitted, held) in enumerate(rotations(people, seeds)):
        rng = np.random.default_rng(seed)
        parts = [people.split.to_numpy() == "test", fitted, held]
        doubled = np.concatenate([matrix, shadows(matrix, groups, rows, parts, rng)], axis=1)
        binned, few = bins(doubled, fitted, held), bins(counts, fitted, held)
        for t, target in enumerate(targets):
            bar.update()
            here = np.flatnonzero(held & target.who)
            if not 0 < target.y[fitted & target.who].sum() < (fitted & target.who).sum() or not len(here):
                continue
            booster = fit(binned, target, fitted, held, seed, on)
            gain = gains(booster, 2 * n)
            found.gains[t, seed] = np.bincount(groups, gain[:n], c) / max(gain.sum(), 1e-12)
            found.auroc[t, seed] = auroc(target.y[here], booster.inplace_predict(doubled[here]))
            baseline = fit(few, target, fitted, held, seed, on)
            found.baseline[t, seed] = auroc(target.y[here], baseline.inplace_predict(counts[here]))
            here = here[:MAX_PERMUTED]
            of_here = np.tile(rows[:, here], (2, 1))
            found.drops[t, seed] = permutation_drops(booster, gain, both, of_here, doubled[here], target.y[here], seed)
    bar.close()
    return found


def mean(values, axis=None):
    """The mean of what is defined; nan where nothing is."""
    import warnings

    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def skilled(found: Explored):
    """Which targets are predicted, on patients held out, better than chance and than from numbers of rows alone."""
    scores, baseline = mean(found.auroc, 1), mean(found.baseline, 1)
    return (scores >= MIN_AUROC) & (scores > baseline)


class Judged(NamedTuple):
    """Per column: how it did, beside the null that its shadows give."""

    drop: object  # mean over targets with skill, and seeds
    spread: object  # standard deviation over seeds
    best: object  # mean over seeds in the target where it matters most
    best_target: object
    selected: object  # share of the seeds in which it is above that seed's null
    gain: object
    above: object
    null: object  # the shadows' mean drops
    limit: float
    best_limit: float


def judge(found: Explored, has_skill) -> Judged:
    """A column matters if its mean drop is above 95% of the shadows', or its drop in one target above all of theirs."""
    import numpy as np

    c = len(found.columns)
    drops = found.drops[has_skill]
    overall, by_target, by_seed = mean(drops, (0, 1)), mean(drops, 1), mean(drops, 0)
    limit, best_limit = np.quantile(overall[c:], NULL_QUANTILE), by_target[:, c:].max()
    best = by_target[:, :c].max(axis=0)
    limits = np.quantile(by_seed[:, c:], NULL_QUANTILE, axis=1, keepdims=True)
    return Judged(
        drop=overall[:c],
        spread=by_seed[:, :c].std(axis=0),
        best=best,
        best_target=np.flatnonzero(has_skill)[by_target[:, :c].argmax(axis=0)],
        selected=(by_seed[:, :c] > limits).mean(axis=0),
        gain=found.gains[has_skill].mean(axis=(0, 1)),
        above=(overall[:c] > max(limit, 0)) | (best > max(best_limit, 0)),
        null=overall[c:],
        limit=float(limit),
        best_limit=float(best_limit),
    )


def held_out_scores(matrix, people, targets: list, seeds: int, on: str, what: str):
    """Scores of the test patients, targets x patients: fitted on train, stopped on validation, averaged over seeds."""
    import numpy as np
    from tqdm import tqdm

    fitted, held, test = (people.split.to_numpy() == name for name in ("train", "validation", "test"))
    unseen = matrix[test]
    scores = np.zeros((len(targets), len(unseen)))
    if not matrix.shape[1] or not len(unseen):
        return scores
    binned = bins(matrix, fitted, held)
    for t, target in enumerate(tqdm(targets, desc=what, unit="target", disable=None)):
        for seed in range(seeds):
            booster = fit(binned, target, fitted, held, seed, on)
            scores[t] += booster.inplace_predict(unseen) / seeds
    return scores
