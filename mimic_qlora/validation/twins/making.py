"""Make twins of a patient's record: without the finding that calls for a caution, or with another
fact changed that calls for nothing.

Rows are taken away or changed and the context is built anew, so that flags, ranges, "was" and the
facts follow. A twin counts only where nothing else that rules look at has changed with it.
"""

import copy
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import facts as charts
from mimic_qlora.chart.context import Context
from mimic_qlora.chart.rows import Record, Row
from mimic_qlora.clinical import codes, conditions, content, derived, phrases
from mimic_qlora.clinical.conditions import Leaf
from mimic_qlora.clinical.schema import Caution
from mimic_qlora.step import yaml_files
from mimic_qlora.tasks import composing, holding_out
from mimic_qlora.validation.scoring import known, statements

AS_IT_IS, WITHOUT, UNRELATED = "as it is", "without the finding", "another fact changed"
Build = Callable[[Record], Context]
# Columns of a stay that a context shows, no rule reads, and values to put there.
CHANGES = {
    "marital_status": ("MARRIED", "SINGLE"),
    "insurance": ("Medicare", "Private"),
    "language": ("English", "Spanish"),
}
_SEX_LINKED = re.compile(
    r"pregnan|birth|gestation|prostat|uter[iu]|ovar|vagin|menstru|menopaus|cervix|penis|testic|scrot",
    re.IGNORECASE,
)
_OTHER_SEX = {"F": "M", "M": "F"}
# values of neutrophils and what they are computed from that call for nothing
_USUAL = {
    **dict.fromkeys(derived.COUNTED, 4.0),
    **dict.fromkeys(derived.WHITE_CELLS, 7.0),
    derived.NEUTROPHILS: 60.0,
    derived.BANDS: 0.0,
    **dict.fromkeys(derived.CREATININE, 0.8),
}


class Place(NamedTuple):
    """The place of a trial among twins: its set, the rule that the set is about, and its chart.

    `chart` is AS_IT_IS, WITHOUT or UNRELATED; `change` says what differs, in words.
    """

    set: int
    rule: Caution
    chart: str
    change: str = ""


class Twin(NamedTuple):
    """A twin's context and what was changed, in words."""

    context: Context
    change: str


def without(rule: Caution, record: Record, shown: Context, build: Build) -> Twin | None:
    """Return the twin without the finding that calls for a rule; None where no twin is valid."""
    for leaf in conditions.leaves(rule.when, negated=False):
        if leaf.holds(shown.facts):
            changed = _without(leaf, copy.deepcopy(record), shown.as_of)
            if changed != record and changed["diagnoses_icd_labeled"]:
                twin = build(changed)
                if is_valid(rule, shown, twin):
                    return Twin(twin, f"not {leaf.in_words(content.names())}")
    return None


def unrelated(record: Record, shown: Context, build: Build) -> Twin | None:
    """Return a twin with a fact changed that calls for nothing; None where there is none."""
    for change, changed in _unrelated(record, shown):
        twin = build(changed)
        if twin.text != shown.text and _called(twin) == _called(shown):
            return Twin(twin, change)
    return None


def is_valid(rule: Caution, shown: Context, twin: Context) -> bool:
    """Return whether a twin differs from its chart by this rule alone.

    No other rule begins or ceases to hold, nothing that implies the finding is shown, and no rule
    that is left asks for the same action.
    """
    before, after = _called(shown), _called(twin)
    one_less = all(b - a == {rule.id} and not a - b for b, a in zip(before, after, strict=True))
    if not one_less or not implied(rule).isdisjoint(known.of_context(twin).holds):
        return False
    items = known.Known(twin.text).items
    if any(statements.names_reason(rule, item) for item in items):
        return False
    left = [content.load().cautions[name] for name in after[1]]
    return not any(_asks_the_same(rule, other) for other in left)


def _asks_the_same(rule: Caution, other: Caution) -> bool:
    """Return whether who says another rule may say what this one asks to do, by tags and words."""
    acts, of_other = holding_out.acts(rule), holding_out.acts(other)
    alike = not acts.isdisjoint(of_other) or acts == {rule.id}
    return alike and bool(phrases.action_places(rule, other.say.split(". ")))


def implied(rule: Caution) -> frozenset[str]:
    """Return the keys of what else tells that a rule's findings are there."""
    return frozenset(key for found in statements.keys_of(rule) for key in _implied().get(found, ()))


@cache
def _implied() -> dict[str, list[str]]:
    text = (Path(__file__).parent / "implied.yaml").read_text(encoding="utf-8")
    return dict(yaml_files.loads(text, "implied.yaml"))


def _called(shown: Context) -> tuple[set[str], set[str]]:
    """Return the ids of the rules called for by what is shown, and by the whole chart."""
    return (
        {rule.id for rule in composing.called_for(shown.facts)},
        {rule.id for rule in composing.called_for(shown.chart)},
    )


# ---------------------------------------------------------------- rows


