"""What two runs of lm-evaluation-harness show, in a table and in sentences."""

from collections.abc import Mapping, Sequence

from mimic_qlora.display import text_tables
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import findings, statistics
from mimic_qlora.validation.samples.pairing import POOLED, Compared, Pairs
from mimic_qlora.validation.samples.sample_files import UNKNOWN, Ran


def check_arms(base: Ran, adapter: Ran) -> None:
    """Raise UserError where the folders are not those of a base and an adapter, in this order.

    What is said of the adapter would be the other way round.
    """
    if base.folder.resolve() == adapter.folder.resolve():
        raise UserError(f"{base.folder} is given twice: give the base's folder, then the adapter's")
    if base.adapter and not adapter.adapter:
        raise UserError(
            f"the first folder is of the adapter {base.adapter}, the second of none: give the "
            "base's folder first"
        )


def differences(base: Ran, adapter: Ran, pairs: Pairs) -> list[str]:
    """Return in what the arms differ beside the adapter, a sentence each; none when in nothing."""
    found = []
    if base.model == adapter.model and base.adapter == adapter.adapter:
        had = f"the adapter {base.adapter}" if base.adapter else "no adapter (peft=FOLDER)"
        found.append(f"Both runs had {had} beside one model.")
    if base.precision != adapter.precision:
        found.append(
            f"The arms differ in precision: base {base.precision}, adapter {adapter.precision}."
        )
    elif adapter.adapter and base.model != adapter.model:
        found.append("The adapter stood beside another folder than that of the base.")
    elif base.model != adapter.model and UNKNOWN in base.precision:
        found.append(
            "Whether the arms have the same precision cannot be seen: run this where the folders "
            "of both models are found."
        )
    found += [
        f"The arms differ in the {name}."
        for name, value in base.asked.items()
        if value != adapter.asked.get(name)
    ]
    if pairs.asked_otherwise:
        found.append(f"{pairs.asked_otherwise:,} documents were put in other words.")
    if pairs.alone:
        found.append(f"{pairs.alone:,} documents are in one run alone, and left out.")
    return found


def table(found: Sequence[Compared], width: int | None = None) -> str:
    """Return the comparison as a table."""
    adjusted = claims(found)
    rows = []
    for one in found:
        d = one.difference
        rows.append(
            {
                "task": one.task,
                "metric": one.metric,
                "n": f"{d.trials:,}",
                "base": f"{d.base:.3f}",
                "adapter": f"{d.adapter:.3f}",
                "difference": f"{d.mean + 0.0:+.3f}",
                "95% interval": _interval(one),
                "p (Holm)": findings.p_value(adjusted.get(one.task)) if one.first else "",
                "within": _within(one),
            }
        )
    return text_tables.text_table(rows, width=width)


def _within(one: Compared) -> str:
    if one.margin is None:
        return ""
    return f"{one.margin:.2f}: {'yes' if one.passes else 'no'}"


def _interval(one: Compared) -> str:
    d = one.difference
    return "none" if d.low is None or d.high is None else f"[{d.low:+.3f}, {d.high:+.3f}]"


def claims(found: Sequence[Compared]) -> Mapping[str, float | None]:
    """Return Holm's p of each task, on its first metric."""
    single = [one for one in found if one.first and one.task != POOLED]
    return statistics.holm({one.task: one.difference.p for one in single})


def sentences(found: Sequence[Compared], differ: Sequence[str]) -> list[str]:
    """Return what is shown: whether nothing was forgotten, and single tasks better or worse."""
    if differ:
        return [
            *differ,
            "So nothing is claimed of the adapter: run both arms alike. With the 4-bit folder of "
            "`python train_qlora.py --save-base` and the same options they are.",
        ]
    adjusted = claims(found)
    said = [forgotten([one for one in found if one.first])]
    for word, up in (("better", True), ("worse", False)):
        names = [
            f"{one.task} by {abs(one.difference.mean):.3f}"
            for one in found
            if one.first and findings.is_claimed(one.difference, adjusted.get(one.task))
            if ((one.difference.mean > 0) == one.higher_is_better) == up
        ]
        if names:
            said.append(f"The adapter is {word} at {'; '.join(names)} (Holm over the tasks).")
    if len(said) == 1:
        said.append("No difference could be shown on a single task.")
    return said


def forgotten(found: Sequence[Compared]) -> str:
    """Return whether every score stayed within its margin: all must, so none is corrected."""
    asked = [one for one in found if one.margin is not None]
    if not asked:
        return "Whether it forgot nothing is not asked: no task has a score that is a share."
    open_ = [one.task for one in asked if not one.passes]
    if not open_:
        return (
            f"It forgot nothing beyond the margins: {len(asked)} of {len(asked)} scores are, with "
            "97.5% confidence each, at most their margin lower than the base's."
        )
    return (
        f"That it forgot nothing is not shown: {', '.join(open_)} may be lower by more than the "
        "margin."
    )
