"""Made-up charts as conditions read them, and the smallest charts that fulfil a condition."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from mimic_qlora.clinical.conditions import AllOf, AnyOf, Condition, Leaf, NoneOf

Wanted = tuple[Leaf, bool]  # a finding, and whether it must be there


@dataclass(frozen=True)
class Chart:
    """The facts of a chart without anything, but for what is given."""

    phenotypes: Collection[str] = ()
    drug_classes: Collection[str] = ()
    home_drug_classes: Collection[str] = ()
    labs: Mapping[int, tuple] = field(default_factory=dict)
    derived: Mapping[str, tuple] = field(default_factory=dict)
    procedures: Sequence[tuple] = ()
    age: int | None = None
    sex: str | None = None


def charts_that_fulfil(*wanted: Condition) -> Iterator[Chart]:
    """Yield the smallest charts that fulfil all of some conditions, one for each way to do so."""
    for ways in product(*(_ways(condition, True) for condition in wanted)):
        chart = _chart([leaf for way in ways for leaf in way])
        if all(condition.holds(chart) for condition in wanted):
            yield chart


def _ways(condition: Condition, there: bool) -> list[list[Wanted]]:
    """The findings that make a condition hold, or fail; each list is one way."""
    if isinstance(condition, (AnyOf, AllOf, NoneOf)):
        if isinstance(condition, NoneOf):
            there = not there
        parts = [_ways(part, there) for part in condition.parts]
        any_is_enough = there != isinstance(condition, AllOf)
        if any_is_enough:
            return [way for ways in parts for way in ways]
        return [[leaf for way in ways for leaf in way] for ways in product(*parts)]
    return [[(condition, there)]]


def _chart(wanted: Sequence[Wanted]) -> Chart:
    """The chart of these findings; a value of a lab or an age lies between all its bounds."""
    kinds: dict[str, list[Wanted]] = {}
    for leaf, there in wanted:
        kinds.setdefault(leaf.kind, []).append((leaf, there))

    def present(kind: str) -> list:
        return [leaf for leaf, there in kinds.get(kind, ()) if there]

    return Chart(
        phenotypes={leaf.phenotype for leaf in present("phenotype")},
        drug_classes={leaf.drug_class for leaf in present("drug_class")},
        home_drug_classes={leaf.home_drug_class for leaf in present("home_drug_class")},
        labs=_labs(kinds.get("lab", [])),
        derived=_derived(kinds.get("derived", [])),
        procedures=[((leaf.procedure.group,), 0) for leaf in present("procedure")],
        age=_age(kinds.get("age", [])),
        sex=_sex(kinds.get("sex", [])),
    )


def _labs(wanted: Sequence[Wanted]) -> dict[int, tuple]:
    bounds: dict[int, list[Wanted]] = {}
    for leaf, there in wanted:
        bounds.setdefault(leaf.lab.itemid[0], []).append((leaf, there))
    return {
        item: (_between(found, "lab"), found[0][0].lab.unit, 0)
        for item, found in bounds.items()
        if any(there for _, there in found)
    }


def _derived(wanted: Sequence[Wanted]) -> dict[str, tuple]:
    bounds: dict[str, list[Wanted]] = {}
    for leaf, there in wanted:
        bounds.setdefault(leaf.derived.value, []).append((leaf, there))
    return {
        value: (_between(found, "derived"), "", 0, ())
        for value, found in bounds.items()
        if any(there for _, there in found)
    }


def _between(wanted: Sequence[Wanted], name: str) -> float:
    """A value above all that it must be above, and below the rest."""
    low, high = [], []
    for leaf, there in wanted:
        bound = getattr(leaf, name)
        above, below = bound.above, bound.below
        if above is not None:
            (low if there else high).append(above)
        if below is not None:
            (high if there else low).append(below)
    if low and high:
        return (max(low) + min(high)) / 2
    return max(low) * 1.01 + 0.01 if low else min(high) * 0.99 - 0.01


def _age(wanted: Sequence[Wanted]) -> int | None:
    ages = [
        age for age in range(18, 92) if all(leaf.holds(Chart(age=age)) == t for leaf, t in wanted)
    ]
    return ages[len(ages) // 2] if wanted and ages else None


def _sex(wanted: Sequence[Wanted]) -> str | None:
    for leaf, there in wanted:
        return leaf.sex if there else {"F": "M", "M": "F"}[leaf.sex]
    return None
