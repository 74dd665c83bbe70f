"""Step 2 against a small hospital whose every count is known."""

import csv
import gzip
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pandas as pd
import pytest

from helpers.scripts import run_here, run_script
from mimic_qlora.llm import finding
from mimic_qlora.subjects import database
from mimic_qlora.subjects.manifest import subjects_manifest
from mimic_qlora.summary import counts, data, disclosure, page, record_lengths, table1
from mimic_qlora.summary.data import Data
from mimic_qlora.summary.tables import KINDS, summarize

N = 40


def write_table(folder: Path, name: str, rows: list) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / f"{name}.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)


def hospital(folder: Path) -> Path:
    """40 patients, 30 with a stay; 30 coded 4019, 12 of them E785 too (thrice), 4 of them I10."""
    hosp, ids = folder / "hosp", range(1, N + 1)
    patients = [
        {
            "subject_id": i,
            "gender": "F" if i % 2 else "M",
            "anchor_age": min(65 + i, 89) if i <= 30 else 40 + i,
            "anchor_year": 2145,
            "dod": "",
        }
        for i in ids
    ]
    stays = [
        {
            "subject_id": i,
            "hadm_id": 1000 + i,
            "admittime": "2150-01-01 10:00:00",
            "dischtime": "2150-01-03 10:00:00",
            "deathtime": "",
            "admission_type": "URGENT",
            "admit_provider_id": "P1",
            "admission_location": "",
            "discharge_location": "HOME",
            "insurance": "Medicare",
            "language": "ENGLISH",
            "marital_status": "",
            "race": "WHITE - RUSSIAN" if i > 3 else "ASIAN",
            "edregtime": "",
            "edouttime": "",
            "hospital_expire_flag": int(i == 1),
        }
        for i in ids[:30]
    ]
    codes = [(i, "4019", 9) for i in ids[:30]] + [
        (i, "E785", 10) for i in ids[:12] for _ in range(3)
    ]
    codes += [(i, "I10", 10) for i in ids[:4]]
    diagnoses = [
        {
            "subject_id": i,
            "hadm_id": 1000 + i,
            "seq_num": n,
            "icd_code": code,
            "icd_version": version,
        }
        for n, (i, code, version) in enumerate(codes, 1)
    ]
    titles = [
        {"icd_code": "4019", "icd_version": 9, "long_title": "Unspecified essential hypertension"}
    ]
    drugs = [
        {"subject_id": i, "hadm_id": 1000 + i, "starttime": "oops", "drug": "=HYPERLINK()"}
        for i in ids[:15]
    ]
    drugs[0]["starttime"] = "2150-01-01"  # a column of which none can be read is refused
    for row in patients:
        row |= {"anchor_year_group": "2011 - 2013"}
    for name, rows in (("patients", patients), ("admissions", stays), ("diagnoses_icd", diagnoses)):
        write_table(hosp, name, rows)
    write_table(hosp, "d_icd_diagnoses", titles)
    write_table(hosp, "prescriptions", drugs)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("summary")
    tables = hospital(folder / "mimic")
    done = run_here("convert_to_jsonl.py", "--mimic-dir", tables, storage=folder / "storage")
    assert done.returncode == 0, done.stderr
    return folder / "storage"


@pytest.fixture(scope="module")
def shown(store) -> str:
    # in another process than the reruns, whose hashes are others
    done = run_script("summarize_jsonl.py", storage=store)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tables(store: Path) -> dict:
    summary = json.loads((store / "summary" / "summary.json").read_text())
    return {name: table["rows"] for name, table in summary["tables"].items()}


def counted(store: Path, min_cell: int = 10) -> dict:
    """Return the tables of a summary, of which no page is made."""
    made = summarize(store, store, subjects_manifest(store), min_cell)
    return {table.name: table.rows for table in made.tables}


def test_counts_are_those_of_the_hospital(store, shown):
    result = tables(store)
    overview = {row["what"].strip(): row["n"] for row in result["overview"]}
    assert (
        overview["Patients"] == N
        and overview["with a coded stay"] == 30
        and overview["without any coded stay"] == 10
    )
    assert [
        (r["icd_version"], r["icd_code"], r["patients"])
        for r in result["top_diagnoses_by_patients"]
    ] == [
        (9, "4019", 30),
        (10, "E785", 12),
        (10, "I10", "<10"),
    ]
    assert [r["icd_code"] for r in result["top_diagnoses_by_rows"]] == ["4019", "E785", "I10"]
    some, _ = result["diagnoses_per_patient"]
    assert (some["mean"], some["median"], some["none_share"]) == (round(70 / 30, 2), 1, 0.25)
    assert some["lower_quartile"] == some["upper_quartile"] == some["most"] == "hidden"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (range(20), ("hidden",) * 4),  # nine lie before the tenth, which is the median
        (range(21), ("hidden", 10, "hidden", "hidden")),
        (range(42), ("hidden", 20, "hidden", "hidden")),
        (range(43), (10, 21, 32, "hidden")),
        (range(60), (14, 29, 45, "hidden")),  # of ten that reach 50, four would lie from 45 to it
        (range(83), (20, 41, 62, 73)),
        ([1] * 60 + [4] * 30, (1, 1, 4, 4)),
        ([1] * 68 + [11] * 22, (1, 1, 1, 11)),
        ([1] * 66 + [9] * 2 + [11] * 22, (1, 1, 9, 11)),  # a value that is there, none between two
        ([], ("hidden",) * 4),
    ],
)
def test_quartiles_and_the_most_lie_many_patients_apart(values, told):
    assert disclosure.spread(pd.Series(values, dtype=float), 10) == told


