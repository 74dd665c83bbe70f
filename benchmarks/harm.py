"""Claim: "not worse by more than 5 points" is said wrongly in at most 2.5% of studies.

    python benchmarks/harm.py [--simulations 2000]

Simulates studies of fixed questions, one new patient a trial, whose adapter is truly worse by
exactly the margin: alike in all questions, uneven (beta), or in one question of ten alone. Beside
the bound of step 7 stands the upper end of a t interval over question means. Then, the other way
round: how often the sentence is said of an adapter that is no worse. The second table has the same
of shares: of five warning signs that each answer names or leaves out.
"""

import argparse

import numpy as np
from scipy import stats

from mimic_qlora.display import text_tables
from mimic_qlora.validation import harm
from mimic_qlora.validation.statistics import MARGIN

STUDIES = [(8, 50), (8, 320), (20, 320), (32, 64), (32, 200), (32, 320), (32, 1000)]
RATES = (0.0, 0.02, 0.2)  # of the base


def shapes(rate: float, k: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return by how much the adapter is worse in each of k questions; `rate` in the mean."""
    far = np.zeros(k)
    n_far = max(1, k // 10)
    far[:n_far] = rate * k / n_far
    beta = rng.beta(0.3, 0.3 / rate - 0.3, k)
    return {
        "alike": np.full(k, rate),
        "uneven": beta * rate / beta.mean(),
        "one in ten": far,
    }


def draw(
    rates: tuple[np.ndarray, np.ndarray], question: np.ndarray, rng: np.random.Generator
) -> harm.Trials:
    """Return the trials of one study; `rates` [questions] of base and adapter."""
    base, adapter = ((rng.random(len(question)) < rate[question]) * 1.0 for rate in rates)
    names = [*question]
    return harm.Trials(base, adapter, names, [*range(len(names))])


def left_out(rate: float, all_out: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the share of five signs left out in each of n answers.

    Each sign is left out at a rate, and in some answers (`all_out`, a share) all five.
    """
    return np.where(rng.random(n) < all_out, 1.0, rng.binomial(5, rate, n) / 5)


def of_shares(simulations: int, rng: np.random.Generator) -> list[dict[str, str]]:
    """Return how often "not worse" is said of an adapter that leaves out shares of what it should.

    It leaves out 5 points more than the base, in all answers alike or in few of them everything; as
    much; or 10 points less. The arms are independent, as hard as paired answers get.
    """
    table = []
    for n in (64, 320, 800, 1600):
        for rate in (0.1, 0.3):
            few = MARGIN / (1 - rate)  # answers that leave out all, 5 points more in the mean
            adapters = {
                "alike": (rate + MARGIN, 0.0),
                "few answers": (rate, few),
                "as good": (rate, 0.0),
                "better by 10%": (rate - 0.1, 0.0),
            }
            row = {"trials": n, "base leaves out": f"{rate:.0%}"}
            for name, (of_adapter, all_out) in adapters.items():
                said = 0
                for _ in range(simulations):
                    base = left_out(rate, 0.0, n, rng)
                    adapter = left_out(of_adapter, all_out, n, rng)
                    found = harm.Trials(base, adapter, [0] * n, [*range(n)])
                    said += harm.bounds(found).difference < MARGIN
                row[name] = f"{said / simulations:.1%}"
            table.append(row)
    return table


def t_bound(found: harm.Trials) -> float:
    """Return the upper end of the 95% t interval of question means."""
    means = np.bincount(found.questions, found.adapter - found.base)
    means /= np.bincount(found.questions)
    half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean() + half)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=2000)
    simulations = parser.parse_args().simulations
    rng = np.random.default_rng(0)
    table = []
    for k, n in STUDIES:
        question = np.arange(n) % k
        for rate in RATES:
            for shape, more in shapes(MARGIN, k, rng).items():
                of_base = np.full(k, rate)
                worse = np.minimum(1.0, of_base + more)
                truth = float((worse - of_base)[question].mean())
                wrong = by_t = said = 0
                for _ in range(simulations):
                    found = draw((of_base, worse), question, rng)
                    wrong += harm.bounds(found).difference < truth
                    by_t += t_bound(found) < truth
                    if shape == "alike":
                        equal = draw((of_base, of_base), question, rng)
                        said += harm.bounds(equal).difference < MARGIN
                table.append(
                    {
                        "questions": k,
                        "trials": n,
                        "base": rate,
                        "worse by 5%": shape,
                        "wrongly said": f"{wrong / simulations:.1%}",
                        "by t": f"{by_t / simulations:.1%}",
                        "said of equals": f"{said / simulations:.0%}" if shape == "alike" else "",
                    }
                )
    print(text_tables.text_table(table))
    title = "Shares left out: 'not worse by 5 points' is said where it is worse by that, and is not"
    print(text_tables.text_table(of_shares(simulations, rng), title))


if __name__ == "__main__":
    main()
