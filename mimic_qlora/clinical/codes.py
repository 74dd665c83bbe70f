"""Phenotypes of ICD codes, groups of procedures, and classes of drug orders."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from mimic_qlora.clinical.content import load
from mimic_qlora.clinical.fields import begins
from mimic_qlora.clinical.schema import Coded, DrugClass


class _Side:
    """The prefixes of all entries that include codes, or of all that exclude them.

    Plain prefixes are looked up, since there are a hundred thousand codes. Those with a "?", which
    does not come first, are tried one by one.
    """

    def __init__(self, prefixes: Iterable[tuple[str, int, tuple[str, ...]]]) -> None:
        self._plain: dict[tuple[int, str], set[str]] = {}
        self._shaped: dict[tuple[int, str], list[tuple[str, tuple[str, ...]]]] = {}
        for name, version, starts in prefixes:
            for start in starts:
                if "?" not in start:
                    self._plain.setdefault((version, start), set()).add(name)
            for letter in sorted({start[0] for start in starts if "?" in start}):
                alike = tuple(s for s in starts if s[0] == letter and "?" in s)
                self._shaped.setdefault((version, letter), []).append((name, alike))

    def names(self, code: str, version: int) -> set[str]:
        """Return the entries with a prefix of the code."""
        found: set[str] = set()
        for length in range(1, len(code) + 1):
            found |= self._plain.get((version, code[:length]), set())
        for name, shaped in self._shaped.get((version, code[:1]), ()):
            if begins(code, shaped):
                found.add(name)
        return found


class _Book:
    """The entries of a file by the codes that they stand for."""

    def __init__(self, entries: Mapping[str, Coded]) -> None:
        self._names = list(entries)
        self._included = _Side(
            (name, version, starts)
            for name, entry in entries.items()
            for version, starts in ((9, entry.icd9), (10, entry.icd10))
        )
        self._excluded = _Side(
            (name, version, starts)
            for name, entry in entries.items()
            for version, starts in ((9, entry.exclude9), (10, entry.exclude10))
        )

    def of(self, icd_code: str, icd_version: int | str) -> tuple[str, ...]:
        """Return the ids of the entries that a code stands for, in file order."""
        code, version = icd_code.strip().upper().replace(".", ""), int(icd_version)
        found = self._included.names(code, version)
        if not found:
            return ()
        found -= self._excluded.names(code, version)
        return tuple(name for name in self._names if name in found)


@lru_cache
def _diagnoses() -> _Book:
    return _Book(load().phenotypes)


@lru_cache
def _procedures() -> _Book:
    return _Book(load().procedures)


@lru_cache(maxsize=200_000)
def phenotypes_of_code(icd_code: str, icd_version: int | str) -> tuple[str, ...]:
    """Return the ids of the phenotypes that a code stands for, in file order."""
    return _diagnoses().of(icd_code, icd_version)


def phenotypes_of(codes: Iterable[tuple[str, int | str]]) -> list[str]:
    """Return the phenotypes of (icd_code, icd_version) pairs, each once, in file order."""
    found = set().union(*(phenotypes_of_code(*code) for code in codes))
    return [name for name in load().phenotypes if name in found]


@lru_cache(maxsize=200_000)
def procedures_of_code(icd_code: str, icd_version: int | str) -> tuple[str, ...]:
    """Return the ids of the procedure groups that a code belongs to, in file order."""
    return _procedures().of(icd_code, icd_version)


@lru_cache
def _any_word(words: tuple[str, ...]) -> re.Pattern[str]:
    """Match any of the words as a whole: no 'heparin' in 'heparinized', no 'asa' in 'nasal'."""
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, words))})(?![a-z0-9])")


@lru_cache(maxsize=200_000)
def drug_classes_of(
    drug: str, route: str | None, dose: str | None = None, unit: str | None = None
) -> frozenset[str]:
    """Return the ids of the drug classes of an order.

    The arguments are its columns drug, route, dose_val_rx and dose_unit_rx. A class that lists
    routes, or a least dose of the ingredient, needs them; an order without them is not counted.
    """
    drug = drug.lower()
    return frozenset(
        name
        for name, entry in load().drugs.items()
        if (not entry.routes or (route or "").strip() in entry.routes)
        and names_ingredient(entry, drug)
        and not (entry.exclude and _any_word(entry.exclude).search(drug))
        and _is_enough(entry, drug, dose, unit)
    )


@lru_cache(maxsize=200_000)
def home_drug_classes_of(name: str) -> frozenset[str]:
    """Return the ids of the drug classes of a medicine that was told as taken at home.

    Nobody says by which route it is taken, nor always its dose: a class that lists routes counts by
    its names, and none that needs a least dose of the ingredient named does.
    """
    name = name.lower()
    return frozenset(
        i
        for i, entry in load().drugs.items()
        if names_ingredient(entry, name)
        and not (entry.exclude and _any_word(entry.exclude).search(name))
        and _is_enough(entry, name, None, None)
    )


def names_ingredient(entry: DrugClass, drug: str) -> bool:
    """Return whether a drug names an ingredient of a class, as a whole word."""
    return _any_word(entry.ingredients).search(drug.lower()) is not None


def _is_enough(entry: DrugClass, drug: str, dose: str | None, unit: str | None) -> bool:
    """Return whether the dose is one that counts; of a range ("40-60") the greater number."""
    for ingredient, least in entry.least_dose.items():
        if _any_word((ingredient,)).search(drug):
            numbers = re.findall(r"\d+(?:\.\d+)?", (dose or "").replace(",", ""))
            same_unit = (unit or "").strip().lower() == least.unit.lower()
            return same_unit and max(map(float, numbers), default=0.0) >= least.dose
    return True
