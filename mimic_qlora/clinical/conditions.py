"""When a clinical rule applies to a chart."""

from functools import lru_cache

from mimic_qlora.clinical.content import load


def _lab_holds(lab, facts):
    values = [facts["labs"][item] for item in lab["itemid"] if item in facts["labs"]]
    if not values:
        return False
    value, unit, days_ago = min(values, key=lambda latest: latest[2])
    if (
        value is None
        or not 0 <= days_ago <= lab["within_days"]
        or (unit or "").strip() != lab["unit"]
    ):
        return False
    return value > lab["above"] if "above" in lab else value < lab["below"]


def _procedure_holds(procedure, facts):
    return any(
        0 <= days_ago <= procedure["within_days"]
        and code.strip().startswith(tuple(procedure[f"icd{int(version)}"]))
        for code, version, days_ago in facts["procedures"]
    )


def _age_holds(age, facts):
    return facts["age"] is not None and age.get("at_least", 0) <= facts["age"] < age.get(
        "below", 999
    )


HOLDS = {
    "any": lambda items, facts: any(_holds(i, facts) for i in items),
    "all": lambda items, facts: all(_holds(i, facts) for i in items),
    "none": lambda items, facts: not any(_holds(i, facts) for i in items),
    "phenotype": lambda name, facts: name in facts["phenotypes"],
    "drug_class": lambda name, facts: name in facts["drug_classes"],
    "lab": _lab_holds,
    "age": _age_holds,
    "sex": lambda sex, facts: facts["sex"] == sex,
    "procedure": _procedure_holds,
}


def _holds(condition, facts):
    kind, value = next(iter(condition.items()))
    return HOLDS[kind](value, facts)


@lru_cache
def read_by_rules():
    """What the caution rules look at, by kind: ids of phenotypes and drug classes, itemids of labs, procedures.

    A procedure is a (version, code prefix).
    """
    found = {"phenotype": set(), "drug_class": set(), "lab": set(), "procedure": set()}

    def walk(condition):
        kind, value = next(iter(condition.items()))
        if kind in ("any", "all", "none"):
            for part in value:
                walk(part)
        elif kind == "lab":
            found[kind].update(value["itemid"])
        elif kind == "procedure":
            found[kind].update(
                (version, prefix) for version in (9, 10) for prefix in value[f"icd{version}"]
            )
        elif kind in found:
            found[kind].add(value)

    for caution in load().cautions.values():
        walk(caution["when"])
    return found


def matches(rule, facts):
    """Does this chart call for the caution `rule`?

    facts: {"phenotypes": set of ids, "drug_classes": set of ids ordered during the last stay,
    "labs": {itemid: (latest value, unit, days ago)}, "age": years or None, "sex": "F", "M" or None,
    "procedures": [(icd_code, icd_version, days ago)]}.
    """
    return _holds(rule["when"], facts)
