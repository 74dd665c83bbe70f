"""The half of the validation patients by whose loss the checkpoint is chosen.

The other half chooses nothing: they are what the memorisation audit compares the training patients
with. Were they the same, a checkpoint that is best on them would hide what it has memorised.
"""

from collections.abc import Iterable

from mimic_qlora.step import seeded


def choosing(patients: Iterable[int]) -> frozenset[int]:
    """Return the half of the validation patients that chooses, by hash; of an odd number more."""
    ordered = seeded.order(sorted(set(patients)), "selection", 0)
    return frozenset(ordered[: (len(ordered) + 1) // 2])
