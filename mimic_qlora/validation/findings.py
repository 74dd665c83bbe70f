"""What a comparison found, as sentences and as a table."""

from mimic_qlora.validation.statistics import ALPHA, FEWEST, MARGIN, Difference, compare


def against_arms(rows: list, arms: list, names, metrics: dict) -> list:
    """A sentence for each further arm: what the first adapter has over it, in the given metrics, with 95% intervals."""
    sentences = []
    for arm in arms:
        found = compare(rows, names, (arm, "qlora")) if arm not in ("base", "qlora") else {}
        parts = [f"{metrics[name][0]} {_with_interval(d)}" for name, d in found.items()]
        if parts:
            first = "The first adapter" if any("@" in other for other in arms) else "The adapter"
            sentences.append(
                f"{first} minus {arm.replace('qlora', 'adapter', 1)}: {'; '.join(parts)}."
            )
    return sentences


def statement(differences: dict, adjusted: dict, metrics: dict, primary: str | None = None) -> list:
    """What the comparison shows, in sentences: the primary endpoint, better, worse, and what could not be shown.

    `differences` maps a metric to its Difference, `adjusted` to its Holm p, `metrics` to (label, higher is better).
    Only metrics in `adjusted` are claimed about.
    """
    found = {"better": [], "worse": [], "open": []}
    for name, p in adjusted.items():
        difference, (label, up) = differences[name], metrics[name]
        few = (
            difference.questions < FEWEST or difference.patients < 2
        )  # one patient tells nothing of others
        if p is None or p > ALPHA or difference.mean == 0 or few:
            found["open"].append(label)
        else:
            kind = "better" if (difference.mean > 0) == up else "worse"
            which = "" if up else " (less is better)"
            found[kind].append(
                f"{label}{which} by {_size(difference)}, p {'' if p < 0.0005 else '= '}{p_value(p)}"
            )
    sentences = [
        f"The adapter is {kind} at {'; '.join(found[kind])}."
        for kind in ("better", "worse")
        if found[kind]
    ]
    if found["open"]:
        sentences.append(f"No difference could be shown in {', '.join(found['open'])}.")
    if primary:
        d, label = differences.get(primary), metrics[primary][0]
        if d is None:
            sentences.insert(
                0, f"Primary endpoint, {label}: no chart called for one, so nothing can be said."
            )
        else:
            seen = f"base {d.base:.2f}, adapter {d.adapter:.2f}, difference {_with_interval(d)}"
            over = f"over {d.questions} question{'s' * (d.questions != 1)} in {d.trials} trial{'s' * (d.trials != 1)}"
            sentences.insert(0, f"Primary endpoint, {label}: {seen}, {over}.")
    most = max((differences[name].questions for name in adjusted), default=0)
    if adjusted and most < FEWEST:
        sentences.append(
            f"With {most} questions nothing is claimed, however large a difference: run more trials."
        )
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
        said.append(
            f"On {label} the adapter is not worse than the base by more than the margin of {margin:.0%}."
        )
    else:
        said.append(
            f"That the adapter is not worse on {label} by more than the margin of {margin:.0%} could not be shown."
        )
    return said


def _with_interval(d: Difference) -> str:
    return (
        f"{signed(d.mean)} [{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else signed(d.mean)
    )


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
    head = line(
        "mean over questions",
        "base",
        "adapter",
        "difference",
        "95% interval",
        "effect",
        "p (Holm)",
        "trials",
    )
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
