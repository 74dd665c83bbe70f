"""Discrimination and calibration of scores, with intervals over patients.

AUROC and average precision equal scikit-learn's to 1e-12. They are computed here because its
metrics take one weight vector a call. Over 500 bootstrap draws `roc_auc_score` costs at least 870
times the CPU with 60 patients, 120 times with 500, 16 times with 5,000; `average_precision_score`
870, 68 and 5.9 times (benchmarks/metrics.py). The Brier score is scikit-learn's.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from sklearn.metrics import brier_score_loss

BOOTSTRAPS = 500
CELLS = 20_000_000  # weights converted to float64 at a time, which bounds the memory
RISK_FLOOR = 1e-6  # risks are clipped to [RISK_FLOOR, 1 - RISK_FLOOR] before their logit


def auroc(y: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve, ties counting half; nan where a class is missing.

    y: bool [patients]. scores: float [patients].
    """
    return float(auroc_of_draws(y, scores, _once(y))[0])


def auroc_of_draws(y: np.ndarray, scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the AUROC of each bootstrap draw: float [draws], nan where a class is missing.

    draws: int [draws, patients], how often each patient is drawn.
    """
    return _per_draw(_area, y, scores, draws)


def average_precision(y: np.ndarray, scores: np.ndarray) -> float:
    """Return the average precision (shapes as in `auroc`); nan where nobody has the target."""
    return float(average_precision_of_draws(y, scores, _once(y))[0])


def average_precision_of_draws(y: np.ndarray, scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the average precision of each bootstrap draw (shapes as in `auroc_of_draws`)."""
    return _per_draw(_precision, y, scores, draws)


def _once(y: np.ndarray) -> np.ndarray:
    """Return the draw that holds each patient once: [1, patients]."""
    return np.ones((1, len(y)), np.uint8)


def _area(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    above = positives.cumsum(axis=1) - positives / 2
    return (above * negatives).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))


def _precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    found, seen = positives.cumsum(axis=1), (positives + negatives).cumsum(axis=1)
    return (positives * np.where(seen > 0, found / seen, 0)).sum(axis=1) / found[:, -1]


def _per_draw(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    y: np.ndarray,
    scores: np.ndarray,
    draws: np.ndarray,
) -> np.ndarray:
    """Return `measure` of the positives and negatives at each distinct score, highest first.

    Both arguments of `measure` are float [draws, distinct scores]: weights summed over ties.
    """
    y = np.asarray(y, bool)
    order = np.argsort(-scores, kind="stable")
    ordered, is_positive = scores[order], y[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    values = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for part in np.array_split(draws, max(1, draws.size // CELLS)):
            weights = part[:, order]
            positives = np.add.reduceat(weights * is_positive.astype(float), starts, axis=1)
            negatives = np.add.reduceat(weights * (~is_positive).astype(float), starts, axis=1)
            values.append(measure(positives, negatives))
    return np.concatenate(values)


def bootstrap_draws(n: int, seed: int) -> np.ndarray:
    """Return BOOTSTRAPS bootstrap samples of n patients as counts: uint8 [BOOTSTRAPS, n]."""
    rng = np.random.default_rng(seed)
    draws = np.empty((BOOTSTRAPS, n), np.uint8)
    for draw in draws if n else ():
        draw[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return draws


def defined_mean(values: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Return the mean of the values that are not nan, nan where there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the 2.5% and 97.5% quantiles of the finite values.

    (None, None) where fewer than half of the values are finite.
    """
    defined = values[np.isfinite(values)]
    if len(defined) < max(1, len(values) / 2):
        return None, None
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


class Influence(NamedTuple):
    """An AUROC and the influence of each patient on it.

    value: the AUROC, nan where a class is missing.
    moves: float [patients], of sum 0; zeros where the AUROC is nan.
    """

    value: float
    moves: np.ndarray


def influence(y: np.ndarray, scores: np.ndarray) -> Influence:
    """Return the AUROC and the influence of each patient (shapes as in `auroc`).

    A bootstrap draw with counts w has an AUROC of about value + sum((w - 1) * moves).
    So the variance over patients is sum(moves ** 2): DeLong, DeLong and Clarke-Pearson (1988), by
    the infinitesimal jackknife of Efron (1982). Influences of two models, or of many targets, add
    up patient by patient, which makes paired intervals cheap.
    """
    y, moves = np.asarray(y, bool), np.zeros(len(y))
    if y.all() or not y.any():
        return Influence(np.nan, moves)
    positives, negatives = np.sort(scores[y]), np.sort(scores[~y])
    won = _below(negatives, scores[y]) / len(negatives)
    lost = 1 - _below(positives, scores[~y]) / len(positives)
    area = won.mean()
    moves[y], moves[~y] = (won - area) / len(positives), (lost - area) / len(negatives)
    return Influence(float(area), moves)


def _below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return how many of the ordered numbers lie below each value, ties counting half."""
    return (ordered.searchsorted(values, "left") + ordered.searchsorted(values, "right")) / 2


def within_folds(y: np.ndarray, scores: np.ndarray, fold: np.ndarray) -> Influence:
    """Return the mean AUROC over the folds that hold both classes, and its influences.

    fold: int [patients], -1 for patients of no fold.
    """
    areas, moves = [], np.zeros(len(y))
    for k in range(fold.max() + 1):
        held = np.flatnonzero(fold == k)
        area, moves[held] = influence(y[held], scores[held])
        if np.isfinite(area):
            areas.append(area)
    if not areas:
        return Influence(np.nan, moves)
    return Influence(float(np.mean(areas)), moves / len(areas))


def bounds(value: float, moves: np.ndarray, z: float = 1.96) -> tuple[float, float]:
    """Return the normal interval of a value with these influences; z = 1.96 gives 95%."""
    half = z * float(np.sqrt((moves**2).sum()))
    return value - half, value + half


class Calibration(NamedTuple):
    """Agreement of predicted risks with outcomes.

    brier: mean squared difference. predicted_share: mean risk.
    slope: of the outcome on the logit of the risk, 1 when calibrated, below 1 when the risks are
    too extreme (Cox 1958); None where the classes lie apart or one is missing.
    """

    brier: float
    predicted_share: float
    slope: float | None


def calibration(y: np.ndarray, scores: np.ndarray) -> Calibration:
    """Return the calibration of predicted risks (shapes as in `auroc`).

    The slope is fitted by BFGS. It equals that of scikit-learn's LogisticRegression without
    penalty to 1e-6, whose threads may spin (benchmarks/metrics.py).
    """
    outcome, risk = np.asarray(y, float), np.clip(scores, RISK_FLOOR, 1 - RISK_FLOOR)
    logit = np.log(risk / (1 - risk))

    def loss(line: np.ndarray) -> float:
        at = line[0] + line[1] * logit
        return np.logaddexp(0, at).sum() - (outcome * at).sum()

    slope = None
    if 0 < auroc(y, scores) < 1:
        slope = float(minimize(loss, [0.0, 1.0], method="BFGS").x[1])
    return Calibration(float(brier_score_loss(outcome, risk)), float(risk.mean()), slope)
