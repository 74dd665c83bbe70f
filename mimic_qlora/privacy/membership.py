"""Membership: how well six attacks, and one that is blind, tell members from non-members."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mimic_qlora.privacy import attacks, people, separation
from mimic_qlora.privacy.attacks import Scored
from mimic_qlora.privacy.cohort import CHOSE, MEMBER, OTHER, Patient
from mimic_qlora.privacy.people import Person
from mimic_qlora.privacy.reading import ANSWER, CHART, Readings
from mimic_qlora.privacy.rule import Criterion, Limits
from mimic_qlora.privacy.separation import Floats, Separation

PARTS = {ANSWER: "answers", CHART: "charts"}
RARE = 0.9  # quantile of the base's loss from which a record counts as rare
EXHAUSTIVE = ("age", "sex", "condition")  # kinds of groups that sum up to all patients
SHUFFLED = 200  # times that membership is shuffled as a control


@dataclass(frozen=True)
class Table:
    """The scores of all patients by part and attack, and whose they are.

    `records` are the scores of single records, `owner` the place of each one's patient.
    """

    patients: Sequence[Patient]
    people: Sequence[Person]
    scores: Mapping[str, Mapping[str, Floats]]  # part -> attack -> [patients]
    records: Mapping[str, Mapping[str, Floats]]  # part -> attack -> [records]
    base_loss: Mapping[str, Floats]  # part -> nats a token [records]
    owner: np.ndarray
    blind: Floats  # scores of the blind baseline, of members and non-members [patients]

    def side(self, name: str) -> np.ndarray:
        """Return which patients are of a side."""
        return np.array([patient.side == name for patient in self.patients])


def table(
    patients: Sequence[Patient],
    who: Sequence[Person],
    readings: Sequence[Sequence[Readings]],
) -> Table:
    """Score every patient of both sides by every attack, on answers and on charts."""
    compared = [i for i, patient in enumerate(patients) if patient.side != CHOSE]
    owner = np.array([n for n, i in enumerate(compared) for _ in readings[i]])
    scores, records, base_loss = {}, {}, {}
    for part in PARTS:
        own = [_scored(patients[i], readings[i], part) for i in compared]
        flat = [one for found in own for one in found]
        general = [
            one
            for patient, found in zip(patients, readings, strict=True)
            if patient.side == CHOSE
            for one in _scored(patient, found, part)
        ]
        records[part] = attacks.of_records(flat, general)
        scores[part] = attacks.of_patients(records[part], owner)
        base_loss[part] = np.array([-one.reading.base / one.reading.n for one in flat])
    chosen = [patients[i] for i in compared]
    of_chosen = [who[i] for i in compared]
    features = people.blind_features(chosen, of_chosen, [readings[i] for i in compared])
    is_member = np.array([patient.side == MEMBER for patient in chosen])
    blind = people.blind_scores(features, is_member)
    return Table(chosen, of_chosen, scores, records, base_loss, owner, blind)


def _scored(patient: Patient, readings: Sequence[Readings], part: str) -> list[Scored]:
    found = []
    for record, reading in zip(patient.records, readings, strict=True):
        text = record.answer if part == ANSWER else record.context
        found.append(Scored(reading[part], attacks.packed(text)))
    return found


def separations(
    of: Table, keep: np.ndarray | None = None, seed: int = 0
) -> dict[tuple[str, str], Separation]:
    """Return how well each attack tells the sides apart; `keep` leaves patients out."""
    keep = np.ones(len(of.patients), bool) if keep is None else keep
    names = [(part, attack) for part in PARTS for attack in attacks.NAMES]
    every = np.array([of.scores[part][attack] for part, attack in names])
    one, two = (every[:, of.side(side) & keep] for side in (MEMBER, OTHER))
    return dict(zip(names, separation.separations(one, two, seed), strict=True))


def blind(of: Table, seed: int = 0) -> Separation:
    """Return how well the sides are told apart without the model."""
    one, two = (of.blind[None, of.side(side)] for side in (MEMBER, OTHER))
    return separation.separations(one, two, seed)[0]


def name_of(part: str, attack: str) -> str:
    """Return an attack as people read it."""
    return f"{attack}, {PARTS[part]}"


def criteria(found: Mapping[tuple[str, str], Separation], limits: Limits) -> list[Criterion]:
    """Return what the rule looks at: the AUC of each attack, and the TPR where it is measured."""
    made = []
    for (part, attack), one in found.items():
        name = name_of(part, attack)
        made.append(Criterion(f"{name}: AUC", "auc", *one.auc, one.auc_p, 0.5, limits.auc))
        if one.tpr is not None and one.tpr_p is not None:
            made.append(
                Criterion(
                    f"{name}: TPR at 1% FPR",
                    "tpr",
                    *one.tpr,
                    one.tpr_p,
                    separation.FPR,
                    limits.tpr,
                )
            )
    return made


def shuffled(of: Table, part: str, attack: str, seed: int = 0) -> float:
    """Return how often shuffled membership has p of 5% at most: the control that must find nothing.

    The p of each of 200 shuffles is that of the audit, by other shuffles.
    """
    scores = of.scores[part][attack]
    rng = np.random.default_rng(seed)
    n = int(of.side(MEMBER).sum())
    null, _ = separation.nulls(scores, n)
    areas = [
        separation.auc(scores[order[:n]], scores[order[n:]])
        for order in (rng.permutation(len(scores)) for _ in range(SHUFFLED))
    ]
    return float(np.mean([separation.p_value(null, area) <= 0.05 for area in areas]))


def groups(of: Table, part: str, attack: str) -> dict[tuple[str, str], tuple[Floats, Floats]]:
    """Return the scores of members and non-members within groups; described, never tested."""
    record_scores = of.records[part][attack]
    tasks = np.array([record.task for p in of.patients for record in p.records])
    rare = of.base_loss[part] >= np.quantile(of.base_loss[part], RARE)
    found = {
        ("task", task): _of_records(of, record_scores, tasks == task)
        for task in dict.fromkeys(tasks.tolist())
    }
    found["rarity", "the tenth that the base finds least likely"] = _of_records(
        of, record_scores, rare
    )
    tells: dict[tuple[str, str], Callable[[Person], bool]] = {
        ("age", "under 65"): lambda one: 0 <= one.age < 65,
        ("age", "65 to 89"): lambda one: 65 <= one.age <= 89,
        ("age", "over 89"): lambda one: one.age > 89,
        ("age", "unknown"): lambda one: one.age < 0,
        ("sex", "female"): lambda one: one.is_female,
        ("sex", "not female"): lambda one: not one.is_female,
        ("condition", "a sensitive one"): lambda one: bool(one.sensitive),
        ("condition", "none of these"): lambda one: not one.sensitive,
    }
    scores = of.scores[part][attack]
    for key, belongs in tells.items():
        which = np.array([belongs(one) for one in of.people])
        found[key] = (scores[which & of.side(MEMBER)], scores[which & of.side(OTHER)])
    return found


def _of_records(of: Table, scores: Floats, which: np.ndarray) -> tuple[Floats, Floats]:
    """Return the mean score, over the records that are meant, of the patients who have any."""
    n = np.bincount(of.owner[which], minlength=len(of.patients))
    total = np.bincount(of.owner[which], scores[which], minlength=len(of.patients))
    mean = total / np.maximum(n, 1)
    return mean[(n > 0) & of.side(MEMBER)], mean[(n > 0) & of.side(OTHER)]
