"""Phenotypes of ICD codes and classes of drug orders."""

import re
from functools import lru_cache

from mimic_qlora.clinical.content import load


@lru_cache
def _by_prefix():
    included, excluded = {}, {}
    for name, phenotype in load().phenotypes.items():
        for version in (9, 10):
            for prefix in phenotype[f"icd{version}"]:
                included.setdefault((version, prefix), set()).add(name)
            for prefix in phenotype.get(f"exclude{version}", []):
                excluded.setdefault((version, prefix), set()).add(name)
    return included, excluded


@lru_cache(maxsize=200_000)
def phenotypes_of_code(icd_code, icd_version):
    """Phenotype ids, in file order, that a code stands for; an unknown code gives none."""
    code, version = icd_code.strip(), int(icd_version)
    prefixes = [(version, code[:length]) for length in range(1, len(code) + 1)]
    included, excluded = (
        set().union(*(table.get(prefix, ()) for prefix in prefixes)) for table in _by_prefix()
    )
    return tuple(name for name in load().phenotypes if name in included - excluded)


def phenotypes_of(codes):
    """The same of several (icd_code, icd_version) pairs, each id once."""
    found = set().union(*(phenotypes_of_code(*code) for code in codes))
    return [name for name in load().phenotypes if name in found]


@lru_cache
def _word(words):
    """Any of the words as a whole word: 'heparin' is not in 'heparinized', 'asa' not in 'nasal'."""
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, words))})(?![a-z0-9])")


@lru_cache(maxsize=200_000)
def drug_classes_of(drug, route):
    """Ids of the drug classes of one order (prescriptions.drug, prescriptions.route or None), as a frozenset.

    A class that lists routes needs one of them: an order without a route is then not counted.
    """
    drug = drug.lower()
    return frozenset(
        name
        for name, entry in load().drugs.items()
        if (not entry["routes"] or (route or "").strip() in entry["routes"])
        and _word(tuple(entry["ingredients"])).search(drug)
        and not (entry["exclude"] and _word(tuple(entry["exclude"])).search(drug))
    )