def test_numbers_of_few_patients_are_hidden_however_many_they_are():
    """Of 200 stays, the last 60 are of one patient."""
    whose = [*range(140), *[140] * 60]
    assert disclosure.spread(pd.Series(range(200), index=whose), 10)[2:] == ("hidden", "hidden")
    assert disclosure.spread(pd.Series(range(200)), 10)[2:] == (150, 190)
    stays = pd.Series([1] * 7 + [2, 2, 3])  # shown where no count is hidden
    assert disclosure.spread(stays, 0) == (1, 1, 1.75, 3)


def test_a_sum_and_quartiles_do_not_tell_together_that_one_patient_has_more():
    """Of 121 rows of 100 patients, a median of 1 and ten that reach 3 make 120."""
    one_more = pd.Series([1] * 89 + [2] + [3] * 10)
    assert disclosure.spread(one_more, 10) == (1, 1, 1, 3)
    assert disclosure.spread_of_counts(one_more, 10) == ("hidden",) * 4
    assert disclosure.spread_of_counts(pd.Series([1] * 90 + [3] * 10), 10) == (1, 1, 1, 3)
    assert disclosure.spread_of_counts(pd.Series([1] * 60 + [4] * 40), 10) == (1, 1, 4, 4)
    assert disclosure.spread_of_counts(one_more, 0) == (1, 1, 1, 3)


def test_two_means_do_not_tell_that_one_patient_has_a_code_twice():
    con = duckdb.connect()
    con.execute(
        """CREATE TABLE diagnoses_icd AS SELECT who AS subject_id, who AS hadm_id,
        'I' || if(who = 7 AND n = 3, 2, n) AS icd_code, 10 AS icd_version
        FROM range(100) patients (who), range(5) codes (n)"""
    )
    manifest = {"rows": {"diagnoses_icd": {"columnar": 500}}}
    hospital = SimpleNamespace(con=con, patients=100, min_cell=10, manifest=manifest)
    assert [row["mean"] for row in counts.diagnoses_per_patient(hospital)] == ["hidden"] * 2
    hospital.min_cell = 0
    assert [row["mean"] for row in counts.diagnoses_per_patient(hospital)] == [5, 4.99]


@pytest.mark.parametrize(
    ("n", "of", "shown"),
    [(0, 57, 0), (57, 57, 57), (37, 57, 40), (56, 57, 50), (3, 57, 10), (96, 100, 90)],
)
def test_cells_are_told_to_the_next_ten_but_none_and_all(n, of, shown):
    assert disclosure.rounded(n, of, 10) == shown and disclosure.rounded(n, of, 0) == n


def test_rows_that_are_few_more_than_patients_are_hidden():
    rows = [{"patients": 12, "rows": n} for n in (12, 13, 22)]
    assert [r["rows"] for r in disclosure.hide_repeats(rows, 10)] == [12, "hidden", 22]


def test_each_icd_version_has_a_list_of_its_own(store):
    con = database.connect(store, store)
    con.execute("""
        CREATE OR REPLACE VIEW diagnoses_icd_labeled AS
        SELECT i AS subject_id, i AS hadm_id, v AS icd_version, i::VARCHAR AS icd_code,
               '' AS long_title
        FROM range(30) t(i), (VALUES (9), (10)) u(v), range(if(v = 9, 5, 1))""")
    found = KINDS["top_diagnoses_by_rows"].rows(Data(con, {}, 0))
    assert [row["icd_version"] for row in found] == [9] * 20 + [10] * 20
    assert found[0]["rows"] == 5 and found[20]["rows"] == 1


def test_flags_of_step_1_are_shown_and_their_worst_value_is_not(store, shown, tmp_path):
    flags = tables(store)["quality"]
    assert flags and all(row["rows"] for row in flags)
    flag = {
        "check": "stop before start",
        "table": "inputevents",
        "sentence": "ends before it starts, at worst by 9 days",
        "rows": 40,
        "share": 0.1,
    }
    many, few = ({**flag, "patients": n} for n in (10, 3))
    twice = {**many, "rows": 12}  # at most two of ten patients have such a row twice
    manifest = {"quality": [many, few, twice], "source": {"patients": N}, "rows": {}}
    con = database.connect(store, tmp_path)
    shown = counts.quality(Data(con, manifest, 10))
    assert {row["sentence"] for row in shown} == {"ends before it starts"}
    assert shown[0] == {k: many[k] for k in shown[0]} | {"sentence": "ends before it starts"}
    assert counts.quality(Data(con, manifest, 0))[1] == {k: few[k] for k in shown[0]}
    assert shown[1]["rows"] == shown[1]["share"] == "hidden" and shown[1]["patients"] == "<10"
    assert [shown[2][c] for c in ("rows", "share", "patients")] == ["hidden", "hidden", 10]


def test_other_flags_and_another_tokenizer_make_the_summary_anew(store, tmp_path, monkeypatch):
    """Step 1's id tells nothing of its flags: step 2 kept those of before as up to date."""
    copy = tmp_path / "storage"
    shutil.copytree(store, copy, ignore=shutil.ignore_patterns("summary", ".*"))
    assert run_here("summarize_jsonl.py", storage=copy).returncode == 0
    assert "is up to date" in run_here("summarize_jsonl.py", storage=copy).stdout
    path = copy / "subjects" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "quality": manifest["quality"][1:]}))
    done = run_here("summarize_jsonl.py", storage=copy)
    assert "is up to date" not in done.stdout
    assert len(tables(copy)["quality"]) == len(manifest["quality"]) - 1
    of_model = ("summarize_jsonl.py", "--model", "SmolLM2-135M-Instruct")
    for sha256, again in (("one", False), ("one", True), ("other", False)):
        monkeypatch.setattr(finding, "tokenizer_sha256", lambda _, now=sha256: now)
        assert ("is up to date" in run_here(*of_model, storage=copy).stdout) == again


