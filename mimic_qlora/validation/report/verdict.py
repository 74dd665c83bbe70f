"""The verdict of a run in words: did the adapter help, is it safe, on what data, read by what.

It says no more than may be claimed. How often the reader of the answers errs is known only from
labels of these very answers; where it is not, what was seen is told as seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mimic_qlora.display.text import counted
from mimic_qlora.validation import findings, harm
from mimic_qlora.validation.findings import Comparison
from mimic_qlora.validation.scoring import rubric
from mimic_qlora.validation.statistics import FEWEST, Row

UNKNOWN = "how often the reader errs on these answers is unknown (label.csv measures it)"


class Answer(NamedTuple):
    """One question, its answer in a word or three, and the sentence that it rests on."""

    question: str
    answer: str
    because: str

    def __str__(self) -> str:
        return f"{self.question} {self.answer}. {self.because}"


class Verdict(NamedTuple):
    """What may be said of a run, and on what it was seen."""

    helped: Answer
    safe: Answer
    basis: str

    def lines(self) -> list[str]:
        """Return the verdict as paragraphs of text."""
        return [str(self.helped), str(self.safe), self.basis]


class Basis(NamedTuple):
    """On what a verdict rests.

    `data` and `reader` are phrases; `reader_known` says that the reader's error on these answers
    was measured, else `unknown` says why nothing is claimed; `shows_nothing` that data or model are
    built-in ones. `beside_rules` says whether what is better is better than the same rules in the
    base's prompt too. `of_chart` are the metrics of cautions in which the adapter was seen to do
    worse with the chart of another patient: else it may recite them to everybody.
    """

    data: str
    reader: str
    reader_known: bool
    shows_nothing: bool
    beside_rules: str = ""
    unknown: str = UNKNOWN
    of_chart: Sequence[str] = ()


class Limit(NamedTuple):
    """By how much the rate of a harm may be above the base's, and the trials that tell it."""

    difference: float
    trials: int


Limits = Mapping[str, Limit | None]  # by metric; None where no trial tells


def limits_of(rows: Sequence[Row], comparison: Comparison, margins: Mapping[str, float]) -> Limits:
    """Return the limit of each safety endpoint on these questions, for new patients."""
    limits: dict[str, Limit | None] = {}
    for name in margins:
        found = harm.trials(rows, name, comparison.metrics[name][1])
        first = found.first_of_each(found.patients)
        n = len(first.base)
        limits[name] = Limit(harm.bounds(first).difference, n) if n else None
    return limits


def of(
    comparison: Comparison,
    rows: Sequence[Row],
    primary: str,
    margins: Mapping[str, float],
    basis: Basis,
    limits: Limits | None = None,
) -> Verdict:
    """Return the verdict of a comparison; `rows` are those that it was made from.

    `limits` are those of the safety endpoints, by default those of the rows.
    """
    found = limits_of(rows, comparison, margins) if limits is None else limits
    return Verdict(
        _helped(comparison, primary, margins, basis),
        _safe(comparison, found, margins, basis),
        _on(rows, basis),
    )


def _helped(
    comparison: Comparison, primary: str, margins: Mapping[str, float], basis: Basis
) -> Answer:
    """Return whether the adapter helped, by the claimed metrics that are none of safety.

    A plain "yes" takes more: no safety metric is worse in the mean, and cautions that are said more
    often are those of this chart.
    """
    question = "Did the adapter help?"
    found, adjusted, metrics = comparison
    claimed = [name for name in adjusted if name not in margins]
    seen = [name for name in claimed if findings.is_claimed(found[name], adjusted[name])]
    better = [name for name in seen if (found[name].mean > 0) == metrics[name][1]]
    worse = [name for name in seen if name not in better]
    risen = [name for name in margins if better and name in found and _is_worse(name, comparison)]
    told = _sentence("; ".join(_change(name, comparison) for name in (*better, *worse, *risen)))
    recited = _recited(better, comparison, basis)
    beside = " ".join(["", *filter(None, [recited, basis.beside_rules if better else ""])])
    if not seen:
        asked = [name for name in (primary, *claimed) if name in found]
        main = next((name for name in asked if found[name].questions >= FEWEST), None)
        main = main or next(iter(asked), None)
        lead = f"{_sentence(_change(main, comparison))}. " if main else ""
        most = max((found[name].questions for name in claimed), default=0)
        few = f", and with {counted(most, 'question')} none is claimed" if most < FEWEST else ""
        return Answer(question, "Not shown", f"{lead}No difference could be shown{few}.")
    if not basis.reader_known:
        because = f"{told}; but {basis.unknown}.{beside}"
        return Answer(question, "Seen, not claimed", because)
    if better and (worse or risen or recited):
        return Answer(question, "In part", f"{told}.{beside}")
    return Answer(question, "Yes" if better else "No", f"{told}.{beside}")


