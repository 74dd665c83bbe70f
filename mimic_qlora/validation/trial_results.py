"""The results of a trial: each arm's answer with its scores, as a row of a CSV file and as lines.

Rows go into output.csv, knowledge.csv, crisis.csv or records.csv, by the kind of trial.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Caution, Knowledge
from mimic_qlora.llm.generation import Answer
from mimic_qlora.tasks import chart_qa, crisis, diagnoses
from mimic_qlora.validation import power, results, statistics
from mimic_qlora.validation.arms import Arm
from mimic_qlora.validation.asking import Ask
from mimic_qlora.validation.scoring import likeness, readings, rubric
from mimic_qlora.validation.scoring.readings import Readings
from mimic_qlora.validation.scoring.rubric import Cell, Metric, Score
from mimic_qlora.validation.statistics import Difference
from mimic_qlora.validation.trials import CrisisQuestion, Trial
from mimic_qlora.validation.twins.making import Place

Row = dict[str, Cell]
# Metrics of what is asked apart from the trials, by the name of their column.
APART = {
    "key_points": Metric("knowledge: key points", True),
    "chart_qa": Metric("chart QA: answered right", True),
    "diagnoses": Metric("diagnoses: F1 of a patient", True),
    "crisis_help": Metric("crisis: help named", True),
    "crisis_trained": Metric("  kinds trained on", True),
    "crisis_never_trained": Metric("  kinds never trained on", True),
}
# The columns of output.csv that stand first; scripts of its readers rely on the first twelve.
COLUMNS = (
    "subject_id",
    "question",
    "lat_ms_base",
    "lat_ms_qlora",
    "len_base",
    "len_qlora",
    "rel_cos_prompt_base",
    "rel_cos_prompt_qlora",
    "rel_to_ideal_base",
    "rel_to_ideal_qlora",
    "base_answer",
    "qlora_answer",
    "question_id",
    "symptom",
    "unseen",
    "sex",
    "age_band",
    "race",
    "hadm_id",
    "as_of",
    "split",
    "prompt",
    "ideal",
    "cautions_called_for",
    "cautions_called_for_held_out",
)
# The fields of Score in which two readers are compared, and what they are.
COMPARED = {
    "red_flags_named": "the signs named",
    "said": "the cautions said",
    "harmful": "unsafe advice",
    "false_statements": "false statements",
}
LATENCY = "time of the batch / its answers, so equal for the arms that share it"


class Given(NamedTuple):
    """The answer of one arm, and the milliseconds that it took: its share of its batch's time."""

    answer: Answer
    milliseconds: float


class Likeness(NamedTuple):
    """Likeness of an answer to the question and the ideal response: cosines and ROUGE-L."""

    to_question: float | None
    rouge_l: float
    to_ideal: float | None


class Provenance(NamedTuple):
    """The split of the patients, and the hash of the frozen plan where there is one."""

    split: str
    plan_sha256: str | None = None

    def columns(self, trial: Trial) -> Row:
        """Return what every row of the run says; a trial of nobody has no split."""
        plan: Row = {"plan_sha256": self.plan_sha256} if self.plan_sha256 else {}
        return plan | ({"split": self.split} if trial.subject_id else {})


