"""The check of n validation patients: record found, context within its budget, answers that end by
themselves.
"""

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from mimic_qlora.llm import generation
from mimic_qlora.qa import batch, patient
from mimic_qlora.qa.session import Answerer, Chart, Session
from mimic_qlora.step.errors import UserError


class Opened(NamedTuple):
    """A patient of the check, or the error that came up in opening it, and the milliseconds that
    this took.
    """

    subject_id: int
    milliseconds: float
    patient: patient.Patient | None
    error: str | None = None


def open_charts(of: Session, randoms: Iterator[Chart], n: int) -> list[Opened]:
    """Open the charts of n validation patients, or of as many as there are. Raises UserError for
    none.
    """
    found = []
    for subject_id, _, _ in islice(randoms, n):
        started, opened, fault = time.perf_counter(), None, None
        try:
            opened = patient.find(of, subject_id, None)
        except UserError as error:
            fault = str(error)
        milliseconds = (time.perf_counter() - started) * 1000
        found.append(Opened(subject_id, milliseconds, opened, fault))
    if not found:
        raise UserError(
            "no validation patient has a coded stay that ended with a discharge to home: "
            "convert more patients"
        )
    return found


def faults(
    of: Session, opened: patient.Patient, tokens: int, answers: Mapping[str, generation.Answer]
) -> list[str]:
    """Return what is wrong with a patient's context of so many tokens, and with the answers."""
    facts, budget = opened.context.facts, of.settings.token_budget
    wrong = []
    if opened.context.is_empty:
        wrong.append("the context is empty")
    if tokens > budget:
        wrong.append(f"the context has more than {budget} tokens")
    if facts.age is None:
        wrong.append("age unknown")
    if facts.sex not in ("F", "M"):
        wrong.append("sex unknown")
    wrong += [f"{arm}: no answer" for arm, a in answers.items() if not a.text]
    wrong += [f"{arm}: cut at {a.n_tokens} tokens" for arm, a in answers.items() if not a.ended]
    return wrong


def run(answerer: Answerer, opened: list[Opened], question: str, wanted: int) -> bool:
    """Ask each patient the question and print what holds. Returns whether all passed; `wanted` were
    asked for.
    """
    there = [batch.Question(each.patient, question) for each in opened if each.patient]
    with batch.bar(answerer, len(there)) as shown:
        answers = iter(batch.answer(answerer, there, shown.update) if there else [])
    failed = 0
    print(f"\n{'subject_id':>10} {'opened':>9} {'context':>9} {'age':>5} {'sex':>4}  result")
    for subject_id, milliseconds, found, error in opened:
        size, age, sex, wrong = "-", "-", "-", [error or ""]
        if found is not None:
            facts = found.context.facts
            tokens = answerer.session.count_tokens(found.context.text)
            size, age, sex = f"{tokens} tok", _age(facts.age), facts.sex or "-"
            wrong = faults(answerer.session, found, tokens, next(answers))
        failed += bool(wrong)
        print(
            f"{subject_id:>10} {milliseconds:>6.1f} ms {size:>9} {age:>5} {sex:>4}  "
            f"{'; '.join(wrong) or 'ok'}"
        )
    fewer = f" ({wanted} were asked for)" if len(opened) < wanted else ""
    passed = len(opened) - failed
    print(f"\nAsked: {question}\n{passed} of {len(opened)} patients passed{fewer}")
    return failed == 0


def _age(age: int | None) -> str:
    """Return an age as MIMIC-IV lets it be told: 89 years are the most."""
    return "over 89" if (age or 0) > 89 else str(age or "-")