def test_tokens_of_long_records_are_those_of_their_pieces_in_proportion(store, monkeypatch):
    whole = record_lengths.per_record(store, len, 0)
    assert [row["of_each_record"] for row in whole] == ["bytes", "tokens"] and whole[0][
        "records"
    ] == N
    assert whole[0]["median"] == whole[1]["median"]  # a token a byte
    monkeypatch.setattr(record_lengths, "PIECE", 40)
    assert record_lengths.per_record(store, len, 0)[1]["mean"] == whole[1]["mean"]
    assert (
        record_lengths.per_record(store, lambda text: 1, 0)[1]["median"] < whole[1]["median"] / 30
    )
    assert record_lengths.per_record(store, len, N + 1) == []


def test_phenotypes_join_both_versions_of_a_disease(store, shown):
    by_phenotype = {row["phenotype"]: row["patients"] for row in tables(store)["top_phenotypes"]}
    assert by_phenotype["hypertension"] == 30


def test_table_1_sets_patients_without_a_coded_stay_apart(store, shown):
    rows = {row["characteristic"].strip(): row for row in tables(store)["table1"]}
    assert rows["Patients"]["overall"] == 30 and rows["Patients"]["no coded stay"] == 10
    assert rows["no hospital stay"]["no coded stay"] == "10 (100%)"
    assert rows["Age, years"]["overall"] == "85 [hidden]"
    assert rows["Age, years"]["no coded stay"] == "hidden"  # of ten patients
    assert rows["Medicare"]["overall"] == "30 (100%)"


def test_small_cells_are_hidden_everywhere_and_shown_on_request(store, shown):
    rows = {row["characteristic"].strip(): row for row in tables(store)["table1"]}
    assert rows["Died in hospital"]["overall"] == "<10" and rows["Asian"]["overall"] == "<10"
    race = [row["overall"] for row in tables(store)["table1"]][
        5:9
    ]  # the heading, Asian, White, no hospital stay
    assert race == ["", "<10", "hidden", "0 (0%)"]
    # the overview tells the sizes of splits: of small ones, and so of the rest, nothing
    of_splits = {row[split] for row in rows.values() for split in table1.SPLITS[1:]}
    assert of_splits == {"", "hidden", "not recorded"}
    assert "written as <10" in shown
    done = run_here("summarize_jsonl.py", "--min-cell", 0, storage=store)
    rows = {row["characteristic"].strip(): row for row in tables(store)["table1"]}
    assert rows["Died in hospital"]["overall"] == "1 (3%)" and "<10" not in done.stdout
    # 1 hides none either, so that what refuses the one refuses the other
    done = run_here("summarize_jsonl.py", "--min-cell", 1, storage=store)
    assert "is up to date" in done.stdout
    assert "(--min-cell 0 or 1)" in page.privacy(0)
    assert run_here("summarize_jsonl.py", "--min-cell", 11, storage=store).returncode == 0
    rows = {row["characteristic"].strip(): row for row in tables(store)["table1"]}
    # all patients less those with a coded stay would be those without
    assert (rows["Patients"]["no coded stay"], rows["Patients"]["overall"]) == ("<11", "hidden")
    assert run_here("summarize_jsonl.py", storage=store).returncode == 0


def test_no_hidden_term_can_be_worked_out_from_a_sum():
    cases = {
        (50, 30, 3, 0): ("shown", "hidden", "<10", "shown"),
        (98, 1, 1): ("hidden", "<10", "<10"),  # the sum of two alone would tell both
        (50, 9, 9): ("shown", "hidden", "hidden"),  # so would the bound of all terms
        (10, 1): ("hidden", "hidden"),
        (5, 5): ("<10", "<10"),
    }
    for numbers, expected in cases.items():
        n = dict(enumerate(numbers))
        found = disclosure.hidden_cells(n, [list(n)], 10)
        assert tuple(found.get(key, "shown") for key in n) == expected
        assert disclosure.hidden_cells(n, [list(n)], 0) == {}


def test_no_hidden_count_can_be_worked_out_where_rows_and_columns_cross():
    """Of all columns together: train a + b is 41 and a at least 40, so that b is 1."""
    rows = {"a": (59, 40, 9, 10), "b": (23, 1, 12, 10), "c": (51, 40, 1, 10)}
    columns = ("overall", "train", "validation", "test")
    n = {(r, c): k for r, row in rows.items() for c, k in zip(columns, row, strict=True)}
    sums = [[(r, c) for r in rows] for c in columns]
    totals = [[(r, c) for c in columns] for r in rows]
    list_by_list = {("a", "train"), ("a", "validation"), ("b", "train"), ("b", "test")}
    list_by_list |= {("c", "validation"), ("c", "test")}
    found = disclosure.hidden_cells(n, sums, 10, totals)
    assert found.keys() > list_by_list and found["a", "validation"] == "hidden"
    everything = disclosure.hidden_cells({"few": 3, "0": 0}, [["few", "0"]], 10)
    assert everything == {"few": "<10"}  # its sum tells it, and nothing is there to hide


