"""Claim: with raters of known taste the report's intervals hold the true win rate and agreement.

    python benchmarks/raters.py [--studies 200]

Simulates whole reviews: two raters, an answer of each arm to three charts of each question,
questions that suit one arm or the other by chance. A rater sees the better answer with a known
probability, else judges at random, so win rate, alpha and kappa are known. Prints in how many of
the studies each 95% interval held the truth, by number of questions.
"""

import argparse

import numpy as np

from mimic_qlora.review import agreement, report

CHARTS, SLIP = 3, 0.2
WINS = np.array([0.55, 0.2, 0.25])  # adapter better, equal, base better
SPREAD = 0.5  # of the log odds of a win between questions
VALUES = ["qlora", "equal", "base"]


def study(questions: int, rng) -> list:
    """Rows as ratings_report.unblind makes them, of two raters."""
    rows = []
    for question in range(questions):
        chances = np.exp(np.log(WINS) + rng.normal(0, SPREAD) * np.array([1, 0, -1]))
        for chart in range(CHARTS):
            taste = rng.choice(VALUES, p=chances / chances.sum())
            for rater in ("anna", "ben"):
                better = taste if rng.random() > SLIP else rng.choice(VALUES)
                rows.append(row(rater, f"q{question}", question * CHARTS + chart, str(better)))
    return rows


def row(rater: str, question: str, trial: int, better: str) -> dict:
    win = {"qlora": 1.0, "equal": 0.5, "base": 0.0}[better]
    marks = {
        f"{name}_{arm}": 3
        for name in ("safety", "correctness", "completeness", "chart")
        for arm in ("base", "qlora")
    }
    about = {
        "rater": rater,
        "trial": trial,
        "subject_id": trial,
        "question_id": question,
        "again": False,
    }
    rest = {f"{name}_{arm}": 0.0 for name in ("harmful", "at_once") for arm in ("base", "qlora")}
    return {
        **about,
        "better": better,
        "answer_a": "base",
        "win_base": 1 - win,
        "win_qlora": win,
        **marks,
        **rest,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--studies",
        type=int,
        default=200,
        help="simulated reviews of each size (default: %(default)s)",
    )
    args = parser.parse_args()
    agreement.SAMPLES = (
        500  # of 2,000: quicker, and the ends of an interval move by less than a hundredth
    )
    truth = expected()
    print(f"Truth: {', '.join(f'{name} {value:.3f}' for name, value in truth.items())}")
    print(f"\n{'questions':<12}" + "".join(f"{name:>22}" for name in truth))
    print(f"{'':<12}" + f"{'held    mean width':>22}" * len(truth))
    for questions in (8, 20, 32, 60):
        rng = np.random.default_rng(questions)
        found = [measure(study(questions, rng)) for _ in range(args.studies)]
        cells = []
        for name, value in truth.items():
            ends = [(f[name][1], f[name][2]) for f in found if f[name][1] is not None]
            held = sum(low <= value <= high for low, high in ends) / len(ends)
            cells.append(f"{held:.1%}    {np.mean([high - low for low, high in ends]):.2f}")
        print(f"{questions:<12}" + "".join(f"{cell:>22}" for cell in cells))


def expected() -> dict:
    """Return the truth: win rate and agreement, from shares of taste over all questions.

    The integral over questions is by Gauss-Hermite quadrature.
    """
    places, weights = np.polynomial.hermite_e.hermegauss(60)
    chances = np.exp(np.log(WINS) + SPREAD * places[:, None] * np.array([1, 0, -1]))
    taste = (weights / weights.sum()) @ (chances / chances.sum(axis=1, keepdims=True))
    given = (1 - SLIP) * taste + SLIP / 3
    agree = (1 - SLIP) ** 2 + (1 - (1 - SLIP) ** 2) / 3
    by_chance = given @ given
    kappa = (agree - by_chance) / (
        1 - by_chance
    )  # alpha tends to the same, since both raters use values alike
    return {"win rate": given[0] + given[1] / 2, "alpha": kappa, "kappa": kappa}


def measure(rows: list) -> dict:
    """(value, low, high) of the win rate, alpha and kappa."""
    found = report.summarize(rows, {})
    win = found["win_rate"]
    between = found["between_raters"]["better"]
    return {
        "win rate": (win["adapter_over_base"], win["low"], win["high"]),
        "alpha": tuple(between["alpha"][key] for key in ("value", "low", "high")),
        "kappa": tuple(between["kappa"]["anna and ben"][key] for key in ("value", "low", "high")),
    }


if __name__ == "__main__":
    main()
