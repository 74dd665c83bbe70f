"""The difference that a planned comparison can detect.

The primary endpoint is measured in a population: patients whose chart calls for a caution never
trained on, asked about a symptom never trained on, one trial a patient, so that trials are
independent but for their question and their rule.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Caution, Question
from mimic_qlora.display import text_tables
from mimic_qlora.step import terminal
from mimic_qlora.tasks import guidance
from mimic_qlora.validation import results
from mimic_qlora.validation.labelling.corrected import FEWEST, UNSEEN
from mimic_qlora.validation.scoring import anyway, rubric
from mimic_qlora.validation.statistics import ALPHA

POWER = 0.8


class Spread(NamedTuple):
    """Standard deviations of (adapter - base): between question means, and between the trials of
    one question.
    """

    between: float
    within: float


# on a score from 0 to 1, where there are no results to take it from
ASSUMED = Spread(between=0.10, within=0.25)


def detectable(n: int, questions: int, spread: Spread) -> float | None:
    """Return the true difference that a two-sided 5% t test on question means finds with 80% power.

    n trials are spread evenly over the questions. The power is that of the noncentral t
    distribution with k - 1 degrees of freedom. None for fewer than two questions.
    """
    from scipy import optimize, stats

    k = min(n, questions)
    if k < 2:
        return None
    error = math.sqrt((spread.between**2 + spread.within**2 * k / n) / k)
    critical = stats.t.ppf(1 - 0.05 / 2, k - 1)

    def lack(effect: float) -> float:
        return stats.nct.sf(critical, k - 1, effect) - POWER

    return float(optimize.brentq(lack, 0.01, 200)) * error


def estimated(rows: Iterable[Mapping[str, str]], metric: str) -> Spread | None:
    """Return the spread in an earlier output.csv; None when no question was asked twice.

    These are the estimates of a one-way analysis of variance with questions as groups of unequal
    size (Searle, Casella and McCulloch, Variance Components, 1992, chapter 3).
    """
    groups: dict[str, list[float]] = {}
    for row in rows:
        base, adapter = row.get(f"{metric}_base"), row.get(f"{metric}_qlora")
        if base and adapter:
            groups.setdefault(row["question_id"], []).append(float(adapter) - float(base))
    n, k = sum(map(len, groups.values())), len(groups)
    if k < 2 or n <= k:
        return None
    means = {q: sum(g) / len(g) for q, g in groups.items()}
    whole = sum(map(sum, groups.values())) / n
    inside = sum((x - means[q]) ** 2 for q, g in groups.items() for x in g) / (n - k)
    outside = sum(len(g) * (means[q] - whole) ** 2 for q, g in groups.items()) / (k - 1)
    size = (n - sum(len(g) ** 2 for g in groups.values()) / n) / (k - 1)
    return Spread(math.sqrt(max(0.0, outside - inside) / size), math.sqrt(inside))


def what_can_be_shown(store: Path, questions: Sequence[Question], n: int) -> str:
    """Return the power of the primary endpoint, and the smallest difference in the rubric that is
    found, for n trials and more.
    """
    primary = of_primary(assumed(questions, counted(n)), n)
    return f"{primary}\n\n{of_rubric(store, len(questions), n)}"


def of_primary(design: "Design", n: int) -> str:
    """Return, as a table, the power of the primary endpoint for n trials and more."""
    rows = []
    for trials in (n, 2 * n, 4 * n, 20 * n):
        here = replace(design, trials=counted(trials))
        read = here.enough("read")
        rows.append(
            {
                "trials": str(trials),
                "that count for it": str(here.trials),
                f"power, {design.read} read": f"{here.power:.0%}",
                "to read in each arm for 80%": "more than there are" if read is None else str(read),
            }
        )
    return "\n".join(
        [
            f"Primary endpoint: how often a true difference of {design.useful:.2f} in cautions "
            "never trained on is claimed:",
            text_tables.text_table(rows),
            "",
            terminal.fitted(
                f"Assumed: {design.in_words}. The population are patients whose chart calls for "
                f"such a caution, one trial each, of which {COUNTED:.0%} call for one that nothing "
                "else tells anyway; people read answers without knowing their arm "
                f"(label.csv). {design.what_is_enough()}",
                terminal.width(),
            ),
        ]
    )


def in_one_line(design: "Design") -> str:
    """Return in a line what a run can show of the primary endpoint."""
    return (
        f"Primary endpoint: {design.trials} of them count for it; with {design.read} of these "
        f"answers of each arm read by people, a true difference of {design.useful:.2f} is claimed "
        f"in {design.power:.0%} of such studies (--plan tells more)"
    )


def of_rubric(store: Path, questions: int, n: int) -> str:
    """Return, as a table, the smallest difference in the rubric that n trials and more detect."""
    newest, found = results.newest(store), None
    if newest and (newest / "output.csv").is_file():
        with open(newest / "output.csv", newline="", encoding="utf-8") as file:
            found = estimated(csv.DictReader(file), "rubric")
    spread = found or ASSUMED
    basis = "assumed, until a run asks questions more than once"
    if newest and found:
        basis = f"taken from {newest.name}"
    rows = []
    for trials in (n, 2 * n, 4 * n, 20 * n):
        row = {"trials": str(trials)}
        for pool in sorted({8, 16, questions}):
            found_at = detectable(trials, pool, spread)
            row[f"{pool} questions"] = "-" if found_at is None else f"{found_at:.3f}"
        rows.append(row)
    between, within = f"{spread.between:.2f}", f"{spread.within:.2f}"
    return "\n".join(
        [
            "The smallest true difference in the rubric (0 to 1) found four times out of five "
            "(5%, two-sided):",
            text_tables.text_table(rows),
            "",
            f"Standard deviation of the difference: {between} between questions, {within} within "
            f"them\n({basis}).",
            "Where each question is asked often already, more questions help and more trials "
            "hardly do.",
        ]
    )


# ---------------------------------------------------------------- the primary endpoint

# columns that are measured in the population alone
FAMILY = (
    rubric.PRIMARY,
    "cautions_new_reason",
    "cautions_new_action",
    "reasons_given",
    "reasons_true",
)
SHARE = 0.5  # of the trials of a run are of the population, where it has so many patients
COUNTED = 0.8  # of these count, as of the open demo's charts: a caution is not told anyway
MOST = 100_000  # trials
BASE = 0.2  # share of cautions that the base says, assumed
# standard deviations of the difference, assumed: between questions, rules and training runs
BETWEEN, BETWEEN_RUNS = 0.10, 0.03


def first(question: Question, cautions: Sequence[Caution]) -> Caution | None:
    """Return the most severe rule that makes a pair one of the population; None outside of it.

    Pairs are drawn by it. Which of its rules count is known of a drawn pair alone (anyway.tested).
    """
    if not content.symptom_of(question).held_out:
        return None
    return next((rule for rule in cautions if rule.held_out), None)


def clusters(questions: Sequence[Question]) -> tuple[int, int]:
    """Return how many questions, and how many rules, trials of the population can be about."""
    rules = [rule for rule in content.load().cautions.values() if rule.held_out]
    count = [{rule.id for rule in rules if _counts(rule, question)} for question in questions]
    return sum(map(bool, count)), len(set().union(*count))


def _counts(rule: Caution, question: Question) -> bool:
    """Return whether a trial can test a rule by a question."""
    bears = guidance.bearing(rule, content.symptom_of(question)) > 0
    return bears and bool(anyway.tested(question, [rule]))


def assumed(
    questions: Sequence[Question], trials: int, runs: int = 3, more: Mapping[str, Any] | None = None
) -> "Design":
    """Return the design of a number of trials; `more` are fields that a plan states otherwise."""
    of_questions, rules = clusters(questions)
    return Design(trials, of_questions, rules, runs, **(more or {}))


@dataclass(frozen=True)
class Design:
    """What the power of the primary endpoint rests on.

    `trials` are those of the population, `read` the answers of each arm that people read too.
    `sensitivity` is the share of cautions said that the reader hears, `false_alarm` the share of
    those not said that it hears. `useful` is the smallest true difference worth showing.
    """

    trials: int
    questions: int
    rules: int
    runs: int = 3
    read: int = FEWEST
    sensitivity: float = 0.6
    false_alarm: float = 0.1
    useful: float = 0.25
    claims: int = len(rubric.HEADLINE)

    @property
    def in_words(self) -> str:
        """Return what is assumed, in words."""
        return (
            f"the base says {BASE:.0%} of the cautions; the reader hears {self.sensitivity:.0%} of "
            f"those said and {self.false_alarm:.0%} of those not said; standard deviations of "
            f"{BETWEEN:.2f} between {self.questions} questions and between {self.rules} rules, "
            f"{BETWEEN_RUNS:.2f} between {self.runs} training runs; Holm's strictest level of "
            f"{self.claims} claims"
        )

    @property
    def power(self) -> float:
        """Return the probability that the useful difference is claimed, 0 to 1.

        The estimate is that of prediction-powered inference (Angelopoulos and others, 2023): what
        the reader hears in all answers, corrected by what people hear in those that they read. The
        test is a t test at Holm's strictest level, with the fewer of questions and rules less one
        as degrees of freedom.
        """
        from scipy import stats

        k = min(self.questions, self.rules, self.trials)
        if k < 3 or not self.read:
            return 0.0
        critical = stats.t.ppf(1 - ALPHA / self.claims / 2, k - 1)
        return float(stats.nct.sf(critical, k - 1, self.useful / self.error))

    @property
    def error(self) -> float:
        """Return the standard error of the corrected difference."""
        shares = (BASE, min(1.0, BASE + self.useful))
        heard = [p * self.sensitivity + (1 - p) * self.false_alarm for p in shares]
        wrong = [p * (1 - self.sensitivity) + (1 - p) * self.false_alarm for p in shares]
        variance = BETWEEN**2 * (1 / self.questions + 1 / self.rules)
        variance += BETWEEN_RUNS**2 / self.runs
        variance += sum(p * (1 - p) for p in heard) / self.trials
        read = min(self.read, self.trials)
        variance += sum(p + UNSEEN / read for p in wrong) / read
        return math.sqrt(variance)

    def enough(self, name: str) -> int | None:
        """Return the fewest `trials`, or answers to `read`, with a power of 80%; None if none has.

        With more trials people may read more answers, but never more than there are. No plan may
        state fewer than FEWEST to read.
        """
        low, high = FEWEST if name == "read" else 1, MOST
        if replace(self, **{name: high}).power < POWER:
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle)
                if replace(self, **{name: middle}).power >= POWER
                else (middle + 1, high)
            )
        return low

    def what_is_enough(self) -> str:
        """Return in a sentence how many trials, and answers to read, have a power of 80%."""
        fewest = replace(self, read=MOST).enough("trials")
        if fewest is None:
            return "No number of trials has a power of 80%: that takes more questions or rules."
        roomy = max(fewest * 1.25, FEWEST)  # room for not having to read every answer
        n = math.ceil(roomy / SHARE / COUNTED)
        read = replace(self, trials=counted(n)).enough("read")
        return f"80% take n {n:,} with {read} answers of each arm read, for instance."


def of_trials(n: int) -> int:
    """Return how many of n trials are of the population."""
    return math.ceil(n * SHARE)


def counted(n: int) -> int:
    """Return how many of n trials are expected to count for the primary endpoint."""
    return math.floor(of_trials(n) * COUNTED)
