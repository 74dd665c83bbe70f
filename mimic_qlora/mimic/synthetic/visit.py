"""A visit to the synthetic hospital, as far as its tables need to know of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mimic_qlora.mimic.synthetic.vocabulary import Entry


@dataclass(frozen=True)
class Visit:
    """A visit of one patient; times are shifted, as all in MIMIC."""

    who: dict[str, int]  # subject_id and, in a hospital stay, hadm_id
    hadm_id: int | None  # None outside a hospital stay
    reason: Entry  # of reasons.yaml; {} outside a hospital stay
    begin: datetime
    died: bool


@dataclass(frozen=True)
class Stay(Visit):
    """A hospital stay."""

    kind: str  # such as "emergency" or "elective": a key of `kinds` in hospital.yaml
    type: str  # admission_type
    version: int  # of the ICD, 9 or 10
    icu: bool  # it begins in intensive care
    end: datetime
    ed_in: datetime | None  # in the emergency department, None for who comes another way
    ed_out: datetime | None
    has_emar: bool
    drugs: list[str]  # keys of those ordered

    @property
    def days(self) -> float:
        """Length of the stay."""
        return (self.end - self.begin).total_seconds() / 86400


@dataclass(frozen=True)
class IcuStay:
    """A stay in intensive care."""

    who: dict[str, Any]  # subject_id, hadm_id, stay_id
    begin: datetime
    end: datetime
