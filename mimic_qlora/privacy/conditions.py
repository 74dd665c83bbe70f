"""Sensitive conditions by the beginnings of their codes: those that a leak would harm most."""

from collections.abc import Iterable
from typing import NamedTuple


class Codes(NamedTuple):
    """The beginnings of a condition's codes, and of those that are none; without dots."""

    icd10: tuple[str, ...]
    icd9: tuple[str, ...]
    not10: tuple[str, ...] = ()
    not9: tuple[str, ...] = ()


SENSITIVE = {
    "HIV": Codes(("B20", "Z21", "O987"), ("042", "V08")),
    "substance use": Codes(
        tuple(f"F1{n}" for n in range(10)),
        ("291", "292", "303", "304", "305"),
        ("F17",),
        ("3051",),
    ),
    "psychiatric": Codes(
        tuple(f"F{n}" for n in range(20, 49)),
        (*(str(n) for n in range(295, 303)), "308", "309", "311"),
    ),
    "pregnancy": Codes(
        ("O", "Z33", "Z34"), (*(str(n) for n in range(630, 680)), "V22", "V23"), ("O987",)
    ),
}


def of_codes(codes: Iterable[tuple[str, int]]) -> frozenset[str]:
    """Return the sensitive conditions that (icd_code, icd_version) pairs stand for."""
    found = set()
    for code, version in codes:
        code = code.strip().upper().replace(".", "")
        for name, known in SENSITIVE.items():
            begins, not_these = (
                (known.icd9, known.not9) if int(version) == 9 else (known.icd10, known.not10)
            )
            if code.startswith(begins) and not code.startswith(not_these or ("\0",)):
                found.add(name)
    return frozenset(found)
