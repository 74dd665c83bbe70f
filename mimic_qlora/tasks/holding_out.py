"""What is held out of the training: drawn once by hash of a key, in strata, and written as flags.

A held-out caution tests one of two things: an action that trained cautions ask for as well, for a
reason never trained on; or an action never trained on. Both are drawn apart and reported apart.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Caution, Question, Symptom
from mimic_qlora.step import seeded
from mimic_qlora.tasks import guidance

SEED = 2026  # changed only to draw anew, which makes earlier results incomparable
SHARE = 0.22  # of the cautions
N_SYMPTOMS = 12
# the questions of the first version of this pipeline, on symptoms never trained on
ALWAYS = (
    "cough",
    "heartburn",
    "leg_pain",
    "chest_discomfort",
    "burning_urination",
    "headache",
    "short_of_breath",
    "new_rash",
)
Stratum = Literal["new reason", "new action"]
STRATA: tuple[Stratum, ...] = ("new reason", "new action")


def acts(rule: Caution) -> frozenset[str]:
    """Return what a caution asks for: its tags, and its warning signs with their level."""
    signs = {f"{sign}: {rule.level}" for sign in rule.signs}
    return frozenset({*rule.tells, *signs} or {rule.id})


@cache
def stratum(rule_id: str) -> Stratum:
    """Return what a held-out caution tests, given the cautions that are trained on."""
    rules = content.load().cautions
    trained = [rule for rule in rules.values() if not rule.held_out]
    return _stratum(rules[rule_id], trained)


def _stratum(rule: Caution, others: Sequence[Caution]) -> Stratum:
    known = {act for other in others if other is not rule for act in acts(other)}
    return "new reason" if acts(rule) <= known else "new action"


def symptoms(asked: Sequence[str]) -> set[str]:
    """Return the symptoms to hold out: those always held out, then by hash of those `asked`.

    `asked` are the symptoms of symptoms.yaml that a question of the validation is about.
    """
    more = [s for s in seeded.order(sorted(asked), "symptoms held out", SEED) if s not in ALWAYS]
    return {*ALWAYS, *more[: N_SYMPTOMS - len(ALWAYS)]}


def cautions(rules: Mapping[str, Caution], never_trained: Sequence[content.AnySymptom]) -> set[str]:
    """Return the cautions to hold out: the same share of both strata, by hash.

    `never_trained` are the symptoms of questions on what is never trained on: a caution that bears
    on none of them could not count. Every act of a "new reason" stays in a trained caution.
    """
    order = seeded.order(sorted(rules), "cautions held out", SEED)
    everything = list(rules.values())
    strata: dict[Stratum, list[str]] = {"new reason": [], "new action": []}
    for name in order:
        strata[_stratum(rules[name], everything)].append(name)
    chosen: set[str] = set()
    for kind, names in strata.items():
        for name in names:
            trained = [rule for i, rule in rules.items() if i not in chosen and i != name]
            if (
                len(chosen.intersection(names)) < round(SHARE * len(names))
                and any(guidance.bearing(rules[name], s) > 1 for s in never_trained)
                and _stratum(rules[name], trained) == kind
                and all(
                    _stratum(rules[i], trained) == "new reason"
                    for i in chosen.intersection(strata["new reason"])
                )
            ):
                chosen.add(name)
    return chosen


def sentences(symptoms: Mapping[str, Symptom]) -> set[str]:
    """Return the sentences that no training answer has: by hash, one of `try` and one of `track` of
    each symptom that is trained on.

    They are of this symptom alone and fit every chart, so that only other answers are new by them.
    Warning signs stay: all answers need them.
    """
    said = Counter(line.say for one in symptoms.values() for line in (*one.self_care, *one.track))
    chosen = set()
    for symptom in symptoms.values():
        for part in () if symptom.held_out else (symptom.self_care, symptom.track):
            free = [x.say for x in part if said[x.say] == 1 and not x.unless and x.when is None]
            chosen.update(seeded.order(free, "sentences held out", SEED)[:1])
    return chosen


def never_trained(questions: Sequence[Question], held_out: set[str]) -> list[content.AnySymptom]:
    """Return the symptoms of the questions that are about what is never trained on."""
    found = [content.symptom_of(question) for question in questions]
    listed = content.load().symptoms
    return [symptom for symptom in found if symptom.id in held_out or symptom.id not in listed]
