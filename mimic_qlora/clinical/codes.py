"""Phenotypes of ICD codes and classes of drug orders."""

import re
from collections.abc import Iterable
from functools import lru_cache

from mimic_qlora.clinical.content import load

_Prefixes = dict[tuple[int, str], set[str]]  # (ICD version, prefix) -> ids of phenotypes


@lru_cache
def _by_prefix() -> tuple[_Prefixes, _Prefixes]:
    """Return the prefixes that include phenotypes, and those that exclude them."""
    included: _Prefixes = {}
    excluded: _Prefixes = {}
    for name, entry in load().phenotypes.items():
        for version, prefixes in ((9, entry.icd9), (10, entry.icd10)):
            for prefix in prefixes:
                included.setdefault((version, prefix), set()).add(name)
        for version, prefixes in ((9, entry.exclude9), (10, entry.exclude10)):
            for prefix in prefixes:
                excluded.setdefault((version, prefix), set()).add(name)
    return included, excluded


@lru_cache(maxsize=200_000)
def phenotypes_of_code(icd_code: str, icd_version: int | str) -> tuple[str, ...]:
    """Return the ids of the phenotypes that a code stands for, in file order."""
    code, version = icd_code.strip().upper().replace(".", ""), int(icd_version)
    prefixes = [(version, code[:length]) for length in range(1, len(code) + 1)]
    included, excluded = _by_prefix()
    found: set[str] = set()
    for prefix in prefixes:
        found |= included.get(prefix, set())
    for prefix in prefixes:
        found -= excluded.get(prefix, set())
    return tuple(name for name in load().phenotypes if name in found)


def phenotypes_of(codes: Iterable[tuple[str, int | str]]) -> list[str]:
    """Return the phenotypes of (icd_code, icd_version) pairs, each once, in file order."""
    found = set().union(*(phenotypes_of_code(*code) for code in codes))
    return [name for name in load().phenotypes if name in found]


@lru_cache
def _any_word(words: tuple[str, ...]) -> re.Pattern[str]:
    """Match any of the words as a whole: no 'heparin' in 'heparinized', no 'asa' in 'nasal'."""
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, words))})(?![a-z0-9])")


@lru_cache(maxsize=200_000)
def drug_classes_of(drug: str, route: str | None) -> frozenset[str]:
    """Return the ids of the drug classes of an order (prescriptions.drug, prescriptions.route).

    A class that lists routes needs one of them; an order without a route is then not counted.
    """
    drug = drug.lower()
    return frozenset(
        name
        for name, entry in load().drugs.items()
        if (not entry.routes or (route or "").strip() in entry.routes)
        and _any_word(entry.ingredients).search(drug)
        and not (entry.exclude and _any_word(entry.exclude).search(drug))
    )
