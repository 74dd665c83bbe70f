"""The search for phrases of the clinical content in an answer: said, affirmed, contradicted."""

import re
from functools import lru_cache

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
    r"|\b(?:do not|don['’]t|never) get (?:emergency|urgent|medical|same)",
    re.I,
)
_NEGATED = re.compile(
    r"\b(?:not|never|avoid(?:ing)?|without|cannot|instead of|rather than|stay away|no)\b|n['’]t\b"
    r"|\b(?:ask|check)\b.*\bbefore\b|\bbefore (?:you|using|taking)\b",
    re.I,
)
_LEADING_CONDITION = re.compile(r"^\W*(?:if|when|because|since|while|after|until|as)\b[^,]*,", re.I)


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


def forbidden(rule: Caution, answer: str) -> bool:
    """Return whether the answer advises what this caution forbids.

    Advice against it ("do not take ...") does not count.
    """
    parts = [
        _LEADING_CONDITION.sub("", clause)
        for sentence in _SENTENCE_END.split(answer)
        if sentence
        for clause in re.split(r", (?:and|then) ", _LEADING_CONDITION.sub("", sentence))
    ]
    return any(
        not _NEGATED.search(part[: match.end()])
        for part in parts
        for pattern in rule.forbid
        for match in compiled(pattern).finditer(part)
    )