def test_the_place_of_a_hidden_count_among_sorted_ones_does_not_tell_it(tmp_path):
    """A phenotype stood between one of 16 and one of 15 patients, the names of both before its own:
    it had 16, and less the 13 of one of its codes that told three."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    with gzip.open(hosp / "diagnoses_icd.csv.gz", "rt", newline="") as file:
        first, *_ = csv.DictReader(file)
    coded = [(i, "4019", 9) for i in range(1, 17)]  # hypertension
    coded += [(i, "3051", 9) for i in range(1, 14)] + [(i, "F1720", 10) for i in (14, 15, 16)]
    coded += [(i, "2720", 9) for i in range(16, 31)]  # hyperlipidemia
    coded += [(i, "V1582", 9) for i in range(1, 10)] + [(i, "311", 9) for i in range(10, 17)]
    rows = [
        first | {"subject_id": i, "hadm_id": 1000 + i, "icd_code": code, "icd_version": version}
        for i, code, version in coded
    ]
    write_table(hosp, "diagnoses_icd", rows)
    with gzip.open(hosp / "admissions.csv.gz", "rt", newline="") as file:
        stays = list(csv.DictReader(file))
    kinds = ["URGENT"] * 12 + ["ELECTIVE"] * 11 + ["DIRECT EMER."] * 4 + ["EW EMER."] * 3
    write_table(
        hosp,
        "admissions",
        [row | {"admission_type": kind} for row, kind in zip(stays, kinds, strict=True)],
    )
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    result = counted(place)
    for name, key in (("top_phenotypes", "phenotype"), ("top_diagnoses_by_patients", "icd_code")):
        rows = [row for row in result[name] if row.get("icd_version", 9) == 9]
        is_hidden = [isinstance(row["patients"], str) for row in rows]
        assert sum(is_hidden) > 1 and is_hidden == sorted(is_hidden), rows
        names = [row[key] for row in rows if isinstance(row["patients"], str)]
        assert names == sorted(names)
    phenotypes = {row["phenotype"]: row["patients"] for row in result["top_phenotypes"]}
    assert phenotypes["tobacco_use"] == "hidden" and phenotypes["hyperlipidemia"] == 15
    overall = {row["characteristic"].strip(): row["overall"] for row in result["table1"]}
    kinds = [*overall][[*overall].index("Admission type") + 1 :][:4]
    assert kinds == ["URGENT", "DIRECT EMER.", "ELECTIVE", "EW EMER."], overall
    assert overall["URGENT"] == "12 (40%)" and overall["ELECTIVE"] == "hidden"


@pytest.mark.parametrize(
    ("by_bin", "shown"),
    [
        ([46, 25, 9, 5, 15], {"1 to 99": 100}),  # 4 lie between 71 and 75, 5 between 85 and 90
        ([25, 25, 25, 25], {"1 to 79": 100}),  # each bound is a quartile's
        ([150, 120, 130], {"1 to 19": 150, "20 to 39": 120, "40 to 59": 130}),
        ([150, 48, 202], {"1 to 19": 150, "20 to 59": 250}),  # the median cuts the bin 48 to 2
    ],
)
def test_no_bound_of_the_histogram_lies_few_patients_from_a_quartile(by_bin, shown):
    codes = [20 * i + 1 for i, n in enumerate(by_bin) for _ in range(n)]
    con = duckdb.connect()
    con.execute(
        """CREATE TABLE diagnoses_icd AS SELECT who AS subject_id, 1 AS hadm_id,
        'I10' AS icd_code, 10 AS icd_version
        FROM (SELECT unnest(range(len($1))) AS who, unnest($1) AS n), range(n)""",
        [codes],
    )
    hospital = SimpleNamespace(con=con, patients=sum(by_bin), min_cell=10)
    rows = counts.diagnoses_histogram(hospital)
    found = {row["coded_diagnoses"]: row["patients"] for row in rows}
    assert found == shown


def test_what_one_table_hides_no_other_tells(tmp_path):
    """Of 40 patients 26 have a coded stay, one has a stay without a code."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    for name, last in (("admissions", 27), ("diagnoses_icd", 26)):
        with gzip.open(hosp / f"{name}.csv.gz", "rt", newline="") as file:
            first, *_ = csv.DictReader(file)
        rows = [{**first, "subject_id": i, "hadm_id": 1000 + i} for i in range(1, last + 1)]
        if name == "diagnoses_icd":
            rows += [{**rows[0], "seq_num": seq_num} for seq_num in range(2, 25)]
        write_table(hosp, name, rows)
    services = [{"subject_id": i, "hadm_id": 1000 + i, "curr_service": "MED"} for i in range(1, 28)]
    write_table(hosp, "services", services)
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    result = counted(place)
    assert [row["n"] for row in result["flow"]][2] == "hidden"
    shown = {row["table"]: row for row in result["rows_per_table"]}
    for name in ("admissions", "services"):  # of which every stay has a row
        assert shown[name]["patients"] == shown[name]["rows"] == "hidden"
    of_admissions = [r for r in result["quality"] if r["table"] == "admissions"]
    assert of_admissions and {row["patients"] for row in of_admissions} == {"hidden"}
    # the bin of few is one with its neighbour
    histogram = {row["coded_diagnoses"]: row["patients"] for row in result["diagnoses_histogram"]}
    assert histogram == {"0": 14, "1 to 39": 26}


