"""Bounds of weight and build in omr: step 1 counts what lies beyond, contexts leave it out."""

import csv
from functools import cache
from pathlib import Path


@cache
def load() -> dict[str, float]:
    """Return name -> bound of omr_bounds.csv, which gives the units."""
    path = Path(__file__).with_suffix(".csv")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def filled_in(text: str) -> str:
    """Return a text with each {name} of a bound replaced by its number."""
    for name, value in load().items():
        text = text.replace(f"{{{name}}}", f"{value:g}")
    return text
