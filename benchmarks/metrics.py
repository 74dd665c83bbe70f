"""Step 3's own AUROC, average precision and calibration against scikit-learn's: values and CPU.

    python benchmarks/metrics.py

Own code stays where it costs less CPU: scikit-learn's metrics take one weight vector, or one
feature, a call. Values must agree to 1e-12 (the slope of calibration to 1e-6). Each row compares
the same task on the same made-up scores: 500 bootstrap draws of one target, the slope of
calibration, the tenths of predicted risk, and the AUROCs of all features in the search for leakage.
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from mimic_qlora.features import auroc, leakage, skill
from mimic_qlora.features.cohort import Target

FEATURES, TARGETS = 100, 20


class Task(NamedTuple):
    """One task by both, each returning float values, and the tolerance of their difference."""

    name: str
    own: Callable[[], np.ndarray]
    scikit: Callable[[], np.ndarray]
    tolerance: float


def cpu_s(work: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, float]:
    """Return the result and the CPU seconds of a call, the least of the repeats."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        result = work()
        seconds.append(time.process_time() - began)
    return result, min(seconds)


def tasks(n: int, rng: np.random.Generator) -> list[Task]:
    """Return the tasks for n patients."""
    logit = rng.normal(size=n)
    y = rng.random(n) < 1 / (1 + np.exp(-logit))
    risk = 1 / (1 + np.exp(-1.5 * logit))
    draws = auroc.bootstrap_draws(n, 0)

    def by_draw(metric: Callable[..., float]) -> np.ndarray:
        return np.array([metric(y, risk, sample_weight=draw) for draw in draws])

    def slope() -> np.ndarray:
        return LogisticRegression(C=np.inf, tol=1e-8).fit(1.5 * logit[:, None], y).coef_[0]

    def tenths() -> np.ndarray:
        rows = skill.reliability([Target("t", "t", y, np.ones(n, bool))], risk[None])
        return np.array([(row.observed_share, row.predicted_share) for row in rows]).T

    return [
        Task(
            "AUROC of 500 draws",
            lambda: auroc.auroc_of_draws(y, risk, draws),
            lambda: by_draw(roc_auc_score),
            1e-12,
        ),
        Task(
            "average precision of 500 draws",
            lambda: auroc.average_precision_of_draws(y, risk, draws),
            lambda: by_draw(average_precision_score),
            1e-12,
        ),
        Task(
            "slope of calibration",
            lambda: np.array([auroc.calibration(y, risk).slope]),
            slope,
            1e-6,
        ),
        Task(
            "tenths of predicted risk",
            tenths,
            lambda: np.array(calibration_curve(y, risk, n_bins=10, strategy="quantile")),
            1e-12,
        ),
    ]


def search(n: int, rng: np.random.Generator) -> Task:
    """Return the AUROCs of FEATURES features for TARGETS targets, as the search for leakage."""
    values = rng.normal(size=(n, FEATURES)).round(1).astype(np.float32)
    ys = rng.random((TARGETS, n)) < 0.3

    def own() -> np.ndarray:
        ranked = leakage.ranks(values)
        return np.array([leakage.areas(ranked, y) for y in ys])

    def scikit() -> np.ndarray:
        return np.array([[roc_auc_score(y, column) for column in values.T] for y in ys])

    return Task(f"AUROC of {FEATURES} features, {TARGETS} targets", own, scikit, 1e-12)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, nargs="+", default=[60, 500, 5000])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| task | patients | own, CPU ms | scikit-learn, CPU ms | times | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n in args.patients:
        for task in [*tasks(n, rng), search(n, rng)]:
            own, seconds = cpu_s(task.own, 5)
            theirs, their_seconds = cpu_s(task.scikit, 1)
            difference = np.abs(own - theirs).max()
            assert difference < task.tolerance, (task.name, difference)
            cells = [task.name, f"{n:,}", f"{1000 * seconds:.2f}", f"{1000 * their_seconds:.1f}"]
            cells += [f"{their_seconds / seconds:.1f}", f"{difference:.0e}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
