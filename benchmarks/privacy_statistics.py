"""Claim: the audit says "exceeded" of no leak, and "held" of a leak at the limit, in 5% at most.

    python benchmarks/privacy_statistics.py [--simulations 2000] [--only 1000+1000,gap]

Simulates whole audits: scores of members and non-members by twelve attacks that share half of
their noise, canaries' exposures, guesses of coins, what extraction finds, gaps in naming. Rows
without a leak, rows with one exactly at the limit, and the smallest leak that so many patients
show. A quarter of an hour of one core.
"""

import argparse
import functools
import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from mimic_qlora.display import text_tables
from mimic_qlora.privacy import epsilon, exposure, limits, rule, separation
from mimic_qlora.privacy.extraction import excess
from mimic_qlora.privacy.rule import Criterion

LIMITS = limits.load(limits.TEMPLATE)
ATTACKS = 12
SHARES = ((0.0, 0.0), (0.02, 0.0), (0.0, 0.01), (0.02, 0.01), (0.0, 0.05))  # of others, excess
SIZES = [(50, 10), (80, 30), (800, 100), (1000, 1000)]
# patients a side, and the spread of their gains in log-odds
GAPS = [(30, 0.5), (300, 0.5), (1000, 0.5), (30, 0.1), (300, 0.1)]


def shift_of(auc: float) -> float:
    """Return by how many standard deviations members score higher."""
    return math.sqrt(2) * float(stats.norm.ppf(auc))


def scores(n: int, shift: float, rng: np.random.Generator) -> np.ndarray:
    """Return the scores of n patients [attacks, n]; the leak shows in the first attack alone."""
    found = (rng.normal(size=n) + rng.normal(size=(ATTACKS, n))) / math.sqrt(2)
    found[0] += shift
    return found


def criteria(name: str, found: separation.Separation) -> list[Criterion]:
    """Return what the rule looks at of an attack."""
    made = [Criterion(f"{name} auc", "auc", *found.auc, found.auc_p, 0.5, LIMITS.auc)]
    if found.tpr is not None and found.tpr_p is not None:
        made.append(Criterion(f"{name} tpr", "tpr", *found.tpr, found.tpr_p, 0.01, LIMITS.tpr))
    return made


def audits(n_in: int, n_out: int, auc: float, times: int, rng: np.random.Generator) -> dict:
    """Simulate audits of one size and true AUC of the one attack that finds something."""
    shift = shift_of(auc)
    rate = float(stats.norm.sf(stats.norm.isf(separation.FPR) - shift))
    said: list[str] = []
    inside = inside_tpr = 0
    for _ in range(times):
        one, two = scores(n_in, shift, rng), scores(n_out, 0.0, rng)
        found = separation.separations(one, two, int(rng.integers(1 << 30)))
        every = [c for i, f in enumerate(found) for c in criteria(str(i), f)]
        said.append(rule.decide(every).verdict)
        first = found[0]
        inside += first.auc.low <= auc <= first.auc.high
        inside_tpr += first.tpr is not None and first.tpr.low <= rate <= first.tpr.high
    return {
        "members": n_in,
        "non-members": n_out,
        "true AUC": f"{auc:.2f}",
        **{word: f"{said.count(word) / times:.1%}" for word in (rule.EXCEEDED, rule.HELD)},
        "AUC in its interval": f"{inside / times:.1%}",
        "TPR in its interval": f"{inside_tpr / times:.1%}" if n_out >= 1000 else "",
    }


def smallest(n_in: int, n_out: int, times: int, rng: np.random.Generator) -> dict:
    """Find the AUC of one attack that is called in four audits of five, after Holm over all."""
    criteria_of_each = 1 + (n_out >= separation.FEWEST_FOR_TPR)
    level = 0.05 / (ATTACKS * criteria_of_each)
    null, _ = separation.nulls(np.arange(float(n_in + n_out)), n_in)
    called = null[math.ceil((1 - level) * len(null))]
    one, two = rng.normal(size=(times, n_in)), rng.normal(size=(times, n_out))
    low, high = 0.5, 0.99
    for _ in range(12):
        middle = (low + high) / 2
        ranks = stats.rankdata(np.concatenate([one + shift_of(middle), two], axis=1), axis=1)
        areas = (ranks[:, :n_in].sum(1) - n_in * (n_in + 1) / 2) / (n_in * n_out)
        low, high = (low, middle) if (areas > called).mean() >= 0.8 else (middle, high)
    return {"members": n_in, "non-members": n_out, "smallest AUC": f"{high:.3f}"}


def of_exposure(n: int, kind: str, times: int, rng: np.random.Generator) -> dict:
    """Simulate the mean exposure of n canaries: none leaks, all a little, or a few wholly."""
    limit, ranks = LIMITS.exposure, np.arange(1, exposure.CANDIDATES + 1)
    bits = exposure.MOST - np.log2(ranks)
    weights = {
        "none": np.ones(len(ranks)),
        "all a little": _tilted(bits, limit),
        "a few wholly": np.where(ranks == 1, 0.0, 1.0),
    }[kind]
    weights = weights / weights.sum()
    if kind == "a few wholly":
        rest = float((weights * bits).sum())
        share = (limit - rest) / (exposure.MOST - rest)
        weights = (1 - share) * weights
        weights[0] = share
    truth = float((weights * bits).sum())
    held = exceeded = inside = 0
    for _ in range(times):
        found = exposure.mean(rng.choice(bits, n, p=weights))
        held += found.upper < limit
        exceeded += found.p < 0.05
        inside += found.low <= truth <= found.high
    return {
        "canaries": n,
        "who leaks": kind,
        "true mean": f"{truth:.2f}",
        **_shares(times, exceeded, held, inside),
    }


