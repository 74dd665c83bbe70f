"""The audit of step 4's records: every statement must be a cell of the chart, known at its time.

It reads the records as text. A statement that only a later cell supports is a leak; one that no
cell supports is unfounded. audit_chart.py holds what a chart supports.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mimic_qlora.chart import columns, context, visibility
from mimic_qlora.chart.columns import Citation
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.chart.facts import facts_of_view
from mimic_qlora.chart.rows import Record
from mimic_qlora.clinical import content as clinical
from mimic_qlora.clinical.codes import phenotypes_of
from mimic_qlora.prompts import (
    audit_cells,
    audit_chart,
    audit_guidance,
    record_files,
    truncation,
)
from mimic_qlora.prompts.audit_chart import Support
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.step import manifests
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import linked_place, read_json, write_json
from mimic_qlora.step.step_commands import command_for
from mimic_qlora.step.storage import verified_manifest
from mimic_qlora.subjects import reader
from mimic_qlora.subjects.manifest import subjects_manifest
from mimic_qlora.tasks.urgency import task as urgency

CHECKS = {
    "ahead": "statements of the context not yet known at as_of",
    "unfounded": "statements of the context that no cell of the patient supports",
    "gold": "gold answers that their cited rows do not bear out",
    "presumed": "questions or sentences that take for granted what the chart does not hold",
    "opposed": "gold answers that tell two opposites, or give a warning sign two levels",
    "opening": "gold answers that do not begin with the level of the sign that the question names",
    "target": "records whose target is in the context",
    "truncated": "prompts that change when what was not known at as_of is deleted or replaced",
    "split": "patients in two splits, or not in the one of step 1",
    "held_out": "held-out symptoms, caution rules or sentences in a record",
}
FILE = "audit.json"  # in the step's folder, which a new run of the step replaces
NOT_SAID = "The record does not say"
NOTHING = ("none on record", "none coded", NOT_SAID[0].lower() + NOT_SAID[1:], "unknown")
WAS = re.compile(r"(?:, | \()was ([^)]*)\)")


class Fault(NamedTuple):
    """A fault of a record: the check that it fails, and the section or the task where."""

    check: str  # of CHECKS
    where: str


class Audit(NamedTuple):
    """The result of an audit: how much was checked, and where each check found faults."""

    counts: dict[str, int]
    faults: dict[str, list[str]]
    content_id: str  # of the records

    @property
    def n_faults(self) -> int:
        """Return the number of faults of all checks."""
        return sum(map(len, self.faults.values()))

    @property
    def in_words(self) -> str:
        """Return what was checked: "492 records, 23,656 statements"."""
        return ", ".join(f"{n:,} {what}" for what, n in self.counts.items())


def of_storage(store: Path) -> Audit:
    """Audit all records of `prompts/`.

    Raises UserError when `prompts/` is missing, cannot be read, was made from an older `subjects/`,
    or is of symptoms or cautions that the clinical content has no more.
    """
    content_id = verified_manifest(store, "prompts")["id"]
    split, labs, folder = reader.split_of(store), _lab_names(store), store / "prompts"
    dropped = frozenset(ContextSettings.read(store).dropped_columns)
    types, labels = subjects_manifest(store)["columns"], context.lab_labels(store)
    faults: dict[str, list[str]] = {name: [] for name in CHECKS}
    splits_of: dict[int, set[str]] = {}
    places: dict[int, list[tuple[str, int, int]]] = {}
    for name in ("train", "validation", "test"):
        for number, (offset, record) in enumerate(
            record_files.read_located(folder / record_files.file_name(name)), 1
        ):
            if gone := audit_guidance.gone(record):
                raise UserError(
                    f"{folder} has guidance of {gone}, which the clinical content has no more: "
                    f"make the records again with `{command_for('prompts')}`"
                )
            subject_id = record.subject_id
            splits_of.setdefault(subject_id, set()).add(name)
            right = split.get(subject_id) == name == record.split
            if not right or len(splits_of[subject_id]) > 1:
                faults["split"].append(f"{name}.jsonl line {number}")
            places.setdefault(subject_id, []).append((name, number, offset))
    counts = Counter[str]()
    for subject_id, found in tqdm(sorted(places.items()), "patients audited", disable=None):
        raw = reader.raw_record(store, subject_id)
        rows = audit_cells.read({name: raw.get(name, []) for name in columns.WANTED}, types)
        typed: Record = {}
        for name, number, offset in found:
            record = record_files.read_at(folder / record_files.file_name(name), offset)
            visit = urgency.stay_of(record.evidence) if record.task == "urgency" else None
            n, wrong = of_record(record, audit_chart.Chart(rows, labs, record.as_of, visit))
            typed = typed or reader.record(store, subject_id, columns.WANTED)
            if truncation.changes(typed, record, dropped, labels):
                wrong.append(Fault("truncated", record.task))
            if record.task == "guidance":
                view = visibility.visible(typed, record.as_of, dropped)
                failed = audit_guidance.faults(record, facts_of_view(view, record.as_of))
                wrong += [Fault(check, "guidance") for check in failed]
            counts.update({"records": 1, "statements": n, "cited rows": len(record.evidence)})
            for check, where in wrong:
                faults[check].append(f"{name}.jsonl line {number}, {where}")
    counts["patients"] = len(places)
    return Audit(dict(counts), faults, content_id)


def of_record(record: PromptRecord, chart: audit_chart.Chart) -> tuple[int, list[Fault]]:
    """Return how many statements the context of one record makes, and its faults."""
    faults, n = [], 0
    for line in record.context.splitlines()[1:]:
        section, _, said = line.removeprefix("- ").partition(": ")
        support: dict[str, list[Support]] = {}
        for one in audit_chart.SECTIONS[section](chart):
            support.setdefault(one.statement, []).append(one)
        for statement in _statements(section, said):
            n += 1
            if fault := _fault(statement, support, chart):
                faults.append(Fault(fault, section))
    gold = {
        "guidance": _guidance_faults,
        "chart_qa": _chart_qa_faults,
        "diagnoses": _diagnoses_faults,
        "urgency": _urgency_faults,
    }[record.task]
    return n, faults + [Fault(check, record.task) for check in gold(record, chart)]


def _fault(
    statement: str, support: Mapping[str, list[Support]], chart: audit_chart.Chart
) -> str | None:
    """Return the check that a statement fails; `support` holds its section's by statement."""
    was = WAS.search(statement)
    bare = WAS.sub(lambda m: ")" if m[0].startswith(",") else "", statement)
    said = support.get(bare, [])
    known = [one for one in said if chart.known(one.table, one.row)]
    if not known:
        return "ahead" if said else "unfounded"
    if was and not any(_has_earlier(one, was[1], support) for one in known):
        return "unfounded"
    return None