def _is_worse(name: str, comparison: Comparison) -> bool:
    """Return whether a metric is worse in the mean, to two decimals."""
    mean, (_, up) = round(comparison.differences[name].mean, 2), comparison.metrics[name]
    return mean < 0 if up else mean > 0


def _recited(better: Sequence[str], comparison: Comparison, basis: Basis) -> str:
    """Return which cautions may be recited to everybody, as a sentence; "" where none may."""
    names = [name for name in better if name in rubric.CAUTIONS and name not in basis.of_chart]
    labels = " and ".join(comparison.metrics[name][0].strip() for name in names)
    return labels and (
        f"{_sentence(labels)} may be recited to everybody: that fewer are said with another "
        "patient's chart was not shown (--arms adapter-other-chart)."
    )


def _change(name: str, comparison: Comparison) -> str:
    """Return how a metric changed from base to adapter, in words."""
    d, (label, up) = comparison.differences[name], comparison.metrics[name]
    way = "did not change" if round(d.mean, 2) == 0 else "rose" if d.mean > 0 else "fell"
    less = "" if up else " (less is better)"
    size = f" by {abs(d.mean):.2f}" if way != "did not change" else ""
    span = "" if d.low is None else f", 95% interval {findings.interval(d)}"
    before, after = findings.mean(d.base), findings.mean(d.adapter)
    return f"{label.strip()}{less} {way}{size}, from {before} to {after}{span}"


def _sentence(words: str) -> str:
    """Return words as a sentence begins."""
    return words[:1].upper() + words[1:]


def _safe(
    comparison: Comparison, limits: Limits, margins: Mapping[str, float], basis: Basis
) -> Answer:
    """Return whether harm was bounded below its margin, and else what cannot be excluded."""
    question, bounded, open_ = "Is it safe?", [], []
    for name, margin in margins.items():
        label, up = comparison.metrics[name]
        found = limits[name]
        if found is None:
            open_.append(f"more {label}, of which no trial tells,")
            continue
        limit, n = found
        what = f"lack of {label}" if up else label
        if limit < margin:
            bounded.append(f"{_at_most(limit)} answers with {what} than the base has")
        else:
            open_.append(
                f"up to {limit:.0%} more answers with {what} than the base has, over "
                f"{counted(n, 'trial')},"
            )
    if not margins:
        return Answer(question, "Not asked", "No margin of harm was set.")
    on = "On these questions"
    if open_:
        answer, because = "Not shown", f"{on} {' and '.join(open_)} cannot be excluded."
    elif not basis.reader_known:
        answer, because = "Seen, not claimed", f"{on} {'; '.join(bounded)}; but {basis.unknown}."
    else:
        answer = "No worse than the base"
        because = f"{on} {'; '.join(bounded)}. Nothing is said of other questions."
    return Answer(question, answer, because + _both(margins, comparison))


def _both(names: Iterable[str], comparison: Comparison) -> str:
    """Return the means of both as a sentence: no worse than a base that harms is not safe."""
    told = []
    for name in names:
        if d := comparison.differences.get(name):
            label = comparison.metrics[name][0].strip()
            told.append(f"{label} {findings.mean(d.adapter)} (base {findings.mean(d.base)})")
    return f" With the adapter: {', '.join(told)}." if told else ""


def _at_most(limit: float) -> str:
    """Return an upper limit of a rise, a share of answers, in words; below 0 it is a fall."""
    return f"at least {-limit:.0%} fewer" if limit < 0 else f"at most {limit:.0%} more"


def _on(rows: Sequence[Row], basis: Basis) -> str:
    """Return the data, the number of trials, and who or what read the answers."""
    patients = len({row.get("subject_id") for row in rows})
    questions = len({row["question_id"] for row in rows})
    nothing = " Built-in data or model: this shows that it works, and nothing about patients."
    return (
        f"Seen on {basis.data}: {counted(len(rows), 'trial')} of {counted(patients, 'patient')} "
        f"and {counted(questions, 'question')}; read by {basis.reader}."
    ) + (nothing if basis.shows_nothing else "")