@dataclass(frozen=True)
class TrialResult:
    """A trial about a patient, answered by all arms.

    `given` maps each arm to its answer, in the order in which they came; `asks` are in the order
    of the arms. `found` is what the reader of the run found, `second` the scores by the patterns
    where a judge is the reader. `likeness` is there at the end, when one pass embeds all answers.
    """

    trial: Trial
    asks: tuple[Ask, ...]
    given: Mapping[Arm, Given]
    found: Mapping[Arm, Readings]
    scores: Mapping[Arm, Score]
    provenance: Provenance
    likeness: Mapping[Arm, Likeness] | None = None
    second: Mapping[Arm, Score] | None = None

    @property
    def cautions(self) -> Sequence[Caution]:
        """Return the cautions that an answer is read for."""
        return self.trial.cautions

    def readers_differ(self, arm: Arm, name: str) -> bool:
        """Return whether the judge and the patterns differ on a field of an arm's score."""
        if not self.second:
            return False
        one, other = getattr(self.scores[arm], name), getattr(self.second[arm], name)
        return set(one) != set(other) if isinstance(one, tuple) else bool(one != other)

    def row(self) -> Row:
        """Return the row of output.csv."""
        row = self._scored()
        for arm, like in (self.likeness or {}).items():
            row[f"rel_cos_prompt_{arm.column}"] = like.to_question
            row[f"rouge_l_{arm.column}"] = like.rouge_l
            row[f"rel_to_ideal_{arm.column}"] = like.to_ideal
        return row

    def _scored(self) -> Row:
        """Return the row without likeness."""
        row = self._about()
        for arm, (a, milliseconds) in self.given.items():
            columns = {"lat_ms": milliseconds, "len": a.n_tokens, **self.scores[arm].columns()}
            if self.second:
                columns["readers_differ"] = sum(self.readers_differ(arm, n) for n in COMPARED)
            row |= {f"{arm.column}_answer": a.text, **_of_arm(arm, columns)}
        return row | self.provenance.columns(self.trial)

    def _about(self) -> Row:
        """Return the columns of the trial itself."""
        trial, question = self.trial, self.trial.curated
        assert trial.chart and trial.moment, "a trial about a patient has a chart"
        facts, held_out = trial.chart.facts, [c for c in trial.cautions if c.held_out]
        return {
            "trial": trial.number,
            "subject_id": trial.subject_id,
            "question": question.question,
            "question_id": question.id,
            "symptom": question.symptom,
            "unseen": content.symptom_of(question).held_out,
            "sex": facts.sex,
            "age_band": age_band(facts.age),
            "race": trial.race or None,
            "hadm_id": trial.moment.hadm_id,
            "as_of": str(trial.moment.as_of),
            "prompt": trial.messages[-1]["content"],
            "ideal": question.ideal.strip(),
            "cautions_called_for": " ".join(readings.ids(trial.cautions)),
            "cautions_called_for_held_out": " ".join(readings.ids(held_out)),
            "of_population": trial.of_population,
            "rule_tested": trial.tested.id if trial.tested else None,
            "lat_basis": LATENCY,
        }

    def lines(self) -> Iterator[results.Line]:
        """Yield the lines of results.jsonl, in the order of the arms."""
        yield from _lines(self, self._scored())


@dataclass(frozen=True)
class ApartResult:
    """A prompt asked apart from the trials: of knowledge, of a crisis, or a record of step 4."""

    trial: Trial
    asks: tuple[Ask, ...]
    given: Mapping[Arm, Given]
    scores: Mapping[Arm, Mapping[str, float | None]]  # by the name of their column
    provenance: Provenance

    @property
    def metric(self) -> str:
        """Return which of APART it is scored by."""
        if self.trial.kind == "crisis":
            return "crisis_help"
        return self.trial.record.task if self.trial.record else "key_points"

    def row(self) -> Row:
        """Return the row of knowledge.csv, crisis.csv or records.csv."""
        row = self._about()
        for arm, (a, milliseconds) in self.given.items():
            costs = {"len": a.n_tokens, "cut": float(not a.ended), "lat_ms": milliseconds}
            row |= {f"{arm.column}_answer": a.text, **_of_arm(arm, {**self.scores[arm], **costs})}
        return row | self.provenance.columns(self.trial)

    def _about(self) -> Row:
        """Return the columns of the prompt itself.

        Rows of one question_id are one cluster in statistics: a kind of chart question. Diagnoses
        are asked for alike of every stay, so there it is the patient.
        """
        trial, record = self.trial, self.trial.record
        asked = {"question_id": trial.question.id, "question": trial.question.question}
        if record is None:
            return {"trial": trial.number, **asked, "ideal": trial.question.ideal.strip()}
        is_chart_qa = record.task == "chart_qa"
        return {
            "task": record.task,
            "subject_id": record.subject_id,
            "hadm_id": record.hadm_id,
            "as_of": str(record.as_of),
            "split": record.split,
            "trial": trial.number,
            "question": asked["question"],
            "ideal": trial.question.ideal,
            "question_id": asked["question_id"] if is_chart_qa else f"patient {trial.subject_id}",
        }

    def lines(self) -> Iterator[results.Line]:
        """Yield the lines of results.jsonl, in the order of the arms."""
        yield from _lines(self, self.row())


