"""The checks of quality: each planted fault is found where it is, and nothing else."""

import datetime
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimic_qlora.mimic import tables
from mimic_qlora.subjects import quality


def time(text):
    return datetime.datetime.fromisoformat(text)


FIRST, SECOND = 10000000, 10000007  # two patients, one a bucket
STAY = {FIRST: 20000000, SECOND: 20000007}


def sound(subject_id):
    """One patient without a fault: the rows of each table, as step 1 types them."""
    hadm_id, stay_id = STAY[subject_id], STAY[subject_id] + 10000000
    ids = {"subject_id": subject_id, "hadm_id": hadm_id}
    start, end = time("2150-03-02 08:00:00"), time("2150-03-04 08:00:00")
    lab = {"itemid": 50912, "ref_range_lower": 0.4, "ref_range_upper": 1.1, "storetime": end}
    return {
        "patients": [
            {"subject_id": subject_id, "gender": "F", "anchor_age": 60, "dod": time("2151-01-01")}
        ],
        "admissions": [
            {
                **ids,
                "admittime": time("2150-03-01 10:00:00"),
                "dischtime": time("2150-03-15 12:00:00"),
            }
            | {"hospital_expire_flag": 0, "deathtime": None}
        ],
        "diagnoses_icd": [
            {**ids, "seq_num": n, "icd_code": code, "icd_version": 10}
            for n, code in enumerate(("I10", "E119"), 1)
        ],
        "labevents": [
            {**ids, **lab, "labevent_id": n, "charttime": start, "valuenum": 0.9} for n in (1, 2)
        ],
        "prescriptions": [
            {**ids, "drug_type": "MAIN", "drug": "Aspirin", "starttime": start, "stoptime": end}
        ],
        "procedures_icd": [
            {**ids, "icd_code": "5A1D70Z", "icd_version": 10, "chartdate": time("2150-02-28")}
        ],
        "icustays": [{**ids, "stay_id": stay_id, "intime": start, "outtime": end, "los": 2.0}],
        "inputevents": [
            {**ids, "stay_id": stay_id, "starttime": start, "endtime": end, "storetime": end}
            | {"amount": 5.0, "rate": 1.0, "patientweight": 70.0}
        ],
        "omr": [
            {"subject_id": subject_id, "chartdate": day, "result_name": name, "result_value": value}
            for day, name, value in (
                (time("2150-02-01"), "BMI (kg/m2)", "24.1"),
                (time("2150-02-01"), "Weight (Lbs)", "168"),
                (time("2150-03-01"), "Weight (Lbs)", "172.5"),
            )
        ],
    }


TYPES = {
    "id": pa.int64(),
    "int": pa.int64(),
    "num": pa.float64(),
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "text": pa.string(),
}


def write(folder, patients):
    """Typed tables as step 1 leaves them; a patient's bucket is their place in the list."""
    for part, rows_of in enumerate(patients):
        for table, rows in rows_of.items():
            types = tables.schema()[table].columns
            columns = {c: TYPES[types[c]] for c in dict.fromkeys(c for row in rows for c in row)}
            if not rows:
                continue
            (folder / "tables" / table).mkdir(parents=True, exist_ok=True)
            arrays = [pa.array([row.get(c) for row in rows], type_) for c, type_ in columns.items()]
            pq.write_table(
                pa.table(arrays, list(columns)),
                folder / "tables" / table / f"part-{part:05d}.parquet",
            )
    return folder


@pytest.fixture(autouse=True)
def small_passes(monkeypatch):
    """A bucket a pass, as with buckets of real size."""
    monkeypatch.setattr(quality, "BYTES_PER_PASS", 1)


def found(folder):
    return {(f.check, f.table): f for f in quality.flags(folder) if f.rows}


def change(table, row=0, **cells):
    return lambda patient: patient[table][row].update(cells)


def repeat(table, **cells):
    return lambda patient: patient[table].append({**patient[table][-1], **cells})