def _without(leaf: Leaf, record: Record, as_of: datetime) -> Record:
    """Return a record in which a condition does not hold any more. `record` may be changed."""
    if isinstance(leaf, conditions.HasPhenotype):
        return _without_codes(record, leaf.phenotype)
    if isinstance(leaf, conditions.HasDrug):
        return _without_drug(record, leaf.drug_class)
    if isinstance(leaf, conditions.HasHomeDrug):
        return _without_drug(record, leaf.home_drug_class)
    if isinstance(leaf, conditions.HadProcedure):
        rows = record["procedures_icd_labeled"]
        kept = [r for r in rows if leaf.procedure.group not in _groups(r)]
        return record | {"procedures_icd_labeled": kept}
    if isinstance(leaf, conditions.HasLab):
        bound = leaf.lab
        return _moved(record, set(bound.itemid), lambda row: _across(row, bound), bound.passed)
    if isinstance(leaf, conditions.HasDerived):
        items = derived.MEANINGS[leaf.derived.value].items
        return _moved(record, set(items), lambda row: _USUAL[row["itemid"]], lambda value: False)
    person = record["patients"][0] if record["patients"] else {}
    if isinstance(leaf, conditions.HasSex):
        return record | {"patients": [person | {"gender": _OTHER_SEX[leaf.sex]}]}
    return _of_another_age(record, person, leaf, as_of)


def _without_codes(record: Record, phenotype: str) -> Record:
    """Return a record without the codes of a phenotype, or of one that becomes it."""
    catalogue = content.load().phenotypes
    gone = {phenotype, *(name for name, one in catalogue.items() if one.becomes == phenotype)}
    kept = [
        row
        for row in record["diagnoses_icd_labeled"]
        if gone.isdisjoint(codes.phenotypes_of_code(row["icd_code"], row["icd_version"]))
    ]
    return record | {"diagnoses_icd_labeled": kept}


def _without_drug(record: Record, drug_class: str) -> Record:
    """Return a record without orders of a class, nor its names among medicines told at home."""
    entry = content.load().drugs[drug_class]
    orders = [
        row
        for row in record["prescriptions"]
        if not row.get("drug") or not codes.names_ingredient(entry, row["drug"])
    ]
    told = [
        row
        for row in record.get("medrecon", ())
        if not codes.names_ingredient(entry, row.get("name", ""))
    ]
    return record | {"prescriptions": orders} | ({"medrecon": told} if "medrecon" in record else {})


def _groups(row: Row) -> tuple[str, ...]:
    return codes.procedures_of_code(row["icd_code"], row["icd_version"])


def _moved(
    record: Record,
    items: set[int],
    to: Callable[[Row], float],
    passed: Callable[[float], bool],
) -> Record:
    """Return a record with the newest result of each item moved, and none left beyond the bound.

    A result within its range loses its flag, as a laboratory would report it.
    """
    newest: dict[int, Row] = {}
    for row in record["labevents"]:
        if row["itemid"] in items and "valuenum" in row:
            if row["charttime"] >= newest.get(row["itemid"], row)["charttime"]:
                newest[row["itemid"]] = row
    rows: list[Row] = []
    for row in record["labevents"]:
        item = row["itemid"]
        if item in newest and row is newest[item]:
            value = round(to(row), 2)
            moved: Row = {**row, "valuenum": value, "value": f"{value:g}"}
            low, high = row.get("ref_range_lower", value), row.get("ref_range_upper", value)
            if low <= value <= high:
                moved.pop("flag", None)
            rows.append(moved)
        elif item not in items or "valuenum" not in row or not passed(row["valuenum"]):
            rows.append(row)
    return record | {"labevents": rows}


def _across(row: Row, bound: conditions.LabBound) -> float:
    """Return a value on the other side of a bound: the middle of the range, else a tenth beyond."""
    low, high = row.get("ref_range_lower"), row.get("ref_range_upper")
    if low is not None and high is not None and not bound.passed((low + high) / 2):
        return float(low + high) / 2
    return float(bound.above * 0.9 if bound.above is not None else (bound.below or 0) * 1.1)


def _of_another_age(record: Record, person: Row, leaf: Leaf, as_of: datetime) -> Record:
    """Return the record of somebody five years beyond a bound of age; as it was without an age."""
    if not isinstance(leaf, conditions.HasAge) or charts.age_at(person, as_of) is None:
        return record
    at_least, below = leaf.age.at_least, leaf.age.below
    wanted = at_least - 5 if at_least is not None else (below or 0) + 5
    years = as_of.year - person["anchor_year"]
    return record | {"patients": [person | {"anchor_age": int(wanted) - years}]}


def _unrelated(record: Record, shown: Context) -> Iterator[tuple[str, Record]]:
    """Yield records with an unrelated fact changed, with the change in words."""
    stay = charts.last_stay(record) or {}
    for column, values in CHANGES.items():
        if stay.get(column):
            other = next(value for value in values if value != stay[column])
            stays = [s | {column: other} if s is stay else s for s in record["admissions"]]
            yield f"another {column.replace('_', ' ')}", record | {"admissions": stays}
    sex = shown.facts.sex
    if sex and not _SEX_LINKED.search(shown.text):
        person = record["patients"][0] | {"gender": _OTHER_SEX[sex]}
        yield "the other sex", record | {"patients": [person]}
