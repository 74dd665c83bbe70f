"""Claim: where there is no difference step 7 finds one in about 5% of studies, and its interval holds the truth in 95%.

    python benchmarks/nulls.py [--simulations 2000] [--jobs 2]

Simulates whole studies as step 7 draws them (trials.pairs), for 8 and 32 questions: with a patient for each trial, as
in a large hospital, and with few patients who are asked about again and again, as in the built-in data; with scores
between 0 and 1, with yes / no and with rare events. Questions and patients suit one arm or the other by chance, on
average neither. Beside it, what is common: a t test and Wilcoxon's over trials, and a percentile bootstrap over
questions.
"""

import argparse
import functools
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy import stats

from mimic_qlora.display import text_tables
from mimic_qlora.validation import statistics, trials

SCORES = {"graded": None, "yes/no": 0.4, "rare": 0.05}  # how often each arm has a yes
STUDIES = [  # questions, trials, patients, spread between questions, spread between patients, place in SCORES
    (8, 50, 50, 0.0, 0.0, 0),
    (8, 50, 50, 0.5, 0.0, 0),
    (8, 50, 50, 0.5, 0.5, 0),
    (8, 50, 50, 0.5, 0.0, 1),
    (32, 64, 64, 0.0, 0.0, 0),
    (32, 64, 64, 0.5, 0.0, 0),
    (32, 64, 64, 0.5, 0.5, 0),
    (32, 64, 64, 0.5, 0.0, 1),
    (8, 50, 15, 0.5, 0.0, 0),
    (8, 50, 15, 0.5, 0.5, 0),
    (32, 64, 15, 0.5, 0.0, 0),
    (32, 64, 15, 0.5, 0.5, 0),
    (8, 160, 20, 0.0, 0.5, 0),
    (8, 50, 50, 0.5, 0.0, 2),
    (32, 64, 64, 0.5, 0.0, 2),
]


def study(
    k: int, n: int, people: int, by_question: float, by_patient: float, scores: int, rng
) -> tuple:
    """One study without a true difference: base, adapter, question and patient of each trial."""
    drawn = list(trials.pairs(n, range(people), range(k)))
    patient, question = (np.array([trial[place] for trial in drawn]) for place in (1, 2))
    effect = rng.normal(0, by_question, k)[question] + rng.normal(0, by_patient, people)[patient]
    if rate := [*SCORES.values()][scores]:
        base, adapter = (
            rng.random(n) < np.clip(rate * (1 + sign * effect / 1.6), 0, 1) for sign in (-1, 1)
        )
        return base.astype(float), adapter.astype(float), question, patient
    return np.zeros(n), effect + rng.normal(0, 1, n), question, patient


def bootstrap_excludes_zero(differences, rng) -> bool:
    picked = rng.integers(0, len(differences), (2000, len(differences)))
    low, high = np.percentile(differences[picked].mean(axis=1), (2.5, 97.5))
    return not low <= 0 <= high


def simulate(shape: tuple, simulations: int) -> dict:
    """Shares of studies that call a difference by each method, and whose interval holds the true difference, 0."""
    rng = np.random.default_rng(list(map(int, np.array(shape) * 10)))
    counts = dict.fromkeys(("here", "interval", "t over trials", "Wilcoxon", "bootstrap"), 0)
    for _ in range(simulations):
        base, adapter, question, patient = study(*shape, rng)
        found = statistics.paired(base, adapter, question, patient)
        difference = adapter - base
        counts["here"] += found.p <= statistics.ALPHA
        counts["interval"] += found.mean == 0 if found.low is None else found.low <= 0 <= found.high
        counts["t over trials"] += stats.ttest_1samp(difference, 0).pvalue <= 0.05
        counts["Wilcoxon"] += np.any(difference) and stats.wilcoxon(difference).pvalue <= 0.05
        means = np.bincount(question, weights=difference) / np.bincount(question)
        counts["bootstrap"] += bootstrap_excludes_zero(means, rng)
    k, n, people, by_question, by_patient, scores = shape
    return {
        "questions": k,
        "trials": n,
        "patients": people,
        "of questions": by_question,
        "of patients": by_patient,
        "scores": [*SCORES][scores],
        "here share": counts["here"] / simulations,
        "coverage share": counts["interval"] / simulations,
        **{
            f"{name} share": counts[name] / simulations
            for name in ("t over trials", "Wilcoxon", "bootstrap")
        },
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
        "of questions, of patients: how far they vary about the mean, in standard deviations of one trial's noise"
    )


if __name__ == "__main__":
    main()
