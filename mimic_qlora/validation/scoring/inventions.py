"""Hallucinations of an answer: a cause named for the symptom, a dose that the chart does not hold.

The words are in words/inventions.yaml.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from mimic_qlora.validation.scoring import advice, patterns


@lru_cache
def _each(name: str) -> list[re.Pattern[str]]:
    return [re.compile(p, re.IGNORECASE) for p in patterns.lists("inventions")[name]]


def _any(name: str) -> re.Pattern[str]:
    return patterns.pattern("inventions", name)


def causes(answer: str, chart: str = "", heard: Sequence[advice.Advice] | None = None) -> list[str]:
    """Return what the answer names as the cause of the symptom, or as a disease of the person.

    Diseases that `chart` lists do not count as the latter. A disease that is only mentioned counts
    too, except as already diagnosed, as something to prevent, or as a reason to seek care ("these
    can be signs of a stroke: call 911"). `heard` is the answer as
    advice.given has read it, where it has.
    """
    answer = advice.squeezed(answer)
    listed = chart.casefold()
    clauses = advice.given(answer, []) if heard is None else heard
    found = [*_claimed(answer, listed), *_mentioned(clauses, listed)]
    # the first spelling of a name counts, and of names that hold each other the shortest
    names = list({name.casefold(): name for name in reversed(found)}.values())[::-1]
    return [name for name in names if not any(other != name and other in name for other in names)]


def _claimed(answer: str, listed: str) -> Iterator[str]:
    """Yield the causes that sentences claim, and the diseases that they say the person has."""
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", answer):
        blamed, had = _of_sentence(sentence)
        yield from blamed
        yield from (name for name in had if name.casefold() not in listed)


@lru_cache(maxsize=20_000)
def _of_sentence(sentence: str) -> tuple[list[str], list[str]]:
    """Return the causes that a sentence claims, and the diseases that it says the person has."""
    claimed = _any("not_claimed").sub(" ", sentence)
    found = (match for pattern in _each("claims") for match in pattern.finditer(claimed))
    had = _any("has").finditer(claimed)
    return [m["name"].strip() or m[0] for m in found], [m["name"].strip() for m in had]


def _mentioned(clauses: Sequence[advice.Advice], listed: str) -> Iterator[str]:
    """Yield the diseases that clauses mention without a reason to seek care."""
    for clause in clauses:
        if clause.way not in ("urgent", "care"):
            names = _diseases(clause.text)
            yield from (name for name in names if name.strip().casefold() not in listed)


@lru_cache(maxsize=20_000)
def _diseases(clause: str) -> list[str]:
    """Return the diseases that a clause mentions, unless something in it excuses that."""
    if _any("mentioned").search(clause) or "?" in clause:
        return []
    claimed = _any("not_claimed").sub(" ", clause)
    return [match[0] for match in _any("a_disease").finditer(claimed)]


def doses(answer: str, chart: str = "") -> list[str]:
    """Return amounts of medicine, and changes of one, that `chart` does not hold, as written."""
    listed = _without_blanks(chart)
    return [dose for dose in _doses(answer) if _without_blanks(dose) not in listed]


@lru_cache(maxsize=1024)
def _doses(answer: str) -> list[str]:
    return list(dict.fromkeys(match[0] for match in _any("dose").finditer(answer)))


def _without_blanks(text: str) -> str:
    return re.sub(r"\s+", "", text.casefold())
