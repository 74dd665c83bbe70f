"""Disclosure control: counts so small that they may identify a patient are hidden."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from mimic_qlora.display.cells import Cell

HIDDEN = "hidden"

Rows = list[dict[str, Cell]]  # of a table, each with the same keys

Key = TypeVar("Key", bound=Hashable)


def is_small(n: Cell, min_cell: int) -> bool:
    """Tell whether a count may identify a patient: above 0 and below `min_cell`."""
    return isinstance(n, int) and 0 < n < min_cell


def hide_small(
    rows: Rows,
    counts: Sequence[str],
    min_cell: int,
    also: Sequence[str] = (),
    everybody: int = 0,
) -> Rows:
    """Return the rows with small counts, in the columns `counts`, written as "<10".

    In such a row the columns `also`, from which the count could be worked out, are hidden too. Of
    `everybody`, where they are given, a number of `patients` that leaves few is "hidden".
    """
    result = []
    for row in rows:
        small: dict[str, Cell] = {c: f"<{min_cell}" for c in counts if is_small(row[c], min_cell)}
        n = row.get("patients")
        if isinstance(n, int) and is_small(everybody - n, min_cell):
            small.setdefault("patients", HIDDEN)
        others: dict[str, Cell] = dict.fromkeys(also, HIDDEN) if small else {}
        result.append({**row, **others, **small})
    return result


def hidden_cells(
    counts: Mapping[Key, int], sums: Sequence[Sequence[Key]], min_cell: int
) -> dict[Key, str]:
    """Return what is shown in place of the counts that must be hidden: "<10" or "hidden".

    `sums` are lists of keys whose sum is known. Where only one term of a sum is hidden, or they
    add up to few, they could be worked out, so the smallest of the others is hidden too
    (complementary suppression). Where the bound "<10" could tell a term, it is "hidden" as well.
    """
    small = {key for key, n in counts.items() if is_small(n, min_cell)}
    hidden = {*small}
    changed = bool(hidden)
    while changed:
        changed = False
        for keys in sums:
            terms = [key for key in keys if key in hidden]
            others = [key for key in keys if key not in hidden and counts[key] > 0]
            few = len(terms) == 1 or sum(counts[key] for key in terms) < min_cell
            if terms and others and few:
                hidden.add(min(others, key=lambda key: counts[key]))
                changed = True
    bounded = {*small}
    for keys in sums:
        terms = [key for key in keys if key in hidden]
        total = sum(counts[key] for key in terms)
        most = (min_cell - 1) * (len(terms) - 1)  # that all but one of small terms can be
        told = total > most + 1 if small.issuperset(terms) else total < 2 * min_cell
        if told and len(terms) > 1:
            bounded.difference_update(terms)
    return {key: f"<{min_cell}" if key in bounded else HIDDEN for key in counts if key in hidden}
