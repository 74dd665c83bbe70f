"""The visits that are asked about: emergencies and others of a split, drawn apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.step import seeded
from mimic_qlora.tasks.urgency.visits import Visit
from mimic_qlora.validation.urgency import population
from mimic_qlora.validation.urgency.endpoint import Floats

LEAST = 300  # emergencies, where there are so many
EMERGENCY = "A"


class Drawn(NamedTuple):
    """The visits drawn, in the order of subject_id, and how many of the population each stands for.

    `there` and `emergencies` count the population: visits of the primary set whose nurse's level is
    known; `no_level` those that were left out since it is not.
    """

    visits: list[Visit]
    weight: Floats
    there: int
    emergencies: int
    no_level: int


def draw(visits: Sequence[Visit], n: int, seed: int) -> Drawn:
    """Draw about n visits of the primary set: half emergencies, LEAST of these where there are.

    At least as many others come with them, and n visits in all, where there are so many.
    """
    primary = sorted((v for v in visits if v.primary), key=lambda visit: visit.subject_id)
    known = [visit for visit in primary if visit.acuity is not None]
    positive = np.array([visit.level == EMERGENCY for visit in known], dtype=bool)
    n_positive = min(int(positive.sum()), max(LEAST, n // 2))
    wanted = {True: n_positive, False: max(n - n_positive, n_positive, LEAST)}
    kept = np.zeros(len(known), dtype=bool)
    for is_positive, most in wanted.items():
        places = {known[i].subject_id: i for i in np.flatnonzero(positive == is_positive)}
        order = seeded.order(places, f"urgency {is_positive}", seed)
        kept[[places[who] for who in order[:most]]] = True
    weight = population.weights(kept, positive)
    return Drawn(
        [visit for visit, taken in zip(known, kept, strict=True) if taken],
        weight[kept],
        len(known),
        int(positive.sum()),
        len(primary) - len(known),
    )
