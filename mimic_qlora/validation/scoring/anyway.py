"""Which cautions are told anyway: what is heard as one of them though nobody read the chart."""

from collections.abc import Sequence
from functools import lru_cache

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Caution, Question
from mimic_qlora.validation.scoring import advice, readings


def tested(question: Question, cautions: Sequence[Caution]) -> list[Caution]:
    """Return the cautions by which a trial tells whether something never trained on was learned.

    They are never trained on, nor is the question's symptom, and nothing else is heard as them:
    neither the question's general answer, which anybody should get ("call 911 for chest pain"), nor
    a trained caution that the chart calls for as well ("no ibuprofen", for another reason).
    """
    if not content.symptom_of(question).held_out:
        return []
    signs = tuple(sign.pattern for sign in question.red_flags)
    trained = [_line(rule) for rule in cautions if not rule.held_out]
    return [
        rule
        for rule in cautions
        if rule.held_out
        and not _is_heard(rule.id, question.ideal, signs)
        and not any(_is_heard(rule.id, line, ()) for line in trained)
    ]


def _line(rule: Caution) -> str:
    """Return a caution as it stands in an answer."""
    return f"{content.SECTIONS[rule.section]}\n- {rule.say}"


@lru_cache(maxsize=8192)
def _is_heard(rule_id: str, answer: str, signs: tuple[str, ...]) -> bool:
    """Return whether an answer is heard to say what a caution asks to do."""
    return bool(readings.sentences_of(content.load().cautions[rule_id], _given(answer, signs)))


@lru_cache(maxsize=512)  # the same few answers are read for many cautions
def _given(answer: str, signs: tuple[str, ...]) -> list[advice.Advice]:
    return advice.given(answer, signs)
