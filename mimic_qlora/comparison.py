"""Base against adapter on the same trials: the difference, how sure it is, and the sentence that says so."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

ALPHA = 0.05
EXACT = 16  # questions up to which every pattern of signs is tried; beyond it a fixed random sample of them
SAMPLES = 65_536


class Difference(NamedTuple):
    """Adapter minus base on one metric. Means are means of question means, so each question weighs the same.

    `low` and `high` bound the 95% t interval over questions, `effect` is the mean difference in standard deviations
    between questions (Cohen's d_z), `p` is two-sided from flipping the signs of the question means. With a single
    question low, high, effect and p are None: one question shows nothing about others.
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


def paired(base: Sequence, adapter: Sequence, questions: Sequence) -> Difference | None:
    """Compare two arms over trials, given in the same order; trials where either value is None are left out.

    Trials of one question are not independent of each other (a naive paired t test over them finds a difference that
    is not there up to 59% of the time), so the unit is the question. Returns None when no trial has both values.
    """
    from scipy import stats

    groups = {}
    for b, a, question in zip(base, adapter, questions, strict=True):
        if b is not None and a is not None:
            groups.setdefault(question, []).append((float(b), float(a)))
    if not groups:
        return None
    means = [tuple(map(_mean, zip(*pairs, strict=True))) for pairs in groups.values()]
    differences = [a - b for b, a in means]
    k, mean = len(differences), _mean(differences)
    low = high = effect = p = None
    if k > 1:
        sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / (k - 1))
        half = stats.t.ppf(1 - ALPHA / 2, k - 1) * sd / math.sqrt(k)
        low, high = mean - half, mean + half
        effect = mean / sd if sd > 1e-12 else None
        p = sign_flip(differences)
    base_mean, adapter_mean = map(_mean, zip(*means, strict=True))
    return Difference(base_mean, adapter_mean, mean, low, high, effect, p, sum(map(len, groups.values())), k)


def compare(rows: list, names, arms) -> dict:
    """A Difference per metric from rows with a column `<metric>_<arm>` for each of the two arms, base first.

    Metrics without a single pair of values are left out.
    """
    questions = [row["question_id"] for row in rows]
    found = {name: paired(*([row[f"{name}_{arm}"] for row in rows] for arm in arms), questions) for name in names}
    return {name: difference for name, difference in found.items() if difference}


def _mean(values: Sequence) -> float:
    return sum(values) / len(values)


def sign_flip(differences: Sequence) -> float:
    """Two-sided p: the share of sign patterns whose mean is at least as far from 0 as the one observed.

    Exact up to 16 differences, from 65,536 random patterns with a fixed seed beyond.
    """
    import numpy as np

    values = np.asarray(differences, dtype=float)
    if len(values) <= EXACT:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice((-1, 1), size=(SAMPLES, len(values)))
        signs[0] = 1  # the observed pattern is one of them, so p is never 0
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) - 1e-12))


def holm(p_values: dict) -> dict:
    """Holm's adjusted p values by name; None stays None."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted, least = dict.fromkeys(p_values), 0.0
    for rank, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[name] = least
    return adjusted


def statement(differences: dict, adjusted: dict, metrics: dict) -> list:
    """What the comparison shows, in sentences: better, worse, and where no difference could be shown.

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
    most = max((differences[name].questions for name in adjusted), default=0)
    if adjusted and len(adjusted) * 2 / 2**most > ALPHA:
        sentences.append(f"With {most} questions no difference, however large, could have been shown: run more trials.")
    return sentences


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
        lines.append(line(label, f"{d.base:.2f}", f"{d.adapter:.2f}", f"{d.mean:+.2f}", interval, effect, p, d.trials))
    return "\n".join(lines)


def _or_blank(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