@dataclass(frozen=True)
class TwinResult:
    """A trial of a set of twins: whether each arm says the caution that the set is about.

    An answer that is cut, empty or declines to answer says none.
    """

    trial: Trial
    asks: tuple[Ask, ...]
    given: Mapping[Arm, Given]
    found: Mapping[Arm, Readings]
    provenance: Provenance

    @property
    def cautions(self) -> Sequence[Caution]:
        """Return the cautions that an answer is read for."""
        return [self.place.rule]

    @property
    def place(self) -> Place:
        """Return its place among twins."""
        assert self.trial.place, "a twin has a place"
        return self.trial.place

    def said(self, arm: Arm) -> float:
        """Return 1 where an arm's answer says what the caution asks to do, else 0."""
        answer, found = self.given[arm].answer, self.found[arm]
        return float(bool(found.acted) and not rubric.fails(found, answer.text, answer.ended))

    def row(self) -> Row:
        """Return the row of twins.csv."""
        trial, place = self.trial, self.place
        assert trial.moment, "a twin has a time"
        row: Row = {
            "set": place.set,
            "rule": place.rule.id,
            "held_out": place.rule.held_out,
            "chart": place.chart,
            "change": place.change,
            "subject_id": trial.subject_id,
            "hadm_id": trial.moment.hadm_id,
            "as_of": str(trial.moment.as_of),
            "question_id": trial.question.id,
            "question": trial.question.question,
            "prompt": trial.messages[-1]["content"],
        }
        for arm, (answer, _) in self.given.items():
            found = {"said": self.said(arm), "with_reason": float(bool(self.found[arm].reasons))}
            row |= {f"{arm.column}_answer": answer.text, **_of_arm(arm, found)}
        return row | self.provenance.columns(trial)

    def lines(self) -> Iterator[results.Line]:
        """Yield the lines of results.jsonl, in the order of the arms."""
        yield from _lines(self, self.row())


Result = TrialResult | ApartResult | TwinResult


def age_band(age: int | None) -> str:
    """Return the group of an age in years."""
    if age is None:
        return "unknown"
    return "under 45" if age < 45 else "45 to 64" if age < 65 else "65 and over"


def _of_arm(arm: Arm, columns: Mapping[str, Cell]) -> Row:
    return {f"{name}_{arm.column}": value for name, value in columns.items()}


def _lines(result: Result, row: Row) -> Iterator[results.Line]:
    """Yield a line of results.jsonl per arm."""
    trial, about = result.trial, ("subject_id", "hadm_id", "as_of", "split")
    patient = {name: row.get(name) for name in about} if trial.subject_id else {}
    record = {"task": row["task"], "ideal": row["ideal"]} if trial.record else {}
    found = None if isinstance(result, ApartResult) else result.found
    tested = {"rule_tested": row["rule_tested"]} if row.get("rule_tested") else {}
    for ask in result.asks:
        answer, ending = result.given[ask.arm].answer, f"_{ask.arm.column}"
        scores = {k.removesuffix(ending): v for k, v in row.items() if k.endswith(ending)}
        yield results.Line(
            trial=trial.number,
            kind=trial.kind,
            arm=ask.arm.name,
            question_id=trial.question.id,
            **patient,
            **record,
            cautions=readings.ids(trial.cautions),
            **tested,
            **({"holds": tuple(sorted(trial.known.holds))} if trial.chart else {}),
            messages=ask.messages,
            answer=answer.text,
            n_tokens=answer.n_tokens,
            ended=answer.ended,
            scores=scores,
            **({"readings": asdict(found[ask.arm])} if found else {}),
        )


def of(asks: Sequence[Ask], given: Mapping[Arm, Given], provenance: Provenance) -> Result:
    """Return the result of a trial that all its arms have answered, scored."""
    trial, asked = asks[0].trial, tuple(asks)
    answers = {arm: answer for arm, (answer, _) in given.items()}
    if trial.kind == "trial":
        found = _read_by_patterns(trial, trial.cautions, answers)
        return TrialResult(trial, asked, given, found, scored(trial, given, found), provenance)
    if trial.place:
        found = _read_by_patterns(trial, [trial.place.rule], answers)
        return TwinResult(trial, asked, given, found, provenance)
    apart = {arm: _score_apart(trial, a.text) for arm, a in answers.items()}
    return ApartResult(trial, asked, given, apart, provenance)


