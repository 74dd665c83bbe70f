"""The guidance task: the cautions that a chart calls for, the gold answer, and its rubric."""

import contextlib
from collections.abc import Collection, Iterable, Sequence
from functools import cache

from mimic_qlora.chart import columns
from mimic_qlora.chart.columns import Citation
from mimic_qlora.chart.facts import Facts
from mimic_qlora.chart.rows import TableRow
from mimic_qlora.clinical import conditions, conflicts, content, levels, phrases, presumptions
from mimic_qlora.clinical.levels import LevelId
from mimic_qlora.clinical.schema import Caution, NamedFlag, Phrasing, Question, RedFlag, Symptom
from mimic_qlora.step.seeded import pick
from mimic_qlora.tasks import composing
from mimic_qlora.tasks.composing import (
    FIRST_FLAGS,
    MOST_CAUTIONS,
    Patient,
    TooFewSentences,
    called_for,
)
from mimic_qlora.tasks.gold import Criterion, Gold

# Share of patients who are asked about a symptom for which their chart calls for nothing, where
# there is one: who only ever sees cautions learns to say one to everybody.
SILENT_SHARE = 0.2


def bearing(caution: Caution, symptom: content.AnySymptom, asked: Collection[str] = ()) -> int:
    """Return how closely a caution bears on a symptom.

    4: it raises the level of one of its first warning signs, or of one that the question names
    (`asked`), 3: it names the symptom, 2: one of its tags, 1: any symptom, 0: none of these.
    """
    named = set(caution.symptoms)
    if isinstance(symptom, Symptom) and any(
        conflicts.outranked(flag, [caution])
        for place, flag in enumerate(symptom.urgent)
        if place < FIRST_FLAGS or _raises(caution, flag, asked)
    ):
        return 4
    if symptom.id in named:
        return 3
    if not named.isdisjoint(symptom.tags):
        return 2
    return int("any" in named)


def _raises(caution: Caution, flag: RedFlag, asked: Collection[str]) -> bool:
    """Return whether a caution and a red flag share a sign that the question names."""
    return not {*asked}.isdisjoint({*flag.signs} & {*caution.signs})


def severity(caution: Caution, symptom: content.AnySymptom) -> int:
    """Return the severity of leaving a caution out of an answer on a symptom, 1 to 3."""
    return caution.severity_for(symptom.id, symptom.tags)


def cautions_for(
    symptom: content.AnySymptom,
    known: Facts,
    called: Sequence[Caution] | None = None,
    asked: Collection[str] = (),
) -> list[Caution]:
    """Return the cautions that this chart calls for on the symptom, most severe and closest first.

    One that raises the level of a first warning sign, or of one that the question names (`asked`),
    comes before all. Of rules that give the same
    advice for two reasons (no ibuprofen, for kidneys as for blood thinners) the one is kept that
    warns of more; none is left out that warns of anything else. `called` is `called_for(known)`,
    for callers with many symptoms; rules that are equally severe and close keep its order.
    """
    rules = _with_highest_levels(called_for(known) if called is None else called, symptom, asked)
    chosen: list[Caution] = []
    for _, rule in sorted(
        (r for r in rules if r[0]), key=lambda r: (r[0] != 4, -severity(r[1], symptom), -r[0])
    ):
        if any(_covers(c.id, rule.id) for c in chosen):
            continue
        less = [
            c
            for c in chosen
            if _covers(rule.id, c.id) and severity(c, symptom) <= severity(rule, symptom)
        ]
        if less:  # takes the place of the first that it says as well
            chosen[chosen.index(less[0])] = rule
        else:
            chosen.append(rule)
        chosen = [c for c in chosen if c not in less]
    return chosen


