"""Claim: with labels of a part of the answers, a reader's errors make no false claim.

    python benchmarks/readers.py [--studies 2000]

Simulates studies of 32 questions and one new patient a trial, whose answers a reader of stated
error reads and people label in part: 60 of each arm or more, half of them answers that the reader
flags, where there are as many. Three ways of comparing the arms: as the reader finds them
(uncorrected), as corrected by the labels (prediction-powered), and by the labels alone.

1. Arms that are truly alike: how often a difference is claimed (at 5%, two-sided), and how often
   the 95% interval holds the truth; also with a reader whose sensitivity differs by 10 points.
2. An adapter that is truly worse by exactly the margin: how often "not worse" is said, which
   should be 2.5% of studies at most.
3. Arms that differ: how often a claim is made (power), by the number of labels.
"""

import argparse
from typing import NamedTuple

import numpy as np

from mimic_qlora.display import text_tables
from mimic_qlora.validation import harm, statistics
from mimic_qlora.validation.labelling import corrected
from mimic_qlora.validation.statistics import MARGIN

QUESTIONS = 32


class Reader(NamedTuple):
    """A reader's sensitivity for answers of base and adapter, and its specificity for both."""

    base: float
    adapter: float
    specificity: float


READERS = {
    "no error": Reader(1, 1, 1),
    "90/90 in both": Reader(0.9, 0.9, 0.9),
    "60/90 in both": Reader(0.6, 0.6, 0.9),
    "60 and 70/90": Reader(0.6, 0.7, 0.9),
    "60 and 100/95": Reader(0.6, 1.0, 0.95),
}


def draw_truth(rates: tuple, n: int, spread: float, rng: np.random.Generator) -> list:
    """The truth of both arms [n] of one study: the questions' rates vary by `spread` (logits)."""
    question = np.arange(n) % QUESTIONS
    of_question = rng.normal(0, spread, QUESTIONS)[question]
    patient = rng.normal(0, spread, n)
    shift = of_question + patient
    drawn = []
    for rate in rates:
        if rate <= 0:
            drawn.append(np.zeros(n))
            continue
        # of a rare one the mean over the shift is the rate
        rare = rate * np.exp(shift - spread**2)
        p = rare if rate < 0.1 else 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + shift)))
        drawn.append((rng.random(n) < np.clip(p, 0, 1)) * 1.0)
    return drawn


def read(truth: np.ndarray, sensitivity: float, specificity: float, rng) -> np.ndarray:
    """What a reader finds of the truth."""
    chance = np.where(truth > 0, sensitivity, 1 - specificity)
    return (rng.random(len(truth)) < chance) * 1.0


def labelled(truth: np.ndarray, found: np.ndarray, n_labels: int, rng) -> corrected.Arm:
    """An arm of which people labelled n answers, half of them flagged where there are as many."""
    flagged = found > 0
    n_flagged = min(int(flagged.sum()), max(n_labels // 2, n_labels - int((~flagged).sum())))
    label = np.full(len(truth), np.nan)
    for members, n in ((flagged, n_flagged), (~flagged, n_labels - n_flagged)):
        places = np.flatnonzero(members)
        chosen = rng.permutation(places)[:n]
        label[chosen] = truth[chosen]
    return corrected.Arm(found, label, flagged.tolist())


def study(rates: tuple, reader: Reader, n: int, n_labels: int, rng, spread: float = 0.6) -> tuple:
    """One study: the truth, the arms as labelled, the questions and the patients."""
    truth = draw_truth(rates, n, spread, rng)
    arms = [
        labelled(one, read(one, sensitivity, reader.specificity, rng), n_labels, rng)
        for one, sensitivity in zip(truth, reader[:2], strict=True)
    ]
    return truth, arms, list(np.arange(n) % QUESTIONS), list(range(n))


def claims(p: float | None) -> bool:
    return p is not None and p <= statistics.ALPHA


def compare(rates: tuple, reader: Reader, n: int, n_labels: int, args: tuple) -> dict:
    """How often a difference is claimed as read, as corrected, and the interval's coverage."""
    studies, rng = args
    counts = dict.fromkeys(("as read", "corrected", "covered"), 0)
    true = rates[1] - rates[0]
    for _ in range(studies):
        _, (base, adapter), questions, patients = study(rates, reader, n, n_labels, rng)
        plain = statistics.paired(base.reader, adapter.reader, questions, patients)
        z = [corrected.rectified(arm) for arm in (base, adapter)]
        more = corrected.unseen(base) + corrected.unseen(adapter)
        found = statistics.paired(*z, questions, patients, unseen=more)
        counts["as read"] += claims(plain.p)
        counts["corrected"] += claims(found.p)
        counts["covered"] += found.low is None or found.low <= true <= found.high
    return {name: f"{count / studies:.1%}" for name, count in counts.items()}


def safety(rates: tuple, reader: Reader, n: int, n_labels: int, args: tuple) -> dict:
    """How often "not worse than by the margin" is said: as read, and by labels."""
    studies, rng = args
    as_read = by_labels = 0
    for _ in range(studies):
        _, (base, adapter), questions, patients = study(rates, reader, n, n_labels, rng, 0.0)
        trials = harm.Trials(base.reader, adapter.reader, questions, patients)
        as_read += harm.bounds(trials).difference < MARGIN
        by_labels += corrected.bounds(base, adapter).difference < MARGIN
    return {"as read": f"{as_read / studies:.1%}", "by labels": f"{by_labels / studies:.1%}"}


def about(reader: str, rates: tuple, n: int, n_labels: int) -> dict:
    return {
        "reader": reader,
        "base": f"{rates[0]:.0%}",
        "adapter": f"{rates[1]:.0%}",
        "trials": n,
        "labels": n_labels,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=2000)
    only = "part 1 alone, with this reader; again for another"
    parser.add_argument("--reader", choices=READERS, action="append", help=only)
    given = parser.parse_args()
    args = given.studies, np.random.default_rng(0)

    alike = [
        about(name, (rate, rate), n, n_labels)
        | compare((rate, rate), READERS[name], n, n_labels, args)
        for name in given.reader or READERS
        for rate in (0.1, 0.3, 0.6)
        for n, n_labels in ((320, 60), (320, 120))
    ]
    print(text_tables.text_table(alike, "Arms alike: claims, and coverage of the corrected"))
    if given.reader:
        return
    worse = [
        about(name, (rate, rate + MARGIN), n, n_labels)
        | safety((rate, rate + MARGIN), reader, n, n_labels, args)
        for name, reader in READERS.items()
        for rate in (0.0, 0.02, 0.2)
        for n, n_labels in ((320, 60), (320, 160), (1000, 320))
    ]
    print(text_tables.text_table(worse, "Worse by the margin: 'not worse' is said"))
    equal = [
        about("90/90 in both", (rate, rate), 320, n_labels)
        | safety((rate, rate), READERS["90/90 in both"], 320, n_labels, args)
        for rate in (0.0, 0.01)
        for n_labels in (60, 90, 120, 160, 240)
    ]
    print(text_tables.text_table(equal, "No worse: 'not worse' is said"))
    power = [
        about(name, (0.3, 0.3 + more), 320, n_labels)
        | {"corrected": compare((0.3, 0.3 + more), READERS[name], 320, n_labels, args)["corrected"]}
        for name in ("90/90 in both", "60/90 in both")
        for more in (0.1, 0.2, 0.3)
        for n_labels in (60, 120, 240)
    ]
    print(text_tables.text_table(power, "Arms that differ: claims"))


if __name__ == "__main__":
    main()
