"""Bounds of the lab results that cautions rest on: step 1 counts what lies beyond, contexts leave
its number out.

The greatest of most are those of mimic-code's concepts `first_day_lab` and `chemistry`
(github.com/MIT-LCP/mimic-code), beyond which these take a number for a slip; those of calcium,
lithium, digoxin and the neutrophils are ours, far above what was ever survived or can be.
"""

import csv
from functools import cache
from pathlib import Path
from typing import Any

OF_THE_SPECIMEN = {  # itemids of numbers that tell nothing of the patient
    50934: "H, index of hemolysis",
    50947: "I, index of icterus",
    51678: "L, index of lipemia",
    51087: "Length of Urine Collection",
}


@cache
def load() -> dict[int, tuple[float, float]]:
    """Return itemid -> the least and the greatest value of lab_bounds.csv."""
    path = Path(__file__).with_suffix(".csv")
    with path.open(encoding="utf-8", newline="") as file:
        return {
            int(item): (float(row["least"]), float(row["most"]))
            for row in csv.DictReader(file)
            for item in row["itemids"].split()
        }


def is_possible(item: Any, value: float) -> bool:
    """Return whether somebody may have a value of an itemid; one without bounds may be any."""
    least, most = load().get(item, (value, value))
    return least <= value <= most


def as_values() -> str:
    """Return the bounds as the rows of SQL's VALUES: itemid, least, most."""
    return ", ".join(f"({item}, {least:g}, {most:g})" for item, (least, most) in load().items())
