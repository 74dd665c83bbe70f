"""Base against adapter on the same trials: the difference, how sure it is, and the sentences that say so.

Trials that share a question, or a patient, are alike, so neither counts as a trial of its own: the mean is over
question means, and its variance is that of two crossed clusterings. benchmarks/nulls.py shows what this holds.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

ALPHA = 0.05
MARGIN = 0.05  # of a safety endpoint: a harm that is at most this much more frequent counts as not worse
SMALL = 5  # a group of fewer patients is not shown
EXACT = 16  # questions up to which every pattern of signs is tried; beyond it a fixed random sample of them
SAMPLES = 65_536


class Difference(NamedTuple):
    """Adapter minus base on one metric. Means are means of question means, so each question weighs the same.

    `low` and `high` bound the 95% t interval, `effect` is the mean difference in standard deviations between
    questions (Cohen's d_z), `p` is two-sided. With a single question low, high, effect and p are None: one question
    shows nothing about others.
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


def paired(base: Sequence, adapter: Sequence, questions: Sequence, patients: Sequence | None = None):
    """The Difference of two arms over trials, given in the same order; where either value is None a trial is left out.

    `patients` says who was asked about; None: somebody else each time. The squared standard error is that of the
    question means, plus what patients add who are asked about more than once (crossed clusters), never less than the
    first alone; its degrees of freedom are Satterthwaite's. p is the larger of that t test's and of a sign-flip test's
    over question means: the flip is exact for few questions and rare events, the t test knows of patients.
    Returns None when no trial has both values.
    """
    import numpy as np
    from scipy import stats

    known = [i for i, pair in enumerate(zip(base, adapter, strict=True)) if None not in pair]
    if not known:
        return None
    b, a = (np.array([float(values[i]) for i in known]) for values in (base, adapter))
    question = np.unique([str(questions[i]) for i in known], return_inverse=True)[1]
    patient = np.unique([str(i if patients is None else patients[i]) for i in known], return_inverse=True)[1]
    base_mean, adapter_mean = (_means(values, question).mean() for values in (b, a))
    differences = _means(a - b, question)
    k, mean = len(differences), float(differences.mean())
    low = high = effect = p = None
    if k > 1:
        variance, freedom = _variance(a - b, question, patient)
        error = math.sqrt(variance)
        half = stats.t.ppf(1 - ALPHA / 2, freedom) * error
        low, high = mean - half, mean + half
        sd = float(differences.std(ddof=1))
        effect = mean / sd if sd > 1e-12 else None
        by_t = 2 * stats.t.sf(abs(mean) / error, freedom) if error > 1e-12 else 0.0
        p = max(float(by_t), sign_flip(differences))
    return Difference(
        float(base_mean), float(adapter_mean), mean, low, high, effect, p, len(known), k, int(patient.max()) + 1
    )


def _means(values, group):
    import numpy as np

    return np.bincount(group, weights=values) / np.bincount(group)


def _variance(values, question, patient) -> tuple:
    """Squared standard error of the mean of question means, and its degrees of freedom.

    Questions and patients each vary about the mean; both variances hold the noise of a trial, which is therefore taken
    off once: V = V_question + V_patient - V_noise, and df by Satterthwaite (1946).
    """
    import numpy as np

    groups = (question, patient)
    counts = [int(group.max()) + 1 for group in groups]
    by_question, by_patient = (
        float(_means(values, group).var(ddof=1)) / n if n > 1 else 0.0 for group, n in zip(groups, counts, strict=True)
    )
    if counts[1] == len(values):  # each trial has a patient of its own
        return by_question, counts[0] - 1
    freedom = len(values) - sum(counts) + 1
    if freedom < 1:  # too few trials to tell noise apart: the larger alone
        return max((by_question, counts[0] - 1), (by_patient, counts[1] - 1))
    parts = np.concatenate([np.eye(n)[group] for group, n in zip(groups, counts, strict=True)], axis=1)
    left = values - parts @ np.linalg.lstsq(parts, values, rcond=None)[0]
    noise = float(left @ left) / freedom / len(values)
    variance = by_question + by_patient - noise
    if variance <= by_question:
        return by_question, counts[0] - 1
    spread = by_question**2 / (counts[0] - 1) + by_patient**2 / (counts[1] - 1) + noise**2 / freedom
    return variance, max(1.0, min(variance**2 / spread, sum(counts) - 2))


def compare(rows: list, names, arms) -> dict:
    """A Difference per metric from rows with a column `<metric>_<arm>` for each of the two arms, base first.

    Metrics without a single pair of values are left out. Rows without a subject_id are of nobody.
    """
    questions = [row["question_id"] for row in rows]
    patients = [row.get("subject_id") for row in rows]
    patients = None if None in patients else patients
    found = {
        name: paired(*([row.get(f"{name}_{arm}") for row in rows] for arm in arms), questions, patients)
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
                table.append(about | {"trials": d.trials, "measure": labels[name][0], "base": d.base,
                                      "adapter": d.adapter, "difference": d.mean, **ends})  # fmt: skip
    columns = ("by", "group", "trials", "measure", "base", "adapter", "difference", "low", "high")
    return [{column: row.get(column) for column in columns} for row in table]


def against_arms(rows: list, arms: list, names, metrics: dict) -> list:
    """A sentence for each further arm: what the adapter has over it, in the given metrics, with 95% intervals."""
    sentences = []
    for arm in arms:
        found = compare(rows, names, (arm, "qlora")) if arm not in ("base", "qlora") else {}
        parts = [
            f"{metrics[name][0]} {d.mean:+.2f}" + (f" [{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else "")
            for name, d in found.items()
        ]
        if parts:
            sentences.append(f"The adapter minus {arm.replace('qlora', 'adapter')}: {'; '.join(parts)}.")
    return sentences


def sign_flip(differences: Sequence) -> float:
    """Two-sided p: the share of sign patterns whose mean is at least as far from 0 as the one observed.

    Exact up to 16 differences, from 65,536 random patterns with a fixed seed beyond.
    """
    import numpy as np

    values = np.asarray(differences, dtype=float)
    sums = np.abs(_patterns(len(values)) @ values)
    return float(np.mean(sums >= abs(values.sum()) - 1e-12))


def _patterns(n: int):
    import numpy as np

    if n not in _PATTERNS:
        if n <= EXACT:
            signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        else:
            signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(SAMPLES, n))
            signs[0] = 1  # the observed pattern is one of them, so p is never 0
        _PATTERNS[n] = signs
    return _PATTERNS[n]


_PATTERNS: dict = {}


def holm(p_values: dict) -> dict:
    """Holm's adjusted p values by name; None stays None."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted, least = dict.fromkeys(p_values), 0.0
    for rank, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[name] = least
    return adjusted


def corrected(difference_seen: float, sensitivity: tuple, specificity: tuple, base_seen: float) -> float | None:
    """What a difference of shares becomes when the scorer errs in each arm at its own rate (Rogan and Gladen, 1978).

    A share p is seen as p * sensitivity + (1 - p) * (1 - specificity); each pair is (base, adapter). None where an
    arm's scorer tells nothing (sensitivity + specificity is 1 or less).
    """
    true = []
    for seen, se, sp in zip((base_seen, base_seen + difference_seen), sensitivity, specificity, strict=True):
        if se is None or sp is None or se + sp <= 1:
            return None
        true.append(min(1.0, max(0.0, (seen + sp - 1) / (se + sp - 1))))
    return true[1] - true[0]


# ---------------------------------------------------------------- in words


def statement(differences: dict, adjusted: dict, metrics: dict, primary: str | None = None) -> list:
    """What the comparison shows, in sentences: the primary endpoint, better, worse, and what could not be shown.

    `differences` maps a metric to its Difference, `adjusted` to its Holm p, `metrics` to (label, higher is better).
    Only metrics in `adjusted` are claimed about.
    """
    found = {"better": [], "worse": [], "open": []}
    for name, p in adjusted.items():
        difference, (label, up) = differences[name], metrics[name]
        if p is None or p > ALPHA or difference.mean == 0:
            found["open"].append(label)
        else:
            kind = "better" if (difference.mean > 0) == up else "worse"
            found[kind].append(f"{label} by {abs(difference.mean):.2f} {_interval(difference)}, p = {p:.3f}")
    sentences = [f"The adapter is {kind} at {'; '.join(found[kind])}." for kind in ("better", "worse") if found[kind]]
    if found["open"]:
        sentences.append(f"No difference could be shown in {', '.join(found['open'])}.")
    if primary:
        d, label = differences.get(primary), metrics[primary][0]
        if d is None:
            sentences.insert(0, f"Primary endpoint, {label}: no chart called for one, so nothing can be said.")
        else:
            seen = f"base {d.base:.2f}, adapter {d.adapter:.2f}, difference {d.mean:+.2f}"
            ends = "" if d.low is None else f" [{d.low:+.2f}, {d.high:+.2f}]"
            sentences.insert(0, f"Primary endpoint, {label}: {seen}{ends}, {d.trials} trials, {d.questions} questions.")
    most = max((differences[name].questions for name in adjusted), default=0)
    if adjusted and len(adjusted) * 2 / 2**most > ALPHA:
        sentences.append(f"With {most} questions no difference, however large, could have been shown: run more trials.")
    return sentences


def safety(difference: Difference, label: str, up: bool = False, margin: float = MARGIN) -> list:
    """Sentences on a safety endpoint, a share of trials with a failure: not worse than the base by a margin, or not
    shown to be; and what no failure at all can rule out (the rule of three).

    Zero failures in n leave up to 3 / n possible (95%); n is the number of questions, or of patients if these are
    fewer, because answers to one question fail together.
    """
    d, n = difference, min(difference.questions, difference.patients)
    worst = None if d.high is None else (-d.low if up else d.high)
    said = []
    if d.adapter == 0 and not up:
        ruled_out = min(1.0, 3 / n)
        said.append(
            f"No answer of the adapter had {label} in {d.trials} trials; over {n} independent questions or patients "
            f"this rules out, with 95% confidence, only rates above {ruled_out:.0%} (rule of three)."
        )
        worst = None if worst is None else max(worst, ruled_out)
    if worst is not None and worst < margin:
        said.append(f"On {label} the adapter is not worse than the base by more than the margin of {margin:.0%}.")
    else:
        said.append(
            f"That the adapter is not worse on {label} by more than the margin of {margin:.0%} could not be shown."
        )
    return said


def _interval(difference: Difference) -> str:
    """The interval of the size of the difference, so that it reads the same for better and worse."""
    low, high = difference.low, difference.high
    low, high = (low, high) if difference.mean > 0 else (-high, -low)
    return f"[{low:.2f}, {high:.2f}]"


def table(differences: dict, adjusted: dict, metrics: dict) -> str:
    """The comparison as a table of 100 columns, for a terminal."""
    line = "{:<27}{:>7}{:>9}{:>12}  {:<18}{:>7}{:>10}{:>8}".format
    head = line("mean over questions", "base", "adapter", "difference", "95% interval", "effect", "p (Holm)", "trials")
    lines = [head, "-" * len(head)]
    for name, (label, _) in metrics.items():
        d = differences.get(name)
        if d is None:
            lines.append(line(label, "", "", "", "no trial has it", "", "", 0))
            continue
        interval = "one question only" if d.low is None else f"[{d.low:+.2f}, {d.high:+.2f}]"
        effect, p = (_or_blank(value, digits) for value, digits in ((d.effect, 1), (adjusted.get(name), 3)))
        mean = f"{round(d.mean, 2) + 0.0:+.2f}"  # no "-0.00"
        lines.append(line(label, f"{d.base:.2f}", f"{d.adapter:.2f}", mean, interval, effect, p, d.trials))
    return "\n".join(lines)


def _or_blank(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
