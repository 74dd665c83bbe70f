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
) -> Rows:
    """Return the rows with small counts, in the columns `counts`, written as "<10".

    In such a row the columns `also`, from which the count could be worked out, are hidden too.
    """
    result = []
    for row in rows:
        small: dict[str, Cell] = {c: f"<{min_cell}" for c in counts if is_small(row[c], min_cell)}
        others: dict[str, Cell] = dict.fromkeys(also, HIDDEN) if small else {}
        result.append({**row, **others, **small})
    return result


def hidden_cells(
    counts: Mapping[Key, int], sums: Sequence[Sequence[Key]], min_cell: int
) -> dict[Key, str]:
    """Return what is shown in place of the counts that must be hidden: "<10" or "hidden".

    `sums` are lists of keys whose sum is known. Where only one term of a sum is hidden, it could
    be worked out, so the smallest of the others is hidden too (complementary suppression).
    """
    hidden = {key: f"<{min_cell}" for key, n in counts.items() if is_small(n, min_cell)}
    changed = bool(hidden)
    while changed:
        changed = False
        for keys in sums:
            others = [key for key in keys if key not in hidden and counts[key] > 0]
            if others and sum(key in hidden for key in keys) == 1:
                hidden[min(others, key=lambda key: counts[key])] = HIDDEN
                changed = True
    return hidden
