"""Trials: distinct (patient, question) pairs of held-out patients, balanced and drawn by seed."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from mimic_qlora.chart import context, prediction_times, prompt
from mimic_qlora.clinical import content, presumptions
from mimic_qlora.clinical.schema import Caution, Crisis, Knowledge, Question
from mimic_qlora.mimic import races
from mimic_qlora.prompts import record_files
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.qa.session import Chart, Session, Turn, charts
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader
from mimic_qlora.tasks import composing, guidance
from mimic_qlora.validation import power
from mimic_qlora.validation.scoring import anyway, known
from mimic_qlora.validation.scoring.known import Known
from mimic_qlora.validation.twins.making import Place

EXACT = ("chart_qa", "diagnoses")  # tasks of step 4 whose answers are right or wrong
Patient = TypeVar("Patient")
Asked = TypeVar("Asked")


class RecordQuestion(NamedTuple):
    """The question of a held-out prompt of step 4; `id` is its kind, `ideal` its gold answer."""

    id: str
    question: str
    ideal: str


class CrisisQuestion(NamedTuple):
    """A prompt at which help is due; `id` is its kind, `ideal` what an answer must name."""

    id: str
    question: str
    ideal: str
    entry: Crisis


class Trial(NamedTuple):
    """One question with the messages that ask it, of one chart at one time.

    `race` is the patient's, as Table 1 groups it; "" where nobody is asked about.
    `kind` is "trial", "knowledge" or "crisis" (no patient), "record" (a held-out prompt of step 4
    with one right answer, then `record`) or "twin" (with its `place` among twins). A trial
    `of_population` counts for the primary endpoint. A trial and a twin have a `chart`, `moment`,
    and `cautions`: the rules that the chart calls for on the question's symptom.
    """

    number: int
    question: Question | Knowledge | RecordQuestion | CrisisQuestion
    messages: list[Turn]
    kind: str = "trial"
    subject_id: int | None = None
    moment: prediction_times.Moment | None = None
    cautions: tuple[Caution, ...] = ()
    chart: context.Context | None = None
    record: PromptRecord | None = None
    place: Place | None = None
    of_population: bool = False
    race: str = ""

    @property
    def tested(self) -> Caution | None:
        """Return the rule that a trial of the population tests, the most severe; None outside."""
        tested = anyway.tested(self.curated, self.cautions) if self.of_population else []
        return next(iter(tested), None)

    @property
    def known(self) -> Known:
        """Return what the context shows of the patient, nothing where there is none."""
        return known.of_context(self.chart) if self.chart else known.NOBODY

    @property
    def curated(self) -> Question:
        """Return the question of a trial about a patient, which has a symptom and red flags."""
        assert isinstance(self.question, Question), (
            "only a question of questions.yaml has a symptom"
        )
        return self.question


def pairs(
    n: int,
    patients: Sequence[Patient],
    questions: Sequence[Asked],
    fits: Callable[[Patient, Asked], bool] = lambda patient, question: True,
) -> Iterator[tuple[int, Patient, Asked]]:
    """Yield (number from 1, patient, question) of n distinct pairs that fit, or of all there are.

    Where all fit, each patient and each question comes equally often (+-1). Both lists are walked
    in step, which meets each pair once within the least common multiple of their lengths; after
    that the patients are shifted by one.
    """
    period = math.lcm(len(patients), len(questions))
    found = (
        (patient, question)
        for t in range(len(patients) * len(questions))
        for patient in [patients[(t + t // period) % len(patients)]]
        for question in [questions[t % len(questions)]]
        if fits(patient, question)
    )
    for number, (patient, question) in enumerate(islice(found, min(n, sys.maxsize)), 1):
        yield number, patient, question


def draw(
    session: Session, questions: Sequence[Question], n: int, split: str, seed: int
) -> list[Trial]:
    """Return n trials, or as many as there are pairs.

    Those of the population of the primary endpoint come first: one of each patient whose chart
    calls for a caution never trained on, power.of_trials(n) of them or as many as there are. Raises
    UserError when no patient of the split can be asked about.
    """
    patients = list(islice(charts(session, split, seed), min(n, sys.maxsize)))
    if not patients:
        raise UserError(
            f"no {split} patient has a coded stay that ended with a discharge to home: "
            "convert more patients in step 1"
        )
    by_id = {question.id: question for question in questions}
    asked = [by_id[i] for i in seeded.order(by_id, "questions", seed)]
    chosen = [*islice(of_population(patients, asked), power.of_trials(n))]
    there = {(patient.subject_id, question.id) for patient, question in chosen}
    used = {question.id for _, question in chosen}
    asked.sort(key=lambda question: question.id in used)  # the others come first

    def others(patient: Chart, question: Question) -> bool:
        return (patient.subject_id, question.id) not in there and _may_ask(patient, question)

    rest = [(p, q) for _, p, q in pairs(n - len(chosen), patients, asked, others)]
    drawn = [
        _trial(session, number, patient, question, number <= len(chosen))
        for number, (patient, question) in enumerate([*chosen, *rest], 1)
    ]
    of_patients = _races(session, {patient.subject_id for patient, _ in [*chosen, *rest]})
    return [trial._replace(race=of_patients[trial.subject_id]) for trial in drawn]


def _races(session: Session, subject_ids: set[int]) -> dict[int | None, str]:
    """Return the race of each patient by subject_id, as of the first stay, like Table 1."""
    found: dict[int | None, str] = {}
    wanted = {"admissions": ("hadm_id", "admittime", "race")}
    for record in reader.records(session.store, wanted, subject_ids):
        stays = record["admissions"]
        stays = sorted(stays, key=lambda stay: (str(stay["admittime"]), stay["hadm_id"]))
        found[record["subject_id"]] = races.group(stays[0].get("race") if stays else None)
    return found


def of_population(
    patients: Sequence[Chart], questions: Sequence[Question]
) -> Iterator[tuple[Chart, Question]]:
    """Yield the pairs of the population of the primary endpoint, at most one a patient.

    The question and the rule come that have been drawn the least, since both are clusters.
    """
    used: Counter[str] = Counter()
    unseen = [q for q in questions if content.symptom_of(q).held_out]
    for patient in patients:
        facts = patient.context.facts
        called = composing.called_for(facts)
        found: list[tuple[int, int, str, str]] = []
        for place, question in enumerate(unseen if any(r.held_out for r in called) else ()):
            rules = guidance.cautions_for(content.symptom_of(question), facts, called)
            rule = power.first(question, rules)
            if rule and _may_ask(patient, question):
                found.append((used[question.id] + used[rule.id], place, question.id, rule.id))
        if found:
            _, place, *drawn = min(found)
            used.update(drawn)
            yield patient, unseen[place]


def _trial(
    session: Session, number: int, patient: Chart, question: Question, of_population: bool
) -> Trial:
    subject_id, moment, chart = patient
    turns = prompt.messages(session.settings.system_prompt, chart.text, question.question)
    cautions = tuple(guidance.cautions_for(content.symptom_of(question), chart.facts))
    trial = Trial(number, question, turns, "trial", subject_id, moment, cautions, chart)
    return trial._replace(of_population=of_population)


def _may_ask(patient: Chart, question: Question) -> bool:
    """Return whether a patient fits a question: what it needs is shown, and what it presumes."""
    facts = patient[2].facts
    needs = question.needs is None or question.needs.holds(facts)
    return needs and not presumptions.unfounded(question.question, facts)


def without_patient(prompts: Sequence[Knowledge]) -> list[Trial]:
    """Return the knowledge prompts as trials.

    They are no triage, so they go without its system prompt, as anybody would ask them.
    """
    return [
        Trial(i, p, [{"role": "user", "content": p.question}], "knowledge")
        for i, p in enumerate(prompts, 1)
    ]


def of_crisis(entries: Sequence[Crisis]) -> list[Trial]:
    """Return the prompts at which help is due as trials, as anybody would ask them."""
    asked = [
        CrisisQuestion(entry.id, text, "; ".join(p.point for p in entry.key_points), entry)
        for entry in entries
        for text in entry.prompts
    ]
    return [
        Trial(i, one, [{"role": "user", "content": one.question}], "crisis")
        for i, one in enumerate(asked, 1)
    ]


def of_records(session: Session, n: int, split: str, seed: int) -> list[Trial]:
    """Return about n held-out prompts of step 4, asked as in training.

    Half are of each task that has one right answer; fewer where step 4 made fewer.
    """
    records = list(record_files.read(record_files.path_of(session.store, split)))
    chosen = []
    for task in EXACT:
        places = [i for i, record in enumerate(records) if record.task == task]
        order = seeded.order(places, f"records:{task}", seed)
        chosen += [records[i] for i in order[: math.ceil(n / 2)]]
    return [_of_record(number, record) for number, record in enumerate(chosen, 1)]


def _of_record(number: int, record: PromptRecord) -> Trial:
    question = RecordQuestion(record.kind or record.task, record.question, record.answer)
    turns = record.messages[:-1]
    return Trial(number, question, turns, "record", record.subject_id, record=record)