def test_a_code_of_a_stay_that_is_not_there_makes_no_coded_stay(tmp_path):
    """As steps 3 to 7 count them; the flow had a negative number of patients without a code."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    with gzip.open(hosp / "admissions.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    write_table(hosp, "admissions", rows[:15])
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    result = counted(place)
    with_code = len({row["subject_id"] for row in rows[:15]})
    assert [row["n"] for row in result["flow"]][2:] == [with_code, with_code]
    overview = {row["what"].strip(): row["n"] for row in result["overview"]}
    assert overview["with a coded stay"] == result["table1"][0]["overall"] == with_code


def test_a_row_that_says_no_stay_code_or_version_is_counted_as_no_coded_diagnosis(tmp_path):
    """Step 1 says that steps 2 to 7 leave it out."""
    tables_of = {}
    for extra in (False, True):
        mimic, place = tmp_path / f"mimic{extra}", tmp_path / f"storage{extra}"
        hosp = hospital(mimic) / "hosp"
        with gzip.open(hosp / "diagnoses_icd.csv.gz", "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        more = [row | {c: ""} for row in rows for c in ("hadm_id", "icd_code", "icd_version")]
        write_table(hosp, "diagnoses_icd", rows + more * extra)
        assert run_here("convert_to_jsonl.py", "--mimic-dir", mimic, storage=place).stderr == ""
        tables_of[extra] = {
            name: rows
            for name, rows in counted(place, 0).items()
            if name.startswith("diagnoses")
            or name in ("flow", "top_phenotypes")
            or name.startswith("top_diagnoses")
        }
    assert len(tables_of[True]) == 6 and tables_of[True] == tables_of[False]


def test_rows_that_a_flag_hides_are_not_told_by_the_numbers_of_stays_and_codes(tmp_path):
    """50 stays in 52 rows, 70 codes in 73: overview and mean told the two rows and the three."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    with gzip.open(hosp / "admissions.csv.gz", "rt", newline="") as file:
        stays = list(csv.DictReader(file))
    stays += [row | {"hadm_id": 2000 + i} for i, row in enumerate(stays[:20])]
    write_table(hosp, "admissions", [*stays, *stays[:2]])
    with gzip.open(hosp / "diagnoses_icd.csv.gz", "rt", newline="") as file:
        codes = list(csv.DictReader(file))
    write_table(hosp, "diagnoses_icd", [*codes, *(row | {"icd_code": ""} for row in codes[:3])])
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    result = counted(place)
    rows = {row["table"]: row["rows"] for row in result["rows_per_table"]}
    overview = {row["what"].strip(): row["n"] for row in result["overview"]}
    assert (rows["admissions"], overview["Hospital stays"]) == (52, "hidden")
    means = [(row["what"], row["mean"]) for row in result["diagnoses_per_patient"]]
    assert rows["diagnoses_icd"] == 73 and means == [
        ("coded diagnoses", "hidden"),
        ("different codes", 1.53),
    ]
    overview = {row["what"].strip(): row["n"] for row in counted(place, 0)["overview"]}
    assert overview["Hospital stays"] == 50


def test_few_rows_more_than_patients_are_not_told(tmp_path):
    """33 stays of 30 patients: three of them at most have more than one."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    for name in ("admissions", "diagnoses_icd"):
        with gzip.open(hosp / f"{name}.csv.gz", "rt", newline="") as file:
            rows = list(csv.DictReader(file))[:30]
        more = [row | {"hadm_id": 2000 + i, "icd_code": "I10"} for i, row in enumerate(rows[:3])]
        write_table(hosp, name, rows + [{k: row[k] for k in rows[0]} for row in more])
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    result = counted(place)
    shown = {row["table"]: (row["rows"], row["patients"]) for row in result["rows_per_table"]}
    assert shown["admissions"] == shown["diagnoses_icd"] == ("hidden", 30)
    overview = {row["what"].strip(): row["n"] for row in result["overview"]}
    assert (overview["Hospital stays"], overview["Rows"]) == ("hidden", "hidden")
    assert {row["mean"] for row in result["diagnoses_per_patient"]} == {"hidden"}


def test_the_sum_of_all_rows_does_not_tell_the_rows_of_a_small_table(tmp_path):
    """All rows less those of the other tables were the one row, and so the one patient."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    write_table(hosp, "services", [{"subject_id": 1, "hadm_id": 1001}])
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    for least, shown in ((10, "hidden"), (0, 40 + 30 + 70 + 15 + 1)):
        assert counted(place, least)["overview"][-1] == {"what": "Rows", "n": shown}


def test_table_1_hides_no_patients_without_a_stay_that_the_flow_tells():
    levels = {"White": 24, "Black": 3, table1.NO_STAY: 12}
    counts_of = {
        level: dict.fromkeys(table1.SPLITS, 0) | {"no coded stay": n} for level, n in levels.items()
    }
    sizes = dict.fromkeys(table1.COLUMNS, 40)
    rows = table1._levels("Race", counts_of, table1.Groups({}, sizes, 10))
    assert [row["no coded stay"] for row in rows] == ["", "hidden", "<10", "12 (30%)"]


def test_what_table_1_hides_of_the_dead_and_of_icu_patients_no_other_table_tells():
    """61 patients have rows of icustays, as another table says: 58 beside them told "<10"."""
    yes = dict(zip(table1.COLUMNS, (58, 47, 6, 5, 3), strict=True))
    no = dict(zip(table1.COLUMNS, (172, 137, 16, 19, 167), strict=True))
    sizes = {column: yes[column] + no[column] for column in yes}
    row, _ = table1._levels("Any ICU stay", {"": yes, "no": no}, table1.Groups({}, sizes, 10))
    assert row["no coded stay"] in ("<10", "hidden") and row["overall"] == "hidden"
    of_sex = {"F": yes, table1._UNKNOWN[0]: no | {"no coded stay": 4}}
    *_, row = table1._levels("Sex", of_sex, table1.Groups({}, sizes, 10))
    assert row["overall"] == "hidden"  # patients.gender's empty cells are counted, too


