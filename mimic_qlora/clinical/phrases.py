"""The search for phrases of the clinical content in an answer: said, affirmed, contradicted."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from mimic_qlora.clinical.fields import compiled
from mimic_qlora.clinical.schema import Caution

_SENTENCE_END = re.compile(r"[.!?;]+(?=\s|$)|\n|,? but ")
# "unless a clinician says it is safe to" is not a reversal, hence the look-behinds;
# "not need sleep" is a symptom.
_REVERSED = re.compile(
    r"\bno (?:real )?(?:need|reason)\b|\bneed(?: not|n['’]t)\b"
    r"|(?:\bnot|n['’]t|\bnever) (?:really )?(?:need\b(?! (?:any |much )?sleep)|have to\b)"
    r"|\bnot necessary\b|\bunnecessary\b|\bcan (?:safely )?(?:ignore|wait|skip)\b"
    r"|(?<!says )(?<!that )(?<!know )\b(?:it is|it['’]s) (?:perfectly )?"
    r"(?:fine|ok|okay|safe|all right) to\b"
    r"|\b(?:do not|don['’]t|never) "
    r"(?:avoid|call|seek|contact|report|tell|check|weigh|limit|worry)\b"
    r"|\b(?:do not|don['’]t|never) get (?:emergency|urgent|medical|same)"
    r"|\b(?:do|does)(?: not|n['’]t) apply\b",
    re.I,
)
_NEGATED = re.compile(
    r"\b(?:not|never|avoid(?:ing)?|without|cannot|instead of|rather than|stay away|no)\b|n['’]t\b"
    r"|\b(?:ask|check)\b.*\bbefore\b|\bbefore (?:you|using|taking)\b",
    re.I,
)
_LEADING_CONDITION = re.compile(r"^\W*(?:if|when|because|since|while|after|until|as)\b[^,]*,", re.I)

_ANY_CALL = "ask, tell, share, call 911 or go to an emergency room today, and do not wait"


@lru_cache(maxsize=1024)
def affirmed(answer: str) -> str:
    """Return the sentences of an answer, one a line, without reversed advice ("no need to ...")."""
    return "\n".join(
        part for part in _SENTENCE_END.split(answer) if part and not _REVERSED.search(part)
    )


def names(pattern: str, text: str) -> bool:
    """Return whether the text matches a pattern of the content files; case is ignored."""
    return bool(compiled(pattern).search(text))


def said(rule: Caution, answer: str) -> bool:
    """Return whether the answer says this caution: all its patterns match what is affirmed."""
    text = affirmed(answer)
    return all(compiled(pattern).search(text) for pattern in rule.pattern)


class Halves(NamedTuple):
    """The two halves of a caution's sentence: "Because your record lists gout" and what to do."""

    reason: str
    action: str


@lru_cache(maxsize=1024)
def halves(say: str, reason: str) -> Halves:
    """Return the halves of a caution's sentence; `reason` is that of its field `asks`.

    The first ends at a comma, and only after the last word of the reason where that stands there:
    a reason may be a list.
    """
    last = say.find(reason.split()[-1]) if reason else -1
    comma = say.find(", ", max(0, last))
    if not say.startswith("Because ") or comma < 0:
        return Halves("", say)
    return Halves(say[:comma], say[comma + 2 :])


def halves_of(rule: Caution) -> Halves:
    """Return the halves of the sentence of a caution."""
    return halves(rule.say, rule.asks.reason if rule.asks else "")


@lru_cache(maxsize=1024)
def _of_action(say: str, reason: str, patterns: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the patterns that look for the action, each with the words to put before a sentence.

    One that is found in the action alone needs none; one that asks for the reason too is granted
    it; one that is found in the reason alone does not look for the action. Where that would leave
    an action that any call for help fulfils, all stand as they are, and ask for the reason.
    """
    before, action = halves(say, reason)
    alone = {p for p in patterns for said in affirmed(action).split("\n") if names(p, said)}
    for granted in (before, f"With {reason}"):
        wanted = tuple(
            (pattern, "" if pattern in alone else f"{granted}, ")
            for pattern in patterns
            if pattern in alone or not names(pattern, granted)
        )
        if any(not names(pattern, words + _ANY_CALL) for pattern, words in wanted):
            return wanted
    return tuple((pattern, "") for pattern in patterns)


def action_places(rule: Caution, sentences: Sequence[str], reversed_too: bool = False) -> list[int]:
    """Return the places of the sentences that say what this caution asks to do; [] if none does.

    Those that reverse it ("no need to ...") say nothing, unless `reversed_too`.
    With its reason or without: golds give the reason in one form of words, so that to ask for it
    would favour who learned that form.
    """
    found = [
        {
            place
            for place, sentence in enumerate(sentences)
            for part in (sentence if reversed_too else affirmed(sentence)).split("\n")
            if part and names(pattern, granted + part)
        }
        for pattern, granted in _of_action(
            rule.say, rule.asks.reason if rule.asks else "", rule.pattern
        )
    ]
    # what one sentence begins the next may end, and no later one
    return sorted(
        place
        for place in set().union(*found)
        if all(places & {place - 1, place, place + 1} for places in found)
    )


def forbidden(rule: Caution, answer: str) -> bool:
    """Return whether the answer advises what this caution forbids."""
    return any(advised(pattern, answer) for pattern in rule.forbid)


def advised(pattern: str, answer: str) -> bool:
    """Return whether a pattern matches what the answer advises.

    Advice against it ("do not take ...") does not count.
    """
    return any(
        not _NEGATED.search(part[: match.end()])
        for part in clauses(answer)
        for match in compiled(pattern).finditer(part)
    )


@lru_cache(maxsize=1024)
def clauses(answer: str) -> tuple[str, ...]:
    """Return the clauses of an answer, without conditions that lead them."""
    return tuple(
        _LEADING_CONDITION.sub("", clause)
        for sentence in _SENTENCE_END.split(answer)
        if sentence
        for clause in re.split(r", (?:and|then) ", _LEADING_CONDITION.sub("", sentence))
    )
