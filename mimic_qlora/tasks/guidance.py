"""The guidance task: the cautions that a chart calls for, the gold answer, and its rubric."""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache

from mimic_qlora.chart import columns
from mimic_qlora.chart.columns import Citation
from mimic_qlora.chart.facts import Facts
from mimic_qlora.chart.rows import TableRow
from mimic_qlora.clinical import conditions, content, phrases, schema
from mimic_qlora.step.seeded import pick
from mimic_qlora.tasks.gold import Criterion, Gold

WORDS = (120, 180)
MOST_CAUTIONS = 3


def words(text: str) -> int:
    """Return the number of words of a text."""
    return sum(map(_words, text.splitlines()))


@lru_cache(maxsize=10_000)  # the sentences of answers come again and again
def _words(line: str) -> int:
    return len(re.findall(r"\w(?:[\w'’/.-]*\w)?", line))


def bearing(caution: schema.Caution, symptom: content.AnySymptom) -> int:
    """Return how closely a caution bears on a symptom.

    3: it names the symptom, 2: one of its tags, 1: any symptom, 0: none of these.
    """
    named = set(caution.symptoms)
    if symptom.id in named:
        return 3
    if not named.isdisjoint(symptom.tags):
        return 2
    return int("any" in named)


def severity(caution: schema.Caution, symptom: content.AnySymptom) -> int:
    """Return the severity of leaving a caution out of an answer on a symptom, 1 to 3."""
    return caution.severity_for(symptom.id, symptom.tags)


def called_for(known: Facts) -> list[schema.Caution]:
    """Return the caution rules that this chart calls for, whatever is asked."""
    return [c for c in content.load().cautions.values() if c.when.holds(known)]


def cautions_for(
    symptom: content.AnySymptom, known: Facts, called: Sequence[schema.Caution] | None = None
) -> list[schema.Caution]:
    """Return the cautions that this chart calls for on the symptom, most severe and closest first.

    A rule whose advice an earlier one gives already (no ibuprofen, for kidneys as for blood
    thinners) is left out. `called` is `called_for(known)`, for callers with many symptoms.
    """
    rules = [(bearing(c, symptom), c) for c in (called_for(known) if called is None else called)]
    chosen: list[schema.Caution] = []
    for _, rule in sorted((r for r in rules if r[0]), key=lambda r: (-severity(r[1], symptom), -r[0])):
        if not any(_says(c.id, rule.id) for c in chosen):
            chosen.append(rule)
    return chosen


@cache
def _says(one: str, other: str) -> bool:
    """Return whether the sentence of one caution gives the advice of the other."""
    rules = content.load().cautions
    return phrases.said(rules[other], rules[one].say)


@cache
def _forbids(caution: str, sentence: str) -> bool:
    return phrases.forbidden(content.load().cautions[caution], sentence)


def golds(known: Facts, chart: Facts, n: int, key: str) -> list[Gold]:
    """Return at most n questions on different symptoms, those that call for a caution first.

    `known` are the facts that the context shows, on which the cautions rest; `chart` are all, and
    advice that any rule forbids for them is not given. Held-out symptoms and caution rules stay
    out, so that step 7 can tell learning from copying.
    """
    called = called_for(known)
    trained = [c for c in called if not c.held_out]
    binding = called_for(chart)
    asked = []
    for symptom in content.load().symptoms.values():
        if not symptom.held_out:
            cautions = cautions_for(symptom, known, trained)[:MOST_CAUTIONS]
            left_out = sum(c.held_out and bearing(c, symptom) > 0 for c in called)
            rank = (not cautions, left_out, pick(f"{key}:{symptom.id}", 1 << 30))
            asked.append((rank, symptom, cautions))
    return [
        Gold(
            question=symptom.phrasings[
                pick(f"{key}:{symptom.id}:phrasing", len(symptom.phrasings))
            ].text,
            answer=compose(symptom, cautions, f"{key}:{symptom.id}", binding),
            symptom=symptom.id,
            cautions=[c.id for c in cautions],
            evidence=[row for c in cautions for row in evidence(c, known)],
            rubric=rubric(symptom, cautions),
        )
        for _, symptom, cautions in sorted(asked, key=lambda one: one[0])[:n]
    ]


