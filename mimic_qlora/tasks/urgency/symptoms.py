"""Which complaints of the emergency department are among the symptoms of the clinical content."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.clinical import content, schema
from mimic_qlora.clinical.fields import Pattern, compiled
from mimic_qlora.step.errors import UserError

LEAST = 10  # visits with a complaint that is told of by its words
PARTS = re.compile(r"\s*[,;]\s*")


class Wording(schema.Named):
    """How a triage nurse writes a symptom, whose id it has."""

    pattern: Pattern


class Row(NamedTuple):
    """A row of the table: all visits, a symptom, or words that no symptom covers."""

    what: str
    visits: int
    share: float  # of all visits


def load(folder: Path = Path(__file__).parent) -> Mapping[str, Wording]:
    """Return symptom -> wording of `folder`/symptoms.yaml.

    Raises UserError where a symptom has none, or a wording no symptom.
    """
    found = schema.read(folder, "symptoms", Wording)
    if odd := sorted(found.keys() ^ content.load().symptoms.keys()):
        raise UserError(f"symptoms.yaml of the urgency task and of the content differ in {odd[0]}.")
    return found


def of_complaint(complaint: str, wordings: Mapping[str, Wording]) -> set[str]:
    """Return the symptoms that a complaint tells of."""
    return {name for name, one in wordings.items() if compiled(one.pattern).search(complaint)}


def coverage(complaints: Iterable[str]) -> list[Row]:
    """Return how many complaints tell of a symptom, of which, and what words none covers."""
    wordings = load()
    found: Counter[str] = Counter(dict.fromkeys(wordings, 0))
    missing, n, covered = Counter[str](), 0, 0
    for complaint in complaints:
        n += 1
        symptoms = of_complaint(complaint, wordings)
        found.update(symptoms)
        covered += bool(symptoms)
        parts = {part.casefold() for part in PARTS.split(complaint.strip()) if part}
        missing.update(part for part in parts if not of_complaint(part, wordings))

    def row(what: str, visits: int) -> Row:
        return Row(what, visits, round(visits / n, 4) if n else 0.0)

    return [
        row("all visits", n),
        row("with a symptom of ours", covered),
        *(row(f"symptom: {name}", visits) for name, visits in found.most_common()),
        *(row(f"none: {words}", k) for words, k in missing.most_common() if k >= LEAST),
    ]
