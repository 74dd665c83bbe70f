"""Claim: of arms that find as many emergencies, one is claimed to be better in 5% at most.

    python benchmarks/urgency_statistics.py [--simulations 1000]

Simulates whole studies: severity that all arms see with errors of their own and errors that they
share, a nurse who calls "level 1 or 2" above a limit of her own, thresholds set on other patients
(in turns, or on validation patients for test patients), the better of two simple models chosen on
validation, the claims in their order. A row is a true state: from which claim on nothing is true.
"wrong" are studies with any claim that is not true, "first" those with the first claim.
"t alone" is how often the first comparison would be called by the bootstrap's t alone, and "fixed"
by McNemar's test alone, which takes the thresholds for known.
"""

import argparse
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from mimic_qlora.display import text_tables
from mimic_qlora.features import auroc
from mimic_qlora.validation.urgency import claims, endpoint

SIMPLE = ("logistic", "xgboost")
WORSE = 1.0  # by how much the distance between the classes is smaller where a claim is true
NURSE_LIMIT = 0.4  # of the others, she calls a third


class Shape(NamedTuple):
    """The size of a study: emergencies and others of each split; whether test patients are asked.

    `true` is the number of claims that are true, 0 to 2.
    """

    positive: int
    others: int
    final: bool
    true: int = 0


SHAPES = [
    Shape(n, m, final, true)
    for n, m in ((25, 25), (25, 300), (300, 50), (300, 300))
    for final in (False, True)
    for true in ((0, 1, 2) if (n, final) == (300, True) and m == 300 else (0,))
]


def distances(true: int) -> dict[str, float]:
    """Return how far the emergencies lie from the others in the eyes of each arm."""
    order = [SIMPLE, ("base",), (endpoint.NURSE,)]
    found = {"adapter": 1.5}
    for place, names in enumerate(order):
        found |= dict.fromkeys(names, 1.5 - (WORSE if place < true else 0.0))
    return found


def simulate(
    shape: Shape, rng: np.random.Generator
) -> tuple[endpoint.Study, dict[str, endpoint.Floats], str]:
    """Return one study, the scores of its arms, and the simple model that validation chose."""
    splits = 1 + shape.final
    n = splits * (shape.positive + shape.others)
    positive = np.tile(np.arange(n // splits) < shape.positive, splits)
    is_test = np.arange(n) >= n // splits if shape.final else np.zeros(n, dtype=bool)
    shared = rng.normal(size=n)
    seen = {
        name: (shared + rng.normal(size=n)) / math.sqrt(2) + far * positive
        for name, far in distances(shape.true).items()
    }
    nurse = seen.pop(endpoint.NURSE) > NURSE_LIMIT
    patient = np.arange(n)
    turns = endpoint.cross_fitted(endpoint.folds(patient, positive, int(rng.integers(1 << 30))))
    if shape.final:
        turns = [endpoint.Turn(~is_test, is_test)]
    study = endpoint.Study(patient, positive, nurse, np.ones(n), 2 * is_test + positive, turns)
    best = max(SIMPLE, key=lambda name: auroc.auroc(positive[~is_test], seen[name][~is_test]))
    return study, seen, best


def of_shape(shape: Shape, times: int, draws: int, rng: np.random.Generator) -> dict:
    """Simulate studies of one shape and count what they claim."""
    wrong = first = by_t = fixed = 0
    for _ in range(times):
        study, seen, best = simulate(shape, rng)
        arms = {name: seen[name] for name in ("adapter", "base", best)}
        found = endpoint.measure(study, arms, int(rng.integers(1 << 30)), draws)
        made = claims.in_order(study, found, "adapter", claims.order(best, "base"))
        said = [claim.outcome == claims.CLAIMED for claim in made]
        wrong += any(said[shape.true :])
        first += said[0]
        one, gain = found["adapter"], made[0].gain
        by_t += gain.low > 0 or gain.high < 0
        differ = gain.gained + gain.lost
        fixed += bool(differ) and stats.binomtest(gain.gained, differ).pvalue <= 0.05
        assert one.area is not None
    return {
        "emergencies": shape.positive,
        "others": shape.others,
        "asked": "test" if shape.final else "validation",
        "true claims": shape.true,
        "wrong": f"{wrong / times:.1%}",
        "first": f"{first / times:.1%}",
        "t alone": f"{by_t / times:.1%}",
        "fixed": f"{fixed / times:.1%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=300, help="of each bootstrap")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = [of_shape(shape, args.simulations, args.draws, rng) for shape in SHAPES]
    print(text_tables.text_table(rows, f"Studies: {args.simulations:,} of each shape"))


if __name__ == "__main__":
    main()
