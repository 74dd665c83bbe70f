"""Disclosure control: counts so small that they may identify a patient are hidden."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from scipy.optimize import Bounds, LinearConstraint, milp

from mimic_qlora.display.cells import Cell

HIDDEN: Final = "hidden"

Rows = list[dict[str, Cell]]  # of a table, each with the same keys

Key = TypeVar("Key", bound=Hashable)


def is_small(n: Cell, min_cell: int) -> bool:
    """Tell whether a count may identify a patient: above 0 and below `min_cell`."""
    return isinstance(n, int) and 0 < n < min_cell


def hide(row: dict[str, Cell], counts: Iterable[str], min_cell: int) -> None:
    """Hide counts of a row, whatever they are but 0, which tells of nobody."""
    for name in counts:
        if row[name] != 0:
            row[name] = f"<{min_cell}" if is_small(row[name], min_cell) else HIDDEN


def hide_small(
    rows: Rows,
    counts: Sequence[str],
    min_cell: int,
    also: Sequence[str] = (),
    within: Sequence[int] = (),
) -> Rows:
    """Return the rows with small counts, in the columns `counts`, written as "<10".

    In such a row the columns `also`, from which the count could be worked out, are hidden too. A
    number of `patients` that leaves few of a group that they belong to is "hidden"; `within` are
    the sizes of these groups.
    """
    result = []
    for row in rows:
        small: dict[str, Cell] = {c: f"<{min_cell}" for c in counts if is_small(row[c], min_cell)}
        n = row.get("patients")
        if isinstance(n, int) and any(is_small(size - n, min_cell) for size in within):
            small.setdefault("patients", HIDDEN)
        others: dict[str, Cell] = dict.fromkeys(also, HIDDEN) if small else {}
        result.append({**row, **others, **small})
    return result


def hide_repeats(rows: Rows, min_cell: int) -> Rows:
    """Return rows without their number of `rows` where it is greater than `patients` by a little.

    13 rows of 12 patients tell that one patient has two. Their share of a table goes with them.
    """
    result = []
    for row in rows:
        n, patients = row["rows"], row["patients"]
        told = isinstance(n, int) and isinstance(patients, int) and is_small(n - patients, min_cell)
        hidden = {"rows", "share"} & row.keys() if told else set()
        result.append({**row, **dict.fromkeys(hidden, HIDDEN)})
    return result


QUARTILES = ("low", "median", "high")


Told = float | Literal["hidden"]


class Spread(NamedTuple):
    """The quartiles of numbers, and the largest that enough patients reach."""

    low: Told
    median: Told
    high: Told
    most: Told


def spread(values: pd.Series, min_cell: int) -> Spread:
    """Return the quartiles of numbers and their most, those hidden that tell of few patients.

    The index of `values` tells whose each is. Where counts are hidden, what is told is a value
    that is there: one between two would tell how many lie on each side. The most is what
    `min_cell` patients reach, as the largest of all may be a single patient's.
    """
    if min_cell <= 1:
        return Spread(*map(plain, [*values.quantile([0.25, 0.5, 0.75]), values.max()]))
    ordered = values.sort_values(kind="stable")
    told = told_places(ordered.index, min_cell)
    cells: dict[str, Told] = {name: plain(ordered.iloc[place]) for name, place in told.items()}
    return Spread(*(cells.get(name, HIDDEN) for name in Spread._fields))


def spread_of_counts(values: pd.Series, min_cell: int) -> Spread:
    """Return the spread of numbers from 1 on, one of each patient, whose sum is told; all of it is
    hidden where it tells of few.

    What is told sets a least sum: one that is a little greater tells that one patient has more.
    """
    found = spread(values, min_cell)
    least = np.ones(len(values))
    for name, place in told_places(values.index, min_cell).items():
        least[place:] = getattr(found, name)
    over = int(values.sum() - least.sum())
    return Spread(HIDDEN, HIDDEN, HIDDEN, HIDDEN) if is_small(over, min_cell) else found


def told_places(owners: pd.Index, min_cell: int) -> dict[str, int]:
    """Return where, among sorted numbers, those fields of their `Spread` stand that may be told.

    owners: whose each number is. At least `min_cell` patients stand before the first place, between
    two, and from the last one on, so that no two fields tell of fewer, whatever the numbers are.
    """
    n = len(owners)
    places = {"low": (n - 1) // 4, "median": (n - 1) // 2, "high": -(-3 * (n - 1) // 4)}
    places["most"] = n - min_cell
    for names in (tuple(places), QUARTILES, ("median",)):
        at = [places[name] for name in names]
        starts, ends = [0, *(place + 1 for place in at[:-1]), at[-1]], [*at, n]
        if all(owners[a:b].nunique() >= min_cell for a, b in zip(starts, ends, strict=True)):
            return dict(zip(names, at, strict=True))
    return {}


def rounded(n: int, of: int, min_cell: int) -> int:
    """Return the multiple of `min_cell` next to a part of a number; none and all stay as they are.

    A part that is neither stays so.
    """
    if min_cell <= 1 or n in (0, of):
        return n
    most = max((of - 1) // min_cell, 1)  # multiples that are not all
    return min(max(round(n / min_cell), 1), most) * min_cell


def plain(value: float) -> float:
    """Return a number as an int where it is whole, else with two decimals."""
    return int(value) if value == int(value) else round(float(value), 2)


def hidden_last(rows: Rows, column: str, named: Sequence[str], within: str | None = None) -> Rows:
    """Return rows that are sorted by a count, those in which it is hidden behind the others.

    Their place would tell between which two counts theirs lies, and often the count itself. They
    stand in the order of what they are named by; each value of `within` has a list of its own.
    """
    lists = [*dict.fromkeys(row[within] for row in rows)] if within else []

    def place(row: Mapping[str, Cell]) -> tuple[int, bool, list[str]]:
        hidden = isinstance(row[column], str) and str(row[column]).startswith((HIDDEN, "<"))
        names = [str(row[name]) for name in named] if hidden else []
        return lists.index(row[within]) if within else 0, hidden, names

    return sorted(rows, key=place)


def hidden_cells(
    counts: Mapping[Key, int],
    sums: Sequence[Sequence[Key]],
    min_cell: int,
    totals: Sequence[Sequence[Key]] = (),
    unseen: Collection[Key] = (),
) -> dict[Key, str]:
    """Return what is shown in place of the counts that must be hidden: "<10" or "hidden".

    `sums` are lists of keys whose sum is known, `totals` lists whose first key is the sum of the
    others; `unseen` are not shown in any case. Where only one term of a list is hidden, or they
    add up to few, they could be worked out, so the smallest of the others is hidden too
    (complementary suppression). Where the bound "<10" could tell a term, it is "hidden" as well.

    Lists that cross, as rows and columns do, can tell a count that none of them tells. So what all
    of them leave open is computed in the end, and bounds are dropped, then further counts hidden,
    until no small count is told.
    """
    lists = [*sums, *totals]
    small = {key for key, n in counts.items() if is_small(n, min_cell)}
    hidden = _complemented(counts, lists, small, min_cell)
    bounded = _bounded(counts, lists, hidden, small, min_cell)
    if not small:
        return {}
    equations = [dict.fromkeys(keys, 1) for keys in sums if not {*keys} <= {*unseen}]
    equations += [{first: -1, **dict.fromkeys(terms, 1)} for first, *terms in totals]

    def told(hidden: set[Key], bounded: set[Key]) -> set[Key]:
        most = {key: min_cell - 1 for key in bounded}
        lower = {key: int(key not in unseen) for key in counts if key in hidden or key in unseen}
        return {
            key for key in small & lower.keys() if _is_told(key, counts, equations, lower, most)
        }

    in_any_case = told({key for key, n in counts.items() if n > 0}, set())
    while found := told(hidden, bounded) - in_any_case:
        if not bounded:
            others = [key for key, n in counts.items() if n > 0 and key not in hidden]
            near = {key for keys in lists if not found.isdisjoint(keys) for key in keys}
            more = min([key for key in others if key in near] or others, key=lambda k: counts[k])
            hidden = _complemented(counts, lists, {*hidden, more}, min_cell)
        bounded = set()
    return {key: f"<{min_cell}" if key in bounded else HIDDEN for key in counts if key in hidden}


def _complemented(
    counts: Mapping[Key, int], lists: Sequence[Sequence[Key]], hidden: set[Key], min_cell: int
) -> set[Key]:
    """Return the hidden keys with those that no list may show beside them."""
    hidden = {*hidden}
    changed = bool(hidden)
    while changed:
        changed = False
        for keys in lists:
            terms = [key for key in keys if key in hidden]
            others = [key for key in keys if key not in hidden and counts[key] > 0]
            few = len(terms) == 1 or sum(counts[key] for key in terms) < min_cell
            if terms and others and few:
                hidden.add(min(others, key=lambda key: counts[key]))
                changed = True
    return hidden


def _bounded(
    counts: Mapping[Key, int],
    lists: Sequence[Sequence[Key]],
    hidden: set[Key],
    small: set[Key],
    min_cell: int,
) -> set[Key]:
    """Return the small keys of which no list tells more when "<10" is written."""
    bounded = {*small}
    for keys in lists:
        terms = [key for key in keys if key in hidden]
        total = sum(counts[key] for key in terms)
        most = (min_cell - 1) * (len(terms) - 1)  # that all but one of small terms can be
        told = total > most + 1 if small.issuperset(terms) else total < 2 * min_cell
        if told and len(terms) > 1:
            bounded.difference_update(terms)
    return bounded


def _is_told(
    wanted: Key,
    counts: Mapping[Key, int],
    equations: Sequence[Mapping[Key, int]],
    least: Mapping[Key, int],
    most: Mapping[Key, int],
) -> bool:
    """Tell whether all equations together leave a hidden count one value.

    equations: key -> factor; what they add up to is known. `least` has all hidden keys.
    """
    beyond = sum(counts.values()) + 2  # no count is as great
    bounds = Bounds(list(least.values()), [most.get(key, beyond) for key in least])
    factors = np.array([[equation.get(key, 0) for key in least] for equation in equations])
    known = factors @ [counts[key] for key in least]
    rules = LinearConstraint(factors, known, known)
    goal = np.array([float(key == wanted) for key in least])
    ends = [
        milp(sign * goal, integrality=1, bounds=bounds, constraints=rules).x for sign in (1, -1)
    ]
    return round(goal @ ends[0]) == round(goal @ ends[1])
