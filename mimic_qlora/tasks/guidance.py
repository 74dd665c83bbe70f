"""The guidance task: which cautions a chart calls for, the gold answer to a symptom question, what it is judged by."""

import re
from functools import cache, lru_cache

from mimic_qlora.chart import columns
from mimic_qlora.clinical import conditions, content, phrases, schema
from mimic_qlora.step.seeded import pick

WORDS = (120, 180)
MOST_CAUTIONS = 3


def words(text: str) -> int:
    return sum(map(_words, text.splitlines()))


@lru_cache(maxsize=10_000)  # the sentences of answers come again and again
def _words(line: str) -> int:
    return len(re.findall(r"\w(?:[\w'’/.-]*\w)?", line))


def bearing(caution: schema.Caution, symptom: content.AnySymptom) -> int:
    """How closely a caution bears on a symptom: 3 names it, 2 names one of its tags, 1 is for any, 0 not at all."""
    named = set(caution.symptoms)
    return 3 * (symptom.id in named) or 2 * (not named.isdisjoint(symptom.tags)) or ("any" in named)


def called_for(known: dict) -> list[schema.Caution]:
    """The caution rules that this chart calls for, whatever is asked."""
    return [c for c in content.load().cautions.values() if c.when.holds(known)]


def cautions_for(symptom: content.AnySymptom, known: dict, called: list | None = None) -> list:
    """The caution rules that this chart calls for and that bear on the symptom, the most severe and closest first.

    A rule whose advice an earlier one gives already (no ibuprofen, for kidneys as for blood thinners) is left out.
    `called` is what `called_for(known)` gives, for callers that ask about many symptoms.
    """
    rules = [(bearing(c, symptom), c) for c in (called_for(known) if called is None else called)]
    chosen = []
    for _, rule in sorted((r for r in rules if r[0]), key=lambda r: (-r[1].severity, -r[0])):
        if not any(_says(c.id, rule.id) for c in chosen):
            chosen.append(rule)
    return chosen


@cache
def _says(one: str, other: str) -> bool:
    """Whether the sentence of one caution gives the advice of the other."""
    rules = content.load().cautions
    return phrases.said(rules[other], rules[one].say)


@cache
def _forbids(caution: str, sentence: str) -> bool:
    return phrases.forbidden(content.load().cautions[caution], sentence)


def golds(known: dict, chart: dict, n: int, key: str) -> list:
    """At most n questions with gold answers: different symptoms, those first for which the chart calls for a caution.

    `known` are the facts that the context shows, on which the cautions rest; `chart` are all, and advice that any rule
    forbids for them is not given. Held-out symptoms and caution rules stay out, so that step 7 can tell learning from
    copying.
    """
    called = called_for(known)
    trained = [c for c in called if not c.held_out]
    binding = called_for(chart)
    asked = []
    for symptom in content.load().symptoms.values():
        if not symptom.held_out:
            cautions = cautions_for(symptom, known, trained)[:MOST_CAUTIONS]
            left_out = sum(c.held_out and bearing(c, symptom) > 0 for c in called)
            asked.append(
                (
                    (not cautions, left_out, pick(f"{key}:{symptom.id}", 1 << 30)),
                    symptom,
                    cautions,
                )
            )
    return [
        {
            "question": symptom.phrasings[
                pick(f"{key}:{symptom.id}:phrasing", len(symptom.phrasings))
            ],
            "answer": compose(symptom, cautions, f"{key}:{symptom.id}", binding),
            "symptom": symptom.id,
            "cautions": [c.id for c in cautions],
            "evidence": [row for c in cautions for row in evidence(c, known)],
            "rubric": rubric(symptom, cautions),
        }
        for _, symptom, cautions in sorted(asked, key=lambda one: one[0])[:n]
    ]


def compose(
    symptom: schema.Symptom, cautions: list[schema.Caution], key: str, called: list = ()
) -> str:
    """The gold answer: three sections, 120 to 180 words, with each of the cautions (at most three) in its section.

    No advice is given that one of the rules in `called`, all that the chart calls for, forbids. The first two red flags
    are always there. What else is said is drawn by hash of `key`, so that answers vary between patients but not between
    runs. Raises ValueError when no choice of sentences keeps within the words.
    """
    binding = {c.id for c in [*cautions, *called]}
    pools = {
        "try": [
            t.say
            for t in symptom.self_care
            if binding.isdisjoint(t.unless)
            and not any(_forbids(caution, t.say) for caution in binding)
        ],
        "urgent": [u.say for u in symptom.urgent],
        "track": list(symptom.track),
    }
    chosen = {
        section: [c.say for c in cautions[:MOST_CAUTIONS] if c.section == section]
        for section in pools
    }
    fixed = {section: len(items) for section, items in chosen.items()}
    for section, n in (("try", 1), ("urgent", 2), ("track", 1)):
        chosen[section] += [
            pools[section].pop(
                0 if section == "urgent" else pick(f"{key}:{section}", len(pools[section]))
            )
            for _ in range(n)
        ]
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
    answer = _text(
        {
            s: [*items[fixed[s] :], *items[: fixed[s]]] if s == "track" else items
            for s, items in chosen.items()
        }
    )
    if not WORDS[0] <= words(answer) <= WORDS[1]:
        raise ValueError(f"{symptom.id}: {words(answer)} words")
    return answer


def _text(chosen: dict) -> str:
    return "\n\n".join(
        "\n".join([heading, *(f"- {sentence}" for sentence in chosen[section])])
        for section, heading in content.SECTIONS.items()
    )


def rubric(symptom: schema.Symptom, cautions: list[schema.Caution]) -> list:
    """What an answer is scored by: the first red flags, the cautions by severity, the three sections."""
    flags = [
        {"criterion": f"names the warning sign: {u.say}", "points": 1, "tags": ["red_flag"]}
        for u in symptom.urgent[:2]
    ]
    rules = [
        {
            "criterion": f"says the caution: {c.say}",
            "points": c.severity,
            "tags": ["caution", c.id],
        }
        for c in cautions
    ]
    return [
        *rules,
        *flags,
        {"criterion": "has the three sections", "points": 1, "tags": ["format"]},
    ]


def evidence(caution: schema.Caution, known: dict) -> list:
    """Return the rows of the chart that make a caution apply, as citations."""
    rows = [
        row
        for leaf in conditions.leaves(caution.when, negated=False)
        if leaf.holds(known)
        for row in _rows(leaf, known)
    ]
    return [columns.citation(caution.id, table, row) for table, row in rows]


def _rows(leaf: conditions.Leaf, known: dict) -> list:
    """Return the (table, row) pairs by which a condition holds."""
    if isinstance(leaf, conditions.HasPhenotype):
        return [("diagnoses_icd", known["phenotypes"][leaf.phenotype])]
    if isinstance(leaf, conditions.HasDrug):
        return [("prescriptions", known["drug_classes"][leaf.drug_class])]
    if isinstance(leaf, conditions.HasLab):
        measured = [item for item in leaf.lab.itemid if item in known["labs"]]
        newest = min(measured, key=lambda item: known["labs"][item][2])
        return [("labevents", known["lab_rows"][newest])]
    if isinstance(leaf, conditions.HadProcedure):
        rows = zip(known["procedure_rows"], known["procedures"], strict=True)
        return [("procedures_icd", row) for row, done in rows if leaf.procedure.fits(*done)]
    return [("patients", known["person"])]