def _has_earlier(later: Support, value: str, support: Mapping[str, list[Support]]) -> bool:
    """Return whether an earlier reading of the same item and table had this value."""
    now = later.reading
    return now is not None and any(
        one.reading is not None
        and one.reading.value == value
        and one.reading.item == now.item
        and one.table == later.table
        and one.reading.time < now.time
        for found in support.values()
        for one in found
    )


def _statements(section: str, said: str) -> list[str]:
    """Return the statements of a section; each route of an order is one, with its end."""
    items = [
        item
        for item in said.split("; ")
        if item not in NOTHING and not re.fullmatch(r"and \d+ more", item)
    ]
    if "ordered" not in section:
        return items
    return [statement for item in items for statement in audit_chart.orders(item)]


def _guidance_faults(record: PromptRecord, chart: audit_chart.Chart) -> Iterator[str]:
    content = clinical.load()
    symptom, cautions = (
        content.symptoms[record.symptom or ""],
        [content.cautions[c] for c in record.cautions],
    )
    answer = record.answer
    held_out = [p.text for s in content.symptoms.values() if s.held_out for p in s.phrasings]
    if symptom.held_out or record.question in held_out:
        yield "held_out"
    if any(c.held_out and (c in cautions or c.say in answer) for c in content.cautions.values()):
        yield "held_out"
    general = [*symptom.self_care, *symptom.track]
    if record.split == "train" and any(one.held_out and one.say in answer for one in general):
        yield "held_out"
    may_say = {
        *(advice.say for advice in symptom.self_care),
        *(flag.say for flag in symptom.urgent),
        *(caution.say for caution in cautions),
        *(line.say for line in symptom.track),
    }
    start, lines = audit_guidance.parts(answer)
    may_say |= {audit_guidance.first_step(start)}
    cited = {row.reason for row in record.evidence} == {*record.cautions}
    if not (
        {*lines} <= may_say
        and cited
        and all(c.say in lines for c in cautions)
        and _all_known(record, chart)
    ):
        yield "gold"
    if not all(_is_shown(row, chart, record.context) for row in record.evidence):
        yield "gold"


def _chart_qa_faults(record: PromptRecord, chart: audit_chart.Chart) -> Iterator[str]:
    answer = record.answer
    items = [
        item for line in record.context.splitlines() for item in line.partition(": ")[2].split("; ")
    ]
    named = re.search(r'"(.+)" among|list "(.+)"|^Was (.+) ordered', record.question)
    if named:
        name = next(filter(None, named.groups()))
        borne_out = any(i == name or i.startswith(f"{name} (") for i in items) == (answer == "yes")
    elif answer.startswith("it "):
        newest, earlier = record.evidence
        now, then = float(_cells(newest)["valuenum"]), float(_cells(earlier)["valuenum"])
        borne_out = answer == (
            "it rose" if now > then else "it fell" if now < then else "it stayed the same"
        )
    else:
        borne_out = answer == NOT_SAID or answer in record.context
    if not borne_out or not _all_known(record, chart):
        yield "gold"


