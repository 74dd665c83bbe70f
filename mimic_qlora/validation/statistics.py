"""Base against adapter on the same trials: the difference, how sure it is, and the sentences that say so.

Trials that share a question, or a patient, are alike, so neither counts as a trial of its own: the mean is over
question means, and its variance is that of two crossed clusterings. benchmarks/nulls.py shows what this holds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

ALPHA = 0.05
MARGIN = (
    0.05  # of a safety endpoint: a harm that is at most this much more frequent counts as not worse
)
SMALL = 5  # a group of fewer patients is not shown
# Questions below which nothing is claimed: five coins fall on one side more often than once in twenty times.
FEWEST = 6


class Difference(NamedTuple):
    """Adapter minus base on one metric. Means are means of question means, so each question weighs the same.

    `low` and `high` bound the 95% t interval, `effect` is the mean difference in standard deviations between
    questions (Cohen's d_z), `p` is two-sided. With a single question all four are None: one question shows nothing
    about others. Where every question gives the same there is no spread to tell an interval from, and p is that of a
    sign-flip test.
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
    base: Sequence, adapter: Sequence, questions: Sequence, patients: Sequence | None = None
):
    """The Difference of two arms over trials, given in the same order; where either value is None a trial is left out.

    `patients` says who was asked about; None: somebody else each time. Returns None when no trial has both values.
    """
    import numpy as np
    from scipy import stats

    known = [i for i, pair in enumerate(zip(base, adapter, strict=True)) if None not in pair]
    if not known:
        return None
    b, a = (np.array([float(values[i]) for i in known]) for values in (base, adapter))
    question = np.unique([str(questions[i]) for i in known], return_inverse=True)[1]
    patient = np.unique(
        [str(i if patients is None else patients[i]) for i in known], return_inverse=True
    )[1]
    base_mean, adapter_mean = (_means(values, question).mean() for values in (b, a))
    differences = _means(a - b, question)
    k, mean = len(differences), float(differences.mean())
    low = high = effect = p = None
    if k > 1:
        variance, freedom = _variance(a - b, question, patient)
        if (error := math.sqrt(variance)) > 1e-12:
            half = stats.t.ppf(1 - ALPHA / 2, freedom) * error
            low, high = mean - half, mean + half
            p = float(2 * stats.t.sf(abs(mean) / error, freedom))
        else:
            p = 2.0 ** (1 - k) if abs(mean) > 1e-12 else 1.0
        sd = float(differences.std(ddof=1))
        effect = mean / sd if sd > 1e-12 else None
    return Difference(
        float(base_mean),
        float(adapter_mean),
        mean,
        low,
        high,
        effect,
        p,
        len(known),
        k,
        int(patient.max()) + 1,
    )


def _means(values, group):
    import numpy as np

    return np.bincount(group, weights=values) / np.bincount(group)


def _variance(values, question, patient) -> tuple:
    """Squared standard error of the mean of question means, and its degrees of freedom.

    Trials of one question err together, and so do those of one patient. Each sum of errors holds the trials' own,
    which are therefore taken off once: V = V_question + V_patient - V_both (Cameron, Gelbach and Miller, 2011), never
    less than V_question; degrees of freedom by Satterthwaite (1946). With a patient for each trial this is the t test
    on question means.
    """
    import numpy as np

    means = _means(values, question)
    errors = (values - means.mean()) / (
        len(means) * np.bincount(question)[question]
    )  # their sum is 0

    def of(group) -> tuple:
        sums = np.bincount(group, weights=errors)
        return float(sums @ sums) * len(sums) / max(1, len(sums) - 1), max(1, len(sums) - 1)

    both = np.unique(question * len(values) + patient, return_inverse=True)[1]
    parts = [of(question), of(patient), of(both)]
    variance = parts[0][0] + parts[1][0] - parts[2][0]
    if variance <= parts[0][0] * (1 + 1e-9):
        return parts[0]
    spread = sum(part**2 / freedom for part, freedom in parts)
    return variance, max(1.0, min(variance**2 / spread, parts[0][1] + parts[1][1]))


def compare(rows: list, names, arms) -> dict:
    """A Difference per metric from rows with a column `<metric>_<arm>` for each of the two arms, base first.

    Metrics without a single pair of values are left out. Rows without a subject_id are of nobody.
    """
    questions = [row["question_id"] for row in rows]
    patients = [row.get("subject_id") for row in rows]
    patients = None if None in patients else patients
    found = {
        name: paired(
            *([row.get(f"{name}_{arm}") for row in rows] for arm in arms), questions, patients
        )
        for name in names
    }
    return {name: difference for name, difference in found.items() if difference}


def groups(rows: list, by: dict, names, arms, labels: dict) -> list:
    """The comparison within groups, as rows of a table; groups of fewer than SMALL patients are named, not shown.

    `by` maps a heading ("sex") to a function of a row. Groups are described, not tested: no p values.
    """
    table = []
    for heading, value in by.items():
        parts = {}
        for row in rows:
            parts.setdefault(str(value(row)), []).append(row)
        for part, members in sorted(parts.items()):
            people = len({row["subject_id"] for row in members})
            about = {"by": heading, "group": part}
            if people < SMALL:
                table.append(about | {"trials": f"of fewer than {SMALL} patients"})
                continue
            for name, d in compare(members, names, arms).items():
                ends = {} if d.low is None else {"low": d.low, "high": d.high}
                table.append(
                    about
                    | {
                        "trials": d.trials,
                        "measure": labels[name][0],
                        "base": d.base,
                        "adapter": d.adapter,
                        "difference": d.mean,
                        **ends,
                    }
                )
    columns = ("by", "group", "trials", "measure", "base", "adapter", "difference", "low", "high")
    return [{column: row.get(column) for column in columns} for row in table]


def holm(p_values: dict) -> dict:
    """Holm's adjusted p values by name; None stays None."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted, least = dict.fromkeys(p_values), 0.0
    for rank, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[name] = least
    return adjusted


def corrected(
    difference_seen: float, sensitivity: tuple, specificity: tuple, base_seen: float
) -> float | None:
    """What a difference of shares becomes when the scorer errs in each arm at its own rate (Rogan and Gladen, 1978).

    A share p is seen as p * sensitivity + (1 - p) * (1 - specificity); each pair is (base, adapter). None where an
    arm's scorer tells nothing (sensitivity + specificity is 1 or less).
    """
    true = []
    for seen, se, sp in zip(
        (base_seen, base_seen + difference_seen), sensitivity, specificity, strict=True
    ):
        if se is None or sp is None or se + sp <= 1:
            return None
        true.append(min(1.0, max(0.0, (seen + sp - 1) / (se + sp - 1))))
    return true[1] - true[0]


# ---------------------------------------------------------------- in words
