"""Whether an answer says, affirms or contradicts a phrase of the clinical content."""

import re
from functools import lru_cache

_SENTENCE_END = re.compile(r"[.!?;]+(?=\s|$)|\n|,? but ")
# "unless a clinician says it is safe to" is not a reversal, hence the look-behinds; "not need sleep" is a symptom.
_REVERSED = re.compile(
    r"\bno (?:real )?(?:need|reason)\b|\bneed(?: not|n['’]t)\b"
    r"|(?:\bnot|n['’]t|\bnever) (?:really )?(?:need\b(?! (?:any |much )?sleep)|have to\b)"
    r"|\bnot necessary\b|\bunnecessary\b|\bcan (?:safely )?(?:ignore|wait|skip)\b"
    r"|(?<!says )(?<!that )(?<!know )\b(?:it is|it['’]s) (?:perfectly )?(?:fine|ok|okay|safe|all right) to\b"
    r"|\b(?:do not|don['’]t|never) (?:avoid|call|seek|contact|report|tell|check|weigh|limit|worry)\b"
    r"|\b(?:do not|don['’]t|never) get (?:emergency|urgent|medical|same)",
    re.I,
)
_NEGATED = re.compile(
    r"\b(?:not|never|avoid(?:ing)?|without|cannot|instead of|rather than|stay away|no)\b|n['’]t\b"
    r"|\b(?:ask|check)\b.*\bbefore\b|\bbefore (?:you|using|taking)\b",
    re.I,
)
_LEADING_CONDITION = re.compile(r"^\W*(?:if|when|because|since|while|after|until|as)\b[^,]*,", re.I)


@lru_cache
def _compiled(pattern):
    return re.compile(pattern, re.I)


@lru_cache(maxsize=1024)
def affirmed(answer):
    """The sentences of an answer, one a line, without those that reverse their advice ("no need to avoid ...")."""
    return "\n".join(
        part for part in _SENTENCE_END.split(answer) if part and not _REVERSED.search(part)
    )


def names(pattern, text):
    """Does the text match a pattern of the content files, upper or lower case alike?"""
    return bool(_compiled(pattern).search(text))


def said(rule, answer):
    """Does the answer say this caution: do all its patterns match what the answer affirms?"""
    text = affirmed(answer)
    return all(_compiled(pattern).search(text) for pattern in rule["pattern"])


def forbidden(rule, answer):
    """Does the answer advise what this caution forbids? Advice against it ("do not take ...") does not count."""
    parts = [
        _LEADING_CONDITION.sub("", clause)
        for sentence in _SENTENCE_END.split(answer)
        if sentence
        for clause in re.split(r", (?:and|then) ", _LEADING_CONDITION.sub("", sentence))
    ]
    return any(
        not _NEGATED.search(part[: match.end()])
        for part in parts
        for pattern in rule["forbid"]
        for match in _compiled(pattern).finditer(part)
    )
