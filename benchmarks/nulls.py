"""Claim: step 7 calls a difference in about 5% of studies without one; its intervals hold in 95%.

    python benchmarks/nulls.py [--simulations 2000] [--jobs 2]

Simulates whole studies as step 7 draws them (trials.pairs), for 8 and 32 questions. Either each
trial has its own patient, as in a large hospital, or few patients are asked about again and again,
as in the built-in data. Scores lie between 0 and 1, or are yes / no, or rare events. Questions and
patients suit one arm or the other by chance, on average neither. Beside it stand common methods: a
t test and Wilcoxon's over trials, and a percentile bootstrap over questions.
"""

import argparse
import functools
import os
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import stats

from mimic_qlora.display import text_tables
from mimic_qlora.validation import statistics, trials

SCORES = {"graded": None, "yes/no": 0.4, "rare": 0.05}  # how often each arm has a yes


class Shape(NamedTuple):
    """The size of a study, and the spread of questions and of patients about the mean.

    Spreads are in standard deviations of one trial's noise. scores: position in SCORES.
    """

    questions: int
    trials: int
    patients: int
    by_question: float
    by_patient: float
    scores: int


class Study(NamedTuple):
    """The trials of one study: scores of both arms, question and patient, each [trials]."""

    base: np.ndarray
    adapter: np.ndarray
    question: np.ndarray
    patient: np.ndarray


STUDIES = [
    Shape(8, 50, 50, 0.0, 0.0, 0),
    Shape(8, 50, 50, 0.5, 0.0, 0),
    Shape(8, 50, 50, 0.5, 0.5, 0),
    Shape(8, 50, 50, 0.5, 0.0, 1),
    Shape(32, 64, 64, 0.0, 0.0, 0),
    Shape(32, 64, 64, 0.5, 0.0, 0),
    Shape(32, 64, 64, 0.5, 0.5, 0),
    Shape(32, 64, 64, 0.5, 0.0, 1),
    Shape(8, 50, 15, 0.5, 0.0, 0),
    Shape(8, 50, 15, 0.5, 0.5, 0),
    Shape(32, 64, 15, 0.5, 0.0, 0),
    Shape(32, 64, 15, 0.5, 0.5, 0),
    Shape(8, 160, 20, 0.0, 0.5, 0),
    Shape(8, 50, 50, 0.5, 0.0, 2),
    Shape(32, 64, 64, 0.5, 0.0, 2),
]


def study(shape: Shape, rng: np.random.Generator) -> Study:
    """Simulate one study without a true difference."""
    k, n, people, by_question, by_patient, scores = shape
    drawn = list(trials.pairs(n, range(people), range(k)))
    patient = np.array([trial[1] for trial in drawn])
    question = np.array([trial[2] for trial in drawn])
    effect = rng.normal(0, by_question, k)[question] + rng.normal(0, by_patient, people)[patient]
    if rate := [*SCORES.values()][scores]:
        base = rng.random(n) < np.clip(rate * (1 - effect / 1.6), 0, 1)
        adapter = rng.random(n) < np.clip(rate * (1 + effect / 1.6), 0, 1)
        return Study(base.astype(float), adapter.astype(float), question, patient)
    return Study(np.zeros(n), effect + rng.normal(0, 1, n), question, patient)


def bootstrap_excludes_zero(differences: np.ndarray, rng: np.random.Generator) -> bool:
    picked = rng.integers(0, len(differences), (2000, len(differences)))
    low, high = np.percentile(differences[picked].mean(axis=1), (2.5, 97.5))
    return not low <= 0 <= high


def simulate(shape: Shape, simulations: int) -> dict[str, str | float]:
    """Return the share of studies in which each method calls a difference.

    "coverage share" is the share whose interval holds the true difference, 0.
    """
    rng = np.random.default_rng([int(10 * size) for size in shape])
    counts = dict.fromkeys(("here", "interval", "t over trials", "Wilcoxon", "bootstrap"), 0)
    for _ in range(simulations):
        base, adapter, question, patient = study(shape, rng)
        found = statistics.paired(base, adapter, question, patient)
        difference = adapter - base
        counts["here"] += found.p <= statistics.ALPHA
        counts["interval"] += found.mean == 0 if found.low is None else found.low <= 0 <= found.high
        counts["t over trials"] += stats.ttest_1samp(difference, 0).pvalue <= 0.05
        counts["Wilcoxon"] += np.any(difference) and stats.wilcoxon(difference).pvalue <= 0.05
        means = np.bincount(question, weights=difference) / np.bincount(question)
        counts["bootstrap"] += bootstrap_excludes_zero(means, rng)
    others = ("t over trials", "Wilcoxon", "bootstrap")
    return {
        "questions": shape.questions,
        "trials": shape.trials,
        "patients": shape.patients,
        "of questions": shape.by_question,
        "of patients": shape.by_patient,
        "scores": [*SCORES][shape.scores],
        "here share": counts["here"] / simulations,
        "coverage share": counts["interval"] / simulations,
        **{f"{name} share": counts[name] / simulations for name in others},
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--simulations", type=int, default=2000, help="studies of each shape (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)"
    )
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(functools.partial(simulate, simulations=args.simulations), STUDIES))
    shown = [
        {name.removesuffix(" share"): f"{v:.1%}" if "share" in name else v for name, v in r.items()}
        for r in rows
    ]
    print(
        text_tables.text_table(
            shown, f"Studies without a difference: {args.simulations:,} of each shape"
        )
    )
    print(
        "of questions, of patients: their spread about the mean, "
        "in standard deviations of one trial's noise"
    )


if __name__ == "__main__":
    main()
