"""Names and paths of users are data: whatever they are, steps 1 to 4 do the same with the rows."""

import gzip
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import convert_to_jsonl
from helpers.mimic_tables import rewrite, write_table
from mimic_qlora.chart import columns as chart_columns
from mimic_qlora.features import cohort, matrix
from mimic_qlora.mimic import tables
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.prompts import cohort as prompt_cohort
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import database, quality, reader, split_file, sql
from mimic_qlora.subjects.manifest import subjects_manifest
from mimic_qlora.summary import tables as summary

ODD = ["split=train", "subject_id=7", "a*b", "[1]? 'q' \"q\" 100% {x} $y; é\u0301 日本"]
# names that the software has for tables of its own, keywords, and names of DuckDB's own
TABLES = [
    "cohort split files code_phenotype people known items stays first select table main further",
    "whole sqlite_master in_memory i 日本 labevents-00000 bucket-list",
]
COLUMNS = {
    "labevents": "i moment is_train name f n place split as_of c00000 admittime dod worst t hash",
    "admissions": "icd_version place split as_of phenotype anchor_age gender code first stays los",
    "diagnoses_icd": "title who n patients phenotype subject code long_title icd_code_ t d",
    "patients": "admittime hadm_id_ stays coded age split race dischtime starttime charttime",
    "prescriptions": "admittime dod item value v0 select group filename rowid",
}
WORDS = ["we \"ird, 'x'.y{0}", "naïve col", "100%", "a;b -- c", "=1+1"]


def convert(monkeypatch, mimic, store, *arguments):
    monkeypatch.setattr(
        "sys.argv",
        ["convert", "--mimic-dir", str(mimic), "--storage", str(store), "--workers", "1"]
        + [*map(str, arguments)],
    )
    convert_to_jsonl.main()
    return store.resolve()


def add_columns(path, names):
    """Further columns, each with a few values, behind those of a table."""

    def more(header, rows):
        header += names
        return [[*row, *(f"{n}{i % 3}" for n in names)] for i, row in enumerate(rows)]

    rewrite(path, more)


def by_all_steps(store, temp):
    """What steps 2 to 4 read and count of the converted patients."""
    manifest = subjects_manifest(store)
    done = summary.summarize(store, temp / "two", manifest, 5)
    con = database.connect(store, temp / "three")
    people = cohort.gather(con, 24)
    targets, _ = cohort.choose(con, people, "phenotypes", 3)
    con.close()
    features = matrix.build(store, people, temp / "three")
    asked = prompt_cohort.find(store, ["guidance", "chart_qa", "diagnoses"], 1, 0, 24)
    records = list(reader.records(store, chart_columns.WANTED))
    return {
        "skipped": done.skipped,
        "tables": {table.name: table.rows for table in done.tables},
        "people": people.to_dict(),
        "targets": [(t.name, t.y.tolist()) for t in targets],
        "features": {f: features.matrix[:, k].tolist() for k, f in enumerate(features.features)},
        "asked": asked,
        "records": records,
        "flags": {(f["check"], f["table"]): f["rows"] for f in manifest["quality"]},
    }


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names") / "mimic"
    hospital.write(folder, 30, seed=1, progress=False)
    for name in COLUMNS:
        add_columns(folder / f"hosp/{name}.csv.gz", [])
    return folder


@pytest.fixture(scope="module")
def plain(mimic, tmp_path_factory):
    """What all steps find where nothing has an odd name."""
    place = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as context:
        return by_all_steps(convert(context, mimic, place / "storage"), place)


