"""The urgency task in step 4: planted levels, no leak, and a planted leak of each kind is found."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import emergency_store as stores
from helpers.prompt_records import SPLITS
from mimic_qlora.chart import columns, visibility
from mimic_qlora.prompts import audit, build, record_files, truncation
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader
from mimic_qlora.tasks.urgency import cohort, coverage, label, task, visits


@pytest.fixture(scope="module")
def records(emergency_store):
    return list(reader.records(emergency_store, cohort.WANTED))


def test_every_planted_level_is_recovered(emergency_store, records):
    found = {}
    for record in records:
        found |= label.levels(record, label.load())
    assert found == stores.planted(emergency_store) and len(found) > 100


def test_the_file_holds_one_visit_a_patient_and_joins_to_the_records(emergency_store):
    rows = visits.read(emergency_store)
    planted, split = stores.planted(emergency_store), reader.split_of(emergency_store)
    assert len(rows) == len({row.subject_id for row in rows}) > 45
    for row in rows:
        assert (row.level, row.split) == (planted[row.stay_id], split[row.subject_id])
        assert row.acuity in (None, 1, 2, 3, 4, 5) and row.age >= 18
    made = [
        one
        for name in SPLITS
        for one in record_files.read(emergency_store / "prompts" / f"{name}.jsonl")
        if one.task == "urgency"
    ]
    by_patient = {row.subject_id: row for row in rows}
    for one in made:
        row = by_patient[one.subject_id]
        assert (task.stay_of(one.evidence), one.as_of) == (row.stay_id, row.arrival)
        level = task.STANDS_FOR.get(row.level, row.level)
        assert one.answer.splitlines()[0] == task.WORDS[level]
        assert row.complaint.split()[0] in one.question and one.hadm_id is None
    trained = {by_patient[one.subject_id].level for one in made if one.split == "train"}
    assert trained == {*task.WORDS}
    left = {row.subject_id for row in rows} - {one.subject_id for one in made}
    assert {by_patient[who].level for who in left} <= {*task.STANDS_FOR}
    assert {by_patient[who].split for who in left} <= {"train"}


def test_the_flow_adds_up(emergency_store, records):
    lines = (emergency_store / "prompts" / visits.FLOW_FILE).read_text().splitlines()
    counts = {line.rpartition(",")[0].rpartition(",")[0]: line.split(",")[-2:] for line in lines}
    n = {what.strip('"'): int(numbers[0]) for what, numbers in list(counts.items())[1:]}
    another = "left out: another visit was drawn"
    left = sum(k for what, k in n.items() if what.startswith("left out") and what != another)
    assert n["emergency visits"] == sum(len(record["edstays"]) for record in records)
    assert n["emergency visits"] - left == n["in the cohort"]
    assert n["in the cohort"] - n[another] == n["drawn, one a patient"]
    levels = sum(k for what, k in n.items() if what.startswith("drawn: "))
    assert levels == n["drawn, one a patient"]


def test_who_is_in_the_cohort_does_not_depend_on_what_follows(records):
    """Delete all that follows arrival: the same visits are in it, and in the primary set."""
    words, n = cohort.exclusions(), 0
    for record in records:
        for visit in record["edstays"]:
            arrival = visit["intime"]
            known = {c: v for c, v in visit.items() if c in ("stay_id", "intime")}
            begun = [
                {c: v for c, v in stay.items() if c != "dischtime" or v <= arrival}
                for stay in record["admissions"]
                if stay["admittime"] < arrival and stay["hadm_id"] != visit.get("hadm_id")
            ]
            ended = {stay["hadm_id"] for stay in begun if "dischtime" in stay}
            before = record | {
                "edstays": [known],
                "admissions": begun,
                "diagnoses_icd_labeled": [
                    row for row in record["diagnoses_icd_labeled"] if row["hadm_id"] in ended
                ],
            }
            assert cohort.left_out(before, known, words) == cohort.left_out(record, visit, words)
            assert cohort.is_primary(before, known) == cohort.is_primary(record, visit)
            n += 1
    assert n > 100


def severe_shares(rows) -> tuple[float, float]:
    """The difference between the shares of A and B with a chart and without, and its error."""
    groups = [[row.level in ("A", "B") for row in rows if row.primary == flag] for flag in (0, 1)]
    empty, full = (sum(group) / len(group) for group in groups)
    error = math.sqrt(sum(0.25 / len(group) for group in groups))
    return full - empty, error


def test_an_empty_chart_does_not_predict_the_level(emergency_store, records):
    everybody = []
    levels = stores.planted(emergency_store)
    split = reader.split_of(emergency_store)
    for record in records:
        for visit in record["edstays"]:
            if cohort.left_out(record, visit, cohort.exclusions()) is None:
                level = levels[visit["stay_id"]]
                everybody.append((record, cohort._visit(record, visit, level, split)))
    difference, error = severe_shares([one for _, one in everybody])
    assert abs(difference) < 2.6 * error
    # chosen by the future, as by a coded stay of any time, it does
    coded = [one for record, one in everybody if record["diagnoses_icd_labeled"]]
    empty = [one for one in coded if not one.primary]
    assert Counter(one.level in "AB" for one in empty)[True] > 0


def audited(store: Path) -> dict[str, int]:
    return {check: len(found) for check, found in audit.of_storage(store).faults.items() if found}


def test_the_audit_passes_all_four_tasks(emergency_store):
    assert audited(emergency_store) == {}


@pytest.fixture(scope="module")
def some(emergency_store):
    """A few patients with all tasks: the whole record of each, with its prompts."""
    of_patient: dict[int, list] = {}
    for name in SPLITS:
        for one in record_files.read(emergency_store / "prompts" / f"{name}.jsonl"):
            of_patient.setdefault(one.subject_id, []).append(one)
    wanted = columns.WANTED | EVERY
    found = [(reader.record(emergency_store, who, wanted), of) for who, of in of_patient.items()]
    told = [one for one in found if len(one[0]["vitalsign"]) > 2 and len(one[0]["medrecon"]) > 2]
    whole = [one for one in told if {record.task for record in one[1]} == {*stores.TASKS}]
    return whole[:10]


EVERY = {
    "edstays": (*columns.WANTED["edstays"], "outtime", "disposition", "race", "arrival_transport"),
    "triage": (*columns.WANTED["triage"], "acuity", "heartrate"),
}


def faults(some) -> Counter[str]:
    """The tasks of the prompts that change when what was not known is gone."""
    found = Counter[str]()
    for record, made in some:
        for one in made:
            leaked = truncation.rebuilt(record, one, frozenset(), {})
            turns = [one.messages[0], {"role": "user", "content": leaked}, one.messages[2]]
            again = replace(one, messages=turns)
            found[one.task] += truncation.changes(record, again, frozenset(), {})
    return found


ENDS = ("admissions", "dischtime", ["always"])
LEAKS = {
    "rows after the time": [("labevents", "*", ["always"])],
    "results that are not stored yet": [("labevents", "*", ["charttime"])],
    "codes of a stay that is on": [
        ("diagnoses_icd_labeled", "*", ["always"]),
        ("admissions", "*", ["always"]),
        ENDS,
    ],
    "the end of a stay": [ENDS],
    "where a stay ends": [ENDS, ("admissions", "discharge_location", ["admittime"])],
    "orders that are not entered yet": [("prescriptions", "*", ["always"])],
    "later readings": [("vitalsign", "*", ["always"])],
    "home medicines of later visits": [("medrecon", "*", ["always"])],
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_planted_leak_of_the_chart_is_found(some, monkeypatch, kind):
    rules = {name: dict(of) for name, of in visibility.rules().items()}
    for table, column, terms in LEAKS[kind]:
        rules[table][column] = terms
    monkeypatch.setattr(visibility, "rules", lambda: rules)
    assert faults(some).total() > 0


def test_without_a_leak_no_prompt_changes(some):
    assert len(some) >= 8 and faults(some).total() == 0


def own_rows(record, stay_id):
    return record


def of_triage(column):
    def question(record, stay_id):
        row = next(r for r in record["triage"] if r["stay_id"] == stay_id)
        return f"{row['chiefcomplaint']} {row.get(column)}"

    return question


def of_visit(column):
    def question(record, stay_id):
        return f"{task.visit_row(record, stay_id).get(column)}"

    return question


OF_VISIT = {
    "its own home medicines and vitals": ("before_arrival", own_rows),
    "acuity": ("question", of_triage("acuity")),
    "vitals": ("question", of_triage("heartrate")),
    "its stay": ("question", of_visit("hadm_id")),
    "disposition": ("question", of_visit("disposition")),
    "race": ("question", of_visit("race")),
    "transport": ("question", of_visit("arrival_transport")),
}


@pytest.mark.parametrize("kind", OF_VISIT)
def test_a_planted_leak_of_the_visit_is_found(some, monkeypatch, kind):
    name, leak = OF_VISIT[kind]
    monkeypatch.setattr(task, name, leak)
    found = faults(some)
    assert found["urgency"] > 0 and found.total() == found["urgency"]


@pytest.mark.parametrize("table", ["labevents", "pyxis", "emar", "radiology", "triage", "edstays"])
def test_without_a_table_the_task_refuses_in_a_sentence(emergency_store, monkeypatch, table):
    whole = reader.table_files
    monkeypatch.setattr(reader, "table_files", lambda s, t: [] if t == table else whole(s, t))
    with pytest.raises(UserError, match=f"needs the table {table}, .*convert") as error:
        cohort.find(emergency_store, 42)
    assert "\n" not in str(error.value)


def lacking(manifest, table, column):
    """A manifest of step 1 whose table came without a column."""
    columns = {name: kind for name, kind in manifest["columns"][table].items() if name != column}
    return {**manifest, "columns": {**manifest["columns"], table: columns}}


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("edstays", name) for name in ("hadm_id", "intime", "outtime", "disposition")),
        *(("triage", name) for name in ("stay_id", "acuity", "chiefcomplaint")),
        *(("pyxis", "name"), ("emar", "event_txt"), ("radiology", "charttime")),
    ],
)
def test_a_column_without_which_all_levels_are_others_is_refused(
    emergency_store, monkeypatch, table, column
):
    """MIMIC-IV-ED 1.0 had no disposition: nobody would have left without being seen."""
    whole = coverage.subjects_manifest(emergency_store)
    monkeypatch.setattr(coverage, "subjects_manifest", lambda _: lacking(whole, table, column))
    with pytest.raises(UserError, match=f"needs the column {column} of {table}, .*convert"):
        cohort.find(emergency_store, 42)


def test_no_visit_to_ask_about_is_not_called_a_stay_without_codes(emergency_store):
    settings = build.PromptSettings(["urgency"], 1, None, 700, 24, 42, "words")
    with pytest.raises(UserError, match="no validation patient has an emergency visit with a time"):
        build._check_splits(["train"], emergency_store, settings)


def test_a_table_that_does_not_cover_a_year_is_refused(emergency_store, monkeypatch):
    whole = reader.records

    def without_years(*args, **more):
        for record in whole(*args, **more):
            years = [p.get("anchor_year_group") for p in record.get("patients", ())]
            yield record | {"radiology": []} if years == ["2008 - 2010"] else record

    monkeypatch.setattr(reader, "records", without_years)
    with pytest.raises(UserError, match="radiology for all years.* 2008 - 2010.*level C"):
        cohort.find(emergency_store, 42)


def test_a_damaged_file_of_visits_is_told(emergency_store, tmp_path):
    (tmp_path / "prompts").mkdir()
    with pytest.raises(UserError, match="has no visits.*--tasks urgency"):
        visits.read(tmp_path)
    text = (emergency_store / "prompts" / visits.FILE).read_text()
    for wrong in (text.replace(",A,", ",E,"), text + text.splitlines()[1] + "\n"):
        (tmp_path / "prompts" / visits.FILE).write_text(wrong)
        with pytest.raises(UserError, match="cannot be read|twice"):
            visits.read(tmp_path)
