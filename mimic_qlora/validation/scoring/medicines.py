"""Advice about a medicine, heard by the medicine's name instead of by turns of phrase.

A caution lists the medicines that it forbids, brands included. A clause that names one keeps from
it, allows it, or only speaks of it. The words that tell which are in words/medicines.yaml.
"""

import re
from functools import lru_cache

from mimic_qlora.clinical import content, phrases
from mimic_qlora.clinical.schema import Caution
from mimic_qlora.validation.scoring import patterns


def keeps_from(rule: Caution, text: str) -> bool:
    """Return whether a clause keeps from a medicine, where that is what a caution asks for."""
    kept = _says("keeping", text) and not _says("allowing", text)
    return kept and bool(_named(rule.id, text)) and _is_of_medicines(rule.id)


def allows(rule: Caution, answer: str) -> bool:
    """Return whether an answer allows a medicine that a caution forbids, in words that say so.

    A clause that names one and no more may be of the chart, or of what others take.
    """
    return any(
        _says("allowing", clause) and not _says("speaking", clause) and _named(rule.id, clause)
        for clause in phrases.clauses(answer)
    )


def names_of(rule: Caution) -> list[str]:
    """Return the medicines, brands included, that a caution forbids to take.

    Alcohol is none: general advice speaks of it as well.
    """
    acts = rule.asks.forbidden if rule.asks else ()
    names = [name for act in acts for name in act.drugs if name != "alcohol"]
    return [name for name in names if phrases.forbidden(rule, f"Take {name}.")]


@lru_cache(maxsize=1024)
def _is_of_medicines(rule_id: str) -> bool:
    """Return whether a caution asks for no more than to keep from its medicines."""
    rule = content.load().cautions[rule_id]
    told = [f"Do not take {name}." for name in names_of(rule)]
    return rule.section != "urgent" and bool(phrases.action_places(rule, told))


def _named(rule_id: str, text: str) -> list[str]:
    """Return the forbidden medicines that a text names."""
    pattern = _pattern(rule_id)
    return pattern.findall(text) if pattern else []


@lru_cache(maxsize=1024)
def _pattern(rule_id: str) -> re.Pattern[str] | None:
    names = names_of(content.load().cautions[rule_id])
    if not names:
        return None
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})(?=s?\b)", re.IGNORECASE)


def _says(name: str, text: str) -> bool:
    return bool(patterns.pattern("medicines", name).search(text))