def test_odd_names_of_folders_tables_and_columns_change_no_result(
    mimic, plain, tmp_path, monkeypatch
):
    above = tmp_path.joinpath(*ODD)
    folder = shutil.copytree(mimic, above / "mimic*?[x]")
    stays = gzip.decompress((folder / "icu/icustays.csv.gz").read_bytes()).decode().splitlines()
    ids = [line.split(",")[0] for line in stays[1:9]]
    names = " ".join(TABLES).split()
    for name in names:
        write_table(folder, name, "subject_id,split,I,sepsis", [f"{i},train,1,0" for i in ids])
    write_table(folder, "None", "icd_version,icd_code,long_title", ["9,4019,x", "10,I10,x"])
    for name, columns in COLUMNS.items():
        add_columns(folder / f"hosp/{name}.csv.gz", [*columns.split(), *WORDS])
    # what a glob would find beside it
    decoy = tmp_path.joinpath("split=train", "subject_id=7", "aXb", ODD[3], "storage")
    store = convert(monkeypatch, folder, above / "storage")
    shutil.copytree(store, decoy)
    found = by_all_steps(store, tmp_path)
    for what in ("skipped", "people", "targets", "asked", "records"):
        assert found[what] == plain[what], what
    assert found["features"].items() >= plain["features"].items()
    for name, rows in plain["tables"].items():
        shared = found["tables"][name]
        if name in ("rows_per_table", "missing", "quality"):
            key = next(iter(rows[0]))
            shared = [row for row in shared if row[key] in {one[key] for one in rows}]
        if name != "overview":  # which counts all tables
            assert shared == rows, name
    own = {key: n for key, n in found["flags"].items() if key[1] not in names}
    assert own.items() >= plain["flags"].items()
    assert {key[0] for key in own.keys() - plain["flags"].keys()} <= {"empty columns"}
    listed = {row["table"] for row in found["tables"]["rows_per_table"]}
    assert listed >= set(names)


def test_tables_of_the_steps_have_no_name_that_mimic_has():
    known = {name.casefold() for name in tables.schema()}
    assert not known & {"split", "cohort", "code_phenotype", "people", "known", "items", "top"}
    assert len(known) == len(tables.schema())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Labevents", "there is twice|labevents but for capital letters"),
        ("OMR", "MIMIC-IV's omr but for capital letters: rename or remove it"),
        ("Extra", "table .xtra is there twice, as .*xtra.csv.* and"),
        ("my cohort", "rename or remove it"),
        ("my.cohort", "rename or remove it"),
        ("it's", "rename or remove it"),
        ('a"b', "rename or remove it"),
        ("a*b", "rename or remove it"),
        ("a=b", "rename or remove it"),
        ("subject_ID", "rename or remove it"),
        ("omr_LABELED", "rename or remove it"),
        ("bucket-00000", "rename or remove it"),
        ("x" * 230, "rename or remove it"),
    ],
)
def test_a_table_that_cannot_be_carried_is_refused_by_its_name(
    tiny_mimic, tmp_path, monkeypatch, name, words
):
    write_table(tiny_mimic, "extra", "subject_id,x", ["10000000,1"])
    (tiny_mimic / "hosp" / f"{name}.csv").write_text("subject_id,x\n10000000,1\n")
    with pytest.raises(UserError, match=words):
        convert(monkeypatch, tiny_mimic, tmp_path / "storage")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("subject_id,x,X", "two columns of one name in its header, but for capital letters, x, X"),
        ("subject_id,x,x", "two columns of one name in its header, x, x: rename"),
        ("subject_id,é,e\u0301", "two columns of one name"),
        ("subject_id,,x", "a name for its column 2 that is empty"),
        ("subject_id,x,", "a name for its column 3 that is empty"),
        ("subject_id, x,y", "a name for its column 2 that is empty, or that has blanks around it"),
        ('subject_id,"x\ny",z', "a name for its column 2 .*cannot be seen"),
        ("subject_id,x\u202e,z", "a name for its column 2 .*cannot be seen"),
        ("SUBJECT_ID,x,y", "SUBJECT_ID, which is subject_id but for capital letters"),
        ("subject_id,Hadm_Id,y", "Hadm_Id, which is hadm_id but for capital letters"),
    ],
)
def test_a_column_that_cannot_be_carried_is_refused_by_its_name(
    tiny_mimic, tmp_path, monkeypatch, header, words
):
    write_table(tiny_mimic, "extra", header, ["10000000,1,2"])
    with pytest.raises(UserError, match=f"extra.csv.gz has .*{words}"):
        convert(monkeypatch, tiny_mimic, tmp_path / "storage")