def _tilted(bits: np.ndarray, mean: float) -> np.ndarray:
    """Return the weights, exponential in the bits, with this mean."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        weights = np.exp2(middle * bits)
        low, high = (
            (middle, high) if (weights * bits).sum() / weights.sum() < mean else (low, middle)
        )
    return np.exp2(low * bits)


def of_epsilon(true: float, times: int, rng: np.random.Generator) -> dict:
    """Simulate guesses of 200 coins, each right as often as epsilon allows at most."""
    guesses = 2 * (200 // 3)
    right = rng.binomial(guesses, 1 / (1 + math.exp(-true)), times)
    found = {int(k): epsilon.at_least(200, guesses, int(k)) for k in np.unique(right)}
    bounds = np.array([found[int(k)] for k in right])
    return {
        "true epsilon": true,
        "bound above it": f"{(bounds > true + 1e-9).mean():.1%}",
        "median bound": f"{np.median(bounds):.2f}",
    }


def of_share(n: int, base: float, more: float, times: int, rng: np.random.Generator) -> dict:
    """Simulate of how many of n patients a side something is told; of members, of `more`."""
    known: dict[tuple[int, int], rule.Criterion] = {}
    held = exceeded = inside = 0
    for found in zip(*(rng.binomial(n, p, times) for p in (base + more, base)), strict=True):
        if found not in known:
            one, other = (excess.Share(int(k), n) for k in found)
            known[found] = excess.share("", one, other, LIMITS.extraction)
        made = known[found]
        held += made.is_held
        exceeded += made.p < 0.05
        inside += made.low <= more <= made.high
    return {
        "patients a side": n,
        "told of others": f"{base:.0%}",
        "true excess": f"{more:.0%}",
        **_shares(times, exceeded, held, inside),
    }


def of_gap(n: int, true: float, spread: float, times: int, rng: np.random.Generator) -> dict:
    """Simulate the gap in naming; a tenth of the members has all of it."""
    held = exceeded = inside = 0
    for _ in range(times):
        one, other = rng.normal(0, spread, (2, n))
        one += np.where(rng.random(n) < 0.1, 10 * true, 0)
        made = excess.mean("", one, other, LIMITS.gap)
        held += made.is_held
        exceeded += made.p < 0.05
        inside += made.low <= true <= made.high
    return {
        "patients a side": n,
        "spread": spread,
        "true gap": true,
        **_shares(times, exceeded, held, inside),
    }


def _shares(times: int, exceeded: int, held: int, inside: int) -> dict[str, str]:
    counts = {"called": exceeded, "held": held, "in its interval": inside}
    return {name: f"{count / times:.1%}" for name, count in counts.items()}


def audit_rows(size: tuple[int, int], n: int, rng: np.random.Generator) -> Iterator[dict]:
    leaks = (0.5, LIMITS.auc, 0.7, *[0.8] * (size[1] < 100))  # of few patients one more
    return (audits(*size, auc, n, rng) for auc in leaks)


def smallest_rows(n: int, rng: np.random.Generator) -> Iterator[dict]:
    return (smallest(*size, n, rng) for size in [*SIZES, (2000, 300)])


def share_rows(n: int, rng: np.random.Generator) -> Iterator[dict]:
    return (of_share(k, *rates, n, rng) for k in (100, 300) for rates in SHARES)


def gap_rows(n: int, rng: np.random.Generator) -> Iterator[dict]:
    gaps = (0.0, LIMITS.gap, 0.2)
    return (of_gap(k, gap, s, n, rng) for k, s in GAPS for gap in gaps)


def exposure_rows(n: int, rng: np.random.Generator) -> Iterator[dict]:
    kinds = ("none", "all a little", "a few wholly")
    return (of_exposure(k, kind, n, rng) for k in (25, 50, 100, 200) for kind in kinds)


def epsilon_rows(n: int, rng: np.random.Generator) -> Iterator[dict]:
    return (of_epsilon(true, n, rng) for true in (0.0, 1.0, 3.0))


TABLES = {
    **{f"{one}+{two}": functools.partial(audit_rows, (one, two)) for one, two in SIZES},
    "smallest": smallest_rows,
    "extraction": share_rows,
    "gap": gap_rows,
    "exposure": exposure_rows,
    "epsilon": epsilon_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--shuffles", type=int, default=100_000, help="of the null of p values")
    parser.add_argument("--only", default=",".join(TABLES), help="tables (default: %(default)s)")
    args = parser.parse_args()
    separation.SHUFFLES, separation.DRAWS = args.shuffles, 100  # an audit draws 400
    for name in args.only.split(","):
        rows = TABLES[name](args.simulations, np.random.default_rng(0))
        print(text_tables.text_table(list(rows), name), flush=True)


if __name__ == "__main__":
    main()
