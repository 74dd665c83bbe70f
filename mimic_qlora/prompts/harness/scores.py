"""Score answers in lm-evaluation-harness as step 7 does; the tasks' YAML files name these.

Each function takes a document and the model's results for it, and returns the metrics by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mimic_qlora.tasks import chart_qa as chart_questions
from mimic_qlora.tasks import diagnoses as coded
from mimic_qlora.tasks import knowledge as points
from mimic_qlora.tasks.gold import Criterion

Document = Mapping[str, Any]


def chart_qa(doc: Document, results: Sequence[str]) -> dict[str, float]:
    """Return whether the answer is right."""
    return {"acc": chart_questions.score(doc["answer"], results[0])}


def diagnoses(doc: Document, results: Sequence[str]) -> dict[str, float]:
    """Return the F1 of the named conditions."""
    due = [Criterion("", 1, list(tags)) for tags in doc["due"]]
    return {"f1": coded.score(due, results[0]).f1}


def guidance(doc: Document, results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Return the log-likelihood of the gold answer in nats, and the bytes of its text."""
    nats, _ = results[0]
    return {"bits_per_byte": (nats, len(doc["answer"].strip().encode()))}


def knowledge(doc: Document, results: Sequence[str]) -> dict[str, float]:
    """Return the share of the key points that the answer makes."""
    return {"key_points": points.score(doc["patterns"], results[0])}