FAULTS = [
    ("negative length of stay", "icustays", change("icustays", los=-1.5)),
    ("length of stay is not the time between", "icustays", change("icustays", los=3.0)),
    (
        "discharge before admission",
        "admissions",
        change("admissions", dischtime=time("2150-02-01")),
    ),
    (
        "overlapping stays",
        "admissions",
        repeat("admissions", hadm_id=29, admittime=time("2150-03-14")),
    ),
    (
        "overlapping stays",
        "icustays",
        repeat("icustays", stay_id=39, intime=time("2150-03-02 09:00:00")),
    ),
    ("death before admission", "admissions", change("admissions", deathtime=time("2150-02-27"))),
    ("death after discharge", "admissions", change("admissions", deathtime=time("2150-03-16"))),
    ("death flag and time disagree", "admissions", change("admissions", hospital_expire_flag=1)),
    ("death before last discharge", "patients", change("patients", dod=time("2150-03-14"))),
    ("after death", "labevents", change("labevents", charttime=time("2151-02-01"))),
    ("far from its stay", "prescriptions", change("prescriptions", starttime=time("2150-01-01"))),
    ("far from its stay", "procedures_icd", change("procedures_icd", chartdate=time("2150-03-18"))),
    ("stop before start", "prescriptions", change("prescriptions", stoptime=time("2150-03-01"))),
    ("stop before start", "inputevents", change("inputevents", endtime=time("2150-03-01"))),
    ("stop before start", "icustays", change("icustays", outtime=time("2150-03-01 12:00:00"))),
    ("stored before it happened", "labevents", change("labevents", storetime=time("2150-03-01"))),
    (
        "ICU stay outside its hospital stay",
        "icustays",
        change("icustays", outtime=time("2150-03-16")),
    ),
    ("orphan hadm_id", "labevents", change("labevents", hadm_id=STAY[SECOND])),  # another patient's
    ("orphan stay_id", "inputevents", change("inputevents", stay_id=5)),
    ("rows that stand twice", "diagnoses_icd", repeat("diagnoses_icd")),
    ("id that stands twice", "labevents", repeat("labevents", valuenum=1.0)),
    ("id that stands twice", "admissions", repeat("admissions", admittime=time("2150-04-01"))),
    ("far outside the reference range", "labevents", change("labevents", valuenum=111.0)),
    ("far outside the reference range", "labevents", change("labevents", valuenum=0.0039)),
    ("number that nobody has", "labevents", change("labevents", valuenum=200.0)),
    ("negative where that cannot be", "labevents", change("labevents", valuenum=-0.5)),
    ("negative where that cannot be", "inputevents", change("inputevents", amount=-5.0)),
    ("reference range upside down", "labevents", change("labevents", ref_range_lower=1.2)),
    ("age out of range", "patients", change("patients", anchor_age=120)),
    ("no key", "admissions", change("admissions", admittime=None)),
    ("no key", "icustays", change("icustays", stay_id=None)),
    ("no key", "diagnoses_icd", change("diagnoses_icd", icd_code=None)),
    (
        "code without its zeros",
        "diagnoses_icd",
        change("diagnoses_icd", icd_code="88", icd_version=9),
    ),
    ("word of another form", "patients", change("patients", gender="female")),
    ("word of another form", "prescriptions", change("prescriptions", drug_type="main drug")),
    ("word of another form", "diagnoses_icd", change("diagnoses_icd", icd_version=1)),
    ("word of another form", "omr", change("omr", 1, result_value="refused")),
    ("no key", "prescriptions", change("prescriptions", drug=None)),
    ("no key", "prescriptions", change("prescriptions", drug=" NULL ")),
    ("no key", "prescriptions", change("prescriptions", drug="")),
    ("no key", "labevents", change("labevents", labevent_id=None)),
    ("no key", "labevents", change("labevents", itemid=None)),
    ("weight out of range", "inputevents", change("inputevents", patientweight=5.5)),
    ("body mass index out of range", "omr", change("omr", result_value="4649")),
    (
        "weight that changes too much",
        "omr",
        repeat("omr", chartdate=time("2150-09-01"), result_value="300"),
    ),
    (
        "kilograms in the pounds field",
        "omr",
        repeat("omr", chartdate=time("2150-04-01"), result_value="78.2"),
    ),
]


def test_sound_tables_have_no_flags(tmp_path):
    folder = write(tmp_path, [sound(FIRST), sound(SECOND)])
    assert found(folder).keys() == {("empty columns", "admissions")}  # nobody died
    assert len(quality.flags(folder)) > 40


@pytest.mark.parametrize(("check", "table", "plant"), FAULTS)
def test_a_fault_is_found_where_it_is_and_counted_once(tmp_path, monkeypatch, check, table, plant):
    alone = [one for one in quality.checks() if one.name == check]  # all of them take a second
    monkeypatch.setattr(quality, "checks", lambda: alone)
    faulty = sound(FIRST)
    plant(faulty)
    flag = found(write(tmp_path, [faulty, sound(SECOND)]))[check, table]
    n_rows = len(faulty[table]) + len(sound(SECOND)[table])
    assert (flag.rows, flag.patients, flag.share) == (1, 1, round(1 / n_rows, 6))
    assert "{" not in flag.sentence


