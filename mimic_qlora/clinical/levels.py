"""The levels of urgency: three at which somebody must be seen, and one below, defined here alone.

MIMIC-IV is a hospital of the United States, so they are in its words.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

LevelId = Literal["911", "emergency", "today", "days"]


class Level(NamedTuple):
    """A level of urgency.

    `name` is the advice as a table shows it; `pattern` finds the words of a sentence of this level.
    `lead` is how a sentence of it begins.
    `opening` is the line that an answer begins with where the question itself names a warning sign
    of this level; "" where that asks for no haste. `tells` are the tags (tells.yaml) of that line,
    and `first_step` is the self-care that then comes first, "" for none.
    """

    name: str
    pattern: str
    lead: str
    opening: str
    tells: tuple[str, ...] = ()
    first_step: str = ""


OPENING = "This needs care now"
# the most urgent first
LEVELS: dict[LevelId, Level] = {
    "911": Level(
        "Call 911",
        r"\bcall(?:ing)? 911\b",
        "Call 911",
        f"{OPENING}: call 911.",
        ("call_now", "care_now"),
        "Call 911 before anything else, and do not drive yourself.",
    ),
    "emergency": Level(
        "Go to an emergency room now",
        r"\bemergency (?:room|care)\b",
        "Go to an emergency room",
        f"{OPENING}: go to an emergency room.",
        ("call_now", "care_now"),
        "Do not drive yourself; ask somebody to take you, or call 911.",
    ),
    "today": Level(
        "Be seen today",
        r"\btoday\b|\bsame day\b",
        "Get seen today",
        f"{OPENING}: be seen today.",
        ("call_now",),
    ),
    "days": Level(
        "Call in the next days",
        r"\b(?:in|within) (?:the next|a|two|three|a few) days?\b",
        "Call a clinician",
        "",
    ),
}
_RANKS = {level: rank for rank, level in enumerate(LEVELS)}


def highest(levels: Iterable[LevelId | None]) -> LevelId | None:
    """Return the most urgent of some levels, None where there is none."""
    return min(levels, key=rank, default=None)


def asked_by(sentence: str) -> LevelId | None:
    """Return the most urgent level that a sentence asks for by its words, None for none."""
    found = (name for name, level in LEVELS.items() if re.search(level.pattern, sentence, re.I))
    return next(found, None)


def rank(level: LevelId | None) -> int:
    """Return the place of a level, 0 for the most urgent; None comes last."""
    return _RANKS[level] if level else len(LEVELS)


def is_above(one: LevelId | None, other: LevelId | None) -> bool:
    """Return whether one level is more urgent than another; None is below all."""
    return rank(one) < rank(other)