@pytest.mark.parametrize("name", ["omr.CSV", "omr.csv.GZ", "omr.Csv.gz"])
def test_a_table_is_not_passed_over_for_its_ending(tiny_mimic, tmp_path, monkeypatch, name):
    (tiny_mimic / "hosp" / name).write_text("subject_id\n10000000\n")
    with pytest.raises(UserError, match=f"{name} must end in .csv or .csv.gz"):
        convert(monkeypatch, tiny_mimic, tmp_path / "storage")


def test_a_column_of_mimic_in_other_letters_is_refused(tiny_mimic, tmp_path, monkeypatch):
    path = tiny_mimic / "hosp/labevents.csv.gz"
    text = gzip.decompress(path.read_bytes()).replace(b"valueuom", b"ValueUOM", 1)
    path.write_bytes(gzip.compress(text))
    with pytest.raises(UserError, match="ValueUOM, which is valueuom but for capital letters"):
        convert(monkeypatch, tiny_mimic, tmp_path / "storage")


def test_a_patients_row_in_the_place_of_the_header_is_not_shown(tiny_mimic, tmp_path, monkeypatch):
    path = tiny_mimic / "hosp/labevents.csv.gz"
    rows = gzip.decompress(path.read_bytes()).split(b"\n", 1)[1]
    path.write_bytes(gzip.compress(rows))
    with pytest.raises(UserError, match="column") as refused:
        convert(monkeypatch, tiny_mimic, tmp_path / "storage")
    assert "10000000" not in str(refused.value)


@pytest.mark.parametrize("name", ["a*b", "a?b", "a[b]", "[!a]b", "a=b", "a{b}c", "a%20b", "a\\b"])
def test_a_path_is_no_pattern_for_duckdb(tmp_path, name):
    for folder in (name, "aXb", "ab", "a b"):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"a": [folder]}), tmp_path / folder / "part-0.parquet")
    rows = sql.parquet([tmp_path / name / "part-0.parquet"])
    assert database.duckdb.connect().execute(f"SELECT * FROM {rows}").fetchall() == [(name,)]


def test_the_one_path_that_duckdb_cannot_be_told_is_refused(tmp_path):
    with pytest.raises(UserError, match="both a backslash and one of"):
        sql.parquet([Path("/a\\b/c*/part-0.parquet")])


def test_a_path_that_is_not_utf_8_is_refused_in_a_sentence(tiny_mimic, tmp_path, monkeypatch):
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    with pytest.raises(UserError, match="storage folder .* is not"):
        convert(monkeypatch, tiny_mimic, odd / "storage")
    tiny_mimic.rename(odd)
    with pytest.raises(UserError, match="is not UTF-8: rename it"):
        convert(monkeypatch, odd, tmp_path / "storage")


def test_a_further_column_switches_no_check_off(tiny_mimic, tmp_path, monkeypatch):
    for table in ("prescriptions", "labevents", "admissions"):
        add_columns(tiny_mimic / f"hosp/{table}.csv.gz", ["harmless"])
    before = quality.flags(convert(monkeypatch, tiny_mimic, tmp_path / "a") / "subjects")
    for table in ("prescriptions", "labevents", "admissions"):
        add_columns(
            tiny_mimic / f"hosp/{table}.csv.gz",
            "dod t worst".split() + ["admittime"] * (table != "admissions"),
        )
    after = quality.flags(convert(monkeypatch, tiny_mimic, tmp_path / "b") / "subjects")
    assert [(f.check, f.table, f.rows) for f in before] == [
        (f.check, f.table, f.rows) for f in after
    ]


def test_the_split_is_that_of_its_file_below_a_folder_of_that_name(
    tiny_mimic, tmp_path, monkeypatch
):
    store = convert(monkeypatch, tiny_mimic, tmp_path / "split=train" / "seed=42")
    con = database.connect(store, tmp_path)
    assert dict(con.execute("SELECT * FROM split").fetchall()) == split_file.read(store)
    assert "split" not in con.execute("SELECT * FROM patients").df()
