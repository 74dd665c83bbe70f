"""Compare base and adapter on the same trials: the difference and its confidence interval.

Trials that share a question, or a patient, are correlated, so neither counts as a trial of its own:
the mean is over question means, and its variance is that of two crossed clusterings.
benchmarks/nulls.py measures the coverage of the intervals.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimic_qlora.validation.arms import ADAPTER, Arm

ALPHA = 0.05
# of a safety endpoint: a harm that is at most this much more frequent counts as not worse
MARGIN = 0.05
SMALL = 5  # a group of fewer patients is not shown
# Questions below which nothing is claimed: five coins fall on one side more often than once in
# twenty times.
FEWEST = 6
# Training runs from which the spread between them enters an interval; two tell hardly anything.
FEWEST_RUNS = 3

Row = Mapping[str, Any]  # of a table: a metric of an arm is in the column "<metric>_<arm>"
Floats = NDArray[np.float64]
Groups = NDArray[np.int64]  # the number of the group of each trial


class Difference(NamedTuple):
    """Adapter minus base on one metric, from means of question means: all questions weigh the same.

    `low` and `high` bound the 95% t interval, of shares within -1 and 1, `effect` is the mean
    difference in standard deviations between questions (Cohen's d_z), `p` is two-sided. With a
    single question all four are None: one question shows nothing about others. Where every question
    gives the same value there is no spread for an interval, and p is that of a sign-flip test.
    """

    base: float
    adapter: float
    mean: float
    low: float | None
    high: float | None
    effect: float | None
    p: float | None
    trials: int
    questions: int
    patients: int


def paired(
    base: Sequence[float | None],
    adapter: Sequence[float | None],
    questions: Sequence[Hashable],
    patients: Sequence[Hashable] | None = None,
    runs: Sequence[Sequence[float]] | None = None,
    unseen: float = 0.0,
) -> Difference | None:
    """Return the Difference of two arms over trials, or None when no trial has both values.

    All sequences have one entry per trial, in the same order; a trial with a None is left out.
    `patients` says who was asked about; None: a different patient each time. `runs` has the values
    of each adapter for each trial, where `adapter` is their mean over training runs. `unseen` is a
    variance of the mean that no spread of these values shows.
    """
    from scipy import stats

    pairs = enumerate(zip(base, adapter, strict=True))
    known = [(i, b, a) for i, (b, a) in pairs if b is not None and a is not None]
    if not known:
        return None
    b = np.array([float(value) for _, value, _ in known])
    a = np.array([float(value) for _, _, value in known])
    question = _groups([str(questions[i]) for i, _, _ in known])
    patient = _groups([str(i if patients is None else patients[i]) for i, _, _ in known])
    differences = _means(a - b, question)
    k, mean = len(differences), float(differences.mean())
    low = high = effect = p = None
    if k > 1:
        clustering = _variance(a - b, question, patient)
        if runs is not None and min(len(runs[i]) for i, _, _ in known) >= FEWEST_RUNS:
            each = np.array([runs[i] for i, _, _ in known], dtype=float)
            clustering = _with_runs(clustering, each.T - b, question)
        variance, freedom = clustering.variance + unseen, clustering.freedom
        if (error := math.sqrt(variance)) > 1e-12:
            half = stats.t.ppf(1 - ALPHA / 2, freedom) * error
            low, high = mean - half, mean + half
            if min(b.min(), a.min()) >= 0 and max(b.max(), a.max()) <= 1:  # shares, not cosines
                low, high = max(-1.0, low), min(1.0, high)
            p = float(2 * stats.t.sf(abs(mean) / error, freedom))
        else:
            p = 2.0 ** (1 - k) if abs(mean) > 1e-12 else 1.0
        sd = float(differences.std(ddof=1))
        effect = mean / sd if sd > 1e-12 else None
    return Difference(
        base=float(_means(b, question).mean()),
        adapter=float(_means(a, question).mean()),
        mean=mean,
        low=low,
        high=high,
        effect=effect,
        p=p,
        trials=len(known),
        questions=k,
        patients=int(patient.max()) + 1,
    )


def of_right_or_wrong(base: Sequence[float], adapter: Sequence[float]) -> Difference:
    """Return the Difference of two arms over independent documents, each 0 or 1; at least one.

    The interval is the score interval of a paired difference (Tango, 1998), which keeps its
    coverage where few documents differ; p is that of McNemar's exact test.
    """
    from scipy import stats

    n = len(base)
    gained = sum(b == 0 and a == 1 for b, a in zip(base, adapter, strict=True))
    lost = sum(b == 1 and a == 0 for b, a in zip(base, adapter, strict=True))
    low, high = score_interval(gained, lost, n)
    differ = gained + lost
    p = float(stats.binomtest(gained, differ).pvalue) if differ else 1.0
    before, after = sum(base) / n, sum(adapter) / n
    return Difference(before, after, (gained - lost) / n, low, high, None, p, n, n, n)


def score_interval(gained: int, lost: int, n: int, level: float = 1 - ALPHA) -> tuple[float, float]:
    """Return the score interval of (gained - lost) / n (Tango, Statistics in Medicine 17, 1998).

    Of n pairs, `gained` went from 0 to 1 and `lost` from 1 to 0.
    """
    from scipy import optimize, stats

    z = float(stats.norm.ppf((1 + level) / 2))
    mean = (gained - lost) / n

    def beyond(true: float) -> float:
        """Return by how much the score statistic of a difference exceeds the critical value."""
        b = -gained - lost + (2 * n - gained + lost) * true
        c = -lost * true * (1 - true)
        losing = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * losing + true * (1 - true))
        away = abs(gained - lost - n * true)
        return away - z * math.sqrt(max(0.0, variance))

    ends = []
    for end in (-1.0, 1.0):
        inside = mean + math.copysign(1e-12, end)
        reached = abs(inside) < 1 and beyond(end) > 0 > beyond(inside)
        ends.append(float(optimize.brentq(beyond, inside, end)) if reached else end)
    return ends[0], ends[1]


def _groups(names: list[str]) -> Groups:
    return np.unique(names, return_inverse=True)[1]


def _means(values: Floats, group: Groups) -> Floats:
    """Return the mean of each group [groups]."""
    return np.bincount(group, weights=values) / np.bincount(group)


class _Clustering(NamedTuple):
    """The squared standard error of the mean under one clustering, and its degrees of freedom."""

    variance: float
    freedom: float


def _variance(values: Floats, question: Groups, patient: Groups) -> _Clustering:
    """Return the squared standard error of the mean of question means.

    Trials of one question err together, and so do those of one patient. Both sums of squares hold
    the errors of single trials, so these are subtracted once:
    V = V_question + V_patient - V_both (Cameron, Gelbach and Miller, 2011), and never less than
    V_question. The degrees of freedom are those of Satterthwaite (1946). With a different patient
    in each trial this is the t test on question means.
    """
    means = _means(values, question)
    # the error of each trial in the mean of question means; their sum is 0
    errors = (values - means.mean()) / (len(means) * np.bincount(question)[question])
    both = np.unique(question * len(values) + patient, return_inverse=True)[1]
    of_question, of_patient, of_both = (
        _clustered(errors, group) for group in (question, patient, both)
    )
    variance = of_question.variance + of_patient.variance - of_both.variance
    if variance <= of_question.variance * (1 + 1e-9):
        return of_question
    spread = sum(part.variance**2 / part.freedom for part in (of_question, of_patient, of_both))
    most = of_question.freedom + of_patient.freedom
    return _Clustering(variance, max(1.0, min(variance**2 / spread, most)))


def _with_runs(found: _Clustering, values: Floats, question: Groups) -> _Clustering:
    """Return the clustering with the spread between training runs added.

    `values` are the differences [runs, trials]. The variance of the mean of run means holds that of
    single answers too, which the other part has already, so it is subtracted: it is estimated by
    the interaction of run and question.
    """
    means = np.array([_means(one, question) for one in values])  # [runs, questions]
    n, k = means.shape
    of_runs = float(means.mean(axis=1).var(ddof=1)) / n
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    single = float((rest**2).sum()) / ((n - 1) * (k - 1)) / (n * k)
    more = max(0.0, of_runs - single)
    if more <= found.variance * 1e-9:
        return found
    variance = found.variance + more
    spread = found.variance**2 / found.freedom + of_runs**2 / (n - 1)
    return _Clustering(variance, max(1.0, variance**2 / spread))


def _clustered(errors: Floats, group: Groups) -> _Clustering:
    """Return the variance of the sum of errors when those of one group are fully correlated."""
    sums = np.bincount(group, weights=errors)
    freedom = max(1, len(sums) - 1)
    return _Clustering(float(sums @ sums) * len(sums) / freedom, freedom)


def compare(
    rows: Sequence[Row], names: Iterable[str], pair: tuple[Arm, Arm], second: str = "subject_id"
) -> dict[str, Difference]:
    """Return a Difference per metric that some row has for both arms, base first.

    A row has a question_id, the `second` cluster (without one, all rows count as of different
    patients), the columns `<metric>_<arm.column>`, and where its values rest on labels of a part of
    the answers `<metric>_unseen` (paired).
    """
    questions = [row["question_id"] for row in rows]
    known = [row.get(second) for row in rows]
    patients = None if None in known else known
    found = {}
    for name in names:
        base = [row.get(f"{name}_{pair[0].column}") for row in rows]
        other = [row.get(f"{name}_{pair[1].column}") for row in rows]
        runs = [row.get(f"{name}_runs") or () for row in rows] if pair[1] == ADAPTER else None
        unseen = max((row.get(f"{name}_unseen", 0.0) for row in rows), default=0.0)
        if difference := paired(base, other, questions, patients, runs, unseen):
            found[name] = difference
    return found


def groups(
    rows: Sequence[Row],
    by: Mapping[str, Callable[[Row], str]],
    names: Sequence[str],
    pair: tuple[Arm, Arm],
    labels: Mapping[str, tuple[str, bool]],
) -> list[dict[str, Any]]:
    """Return the comparison within groups, as rows of a table.

    `by` maps a heading ("sex") to a function of a row, `labels` each metric to its label. Groups
    are described, not tested: no p values. Those of fewer than SMALL patients are only named.
    """
    columns = ("by", "group", "trials", "measure", "base", "adapter", "difference", "low", "high")
    table: list[dict[str, Any]] = []
    for heading, value in by.items():
        parts: dict[str, list[Row]] = {}
        for row in rows:
            parts.setdefault(str(value(row)), []).append(row)
        for part, members in sorted(parts.items()):
            about: dict[str, Any] = {"by": heading, "group": part}
            if len({row["subject_id"] for row in members}) < SMALL:
                table.append(about | {"trials": f"of fewer than {SMALL} patients"})
                continue
            for name, d in compare(members, names, pair).items():
                cells = (d.trials, labels[name][0], d.base, d.adapter, d.mean, d.low, d.high)
                table.append(about | dict(zip(columns[2:], cells, strict=True)))
    return [{column: row.get(column) for column in columns} for row in table]


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return Holm's adjusted p values (Holm, 1979) by name; None stays None.

    The i-th smallest of m p values becomes the maximum over j <= i of min(1, (m - j + 1) p_j).
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    least = 0.0
    for rank, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[name] = least
    return adjusted


class Accuracy(NamedTuple):
    """The sensitivity and specificity of the scorer in one arm; None where no label tells them."""

    sensitivity: float | None
    specificity: float | None


def corrected(
    base_seen: float, adapter_seen: float, base: Accuracy, adapter: Accuracy
) -> float | None:
    """Return the difference of two shares, corrected for the scorer's errors in each arm.

    A share p is seen as p * sensitivity + (1 - p) * (1 - specificity); this is solved for p (Rogan
    and Gladen, 1978) and limited to 0 to 1. None where a scorer carries no information
    (sensitivity + specificity is 1 or less) or its accuracy is unknown.
    """
    true = []
    for seen, (se, sp) in ((base_seen, base), (adapter_seen, adapter)):
        if se is None or sp is None or se + sp <= 1:
            return None
        true.append(min(1.0, max(0.0, (seen + sp - 1) / (se + sp - 1))))
    return true[1] - true[0]
