"""Conditions of a caution (its field `when`): one model each, with its test on a chart's facts.

A condition is a mapping with one key, its kind: {phenotype: id}, {lab: {...}}, {any: [...]}.
A new kind is a class here and a line in `Condition`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import Discriminator, Field, StrictInt, StrictStr, Tag, model_validator

from mimic_qlora.clinical import derived
from mimic_qlora.clinical.fields import Model, Number, Text


class Facts(Protocol):
    """The facts of a chart that conditions are matched with."""

    @property
    def phenotypes(self) -> Collection[str]:
        """The ids of the phenotypes that count."""
        ...

    @property
    def drug_classes(self) -> Collection[str]:
        """The ids of the drug classes ordered during the last stay."""
        ...

    @property
    def home_drug_classes(self) -> Collection[str]:
        """The ids of the drug classes that the newest emergency visit was told of."""
        ...

    @property
    def labs(self) -> Mapping[int, tuple[float | None, str | None, int]]:
        """The latest result by itemid, the newest first: value, unit and age in days."""
        ...

    @property
    def derived(self) -> Mapping[str, tuple[float, str, int, tuple[object, ...]]]:
        """The values that follow from results: value, unit, age in days, and their rows."""
        ...

    @property
    def procedures(self) -> Sequence[tuple[Collection[str], int]]:
        """The coded procedures: the ids of their groups and days ago."""
        ...

    @property
    def age(self) -> int | None:
        """The age in years."""
        ...

    @property
    def sex(self) -> str | None:
        """The recorded sex, "F" or "M"."""
        ...


class Names(NamedTuple):
    """Names by id, as a patient would hear them."""

    phenotypes: Mapping[str, str]
    drugs: Mapping[str, str]
    procedures: Mapping[str, str]


class _Bound(Model):
    """A bound of a value: exactly one of `above`, `below`."""

    above: Number | None = None
    below: Number | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("needs either 'above' or 'below'")
        return self

    def passed(self, value: float) -> bool:
        """Return whether the value lies beyond the bound."""
        return value > self.above if self.above is not None else value < (self.below or 0)

    @property
    def in_words(self) -> str:
        """The bound in words."""
        return f"below {self.below}" if self.above is None else f"above {self.above}"


class LabBound(_Bound):
    """A latest lab result above or below a bound.

    `itemid`: items of labevents that measure the same, `name` what they measure, for people;
    `unit` as in valueuom, "" where the lab has none; `within_days`: greatest age of the result in
    days.
    """

    name: Text | None = None
    itemid: Annotated[tuple[StrictInt, ...], Field(min_length=1)]
    unit: StrictStr
    within_days: Number


class AgeRange(Model):
    """Age in whole years: at least `at_least`, and below `below`, where they are given."""

    at_least: Number | None = None
    below: Number | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> "AgeRange":
        if self.at_least is None and self.below is None:
            raise ValueError("needs 'at_least' or 'below'")
        return self


class DerivedBound(_Bound):
    """A value that follows from results, above or below a bound.

    "egfr": estimated kidney filtration in mL/min/1.73 m2, from creatinine, age and sex;
    "neutrophils": their number in K/uL, counted or white cells times percent.
    """

    value: Literal["egfr", "neutrophils"]
    within_days: Number


class RecentProcedure(Model):
    """A coded procedure of a group (id), done at most `within_days` days ago."""

    group: Text
    within_days: Number

    def fits(self, groups: Collection[str], days_ago: int) -> bool:
        """Return whether a row of procedures_icd is of this group, lately enough."""
        return 0 <= days_ago <= self.within_days and self.group in groups


class _Condition(Model):
    """Base of all conditions."""

    kind: ClassVar[str]

    def holds(self, facts: Facts) -> bool:
        """Return whether the condition holds for a chart."""
        raise NotImplementedError

    def in_words(self, names: Names) -> str:
        """Return the charts that the condition selects, as a clinician reads it."""
        raise NotImplementedError


class _Group(_Condition):
    """Base of conditions that are made of conditions."""

    parts: tuple["Condition", ...]

    def _joined(self, names: Names, word: str) -> str:
        return word.join(
            f"({part.in_words(names)})"
            if isinstance(part, (AnyOf, AllOf)) and len(part.parts) > 1
            else part.in_words(names)
            for part in self.parts
        )


class AnyOf(_Group):
    """Holds when one of its parts does."""

    kind = "any"
    parts: Annotated[tuple["Condition", ...], Field(alias="any", min_length=1)]

    def holds(self, facts: Facts) -> bool:
        return any(part.holds(facts) for part in self.parts)

    def in_words(self, names: Names) -> str:
        return self._joined(names, " or ")


class AllOf(_Group):
    """Holds when all of its parts do."""

    kind = "all"
    parts: Annotated[tuple["Condition", ...], Field(alias="all", min_length=1)]

    def holds(self, facts: Facts) -> bool:
        return all(part.holds(facts) for part in self.parts)

    def in_words(self, names: Names) -> str:
        return self._joined(names, " and ")


class NoneOf(_Group):
    """Holds when none of its parts does."""

    kind = "none"
    parts: Annotated[tuple["Condition", ...], Field(alias="none", min_length=1)]

    def holds(self, facts: Facts) -> bool:
        return not any(part.holds(facts) for part in self.parts)

    def in_words(self, names: Names) -> str:
        said = self._joined(names, " or ")
        return f"not ({said})" if len(self.parts) > 1 else f"not {said}"


class HasPhenotype(_Condition):
    """A diagnosis of this phenotype (id) counts for the chart."""

    kind = "phenotype"
    phenotype: Text

    def holds(self, facts: Facts) -> bool:
        return self.phenotype in facts.phenotypes

    def in_words(self, names: Names) -> str:
        return f"a diagnosis of {names.phenotypes[self.phenotype]}"


class HasDrug(_Condition):
    """A drug of this class (id) was ordered during the last stay."""

    kind = "drug_class"
    drug_class: Text

    def holds(self, facts: Facts) -> bool:
        return self.drug_class in facts.drug_classes

    def in_words(self, names: Names) -> str:
        return f"an order for {names.drugs[self.drug_class]}"


class HasHomeDrug(_Condition):
    """A drug of this class (id) was told as taken at home, at the newest emergency visit."""

    kind = "home_drug_class"
    home_drug_class: Text

    def holds(self, facts: Facts) -> bool:
        return self.home_drug_class in facts.home_drug_classes

    def in_words(self, names: Names) -> str:
        return f"{names.drugs[self.home_drug_class]} among the medicines taken at home"


class HasLab(_Condition):
    """The newest result of these lab items is recent, in this unit and beyond the bound."""

    kind = "lab"
    lab: LabBound

    def holds(self, facts: Facts) -> bool:
        lab, labs = self.lab, facts.labs
        values = [latest for item, latest in labs.items() if item in lab.itemid]
        if not values:
            return False
        value, unit, days_ago = min(values, key=lambda latest: latest[2])
        if (
            value is None
            or not 0 <= days_ago <= lab.within_days
            or (unit or "").strip() != lab.unit
        ):
            return False
        return lab.passed(value)

    def in_words(self, names: Names) -> str:
        items = f"lab item {' or '.join(map(str, self.lab.itemid))}"
        level = f"{self.lab.in_words} {self.lab.unit}".strip()
        days = self.lab.within_days
        return f"a latest {self.lab.name or items} {level}, at most {days} days old"


class HasDerived(_Condition):
    """A value that follows from recent results is beyond the bound."""

    kind = "derived"
    derived: DerivedBound

    def holds(self, facts: Facts) -> bool:
        found = facts.derived.get(self.derived.value)
        if found is None:
            return False
        value, _, days_ago, _ = found
        return 0 <= days_ago <= self.derived.within_days and self.derived.passed(value)

    def in_words(self, names: Names) -> str:
        meaning, days = derived.MEANINGS[self.derived.value], self.derived.within_days
        level = f"{self.derived.in_words} {meaning.unit}"
        return f"{meaning.words} {level}, from results at most {days} days old"


class HasAge(_Condition):
    """The age is known and within a range."""

    kind = "age"
    age: AgeRange

    def holds(self, facts: Facts) -> bool:
        age, years = self.age, facts.age
        return (
            years is not None
            and (age.at_least is None or age.at_least <= years)
            and (age.below is None or years < age.below)
        )

    def in_words(self, names: Names) -> str:
        bounds = [("at least", self.age.at_least), ("below", self.age.below)]
        return " and ".join(f"age {word} {years}" for word, years in bounds if years is not None)


class HasSex(_Condition):
    """The recorded sex (patients.gender) is this one."""

    kind = "sex"
    sex: Literal["F", "M"]

    def holds(self, facts: Facts) -> bool:
        return bool(facts.sex == self.sex)

    def in_words(self, names: Names) -> str:
        return "female" if self.sex == "F" else "male"


class HadProcedure(_Condition):
    """A procedure of this group was done lately."""

    kind = "procedure"
    procedure: RecentProcedure

    def holds(self, facts: Facts) -> bool:
        return any(self.procedure.fits(*done) for done in facts.procedures)

    def in_words(self, names: Names) -> str:
        name = names.procedures[self.procedure.group]
        return f"{name} in the last {self.procedure.within_days} days"


def _kind(value: object) -> str | None:
    """Return the kind of a condition: the only key of its mapping."""
    if isinstance(value, _Condition):
        return value.kind
    return str(next(iter(value))) if isinstance(value, dict) and len(value) == 1 else None


Leaf = HasPhenotype | HasDrug | HasHomeDrug | HasLab | HasDerived | HasAge | HasSex | HadProcedure
Condition = Annotated[
    Annotated[AnyOf, Tag("any")]
    | Annotated[AllOf, Tag("all")]
    | Annotated[NoneOf, Tag("none")]
    | Annotated[HasPhenotype, Tag("phenotype")]
    | Annotated[HasDrug, Tag("drug_class")]
    | Annotated[HasHomeDrug, Tag("home_drug_class")]
    | Annotated[HasLab, Tag("lab")]
    | Annotated[HasDerived, Tag("derived")]
    | Annotated[HasAge, Tag("age")]
    | Annotated[HasSex, Tag("sex")]
    | Annotated[HadProcedure, Tag("procedure")],
    Discriminator(_kind),
]


def leaves(condition: Condition, negated: bool = True) -> Iterator[Leaf]:
    """Yield the conditions that look at the chart, in order; those under `none` if `negated`."""
    if not isinstance(condition, _Group):
        yield condition
    elif negated or not isinstance(condition, NoneOf):
        for part in condition.parts:
            yield from leaves(part, negated)