def compose(
    symptom: schema.Symptom,
    cautions: Sequence[schema.Caution],
    key: str,
    called: Sequence[schema.Caution] = (),
) -> str:
    """Return the gold answer: three sections, 120 to 180 words, at most three cautions.

    No advice is given that one of the rules in `called`, all that the chart calls for, forbids. The
    first two red flags are always there. The rest is drawn by hash of `key`, so that answers vary
    between patients but not between runs. Raises ValueError when no choice of sentences keeps
    within the words.
    """
    pools = _pools(symptom, {c.id for c in (*cautions, *called)})
    chosen = {
        section: [c.say for c in cautions[:MOST_CAUTIONS] if c.section == section]
        for section in pools
    }
    n_cautions = {section: len(items) for section, items in chosen.items()}
    for section, n in (("try", 1), ("urgent", 2), ("track", 1)):
        for _ in range(n):
            # red flags in their order, the most important first
            place = 0 if section == "urgent" else pick(f"{key}:{section}", len(pools[section]))
            chosen[section].append(pools[section].pop(place))
    _fill(chosen, pools, key)
    track = chosen["track"]  # cautions come last there
    chosen["track"] = [*track[n_cautions["track"] :], *track[: n_cautions["track"]]]
    answer = _text(chosen)
    if not WORDS[0] <= words(answer) <= WORDS[1]:
        raise ValueError(f"{symptom.id}: {words(answer)} words")
    return answer


def _pools(symptom: schema.Symptom, binding: Collection[str]) -> dict[str, list[str]]:
    """Return the sentences that each section can take; `binding` are ids of cautions."""
    return {
        "try": [
            t.say
            for t in symptom.self_care
            if not any(caution in t.unless or _forbids(caution, t.say) for caution in binding)
        ],
        "urgent": [u.say for u in symptom.urgent],
        "track": [t.say for t in symptom.track],
    }


def _fill(chosen: dict[str, list[str]], pools: dict[str, list[str]], key: str) -> None:
    """Move sentences from the pools into the sections, until the answer is long enough."""
    goal = WORDS[0] + 10 + pick(f"{key}:words", 35)
    for turn in range(30):
        section = ("try", "urgent", "track", "try")[turn % 4]
        if words(_text(chosen)) >= goal or not any(pools.values()):
            break
        if pools[section]:
            sentence = pools[section].pop(pick(f"{key}:{turn}", len(pools[section])))
            chosen[section].append(sentence)
            if words(_text(chosen)) > WORDS[1]:
                chosen[section].remove(sentence)


def _text(chosen: Mapping[str, Sequence[str]]) -> str:
    return "\n\n".join(
        "\n".join([heading, *(f"- {sentence}" for sentence in chosen[section])])
        for section, heading in content.SECTIONS.items()
    )


def rubric(symptom: schema.Symptom, cautions: Sequence[schema.Caution]) -> list[Criterion]:
    """Return what an answer is scored by: cautions by severity, first red flags, three sections."""
    rules = [
        Criterion(f"says the caution: {c.say}", severity(c, symptom), ["caution", c.id])
        for c in cautions
    ]
    flags = [
        Criterion(f"names the warning sign: {u.say}", 1, ["red_flag"]) for u in symptom.urgent[:2]
    ]
    return [*rules, *flags, Criterion("has the three sections", 1, ["format"])]


def evidence(caution: schema.Caution, known: Facts) -> list[Citation]:
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
    if isinstance(leaf, conditions.HasLab):
        measured = [item for item in leaf.lab.itemid if item in known.labs]
        newest = min(measured, key=lambda item: known.labs[item].days_ago)
        return [("labevents", known.lab_history[newest][0])]
    if isinstance(leaf, conditions.HadProcedure):
        rows = zip(known.procedure_rows, known.procedures, strict=True)
        return [("procedures_icd", row) for row, done in rows if leaf.procedure.fits(*done)]
    return [("patients", known.person)]