def test_a_stay_that_stands_twice_makes_no_fault_two(tmp_path):
    patient = sound(FIRST)
    patient["admissions"] *= 2
    outside = {"charttime": time("2150-05-01"), "storetime": time("2150-05-01")}
    patient["labevents"] = [{**row, **outside} for row in patient["labevents"]]
    change("icustays", outtime=time("2150-05-01"))(patient)
    flags = found(write(tmp_path, [patient, sound(SECOND)]))
    assert flags["far from its stay", "labevents"].rows == 2
    assert flags["ICU stay outside its hospital stay", "icustays"].rows == 1


def test_every_kind_of_check_on_these_tables_has_a_fault_planted():
    there = sound(FIRST).keys()
    checks = [c for c in quality.checks() if {*c.needs} <= there]
    made = {(c.name, t) for c in checks for t in c.tables if t in there}
    planted = {name for name, _, _ in FAULTS} | {"stay of two patients"}  # has a test of its own
    assert {name for name, _ in made} <= planted


def test_counts_of_buckets_are_added_and_the_worst_of_all_is_named(tmp_path):
    patients = [sound(FIRST), sound(SECOND)]
    for patient, day in zip(patients, ("2150-03-01 08:00:00", "2150-02-20 08:00:00"), strict=True):
        change("prescriptions", stoptime=time(day))(patient)
    flag = found(write(tmp_path, patients))["stop before start", "prescriptions"]
    assert (flag.rows, flag.patients, flag.share) == (2, 2, 1.0)
    assert flag.sentence == "stops before it starts, at worst by 10 days"


@pytest.mark.parametrize("empty", [None, "nan"])
def test_a_code_or_an_item_whose_row_has_an_empty_name_is_flagged_too(tmp_path, empty):
    folder = write(tmp_path, [sound(FIRST), sound(SECOND)])
    (folder / "dictionaries").mkdir()
    codes = {"icd_code": ["I10", "E119"], "icd_version": [10, 10], "long_title": ["Hyper", empty]}
    items = {"itemid": pa.array([50912]), "label": pa.array([empty], pa.string())}
    for name, cells in (("d_icd_diagnoses", codes), ("d_labitems", items)):
        pq.write_table(pa.table(cells), folder / "dictionaries" / f"{name}.parquet")
    flags = {
        flag.table: flag.rows
        for flag in quality.flags(folder)
        if flag.check == "code without a title"
    }
    assert flags == {"diagnoses_icd": 2, "labevents": 4}


def test_a_stay_that_stands_with_two_patients_is_flagged_with_both(tmp_path):
    """They may lie in two buckets, which no query sees together."""
    first, second = sound(FIRST), sound(SECOND)
    second["admissions"] += [first["admissions"][0] | {"subject_id": SECOND}]
    second["icustays"] += [first["icustays"][0] | {"subject_id": SECOND}]
    flags = {
        flag.table: flag
        for flag in quality.flags(write(tmp_path, [first, second]))
        if flag.check == "stay of two patients"
    }
    assert flags.keys() == {"admissions", "icustays"}
    assert all((flag.rows, flag.patients) == (2, 2) for flag in flags.values())


def test_a_bucket_without_stays_makes_orphans(tmp_path):
    patient = sound(FIRST)
    patient["admissions"].clear()
    assert found(write(tmp_path, [patient, sound(SECOND)]))["orphan hadm_id", "labevents"].rows == 2


def test_checks_whose_tables_or_columns_are_not_there_are_left_out(tmp_path):
    patient = sound(FIRST)
    del patient["icustays"]
    for row in patient["labevents"]:
        del row["ref_range_upper"]
    made = {(f.check, f.table) for f in quality.flags(write(tmp_path, [patient]))}
    assert ("stop before start", "prescriptions") in made and (
        "negative where that cannot be",
        "labevents",
    ) in made
    assert not made & {
        ("orphan stay_id", "inputevents"),
        ("reference range upside down", "labevents"),
    }


def test_columns_are_flagged_when_they_are_empty_or_in_upper_case(tmp_path):
    patient = sound(FIRST)
    change("icustays", first_careunit=None)(patient)
    patient["procedureevents"] = [
        {"subject_id": FIRST, "hadm_id": STAY[FIRST], "ORIGINALAMOUNT": 1.0}
    ]
    flags = found(write(tmp_path, [patient]))
    assert flags["empty columns", "icustays"].sentence == "holds nothing in first_careunit"
    assert (
        flags["upper-case columns", "procedureevents"].sentence
        == "writes in upper case ORIGINALAMOUNT"
    )