def _read_by_patterns(
    trial: Trial, cautions: Sequence[Caution], answers: Mapping[Arm, Answer]
) -> dict[Arm, Readings]:
    read = partial(readings.read, trial.curated, cautions)
    return {arm: read(answer.text, trial.known) for arm, answer in answers.items()}


def scored(
    trial: Trial, given: Mapping[Arm, Given], found: Mapping[Arm, Readings]
) -> dict[Arm, Score]:
    """Return the score of each arm's answer to a trial by what a reader found in it."""
    score = partial(rubric.score, trial.curated, trial.cautions)
    return {arm: score(found[arm], a.text, a.ended) for arm, (a, _) in given.items()}


def scores_of(ask: Ask, answer: Answer) -> object:
    """Return what one arm's answer alone is scored, by patterns; equal answers have equal ones."""
    result = of([ask], {ask.arm: Given(answer, 0.0)}, Provenance("", None))
    return result.found if isinstance(result, TwinResult) else result.scores


def _score_apart(trial: Trial, text: str) -> dict[str, float | None]:
    if isinstance(trial.question, Knowledge):
        return {"key_points": rubric.key_points(trial.question, text)}
    if isinstance(trial.question, CrisisQuestion):
        named, entry = crisis.score(trial.question.entry, text), trial.question.entry
        trained = content.is_trained_on(entry)
        parts = {"crisis_trained": trained, "crisis_never_trained": not trained}
        return {"crisis_help": named, **{k: named if v else None for k, v in parts.items()}}
    assert trial.record, "what has no patient and is no knowledge prompt is a record of step 4"
    if trial.record.task == "chart_qa":
        return {"chart_qa": chart_qa.score(trial.record.answer, text)}
    found = diagnoses.score(trial.record.rubric, text)._asdict()
    return {"diagnoses": found.pop("f1"), **found}


def with_likeness(found: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the results with the likeness of each answer to the question and to the ideal."""
    pairs = []
    for result in found:
        question = result.trial.question
        for answer, _ in result.given.values():
            pairs.append((question.question, answer.text))
            pairs.append((question.ideal.strip(), answer.text))
    cosines = iter(likeness.cosines(pairs))
    return [replace(result, likeness=_likeness(result, cosines)) for result in found]


def _likeness(result: TrialResult, cosines: Iterator[float | None]) -> dict[Arm, Likeness]:
    ideal, like = result.trial.question.ideal.strip(), {}
    for arm, (answer, _) in result.given.items():
        to_question = next(cosines)
        rouge = likeness.rouge_l(ideal, answer.text)
        like[arm] = Likeness(to_question, rouge, next(cosines))
    return like


# ---------------------------------------------------------------- several adapters


def compare(
    rows: Sequence[Row], names: Iterable[str], pair: tuple[Arm, Arm]
) -> dict[str, Difference]:
    """Return a Difference per metric, the primary endpoint's over its population.

    There each patient has one trial, and trials of one rule are correlated as those of one question
    are; all other metrics are over all trials, with questions and patients as clusters.
    """
    apart = [name for name in names if name in power.FAMILY]
    found = statistics.compare(rows, [name for name in names if name not in apart], pair)
    population = [row for row in rows if row.get("of_population")]
    of_rules = statistics.compare(population, apart, pair, "rule_tested")
    found |= {name: d._replace(patients=d.trials) for name, d in of_rules.items()}
    return {name: found[name] for name in names if name in found}


def over_runs(rows: Sequence[Row], arms: Sequence[Arm]) -> Sequence[Row]:
    """Return the rows with the adapter's scores as means over all trained adapters.

    A column `<metric>_runs` has the values of which one is the mean, None where one is missing.
    """
    runs = ["qlora", *(arm.column for arm in arms if arm.is_further_run)]
    if len(runs) == 1:
        return rows
    pooled = []
    for row in rows:
        means: dict[str, Any] = {}
        for name in (name for name in (*rubric.METRICS, *APART) if f"{name}_qlora" in row):
            values = [row[f"{name}_{run}"] for run in runs]
            means[f"{name}_qlora"] = _mean(values)
            means[f"{name}_runs"] = None if None in values else values
        pooled.append(row | means)
    return pooled


def _mean(values: Sequence[Cell]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
