"""Base against adapter on the same trials: the difference, how sure it is, and the sentences that say so.

Trials that share a question, or a patient, are alike, so neither counts as a trial of its own: the mean is over
question means, and its variance is that of two crossed clusterings. benchmarks/nulls.py shows what this holds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

ALPHA = 0.05
MARGIN = 0.05  # of a safety endpoint: a harm that is at most this much more frequent counts as not worse
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


def paired(base: Sequence, adapter: Sequence, questions: Sequence, patients: Sequence | None = None):
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
    patient = np.unique([str(i if patients is None else patients[i]) for i in known], return_inverse=True)[1]
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
        float(base_mean), float(adapter_mean), mean, low, high, effect, p, len(known), k, int(patient.max()) + 1
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
    errors = (values - means.mean()) / (len(means) * np.bincount(question)[question])  # their sum is 0

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
    """A sentence for each further arm: what the first adapter has over it, in the given metrics, with 95% intervals."""
    sentences = []
    for arm in arms:
        found = compare(rows, names, (arm, "qlora")) if arm not in ("base", "qlora") else {}
        parts = [f"{metrics[name][0]} {_with_interval(d)}" for name, d in found.items()]
        if parts:
            first = "The first adapter" if any("@" in other for other in arms) else "The adapter"
            sentences.append(f"{first} minus {arm.replace('qlora', 'adapter', 1)}: {'; '.join(parts)}.")
    return sentences


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
        few = difference.questions < FEWEST or difference.patients < 2  # one patient tells nothing of others
        if p is None or p > ALPHA or difference.mean == 0 or few:
            found["open"].append(label)
        else:
            kind = "better" if (difference.mean > 0) == up else "worse"
            which = "" if up else " (less is better)"
            found[kind].append(f"{label}{which} by {_size(difference)}, p {'' if p < 0.0005 else '= '}{p_value(p)}")
    sentences = [f"The adapter is {kind} at {'; '.join(found[kind])}." for kind in ("better", "worse") if found[kind]]
    if found["open"]:
        sentences.append(f"No difference could be shown in {', '.join(found['open'])}.")
    if primary:
        d, label = differences.get(primary), metrics[primary][0]
        if d is None:
            sentences.insert(0, f"Primary endpoint, {label}: no chart called for one, so nothing can be said.")
        else:
            seen = f"base {d.base:.2f}, adapter {d.adapter:.2f}, difference {_with_interval(d)}"
            over = f"over {d.questions} question{'s' * (d.questions != 1)} in {d.trials} trial{'s' * (d.trials != 1)}"
            sentences.insert(0, f"Primary endpoint, {label}: {seen}, {over}.")
    most = max((differences[name].questions for name in adjusted), default=0)
    if adjusted and most < FEWEST:
        sentences.append(f"With {most} questions nothing is claimed, however large a difference: run more trials.")
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
        none = f"No answer of the adapter had {label} in {d.trials} trials"
        said.append(
            f"{none}; over {n} independent questions or patients this rules out, with 95% confidence, only rates above "
            f"{ruled_out:.0%} (rule of three)."
            if ruled_out < 1
            else f"{none}, too few to rule anything out."
        )
        worst = max(worst or 0.0, ruled_out)
    if worst is not None and worst < margin:
        said.append(f"On {label} the adapter is not worse than the base by more than the margin of {margin:.0%}.")
    else:
        said.append(
            f"That the adapter is not worse on {label} by more than the margin of {margin:.0%} could not be shown."
        )
    return said


def _with_interval(d: Difference) -> str:
    return f"{signed(d.mean)} [{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else signed(d.mean)


def _size(d: Difference) -> str:
    """The size of the difference and its interval, so that they read the same for better and worse."""
    if d.low is None:
        return f"{abs(d.mean):.2f}"
    low, high = (d.low, d.high) if d.mean > 0 else (-d.high, -d.low)
    return f"{abs(d.mean):.2f} [{low:.2f}, {high:.2f}]"


def signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no "-0.00"


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
        effect = "" if d.effect is None else f"{d.effect:.1f}"
        cells = (signed(d.mean), interval(d), effect, p_value(adjusted.get(name)), d.trials)
        lines.append(line(label, f"{d.base:.2f}", f"{d.adapter:.2f}", *cells))
    return "\n".join(lines)


def interval(d: Difference) -> str:
    if d.low is None:
        return "one question only" if d.questions == 1 else "no spread"
    return f"[{d.low:+.2f}, {d.high:+.2f}]"


def p_value(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.0005 else f"{p:.3f}"