def _with_highest_levels(
    called: Sequence[Caution], symptom: content.AnySymptom, asked: Collection[str]
) -> list[tuple[int, Caution]]:
    """Return the rules that stand, each with how closely it bears on the symptom.

    A rule is left out where another has a higher level for its signs, which then takes its place.
    """
    bears = {c.id: bearing(c, symptom, asked) for c in called}
    stands = []
    for rule in called:
        above = conflicts.above(rule, called)
        for other in above:
            bears[other.id] = max(bears[other.id], bears[rule.id])
        if not above:
            stands.append(rule)
    return [(bears[rule.id], rule) for rule in stands]


@cache
def _covers(one: str, other: str) -> bool:
    """Return whether one caution gives the advice of another and warns of all that it warns of."""
    rules = content.load().cautions
    return phrases.said(rules[other], rules[one].say) and conflicts.covers(rules[one], rules[other])


def opening(
    signs: Iterable[str],
    flags: Sequence[RedFlag | NamedFlag],
    cautions: Iterable[Caution],
) -> LevelId | None:
    """Return the level of the line that an answer opens with, None where none is due.

    It is due where the question names a warning sign (`signs`) that `flags` or `cautions` give a
    level that asks for haste.
    """
    given = [*flags, *cautions]
    highest = levels.highest(conflicts.level_of(sign, given) for sign in signs)
    return highest if highest and levels.LEVELS[highest].opening else None


def ideal_for(question: Question, cautions: Sequence[Caution], chart: Facts) -> str:
    """Return the answer that a curated question should get for a chart that calls for `cautions`.

    `chart` are all facts of it: advice that any rule forbids for them is left out.
    """
    symptom = content.symptom_of(question)
    flags = symptom.urgent if isinstance(symptom, Symptom) else ()
    due = opening(question.signs, [*question.red_flags, *flags], cautions)
    return composing.for_chart(question.ideal, cautions, [*cautions, *called_for(chart)], due)


def golds(known: Facts, chart: Facts, n: int, key: str, learned: bool = False) -> list[Gold]:
    """Return at most n questions on different symptoms, those that call for a caution first.

    For a share of patients (SILENT_SHARE, drawn by hash of `key`) those come first that call for
    none, held-out rules counted, so that silence is learned where it is right.
    `known` are the facts that the context shows, on which the cautions rest; `chart` are all, and
    advice that any rule forbids for them is not given. Held-out symptoms and caution rules stay
    out, so that step 7 can tell learning from copying, and where they are to be `learned` held-out
    sentences too.
    """
    called = called_for(known)
    trained = {c.id: c for c in called if not c.held_out}
    patient = composing.patient_of(known, chart)
    silent = is_silent(key)
    asked = []
    for symptom in content.load().symptoms.values():
        phrasings = [] if symptom.held_out else _phrasings(symptom, patient)
        if phrasings:
            # of equally severe rules others come first for other patients
            order = sorted(trained, key=lambda name: pick(f"{key}:{symptom.id}:{name}", 1 << 30))
            phrasing = phrasings[pick(f"{key}:{symptom.id}:phrasing", len(phrasings))]
            ordered = [trained[name] for name in order]
            cautions = [
                c
                for c in cautions_for(symptom, known, ordered, phrasing.signs)
                if not conflicts.above(c, patient.called)
            ]
            left_out = sum(c.held_out and bearing(c, symptom) > 0 for c in called)
            calls = bool(cautions or left_out)
            first = calls if silent else not cautions
            rank = (first, calls and not cautions, left_out, pick(f"{key}:{symptom.id}", 1 << 30))
            asked.append((rank, symptom, phrasing, cautions[:MOST_CAUTIONS]))
    made: list[Gold] = []
    for _, symptom, phrasing, cautions in sorted(asked, key=lambda one: one[0]):
        if len(made) == n:
            break
        with contextlib.suppress(TooFewSentences):  # the next symptom takes its place
            made.append(_gold(symptom, phrasing, cautions, patient, key, learned))
    return made


def is_silent(key: str) -> bool:
    """Return whether a patient is asked first where the chart calls for nothing."""
    return pick(f"{key}:silent", 1000) < 1000 * SILENT_SHARE


