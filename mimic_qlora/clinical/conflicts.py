"""Contradictions between sentences of one answer: opposed tags, and two levels for one sign."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from mimic_qlora.clinical import content, levels
from mimic_qlora.clinical.conditions import Facts
from mimic_qlora.clinical.fields import compiled
from mimic_qlora.clinical.levels import LevelId
from mimic_qlora.clinical.schema import Advice, Caution, Line, NamedFlag

Saying = Line | Caution  # what an answer may say: a sentence with its tags, level and signs

_NOT = re.compile(r"\b(?:not|never|no|avoid|without)\b[^.;]*$", re.I)


class Contradiction(NamedTuple):
    """Two opposed tags, or a sign and its two levels, with the sentences that hold them."""

    what: str
    one: str
    other: str


def opposes(one: Saying, other: Saying) -> bool:
    """Return whether one tells the opposite of what the other tells."""
    return any(_opposed(a, b) for a in one.tells for b in other.tells)


def _opposed(tag: str, other: str) -> bool:
    """Return whether two tags are opposed; tags of a drug class only where it is the same."""
    kind, _, drug = tag.partition(":")
    other_kind, _, other_drug = other.partition(":")
    same = drug == other_drug or "any" in (drug, other_drug)
    return same and other_kind in content.load().tells[kind].opposed


def of(sayings: Sequence[Saying]) -> Iterator[Contradiction]:
    """Yield the contradictions between sentences that stand in one answer."""
    for one, other in combinations(sayings, 2):
        for a in one.tells:
            for b in other.tells:
                if _opposed(a, b):
                    yield Contradiction(f"{a} against {b}", one.say, other.say)
        if one.level and other.level and one.level != other.level:
            for sign in sorted({*one.signs} & {*other.signs}):
                what = f"{sign}: {one.level} and {other.level}"
                yield Contradiction(what, one.say, other.say)


def level_of(sign: str, sayings: Iterable[Saying | NamedFlag]) -> LevelId | None:
    """Return the highest level that these sentences give a warning sign."""
    return levels.highest(one.level for one in sayings if sign in one.signs)


def outranked(one: Saying, others: Iterable[Saying]) -> bool:
    """Return whether others give one of its signs a higher level than it does."""
    return any(
        levels.is_above(other.level, one.level)
        for other in others
        if not {*one.signs}.isdisjoint(other.signs)
    )


def repeats(one: Saying, others: Iterable[Caution]) -> bool:
    """Return whether all of its signs stand in others, with the same level."""
    given = {sign for other in others if other.level == one.level for sign in other.signs}
    return bool(one.signs) and {*one.signs} <= given


def above(one: Caution, others: Iterable[Caution]) -> list[Caution]:
    """Return the cautions beside which this one is needless.

    They give one of its signs a higher level and none a lower one, and tell all that it tells.
    """
    if not one.signs:
        return []
    first, signs, tells = one.signs[0], {*one.signs}, {*one.tells}
    return [
        other
        for other in others
        if first in other.signs  # most have none of its signs, and thousands are compared
        and outranked(one, [other])
        and signs <= {*other.signs}
        and tells <= {*other.tells}
    ]


@lru_cache(maxsize=4096)  # the lines of ideals come again and again
def as_advice(line: str) -> Advice:
    """Return a line of a curated answer with the tags, level and signs that its words show."""
    known = content.load()
    tells = [
        f"{tell.id}:any" if tell.takes else tell.id
        for tell in known.tells.values()
        if tell.pattern
        for found in [compiled(tell.pattern).search(line)]
        if found and not _NOT.search(line[: found.start()])
    ]
    signs = [
        sign.id
        for sign in known.signs.values()
        if sign.pattern and compiled(sign.pattern).search(line)
    ]
    return Advice(say=line, tells=tuple(tells), level=levels.asked_by(line), signs=tuple(signs))


def never(one: Saying, facts: Facts) -> bool:
    """Return whether a kind of advice that it gives is never given to such a chart."""
    kinds = (content.load().tells[tag.partition(":")[0]].never_when for tag in one.tells)
    return any(condition is not None and condition.holds(facts) for condition in kinds)


def covers(one: Caution, other: Caution) -> bool:
    """Return whether a caution warns of all that another warns of: acts, signs and drugs."""
    return (
        {*other.tells} <= {*one.tells}
        and all(
            sign in one.signs and not levels.is_above(other.level, one.level)
            for sign in other.signs
        )
        and {*_forbidden(other)} <= {*_forbidden(one)}
        and _drugs_named(other) <= _drugs_named(one)
    )


def _forbidden(caution: Caution) -> Iterator[tuple[str, str]]:
    """Yield the forbidden acts of a caution with each drug that they are about."""
    for act in caution.asks.forbidden if caution.asks else ():
        for drug in act.drugs or ("",):
            yield act.act, drug.casefold()


def _drugs_named(caution: Caution) -> set[str]:
    """Return the drugs of its forbidden acts that a caution names in its sentence."""
    said = caution.say.casefold()
    return {drug for _, drug in _forbidden(caution) if drug in said}
