"""A question with its gold answer, as every task makes it."""

from dataclasses import dataclass, field

from mimic_qlora.chart.columns import Citation


@dataclass(frozen=True, slots=True)
class Criterion:
    """A criterion for scoring an answer; `tags` name its kind, then the entry it comes from."""

    criterion: str
    points: int
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Gold:
    """A question, its gold answer, the rows that the answer rests on, and the criteria to score by.

    `symptom` and `cautions` are ids of clinical content (guidance); `kind` is a chart question's.
    """

    question: str
    answer: str
    evidence: list[Citation]
    rubric: list[Criterion]
    symptom: str | None = None
    kind: str | None = None
    cautions: list[str] = field(default_factory=list)
