"""The guidance task: which cautions a chart calls for, the gold answer to a symptom question, what it is judged by."""

import re

from mimic_qlora import clinical
from mimic_qlora.draws import pick

WORDS = (120, 180)
MOST_CAUTIONS = 3


def words(text: str) -> int:
    return len(re.findall(r"[\w'’/.-]*\w", text))


def bearing(caution: dict, symptom: dict) -> int:
    """How closely a caution bears on a symptom: 3 names it, 2 names one of its tags, 1 is for any, 0 not at all."""
    named = set(caution["symptoms"])
    return 3 * (symptom["id"] in named) or 2 * (not named.isdisjoint(symptom["tags"])) or ("any" in named)


def cautions_for(symptom: dict, facts: dict) -> list:
    """The caution rules that this chart calls for and that bear on the symptom, the most severe and closest first.

    A rule whose advice an earlier one gives already (no ibuprofen, for kidneys as for blood thinners) is left out.
    """
    rules = [c for c in clinical.load().cautions.values() if bearing(c, symptom) and clinical.matches(c, facts)]
    chosen = []
    for rule in sorted(rules, key=lambda c: (-c["severity"], -bearing(c, symptom))):
        if not clinical.said(rule, "\n".join(c["say"] for c in chosen)):
            chosen.append(rule)
    return chosen


def compose(symptom: dict, cautions: list, key: str) -> str:
    """The gold answer: three sections, 120 to 180 words, with each of the cautions (at most three) in its section.

    The first two red flags are always there. What else is said is drawn by hash of `key`, so that answers vary between
    patients but not between runs. Raises ValueError when no choice of sentences keeps within the words.
    """
    ruled_out = {c["id"] for c in cautions}
    pools = {
        "try": [
            t["say"] for t in symptom["try"] if ruled_out.isdisjoint(t["unless"]) and not _forbidden(cautions, t["say"])
        ],
        "urgent": [u["say"] for u in symptom["urgent"]],
        "track": list(symptom["track"]),
    }
    chosen = {section: [c["say"] for c in cautions[:MOST_CAUTIONS] if c["section"] == section] for section in pools}
    fixed = {section: len(items) for section, items in chosen.items()}
    for section, n in (("try", 1), ("urgent", 2), ("track", 1)):
        chosen[section] += [
            pools[section].pop(0 if section == "urgent" else pick(f"{key}:{section}", len(pools[section])))
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
        {s: [*items[fixed[s] :], *items[: fixed[s]]] if s == "track" else items for s, items in chosen.items()}
    )
    if not WORDS[0] <= words(answer) <= WORDS[1]:
        raise ValueError(f"{symptom['id']}: {words(answer)} words")
    return answer


def _forbidden(cautions: list, sentence: str) -> bool:
    return any(clinical.forbidden(caution, sentence) for caution in cautions)


def _text(chosen: dict) -> str:
    return "\n\n".join(
        "\n".join([heading, *(f"- {sentence}" for sentence in chosen[section])])
        for section, heading in clinical.SECTIONS.items()
    )


def rubric(symptom: dict, cautions: list) -> list:
    """What an answer is scored by: the first red flags, the cautions by severity, the three sections."""
    flags = [
        {"criterion": f"names the warning sign: {u['say']}", "points": 1, "tags": ["red_flag"]}
        for u in symptom["urgent"][:2]
    ]
    rules = [
        {"criterion": f"says the caution: {c['say']}", "points": c["severity"], "tags": ["caution", c["id"]]}
        for c in cautions
    ]
    return [*rules, *flags, {"criterion": "has the three sections", "points": 1, "tags": ["format"]}]


def evidence(caution: dict, facts: dict) -> list:
    """The rows of the chart that make a caution apply: [{"table": ..., ids, time, code or value}]."""
    return [row for condition in _leaves(caution["when"]) for row in _rows(*condition, facts)]


def _leaves(condition: dict) -> list:
    kind, value = next(iter(condition.items()))
    if kind in ("any", "all"):
        return [leaf for part in value for leaf in _leaves(part)]
    return [] if kind == "none" else [(kind, value)]


def _rows(kind: str, value, facts: dict) -> list:
    if not clinical.matches({"when": {kind: value}}, facts):
        return []
    if kind == "phenotype":
        return [
            {
                "table": "diagnoses_icd",
                **_keys(facts["phenotypes"][value], "hadm_id", "seq_num", "icd_code", "icd_version"),
            }
        ]
    if kind == "drug_class":
        return [
            {"table": "prescriptions", **_keys(facts["drug_classes"][value], "hadm_id", "starttime", "drug", "route")}
        ]
    if kind == "lab":
        rows = [facts["lab_rows"][i] for i in value["itemid"] if i in facts["labs"]]
        return [
            {"table": "labevents", **_keys(row, "labevent_id", "itemid", "charttime", "valuenum", "valueuom")}
            for row in rows
        ]
    if kind == "procedure":
        rows = [r for r in facts["procedure_rows"] if r["icd_code"].startswith(tuple(value[f"icd{r['icd_version']}"]))]
        return [
            {"table": "procedures_icd", **_keys(row, "hadm_id", "chartdate", "icd_code", "icd_version")} for row in rows
        ]
    return [{"table": "patients", kind: facts[kind]}]


def _keys(row: dict, *names: str) -> dict:
    return {name: row[name] for name in names if name in row}
