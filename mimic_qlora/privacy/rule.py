"""The rule: held, exceeded, or cannot tell, from figures with their bounds and p values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mimic_qlora.privacy.separation import LEVEL
from mimic_qlora.validation.statistics import holm

HELD, EXCEEDED, CANNOT_TELL = "held", "exceeded", "cannot tell"


class Limits(BaseModel):
    """The content of audit.yaml: below which each figure must lie for "held"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    auc: Annotated[float, Field(gt=0.5, le=1)]
    tpr: Annotated[float, Field(gt=0.01, le=1)]
    exposure: Annotated[float, Field(gt=1.44, le=10)]
    extraction: Annotated[float, Field(gt=0, le=1)]
    gap: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Criterion:
    """A figure that the rule looks at.

    `upper` is its one-sided 95% bound, `p` is one-sided against `no_leak`, what it is where nothing
    leaks.
    """

    name: str
    what: str  # the limit that it must lie under
    value: float
    low: float
    high: float
    upper: float
    p: float
    no_leak: float
    limit: float

    @property
    def is_held(self) -> bool:
        """Return whether the upper bound lies under the limit."""
        return self.upper < self.limit


@dataclass(frozen=True)
class Decision:
    """What the rule says, why, the adjusted p of each criterion, and the worst of them."""

    verdict: str
    why: str
    adjusted: dict[str, float]
    worst: Criterion


def decide(criteria: Sequence[Criterion], void: str = "") -> Decision:
    """Apply the rule; `void` is the reason for which a comparison shows nothing, or "".

    Exceeded where a figure lies above what it is without a leak, after Holm over all; held where
    every upper bound lies under its limit.
    """
    found = holm({one.name: one.p for one in criteria})
    adjusted = {name: p for name, p in found.items() if p is not None}
    worst = min(criteria, key=lambda one: (adjusted[one.name], one.limit - one.upper))
    if void:
        return Decision(CANNOT_TELL, void, adjusted, worst)
    above = [one for one in criteria if adjusted[one.name] < 1 - LEVEL]
    if above:
        why = f"{_names(above)} lies above what it is where nothing leaks"
        return Decision(EXCEEDED, why, adjusted, worst)
    wide = [one for one in criteria if not one.is_held]
    if not wide:
        return Decision(HELD, "every upper bound lies under its limit", adjusted, worst)
    worst = max(wide, key=lambda one: one.upper - one.limit)
    why = f"the upper bound of {_names(wide)} is not under its limit: more patients would tell"
    return Decision(CANNOT_TELL, why, adjusted, worst)


def _names(criteria: Sequence[Criterion]) -> str:
    names = [one.name for one in criteria]
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
