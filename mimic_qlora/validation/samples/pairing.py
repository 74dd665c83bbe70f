"""Pair two runs by document, and compare them task by task."""

from collections.abc import Mapping
from typing import NamedTuple

from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import statistics
from mimic_qlora.validation.samples.sample_files import Ran, Sample, Task
from mimic_qlora.validation.statistics import Difference

# How much lower a score may be and still count as not forgotten, in shares of the documents.
MARGIN, NARROW = 0.03, 0.02
LARGE = "medmcqa"  # of over 4,000 documents, in which smaller drops show
RIGHT = ("acc", "acc_norm", "exact_match")  # metrics of a document that is right or wrong
POOLED = "all of them, pooled"


class Compared(NamedTuple):
    """The difference of a task on one metric; `margin` is None where the metric is no share."""

    task: str
    metric: str
    higher_is_better: bool
    difference: Difference
    margin: float | None
    first: bool = True  # the first metric of its task, the one that claims are made about

    @property
    def passes(self) -> bool:
        """Return whether the adapter is shown to be at most the margin worse."""
        d = self.difference
        worst = d.low if self.higher_is_better else None if d.high is None else -d.high
        return self.margin is not None and worst is not None and worst > -self.margin


class Pairs(NamedTuple):
    """The documents that both runs have, by task, and how many only one of them has."""

    tasks: Mapping[str, list[tuple[Sample, Sample]]]
    alone: int
    asked_otherwise: int  # documents whose prompts differ


def pair(base: Ran, adapter: Ran) -> Pairs:
    """Pair the documents of two runs. Raises UserError when they share no task, or not the data."""
    shared = [name for name in base.tasks if name in adapter.tasks]
    if not shared:
        raise UserError(
            f"{base.folder} and {adapter.folder} share no task: run both with the same --tasks"
        )
    names = {*base.tasks, *adapter.tasks}
    alone = sum(len(_samples(base, name).keys() ^ _samples(adapter, name).keys()) for name in names)
    tasks, otherwise = {}, 0
    for name in shared:
        one, other = base.tasks[name].samples, adapter.tasks[name].samples
        pairs = [(sample, other[key]) for key, sample in one.items() if key in other]
        if any(a.doc_hash != b.doc_hash for a, b in pairs):
            raise UserError(
                f"the documents of {name} are not the same in {base.folder} and {adapter.folder}: "
                "run both on the same files"
            )
        otherwise += sum(a.prompt_hash != b.prompt_hash for a, b in pairs)
        if pairs:
            tasks[name] = pairs
    return Pairs(tasks, alone, otherwise)


def _samples(ran: Ran, name: str) -> Mapping[str, Sample]:
    return ran.tasks[name].samples if name in ran.tasks else {}


def compare(base: Ran, pairs: Pairs) -> list[Compared]:
    """Compare each task on each metric that all its documents have, then all right-or-wrong tasks
    pooled.

    Pooled are the documents that are independent, so not those of our own tasks.
    """
    found: list[Compared] = []
    whole: dict[str, list[tuple[float, float]]] = {}
    for name, rows in pairs.tasks.items():
        task: Task = base.tasks[name]
        shared = {m: up for m, up in task.metrics.items() if all(m in b.scores for _, b in rows)}
        for place, (metric, better) in enumerate(shared.items()):
            values = [(a.scores[metric], b.scores[metric]) for a, b in rows]
            d = difference(rows, metric)
            if d is None:
                continue
            binary = metric in RIGHT and all(v in (0, 1) for both in values for v in both)
            share = better and all(0 <= v <= 1 for both in values for v in both)
            margin = (NARROW if LARGE in name else MARGIN) if share else None
            found.append(Compared(name, metric, better, d, margin, place == 0))
            if place == 0 and binary and all(a.patient is None for a, _ in rows):
                whole[name] = values
    if len(whole) > 1:
        pooled = [both for values in whole.values() for both in values]
        d = statistics.of_right_or_wrong(*zip(*pooled, strict=True))
        found.append(Compared(POOLED, "", True, d, NARROW))
    return found


def difference(rows: list[tuple[Sample, Sample]], metric: str) -> Difference | None:
    """Return the difference of one metric over the documents of a task.

    Documents that name no patient are independent: right or wrong ones get a score interval. Those
    of our own tasks are clustered by question and patient.
    """
    before = [a.scores[metric] for a, _ in rows]
    after = [b.scores[metric] for _, b in rows]
    if any(a.patient is None for a, _ in rows):
        if all(value in (0, 1) for value in (*before, *after)):
            return statistics.of_right_or_wrong(before, after)
        return statistics.paired(before, after, range(len(rows)))
    questions = [a.question for a, _ in rows]
    return statistics.paired(before, after, questions, [a.patient for a, _ in rows])