def test_table_1_does_not_say_0_of_what_the_data_does_not_hold(tmp_path):
    hosp = hospital(tmp_path / "mimic") / "hosp"
    with gzip.open(hosp / "admissions.csv.gz", "rt", newline="") as file:
        rows = [{**row, "hospital_expire_flag": ""} for row in csv.DictReader(file)]
    write_table(hosp, "admissions", rows)
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    said = {row["characteristic"]: row["overall"] for row in counted(place)["table1"]}
    assert said["Any ICU stay"] == said["Died in hospital"] == "not recorded"


def test_lengths_of_many_stays_of_few_patients_are_hidden():
    days = pd.Series([1.0] * 12, index=[7] * 12)
    groups = table1.Groups({"overall": days.to_frame("days")}, {"overall": 40}, 10)
    assert table1._quartiles("Days", lambda part: part.days, groups)[0]["overall"] == "hidden"


def test_a_number_that_all_but_few_patients_are_in_is_hidden(tmp_path):
    """Of 40 patients three have no stay, and two of these no code."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    for name in ("admissions", "diagnoses_icd"):
        with gzip.open(hosp / f"{name}.csv.gz", "rt", newline="") as file:
            first, *rows = csv.DictReader(file)
        rows = [{**first, "subject_id": i, "hadm_id": 1000 + i} for i in range(1, 38)]
        if name == "diagnoses_icd":
            rows += [{**row, "seq_num": 2} for row in rows] + [{**first, "subject_id": 38}]
        write_table(hosp, name, rows)
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    result = counted(place)
    shown = {row["table"]: row for row in result["rows_per_table"]}
    for name in ("admissions", "diagnoses_icd"):
        assert {shown[name][c] for c in ("patients", "rows", "patients_share")} == {"hidden"}
    assert shown["patients"]["patients"] == N
    told = [(row["mean"], row["none_share"]) for row in result["diagnoses_per_patient"]]
    assert told == [("hidden", "hidden")] * 2
    assert result["diagnoses_histogram"] == [{"coded_diagnoses": "0 to 19", "patients": N}]
    assert {row["patients"] for row in result["top_diagnoses_by_patients"]} == {"hidden"}
    of_admissions = [r for r in result["quality"] if r["table"] == "admissions"]
    assert of_admissions and {row["patients"] for row in of_admissions} == {"hidden"}


def test_a_number_that_all_but_few_of_a_smaller_group_are_in_is_hidden(tmp_path):
    """A table, the codes of a phenotype, a table that another one details: two counts tell few."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    with gzip.open(hosp / "diagnoses_icd.csv.gz", "rt", newline="") as file:
        first, *_ = csv.DictReader(file)
    codes = [("4019", 9)] * 12 + [("I10", 10)] * 4 + [("E785", 10)] * 14
    coded = [
        {"subject_id": i, "hadm_id": 1000 + i, "icd_code": code, "icd_version": version}
        for i, (code, version) in enumerate(codes, 1)
    ]
    write_table(hosp, "diagnoses_icd", [first | row for row in coded])
    given = ["Aspirin"] * 12 + ["Heparin"] * 3
    orders = [{"subject_id": i, "drug": drug} for i, drug in enumerate(given, 1)]
    write_table(hosp, "prescriptions", orders)
    for name, low, high in (("emar", 11, 30), ("emar_detail", 11, 27), ("pharmacy", 1, 12)):
        write_table(hosp, name, [{"subject_id": i} for i in range(low, high + 1)])
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    result = counted(place)
    shown = {row["table"]: row["patients"] for row in result["rows_per_table"]}
    assert (shown["emar"], shown["emar_detail"]) == (20, "hidden")
    assert (shown["prescriptions"], shown["pharmacy"]) == (15, "hidden")
    assert [row["patients"] for row in result["top_drugs"]] == ["hidden"]
    by_code = {row["icd_code"]: row["patients"] for row in result["top_diagnoses_by_patients"]}
    assert by_code == {"4019": 12, "I10": "<10", "E785": 14}
    phenotypes = {row["phenotype"]: row["patients"] for row in result["top_phenotypes"]}
    assert sorted(map(str, phenotypes.values())) == ["14", "hidden"]


def test_cells_of_few_patients_and_rows_of_a_hidden_table_are_nowhere_told(tmp_path):
    """In pharmacy a patient has 14 empty and 14 odd cells; three patients have no services."""
    hosp = hospital(tmp_path / "mimic") / "hosp"
    orders = [
        {"subject_id": i, "medication": "A", "route": "", "starttime": "2150-01-01", "status": ""}
        for i in range(1, 21)
    ]
    orders += [{**orders[0], "medication": "", "starttime": "oops"} for _ in range(14)]
    for row in orders:
        some = row["subject_id"] <= 10
        row |= {"route": "IV" * some, "stoptime": "oops" if some else "2150-01-02"}
    write_table(hosp, "pharmacy", orders)
    services = [
        {"subject_id": i, "hadm_id": 1000 + i, "curr_service": "M", "prev_service": "M" * (i < 20)}
        for i in range(1, 38)
    ]
    write_table(hosp, "services", services)
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    done = run_here("summarize_jsonl.py", "--all", storage=place)
    assert "others are is hidden (missing.csv" in done.stdout
    result = tables(place)
    numbers = ("rows", "empty", "filled", "empty_share")
    cells = {row["column"]: tuple(row[c] for c in numbers) for row in result["missing"]}
    assert cells["pharmacy.medication"] == (34, "hidden", "hidden", "hidden")
    assert cells["pharmacy.route"] == (34, 10, 24, 10 / 34)
    assert cells["pharmacy.status"] == (34, 34, 0, 1.0)
    assert cells["services.prev_service"] == ("hidden", "hidden", "hidden", "hidden")
    assert cells["services.curr_service"] == ("hidden", 0, "hidden", 0.0)
    assert result["overview"][-1] == {"what": "Rows", "n": "hidden"}
    odd = {"column": "pharmacy.starttime", "type": "time", "cells": "hidden", "rows": 34}
    assert odd in result["misfits"]
    assert {**odd, "column": "pharmacy.stoptime", "cells": 24} in result["misfits"]
    manifest = json.loads((place / "subjects" / "manifest.json").read_text())
    flag = {"check": "", "table": "services", "sentence": "", "rows": 15, "patients": 15}
    con = database.connect(place, tmp_path)
    of_pharmacy = {**flag, "table": "pharmacy", "share": 15 / 34}  # 5 of its patients do not
    flags = [{**flag, "share": 15 / 37}, {**flag, "share": 1.0}, of_pharmacy]
    found = counts.quality(Data(con, {**manifest, "quality": flags}, 10))
    assert [(row["rows"], row["share"], row["patients"]) for row in found] == [
        (15, "hidden", 15),
        ("hidden", "hidden", "hidden"),
        ("hidden", "hidden", "hidden"),
    ]
    del manifest["cells_not_of_their_type_patients"]  # as older versions wrote it
    assert odd in counts.misfits(Data(con, manifest, 10))