def _phrasings(symptom: Symptom, patient: Patient) -> list[Phrasing]:
    """Return the questions on a symptom that a patient may ask.

    Left out are those that the chart does not fit, and those whose answer would open with a level
    that a held-out rule alone gives.
    """
    if not all(_fulfils(symptom.needs, facts) for facts in (patient.shown, patient.chart)):
        return []
    trained = [c for c in patient.called if not c.held_out]
    return [
        one
        for one in symptom.phrasings
        if _fulfils(one.when, patient.shown)
        and not presumptions.unfounded(one.text, patient.shown)
        and opening(one.signs, symptom.urgent, patient.called)
        == opening(one.signs, symptom.urgent, trained)
    ]


def _fulfils(condition: conditions.Condition | None, facts: Facts) -> bool:
    return condition is None or condition.holds(facts)


def _gold(
    symptom: Symptom,
    asked: Phrasing,
    cautions: Sequence[Caution],
    patient: Patient,
    key: str,
    learned: bool,
) -> Gold:
    due = opening(asked.signs, symptom.urgent, patient.called)
    first = composing.first_flags(symptom, cautions, patient, asked.signs)
    return Gold(
        question=asked.text,
        answer=composing.compose(
            symptom, cautions, f"{key}:{symptom.id}", patient, due, asked.signs, learned
        ),
        symptom=symptom.id,
        cautions=[c.id for c in cautions],
        evidence=[row for c in cautions for row in evidence(c, patient.shown)],
        rubric=rubric(symptom, cautions, first, due),
    )


def rubric(
    symptom: Symptom,
    cautions: Sequence[Caution],
    flags: Sequence[RedFlag],
    due: LevelId | None = None,
) -> list[Criterion]:
    """Return what an answer is scored by: cautions by severity, first red flags, its form."""
    rules = [
        Criterion(f"says the caution: {c.say}", severity(c, symptom), ["caution", c.id])
        for c in cautions
    ]
    signs = [Criterion(f"names the warning sign: {flag.say}", 1, ["red_flag"]) for flag in flags]
    form = [Criterion("has the three sections", 1, ["format"])]
    if due:
        form.append(Criterion(f"opens with: {levels.LEVELS[due].opening}", 1, ["format"]))
    return [*rules, *signs, *form]


def evidence(caution: Caution, known: Facts) -> list[Citation]:
    """Return the rows of the chart that make a caution apply, as citations."""
    rows = [
        row
        for leaf in conditions.leaves(caution.when, negated=False)
        if leaf.holds(known)
        for row in _rows(leaf, known)
    ]
    return [columns.citation(caution.id, table, row) for table, row in rows]


def _rows(leaf: conditions.Leaf, known: Facts) -> list[TableRow]:
    """Return the rows by which a condition holds."""
    if isinstance(leaf, conditions.HasPhenotype):
        return [("diagnoses_icd", known.phenotypes[leaf.phenotype])]
    if isinstance(leaf, conditions.HasDrug):
        return [("prescriptions", known.drug_classes[leaf.drug_class])]
    if isinstance(leaf, conditions.HasHomeDrug):
        return [("medrecon", known.home_drug_classes[leaf.home_drug_class])]
    if isinstance(leaf, conditions.HasLab):
        measured = [item for item in known.labs if item in leaf.lab.itemid]
        newest = min(measured, key=lambda item: known.labs[item].days_ago)
        return [("labevents", known.lab_history[newest][0])]
    if isinstance(leaf, conditions.HasDerived):
        return [("labevents", row) for row in known.derived[leaf.derived.value].rows]
    if isinstance(leaf, conditions.HadProcedure):
        rows = zip(known.procedure_rows, known.procedures, strict=True)
        return [("procedures_icd", row) for row, done in rows if leaf.procedure.fits(*done)]
    return [("patients", known.person)]
