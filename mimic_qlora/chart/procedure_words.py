"""Titles of ICD-10-PCS in a layperson's words, by the glossary in procedure_words.csv.

PCS builds a title from parts: operation, body part, device, approach, qualifiers. Each part that
the glossary has is replaced, in the glossary's order; the rest is written small. Titles of ICD-9
are near to plain words and stay as they are.
"""

import csv
import re
from functools import cache, lru_cache
from pathlib import Path

APPROACHES = {
    ", Open Approach": "open operation",
    ", Percutaneous Endoscopic Approach": "keyhole operation",
    ", Via Natural or Artificial Opening Endoscopic": "with a scope",
    ", Via Natural or Artificial Opening": "",
    ", Percutaneous Approach": "through the skin",
    ", External Approach": "",
}
# what is taken for a test
SAMPLE = re.compile(r"(?:Excision|Extraction)( of .*), Diagnostic$")
FLUID = re.compile(r"Drainage( of .*), Diagnostic$")
# numbers of hours or arteries tell a layperson nothing
NOTHING = re.compile(
    r", (?:Diagnostic|Guidance|Single|Multiple|Intermittent|Continuous|Prolonged[^,]*|Allogeneic"
    r"|Intravascular|(?:One|Two|Three) Arter(?:y|ies)|Four or More Arteries|[^,]*\bHours\b[^,]*"
    r"|Continuous Positive Airway Pressure)"
    r"| using .*?Contrast(?=,|$)| using Irrigating Substance| using Photons.*$"
)
SMALL = re.compile(r"\b[A-Z][a-z]+\b")  # "GI" and "X-ray" stay


@cache
def _glossary() -> list[tuple[re.Pattern[str], str]]:
    with open(Path(__file__).with_suffix(".csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(re.compile(rf"\b{re.escape(row['title'])}(?!\w)"), row["words"]) for row in rows]


@lru_cache(maxsize=50_000)
def in_words(title: str, icd_version: int | str) -> str:
    """Return a procedure's title in plain words; blanks around it mean nothing."""
    title = title.strip()
    if int(icd_version) != 10:
        return title
    text = FLUID.sub(r"Sample\1", SAMPLE.sub(r"Tissue sample\1", title))
    way = next((words for ending, words in APPROACHES.items() if ending in text), "")
    for ending in APPROACHES:
        text = text.replace(ending, "")
    text = NOTHING.sub("", text)
    for pattern, words in _glossary():
        text = pattern.sub(words, text)
    text = SMALL.sub(lambda found: found[0].lower(), text).replace("x-ray", "X-ray")
    return f"{text}, {way}" if way else text