def test_rows_and_patients_of_a_table_are_counted_once_for_all_tables_of_the_summary(
    store, tmp_path, monkeypatch
):
    manifest = json.loads((store / "subjects" / "manifest.json").read_text())
    leave_few, asked = data._leave_few, []
    monkeypatch.setattr(data, "_leave_few", lambda *given: asked.append(given) or leave_few(*given))
    assert summarize(store, tmp_path, manifest, 10).tables
    assert len(asked) == len(manifest["rows"])


def test_the_same_input_gives_the_same_bytes(store, shown):
    def content():
        return {
            p.name: p.read_bytes()
            for p in (store / "summary").iterdir()
            if p.name != "manifest.json"
        }

    first = content()
    assert run_here("summarize_jsonl.py", "--force", storage=store).returncode == 0
    assert content() == first


def test_terminal_fits_100_columns_and_the_page_needs_no_network(store, shown):
    assert (
        max(len(line) for line in shown.splitlines() if "/" not in line) <= 100
    )  # paths are as long as they are
    html = (store / "summary" / "summary.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)|<script|@import|url\(", html)


def test_cells_not_of_their_type_and_empty_columns_are_told(store, shown, tmp_path):
    result = tables(store)
    assert result["misfits"] == [
        {"column": "prescriptions.starttime", "type": "time", "cells": "hidden", "rows": 15}
    ]  # all but one patient have them
    by_column = {row["column"]: row["empty_share"] for row in result["missing"]}
    told = {
        "cells_not_of_their_type": {"d_items.lownormalvalue": 12},
        "columns": {},
        "rows": {},
        "source": {"patients": N},
        "dictionaries": {"d_items": 90},
    }
    of_dictionary = Data(database.connect(store, tmp_path), told, 10)
    (row,) = counts.misfits(of_dictionary)
    assert (row["cells"], row["rows"]) == (12, 90)
    assert by_column["admissions.deathtime"] == 1.0 and by_column["prescriptions.drug"] == 0.0


def test_a_cell_that_a_spreadsheet_would_run_is_disarmed(store, shown):
    assert "'=HYPERLINK()" in (store / "summary" / "top_drugs.csv").read_text()


def test_texts_and_rows_of_few_patients_are_nowhere_in_the_summary(tmp_path):
    hosp = hospital(tmp_path / "mimic") / "hosp"
    own = {"admissions": ("insurance", "admission_type"), "patients": ("gender",)}
    for name, columns in (own | {"prescriptions": ("drug",)}).items():
        path = hosp / f"{name}.csv.gz"
        with gzip.open(path, "rt", newline="") as file:
            first, *rows = csv.DictReader(file)
        write_table(hosp, name, [first | dict.fromkeys(columns, "Smith's own"), *rows])
    service = {"hadm_id": 1001, "transfertime": "", "prev_service": "", "curr_service": "MED"}
    write_table(hosp, "services", [{"subject_id": 1, **service}])
    stay = {"hadm_id": 1001, "stay_id": 7, "intime": "2150-01-01 11:00:00"}
    write_table(hosp, "icustays", [{"subject_id": 1, **stay}])
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", hosp.parent, storage=place).stderr == ""
    done = run_here("summarize_jsonl.py", "--all", storage=place)
    assert "another text" in done.stdout and "Smith" not in done.stdout
    for path in (place / "summary").iterdir():
        assert "Smith" not in path.read_text(), path.name
    result = tables(place)
    assert {row["rows"] for row in result["missing"] if "services." in row["column"]} == {"<10"}
    overview = {row["what"].strip(): row["n"] for row in result["overview"]}
    assert overview["ICU stays"] == "<10"
    assert run_here("summarize_jsonl.py", "--min-cell", 0, storage=place).returncode == 0
    assert "Smith's own" in (place / "summary" / "table1.csv").read_text()
    assert "Smith's own" in (place / "summary" / "top_drugs.csv").read_text()


def test_absent_tables_are_named(store, shown):
    assert "left out, the data has no labevents" in shown


def test_a_missing_step_1_is_one_sentence(tmp_path):
    done = run_here("summarize_jsonl.py", storage=tmp_path)
    assert done.returncode == 2 and "run `python convert_to_jsonl.py` first" in done.stderr
    assert not list(tmp_path.glob("*summary*"))


