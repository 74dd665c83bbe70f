"""Small counts, which may point at a patient, and how they are hidden in what is meant to leave the machine."""

HIDDEN = "hidden"


def is_small(n, min_cell: int) -> bool:
    """A count that may point at a patient: above 0 and below `min_cell`."""
    return isinstance(n, int) and 0 < n < min_cell


def hide_small(rows: list, counts: tuple, min_cell: int, also: tuple = ()) -> list:
    """The rows with small counts written as "<10"; in such a row the columns of `also` are hidden too."""
    result = []
    for row in rows:
        small = {c: f"<{min_cell}" for c in counts if is_small(row[c], min_cell)}
        result.append({**row, **(dict.fromkeys(also, HIDDEN) if small else {}), **small})
    return result


def hidden_cells(counts: dict, sums: list, min_cell: int) -> dict:
    """Which of the counts (key -> n) may not be shown: {key: "<10" or "hidden"}.

    A small count is hidden. Where only one term of a sum (`sums`: lists of keys) is hidden, it could be worked out, so
    the next smallest goes too.
    """
    hidden = {key: f"<{min_cell}" for key, n in counts.items() if is_small(n, min_cell)}
    changed = bool(hidden)
    while changed:
        changed = False
        for keys in sums:
            others = [key for key in keys if key not in hidden and counts[key] > 0]
            if others and sum(key in hidden for key in keys) == 1:
                hidden[min(others, key=counts.get)] = HIDDEN
                changed = True
    return hidden
