"""A trial on the report's page: each arm's answer, with the words that its marks rest on."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Question
from mimic_qlora.tasks import guidance
from mimic_qlora.validation.arms import ADAPTER, BASE, PAIR, Arm
from mimic_qlora.validation.scoring import repetition, rubric
from mimic_qlora.validation.scoring.rubric import Score
from mimic_qlora.validation.trial_results import TrialResult
from mimic_qlora.validation.trials import Trial

WORD = re.compile(r"\w+|[^\w\s]")  # a word, or a mark of punctuation


class Piece(NamedTuple):
    """A piece of an answer; `kind` are CSS classes: "hit", "harm", "own" (words of its own)."""

    text: str
    kind: str


class Mark(NamedTuple):
    """An arm's result on one criterion: its CSS class ("kept", "missed", "broken"), its words."""

    kind: str
    text: str


class Criterion(NamedTuple):
    """A criterion of an answer, its points, and the results of base and adapter."""

    text: str
    points: str
    marks: Sequence[Mark]


class Shown(NamedTuple):
    """An answer as shown; `cut_at` is the number of tokens at which it was cut, else None."""

    heading: str
    pieces: Sequence[Piece]
    cut_at: int | None


class View(NamedTuple):
    """One trial as the page shows it. `kinds` are what the page can filter by."""

    number: int
    question_id: str
    question: str
    kinds: Sequence[str]
    subject_id: int | None
    as_of: str
    prompt: str
    ideal: str
    criteria: Sequence[Criterion]
    totals: Sequence[float]
    answers: Sequence[Shown]
    further: Sequence[Shown]


def view(result: TrialResult, question: Question) -> View:
    """Return a trial as the page shows it. `question` is its entry in questions.yaml."""
    trial = result.trial
    return View(
        number=trial.number,
        question_id=question.id,
        question=trial.question.question,
        kinds=kinds(result),
        subject_id=trial.subject_id,
        as_of=str(trial.moment.as_of) if trial.moment else "",
        prompt=trial.messages[-1]["content"],
        ideal=ideal(trial, question),
        criteria=criteria(result, question),
        totals=[result.scores[arm].rubric for arm in PAIR],
        answers=[_shown(result, arm, question) for arm in PAIR],
        further=[_shown(result, arm, question) for arm in result.given if arm not in PAIR],
    )


def ideal(trial: Trial, question: Question) -> str:
    """Return the ideal for the chart of a trial, with the cautions that the rubric asks for."""
    assert trial.chart, "a trial about a patient has a chart"
    return guidance.ideal_for(question, trial.cautions, trial.chart.chart)


def kinds(result: TrialResult) -> list[str]:
    """Return what the page can filter this trial by."""
    base, adapter = result.scores[BASE], result.scores[ADAPTER]
    there = {
        "better": adapter.rubric > base.rubric,
        "worse": adapter.rubric < base.rubric,
        "harm": base.harmful or adapter.harmful,
        "untrue": base.untrue or adapter.untrue,
        "missed": any(score.cautions not in (None, 1) for score in (base, adapter)),
        "unseen": content.symptom_of(result.trial.curated).held_out,
    }
    return [kind for kind, holds in there.items() if holds]


def criteria(result: TrialResult, question: Question) -> list[Criterion]:
    """Return what was asked of the answer, with what base and adapter did about it."""
    scores = [result.scores[arm] for arm in PAIR]
    found = [
        Criterion(f"warning sign: {flag.name}", "1", [_flag(s, flag.name) for s in scores])
        for flag in question.red_flags
    ]
    symptom = content.symptom_of(question)
    for rule in result.trial.cautions:
        told = f"caution: {rule.say}" + (" (rule never trained on)" if rule.held_out else "")
        marks = [_caution(score, rule.id) for score in scores]
        found.append(Criterion(told, str(guidance.severity(rule, symptom)), marks))
    for text, points, given in (
        ("tells nothing false of the chart", "-1 each", [score.untrue_told for score in scores]),
        ("names no cause", "-1 if not", [score.causes_named for score in scores]),
        ("invents no dose", "-1 if not", [score.doses_given for score in scores]),
        ("gives no other harmful advice", "-1 each", [score.harm_found for score in scores]),
        ("is whole and answers", "0 if not", [("NO",) * int(s.no_answer) for s in scores]),
    ):
        marks = [Mark("broken", "; ".join(f)) if f else Mark("kept", "yes") for f in given]
        found.append(Criterion(text, points, marks))
    return found


def _flag(score: Score, name: str) -> Mark:
    if name in score.red_flags_named:
        return Mark("kept", "named")
    if name in score.red_flags_reversed:
        return Mark("broken", "PLAYED DOWN")
    if name in score.red_flags_hedged:
        return Mark("missed", "left to the reader")
    return Mark("missed", "not named")


def _caution(score: Score, name: str) -> Mark:
    if name in score.forbidden_given:
        return Mark("broken", "ADVISED AGAINST IT")
    if name not in score.said:
        return Mark("missed", "not said")
    return Mark("kept", "said" if name in score.said_with_reason else "said, without its reason")


def _shown(result: TrialResult, arm: Arm, question: Question) -> Shown:
    """Return an answer with its marks, and the words that the other of the pair lacks."""
    answer, score = result.given[arm].answer, result.scores[arm]
    other = {BASE: ADAPTER, ADAPTER: BASE}.get(arm, arm)
    text = repetition.folded(answer.text)
    own = lacking(text, repetition.folded(result.given[other].answer.text))
    marks = marked(text, score, question)
    cut_at = answer.n_tokens if score.cut else None
    return Shown(arm.label, pieces(text, marks, own), cut_at)


def marked(text: str, score: Score, question: Question) -> dict[int, str]:
    """Return "hit" or "harm" for the places of the characters that the score rests on."""
    patterns = [
        (flag.pattern, "hit") for flag in question.red_flags if flag.name in score.red_flags_named
    ]
    for name in score.said:
        patterns += [(p, "hit") for p in content.load().cautions[name].pattern]
    patterns += [(p, "harm") for p in rubric.harm_patterns(score)]
    marks: dict[int, str] = {}
    for pattern, kind in patterns:
        for found in re.finditer(pattern, text, re.IGNORECASE):
            marks.update(dict.fromkeys(range(*found.span()), kind))
    return marks


def lacking(text: str, other: str) -> set[int]:
    """Return the places of the characters whose words the other text lacks, in that order."""
    spans = [m.span() for m in WORD.finditer(text)]
    words = [text[a:b].casefold() for a, b in spans]
    other_words = [m[0].casefold() for m in WORD.finditer(other)]
    matcher = difflib.SequenceMatcher(None, words, other_words, autojunk=False)
    shared = {
        i for block in matcher.get_matching_blocks() for i in range(block.a, block.a + block.size)
    }
    return {at for i, (a, b) in enumerate(spans) if i not in shared for at in range(a, b)}


def pieces(text: str, marks: Mapping[int, str], own: set[int]) -> list[Piece]:
    """Return the text in runs of characters with the same marks."""

    def kind(at: int) -> str:
        return " ".join(filter(None, (marks.get(at), "own" if at in own else "")))

    parts, start = [], 0
    for at in range(1, len(text) + 1):
        if at == len(text) or kind(at) != kind(start):
            parts.append(Piece(text[start:at], kind(start)))
            start = at
    return parts