def test_a_damaged_table_is_one_sentence(store, tmp_path):
    shutil.copytree(store / "subjects", tmp_path / "subjects")
    (table,) = (tmp_path / "subjects" / "tables" / "patients").iterdir()
    content = table.read_bytes()
    table.write_bytes(content[:4] + bytes(len(content) - 12) + content[-8:])  # of the same size
    done = run_here("summarize_jsonl.py", storage=tmp_path)
    assert (
        done.returncode == 2 and "is damaged: run" in done.stderr and "Traceback" not in done.stderr
    )


def test_columns_that_the_source_did_not_have_are_null(store):
    con = database.connect(store, store)
    assert con.execute("SELECT count(*), count(dose_val_rx) FROM prescriptions").fetchall() == [
        (15, 0)
    ]


def test_text_of_a_chart_neither_steers_nor_ends_the_summary(tmp_path):
    """A formula between dollar signs, a window's title, a cleared screen, text turned around."""
    folder = hospital(tmp_path / "mimic")
    path = folder / "hosp" / "prescriptions.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    nasty = "A$\\frac{1}{$B\x1b]0;x\x07\x1b[2J\u202e\x9b31m"
    write_table(path.parent, "prescriptions", [row | {"drug": nasty} for row in rows])
    place = tmp_path / "storage"
    assert run_here("convert_to_jsonl.py", "--mimic-dir", folder, storage=place).returncode == 0
    ascii_ = {"PYTHONIOENCODING": "ascii"}
    done = run_script("summarize_jsonl.py", "--min-cell", 0, "--all", storage=place, **ascii_)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "A$\\frac{1}{$B]0;x[2J31m" in done.stdout
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.stdout)
    for name in ("summary.html", "summary.json", "top_drugs.csv"):
        text = (place / "summary" / name).read_text(encoding="utf-8")
        assert not re.search("[\x1b\x07\x9b\u202e]", text) and "[2J31m" in text


def test_the_flow_says_who_was_left_out_and_why(store, shown):
    flow = tables(store)["flow"]
    assert [(row["patients"], row["n"], row["left_out"]) for row in flow] == [
        ("in the tables", N, 0),
        ("converted", N, 10),
        ("with a hospital stay", 30, 0),
        ("with a coded stay", 30, None),
    ]
    page = (store / "summary" / "summary.html").read_text()
    assert "<b>10</b> left out: no hospital stay" in page
    assert page.index('<ol class="flow">') < page.index("<table")
    manifest = {"rows": {"patients": {"in": 99, "unsampled": 50, "rejected": 9}}}
    con = database.connect(store, store)
    sampled = counts.flow(Data(con, manifest | {"source": {"patients": N}}, 11))
    assert [(row["n"], row["left_out"]) for row in sampled] == [
        (99, 50),
        (49, 9),
        (N, "<11"),
        ("hidden", 0),
        ("hidden", None),
    ]


def test_the_terminal_gets_size_and_table_1_and_all_on_request(store, shown):
    assert "Size of the data" in shown and "Table 1" in shown and "further tables" in shown
    assert "Top 20 drugs" not in shown and len(shown.splitlines()) < 70
    done = run_here("summarize_jsonl.py", "--all", "--force", storage=store)
    assert "Top 20 drugs ordered" in done.stdout and "further tables" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Next: python feature_select_xgb_columns.py")


def test_a_stay_that_ends_before_it_begins_has_no_days_and_a_word_for_nothing_is_no_name(tmp_path):
    tables = hospital(tmp_path / "mimic")
    labs = [{"subject_id": i, "itemid": 7 + i % 2, "charttime": "2150-01-01"} for i in range(1, N)]
    write_table(tables / "hosp", "labevents", labs)
    write_table(tables / "hosp", "d_labitems", [{"itemid": i, "label": "nan"} for i in (7, 8)])
    for name, old, new in (
        ("admissions", "2150-01-03", "2100-01-03"),
        ("admissions", "ASIAN", "nan"),
        ("admissions", "Medicare", " NULL"),
        ("admissions", "URGENT", "\\N"),
        ("patients", ",F,", ",NaN,"),
        ("patients", ",M,", ",M\t,"),
        ("prescriptions", "=HYPERLINK()", "NULL"),
    ):
        path = next((tables / "hosp").glob(f"{name}.*"))
        text = gzip.decompress(path.read_bytes()).decode()
        path.write_bytes(gzip.compress(text.replace(old, new, 12).encode()))
    for script, *args in (
        ("convert_to_jsonl.py", "--mimic-dir", tables),
        ("summarize_jsonl.py", "--min-cell", "0"),
    ):
        done = run_here(script, *args, storage=tmp_path / "storage")
        assert done.returncode == 0, done.stderr
    summary = tmp_path / "storage/summary"
    lines = (summary / "table1.csv").read_text().splitlines()
    days = [line for line in lines if line.startswith("Days")]
    assert len(days) == 2 and all({*line.split(",")[1:]} <= {"2 [2-2]", ""} for line in days)
    # as many as there are of each, and no race, sex or insurance of its own
    known = {line.split(",")[0].strip() for line in lines}
    assert not known & {"Other", "nan", "NaN", "NULL", "\\N"}
    unknown = [line.split(",")[1] for line in lines if line.startswith("  not recorded")]
    assert unknown == ["12 (40%)", "3 (10%)", "12 (40%)", "12 (40%)"]
    assert any(line.startswith("  M,15 (50%)") for line in lines)  # a tab behind it or none
    assert "NULL" not in (summary / "top_drugs.csv").read_text()
    listed = (summary / "top_labs.csv").read_text()
    assert "nan" not in listed and listed.count("\n") == 3  # two labs without a name are not one