def test_a_column_without_any_known_word_is_flagged_and_one_new_word_is_none(tmp_path):
    """As of a hospital that writes in another language, beside one that has a place of its own."""
    patients = [sound(FIRST), sound(SECOND)]
    for patient in patients:
        change("patients", gender="kvinna")(patient)
        change("prescriptions", route="per os")(patient)
        change("admissions", discharge_location="HEMMET", marital_status=None)(patient)
    change("admissions", discharge_location="home ")(patients[0])
    flags = found(write(tmp_path, patients))
    told = {table: flag.sentence for (check, table), flag in flags.items() if "known" in check}
    assert told == {
        "patients": "has no word of MIMIC-IV (later steps look for these) in gender",
        "prescriptions": "has no word of MIMIC-IV (later steps look for these) in route",
    }
    assert flags["no known word", "patients"].rows == 2


@pytest.mark.parametrize(("said", "share"), [(0, 1.0), (3, 0.8), (4, None)])
def test_a_column_of_texts_for_nothing_is_flagged(tmp_path, said, share):
    """An export that writes NULL has every cell filled, and later steps find nothing there."""
    patient = sound(FIRST)
    texts = ["0.9"] * said + ["NULL", "___", "nan"] * 4
    row = patient["labevents"][0]
    patient["labevents"] = [row | {"value": text, "priority": ""} for text in texts]
    flag = found(write(tmp_path, [patient])).get(("texts for nothing", "labevents"))
    told = flag and (flag.sentence, flag.rows, flag.share, flag.patients)
    sentence = "says nothing (NULL, ___ and the like) in most cells of value"
    assert told == (share and (sentence, 12, share, 1))


def test_blanks_and_capitals_are_no_fault_since_later_steps_read_the_word_all_the_same(tmp_path):
    """As where a database filled its columns of fixed width; a tab is a blank too."""
    patient = sound(FIRST)
    for row in [row for table in ("patients", "prescriptions", "omr") for row in patient[table]]:
        for column in {"gender", "drug_type", "result_name", "result_value"} & row.keys():
            row[column] = f" {row[column].swapcase()}\t "
    repeat("prescriptions", drug_type="NULL")(patient)  # nothing said is no other word
    flags = found(write(tmp_path, [patient]))
    assert not [check for check, _ in flags if check == "word of another form"]
    change("omr", result_value=" 4649\t")(patient)
    flags = found(write(tmp_path, [patient]))
    assert flags["body mass index out of range", "omr"].rows == 1


def test_the_real_demo_has_the_faults_that_were_counted_by_hand(demo_storage, tmp_path, capsys):
    flags = quality.flags(demo_storage / "subjects", memory=64 << 20, temp=tmp_path)
    rows = {(f.check, f.table): f.rows for f in flags}
    assert rows["stop before start", "prescriptions"] == 753
    assert rows["ICU stay outside its hospital stay", "icustays"] == 24
    assert rows["stored before it happened", "outputevents"] == 1457
    assert not [check for check, _ in rows if check == "no known word"]
    assert (
        rows["rows that stand twice", "prescriptions"] == rows["orphan hadm_id", "labevents"] == 0
    )
    quality.print_flags(flags)
    printed = capsys.readouterr().out
    assert re.search(r"prescriptions +stops before it starts.* 753 +4\.16% +91\n", printed)
    assert max(map(len, printed.splitlines())) <= 100


def test_every_check_runs_on_a_whole_schema(tmp_path):
    """A misspelt column would leave its check out silently: here each table has all columns."""
    for name, table in tables.schema().items():
        arrays = [
            pa.array([FIRST if c == "subject_id" else None], TYPES[kind])
            for c, kind in table.columns.items()
        ]
        by_subject = "subject_id" in table.columns
        place = tmp_path / ("tables" if by_subject else "dictionaries") / name
        path = place / "part-00000.parquet" if by_subject else place.with_suffix(".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(arrays, list(table.columns)), path)
    made = {(f.check, f.table) for f in quality.flags(tmp_path)}
    by_subject = {
        name: t.columns for name, t in tables.schema().items() if "subject_id" in t.columns
    }
    for check in quality.checks():
        expected = by_subject if check.tables == ["{all}"] else check.tables
        if check.name == "orphan hadm_id":
            expected = [t for t in expected if "hadm_id" in by_subject[t] and t != "admissions"]
        assert {(check.name, t) for t in expected} <= made
