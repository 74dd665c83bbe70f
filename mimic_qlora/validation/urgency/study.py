"""The visits of one run with all that was said of them, and the studies that are made of these."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mimic_qlora.tasks.urgency.visits import Visit
from mimic_qlora.validation.urgency import endpoint, population
from mimic_qlora.validation.urgency.asked import Part, Shown
from mimic_qlora.validation.urgency.drawn import EMERGENCY, Drawn
from mimic_qlora.validation.urgency.endpoint import Bools, Floats, Study
from mimic_qlora.validation.urgency.undertriage import LEFT, RETURNED

PRIMARY = frozenset({EMERGENCY})
SECONDARY = frozenset({"A", "B"})
URGENT = 2  # the nurse's "level 1 or 2"


class Split(NamedTuple):
    """The visits drawn of a split, with their charts.

    `said` has the probability of each level [visits, levels] by arm and part, nan where a part was
    not asked; `risks` those of the simple models by target, model and part [visits].
    """

    name: str
    drawn: Drawn
    shown: Sequence[Shown]
    said: Mapping[tuple[str, Part], Floats]
    risks: Mapping[tuple[frozenset[str], str, Part], Floats]

    def scores(self, target: frozenset[str], arm: str, part: Part = Part.ALL) -> Floats:
        """Return by which score an arm tells a target [visits], nan where it was not asked."""
        if (arm, part) not in self.said:
            return self.risks.get((target, arm, part), np.full(len(self.shown), np.nan))
        columns = [population.LEVELS.index(level) for level in sorted(target)]
        found: Floats = self.said[arm, part][:, columns].sum(axis=1)
        return found

    def levels(self, arm: str) -> list[str]:
        """Return the level that an arm finds most probable, of each visit."""
        return [population.LEVELS[i] for i in self.said[arm, Part.ALL].argmax(axis=1)]


# What becomes of a level in an analysis: itself, another, or None where the visit is left out.
Treat = Callable[[str], "str | None"]


def _without_returned(level: str) -> str | None:
    return None if level == RETURNED else level


def _left_as_d(level: str) -> str | None:
    return "D" if level in LEFT else level


def _left_as_lost(level: str) -> str | None:
    return None if level in LEFT else level


def as_labelled(level: str) -> str | None:
    """Return the level itself: those of their own count as visits that are no emergencies."""
    return level


ANALYSES: dict[str, Treat] = {
    "primary": as_labelled,
    "D-returned left out": _without_returned,
    "left early as D": _left_as_d,
    "left early as lost": _left_as_lost,
}


@dataclass(frozen=True)
class Visits:
    """The visits of a run: those of validation, then those of test where they are asked."""

    splits: Sequence[Split]
    seed: int

    @cached_property
    def every(self) -> list[Visit]:
        """Return all visits drawn, in the order of all arrays."""
        return [one.visit for split in self.splits for one in split.shown]

    @cached_property
    def weight(self) -> Floats:
        """Return how many visits of its split's population each stands for [visits]."""
        return np.concatenate([split.drawn.weight for split in self.splits])

    @cached_property
    def asked(self) -> Bools:
        """Return the visits of the split that is asked about, the last [visits]."""
        sizes = [len(split.shown) for split in self.splits]
        return np.repeat(np.arange(len(sizes)) == len(sizes) - 1, sizes)

    def levels(self, treat: Treat = as_labelled) -> list[str | None]:
        """Return the level of each visit in an analysis."""
        return [treat(visit.level) for visit in self.every]

    def scores(self, target: frozenset[str], arm: str, part: Part = Part.ALL) -> Floats:
        """Return the scores of an arm [visits]."""
        return np.concatenate([split.scores(target, arm, part) for split in self.splits])

    def said(self, arm: str) -> list[str]:
        """Return the level that an arm finds most probable, of each visit."""
        return [level for split in self.splits for level in split.levels(arm)]

    def study(
        self, target: Collection[str], treat: Treat = as_labelled, keep: Bools | None = None
    ) -> Study:
        """Return the study of a target; visits that are left out are in no turn."""
        levels = self.levels(treat)
        patient = np.array([visit.subject_id for visit in self.every], dtype=np.int64)
        positive = np.array([level in target for level in levels], dtype=bool)
        here = np.array([level is not None for level in levels], dtype=bool)
        fold = endpoint.folds(patient, positive, self.seed)
        if len(self.splits) > 1:
            turns = [endpoint.Turn(~self.asked & here, self.asked & here)]
        else:
            turns = endpoint.cross_fitted(fold)
            turns = [endpoint.Turn(turn.fitted & here, turn.held & here) for turn in turns]
        if keep is not None:
            turns = [turn._replace(held=turn.held & keep) for turn in turns]
        emergency = np.array([visit.level == EMERGENCY for visit in self.every], dtype=bool)
        nurse = np.array([(visit.acuity or 9) <= URGENT for visit in self.every], dtype=bool)
        stratum = 2 * self.asked.astype(np.int64) + emergency
        return Study(patient, positive, nurse, self.weight, stratum, turns)
