"""Values that follow from lab results: kidney filtration (eGFR) and the number of neutrophils."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a derived value is."""

    words: str
    unit: str
    items: frozenset[int]  # itemids of labevents that it may rest on


CREATININE = frozenset({50912, 52546})  # mg/dL
COUNTED = frozenset({52075, 53133})  # neutrophils, K/uL
WHITE_CELLS = frozenset({51301, 51300, 51755, 51756})  # K/uL
NEUTROPHILS = 51256  # percent of white cells
BANDS = 51144  # young neutrophils, percent of white cells, counted apart where they are seen
MEANINGS = {
    "egfr": Meaning("estimated kidney filtration (eGFR)", "mL/min/1.73 m2", CREATININE),
    "neutrophils": Meaning(
        "a number of neutrophils", "K/uL", COUNTED | WHITE_CELLS | {NEUTROPHILS, BANDS}
    ),
}


def egfr(creatinine: float, age: int, sex: str) -> float:
    """Return the kidney filtration in mL/min/1.73 m2 by CKD-EPI 2021, which knows no race.

    eGFR = 142 x min(Scr/k, 1)^a x max(Scr/k, 1)^-1.200 x 0.9938^age, x 1.012 for women, with Scr
    the creatinine in mg/dL, k 0.7 and a -0.241 for women, k 0.9 and a -0.302 for men. It holds for
    adults with stable kidneys. Source: Inker 2021, New England Journal of Medicine 385:1737, as
    the National Kidney Foundation gives it.
    """
    k, a, factor = (0.7, -0.241, 1.012) if sex == "F" else (0.9, -0.302, 1.0)
    ratio = creatinine / k
    return float(142 * min(ratio, 1) ** a * max(ratio, 1) ** -1.2 * 0.9938**age * factor)


def neutrophils(white_cells: float, percent: float, bands: float = 0.0) -> float:
    """Return the number of neutrophils in the unit of the white cells."""
    return white_cells * (percent + bands) / 100
