"""What an answer must not make up: a cause for the symptom, and a dose that the chart does not hold.

The words are in answer_words/inventions.yaml.
"""

import re
from functools import lru_cache

from mimic_qlora.validation.scoring import advice, patterns


@lru_cache
def _each(name: str) -> list:
    return [re.compile(p, re.IGNORECASE) for p in patterns.lists("inventions")[name]]


def _any(name: str) -> re.Pattern:
    return patterns.pattern("inventions", name)


def causes(answer: str, chart: str = "", heard: list | None = None) -> list:
    """What the answer names as the cause of the symptom, or as what the person has and `chart` does not list.

    A disease that is mentioned without such a claim counts too, unless it is spoken of as known or as to be kept from,
    or goes with a sign that sends to care ("these can be signs of a stroke: call 911"). `heard` is the answer as
    advice.given has read it, where it has.
    """
    answer = advice.squeezed(answer)
    found, listed = [], chart.casefold()
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", answer):
        claimed = _any("not_claimed").sub(" ", sentence)
        found += [
            match["name"].strip() or match[0]
            for p in _each("claims")
            for match in p.finditer(claimed)
        ]
        found += [
            name
            for match in _any("has").finditer(claimed)
            if (name := match["name"].strip()).casefold() not in listed
        ]
    for clause in advice.given(answer, []) if heard is None else heard:
        if (
            clause.way not in ("urgent", "care")
            and not _any("mentioned").search(clause.text)
            and "?" not in clause.text
        ):
            claimed = _any("not_claimed").sub(" ", clause.text)
            found += [
                m[0]
                for m in _any("a_disease").finditer(claimed)
                if m[0].strip().casefold() not in listed
            ]
    found = list({name.casefold(): name for name in reversed(found)}.values())[::-1]
    return [name for name in found if not any(other != name and other in name for other in found)]


def doses(answer: str, chart: str = "") -> list:
    """Amounts of medicine in the answer that `chart` does not hold, and changes to one, as they stand there."""
    listed = re.sub(r"\s+", "", chart.casefold())
    found = [match[0] for match in _any("dose").finditer(answer)]
    return list(
        dict.fromkeys(
            amount for amount in found if re.sub(r"\s+", "", amount.casefold()) not in listed
        )
    )