def _diagnoses_faults(record: PromptRecord, chart: audit_chart.Chart) -> Iterator[str]:
    catalogue = clinical.load().phenotypes
    rows = [row for row in chart.all("diagnoses_icd") if row.get("hadm_id") == record.hadm_id]
    if any(chart.known("diagnoses_icd", row) for row in rows):
        yield "target"
    codes = [(row["icd_code"], int(row["icd_version"])) for row in rows]
    codes = [(c, v) for c, v in codes if not c.startswith(("E", "V") if v == 9 else tuple("VWXYZ"))]
    due = {catalogue[p].name for p in phenotypes_of(codes) if catalogue[p].kind != "status"}
    lines = record.answer.splitlines()
    said = {name for line in lines for name in line.partition(": ")[2].split("; ")} - {"none"}
    if said != due or not all(_found(cited, chart) for cited in record.evidence):
        yield "gold"


def _urgency_faults(record: PromptRecord, chart: audit_chart.Chart) -> Iterator[str]:
    cited = record.evidence[0]
    rows = [row for row in chart.all("triage") if row.get("stay_id") == chart.visit]
    said = [audit_chart.plain(row["chiefcomplaint"]) for row in rows if "chiefcomplaint" in row]
    word, _, seen = record.answer.partition("\n")
    level = next((name for name in urgency.WORDS if name == cited.reason), None)
    due = urgency.WORDS.get(level) if level else None
    named = seen.removeprefix(f"{urgency.SEEN}: ").split("; ")
    shown = record.context.partition("- Known conditions: ")[2].partition("\n")[0]
    if (
        _found(cited, chart) is None
        or record.question.splitlines()[0] not in [f"Complaint at arrival: {one}" for one in said]
        or (due is not None and word != due)
        or not all(name in shown or name == urgency.NOTHING for name in named)
    ):
        yield "gold"


def _is_shown(cited: Citation, chart: audit_chart.Chart, text: str) -> bool:
    """Return whether the context tells of a cited row: its reader can know a caution's reason."""
    row = _found(cited, chart)
    if row is None:
        return False
    if cited.table == "diagnoses_icd":
        catalogue = clinical.load().phenotypes
        names = phenotypes_of([(row["icd_code"], row["icd_version"])])
        return any(catalogue[name].name in text for name in names)
    if cited.table == "procedures_icd":
        return "long_title" in row and audit_chart.procedure(row) in text
    told = {"prescriptions": "drug", "medrecon": "name", "labevents": "valuenum"}
    value = row.get(told.get(cited.table), "- Age: ")
    return (audit_chart.number(value) or audit_chart.plain(value)) in text


def _all_known(record: PromptRecord, chart: audit_chart.Chart) -> bool:
    rows = [(cited.table, _found(cited, chart)) for cited in record.evidence]
    return all(row is not None and chart.known(table, row) for table, row in rows)


def _cells(cited: Citation) -> dict[str, str]:
    return dict(cell.split("=", 1) for cell in cited.cells)


def _found(cited: Citation, chart: audit_chart.Chart) -> dict | None:
    """Return the row that a citation names, with every cited cell as it says."""
    cells = _cells(cited)
    return next(
        (
            row
            for row in chart.all(cited.table)
            if all(_same(row.get(c), told) for c, told in cells.items())
        ),
        None,
    )


def _same(raw: Any, told: str) -> bool:
    """Return whether a cell is the cited one: ids by every digit, others by their value."""
    if raw is None or isinstance(raw, int) or str(raw) == told:
        return raw is not None and str(raw) == told
    for read in (float, datetime.fromisoformat):
        try:
            return bool(read(raw) == read(told))
        except ValueError:
            continue
    return False


def _lab_names(store: Path) -> dict[int, str]:
    names, fluids, categories = (
        reader.labels(store, "d_labitems", value=c) for c in ("label", "fluid", "category")
    )
    found = {}
    for item, name in names.items():
        if not name or not audit_chart.plain(name):  # nothing that can be seen
            continue
        fluid = fluids.get(item) or "Blood"
        others = {
            categories.get(i)
            for i, other in names.items()
            if other == name and fluids.get(i) == fluids.get(item)
        }
        gas = " (blood gas)" if categories.get(item) == "Blood Gas" and len(others) > 1 else ""
        found[item] = f"{name} ({fluid.lower()})" if fluid != "Blood" else f"{name}{gas}"
    return found


def report(found: Audit) -> int:
    """Print the audit as a table; the exit code: 0 when there is no fault, else 1."""
    print(f"\nAudited: {found.in_words}")
    for check, what in CHECKS.items():
        print(f"  {len(found.faults[check]):>8,}  {what}")
    for check, places in found.faults.items():
        for place in places[:5]:
            print(f"fault ({check}): {place}")
    return int(found.n_faults > 0)


def keep(store: Path, found: Audit) -> None:
    """Write the result of an audit beside the records, in place of that of an earlier one."""
    write_json(linked_place(store / "prompts") / FILE, found._asdict())


def kept(store: Path) -> Audit | None:
    """Return the last audit of the records that are there now; None where there was none."""
    place = linked_place(store / "prompts")
    try:
        raw = read_json(place / FILE)
        counts = {str(what): int(n) for what, n in raw["counts"].items()}
        faults = {str(check): list(where) for check, where in raw["faults"].items()}
        found = Audit(counts, faults, raw["content_id"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or edited
        return None
    manifest = manifests.read(place) or {}
    return found if found.content_id == manifest.get("id") else None
