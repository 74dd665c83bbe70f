"""Step 1: nothing is lost, all can be found again, bad input is refused with the output intact."""

import csv
import gzip
import json
import stat

import duckdb
import orjson
import pytest

import convert_to_jsonl
from helpers.mimic_tables import rewrite, write_table
from helpers.scripts import folder_bytes, run_script
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import buckets, manifest, patients, reader, rejects


def lines(storage):
    return [
        line
        for shard in sorted((storage / "subjects" / "shards").iterdir())
        for line in gzip.decompress(shard.read_bytes()).splitlines()
    ]


def source_cells(path, kinds):
    """The rows of a CSV by another reader than the converter's; nulls, but not "", left out."""
    con = duckdb.connect()
    con.execute(
        f"create table t as select * from read_csv('{path}', all_varchar=true, header=true, "
        f"delim=',', quote='\"', escape='\"', allow_quoted_nulls=false, auto_detect=false, "
        f"columns={{{columns(path)}}})"
    )
    names = [row[0] for row in con.execute("describe t").fetchall()]
    readers = [int if kinds[name] == "id" else str for name in names]
    return [
        {
            name: read(value)
            for name, read, value in zip(names, readers, row, strict=True)
            if value is not None
        }
        for row in con.execute("select * from t").fetchall()
    ]


def columns(path):
    with gzip.open(path, "rt") as file:
        header = file.readline().strip().split(",")
    return ", ".join(f"'{name}': 'varchar'" for name in header)


def assert_same_cells(mimic_dir, storage):
    """Every row with subject_id is in its patient's record, in file order, cell by cell."""
    kept = {}
    for record in map(orjson.loads, lines(storage)):
        kept[record.pop("subject_id")] = record
    for name, source in tables.find(mimic_dir).items():
        if "subject_id" not in source.columns:
            continue
        expected = {}
        for row in source_cells(source.path, source.columns):
            expected.setdefault(row["subject_id"], []).append(row)
        found = {s: record[name] for s, record in kept.items() if name in record}
        assert found == expected, name


def test_no_cell_is_lost_or_changed(of_tiny):
    assert_same_cells(of_tiny / "mimic", of_tiny / "storage")


def test_no_cell_of_the_real_demo_is_lost_or_changed(demo_dir, demo_converted):
    assert "Demo (2.2)" in demo_converted.printed
    assert "absent: chartevents" in demo_converted.printed
    assert_same_cells(demo_dir, demo_converted.storage)
    rows = json.loads((demo_converted.storage / "subjects/manifest.json").read_text())["rows"]
    assert sum(c["in"] for c in rows.values()) == sum(c["jsonl"] for c in rows.values()) == 383_794


def test_codes_get_the_title_of_their_own_version(of_tiny):
    labeled = orjson.loads(lines(of_tiny / "storage")[0])["diagnoses_icd_labeled"]
    titles = {(row["icd_code"], row["icd_version"]): row.get("long_title") for row in labeled}
    # E8120 is a traffic accident in ICD-9 alone
    assert titles == {
        ("0389", "9"): "Ménière",
        ("I10", "10"): 'Essential "primary" hypertension',
        ("E8120", "10"): None,
    }


def test_one_patient_is_the_same_by_index_and_in_bulk(of_tiny):
    storage, found = of_tiny / "storage", tables.find(of_tiny / "mimic")
    wanted = {name: s.columns for name, s in found.items() if "subject_id" in s.columns}
    bulk = list(reader.records(storage, wanted))
    assert [r["subject_id"] for r in bulk] == sorted(r["subject_id"] for r in bulk) and len(
        bulk
    ) == 12
    assert bulk == [reader.record(storage, r["subject_id"], wanted) for r in bulk]


def test_the_size_of_buckets_changes_no_record(tiny_mimic, tmp_path, monkeypatch):
    found = []
    for size in (1000, 1):
        monkeypatch.setattr(buckets, "PATIENTS_PER_BUCKET", size)
        storage = tmp_path / f"storage{size}"
        monkeypatch.setattr(
            "sys.argv",
            [
                "convert",
                "--mimic-dir",
                str(tiny_mimic),
                "--storage",
                str(storage),
                "--workers",
                "1",
            ],
        )
        convert_to_jsonl.main()
        found.append((len(list((storage / "subjects/shards").iterdir())), lines(storage)))
    assert found[0][0] == 1 and found[1][0] == 12
    assert found[0][1] == found[1][1]


def times_of(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_same_input_gives_same_bytes_and_a_rerun_ends_at_once(run, tiny_mimic, tmp_path):
    # in another process, whose hashes are others
    run_script("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, storage=tmp_path / "storage")
    folder = tmp_path / "storage/subjects"
    first, written = folder_bytes(folder), times_of(folder)
    again = run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic)
    assert "up to date" in again.stdout and again.returncode == 0
    assert times_of(folder) == written and "flags of quality" not in again.stdout
    assert run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--force").returncode == 0
    assert folder_bytes(folder) == first and times_of(folder) != written


def test_a_rerun_says_what_this_software_makes_otherwise(run, tiny_mimic, converted, monkeypatch):
    """An update had brought other bounds of values: the rows were "up to date" with their flags."""
    monkeypatch.setattr(manifest, "checks_text", lambda: "other bounds")
    again = run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic)
    assert again.returncode == 0 and "is up to date" in again.stdout
    assert "its flags of quality are by other checks or bounds" in again.stdout
    kinds = {**tables.schema()["admissions"].columns, "race": "code"}
    other = {**tables.schema(), "admissions": tables.schema()["admissions"]._replace(columns=kinds)}
    monkeypatch.setattr(manifest, "schema", lambda: other)
    again = run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic).stdout
    assert "its columns admissions.race have another type in this software, and its" in again


def test_output_is_private_whatever_the_umask(run, tiny_mimic, tmp_path):
    import os

    before = os.umask(0)
    try:
        run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic)
    finally:
        os.umask(before)
    for path in [tmp_path / "storage", *(tmp_path / "storage").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("n", [10, 100, 1001])
@pytest.mark.parametrize("seed", [0, 42])
def test_every_patient_is_in_one_split_and_the_shares_hold(n, seed):
    split = patients.assign(range(n), seed)
    sizes = {name: list(split.values()).count(name) for name in patients.SHARES}
    assert sorted(split) == list(range(n))
    assert sizes["test"] == sizes["validation"] == round(n / 10)
    assert split == patients.assign(reversed(range(n)), seed) != patients.assign(range(n), seed + 1)


def test_a_sample_is_a_share_of_the_patients_with_all_their_rows(run, tiny_mimic, tmp_path):
    assert run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--sample", "0.5").returncode == 0
    kept = [orjson.loads(line) for line in lines(tmp_path / "storage")]
    assert len(kept) == 6 and all(
        len(r["labevents"]) == 3 and len(r["diagnoses_icd"]) == 3 for r in kept
    )
    rows = json.loads((tmp_path / "storage/subjects/manifest.json").read_text())["rows"][
        "labevents"
    ]
    assert rows["in"] == 36 and rows["unsampled"] == rows["jsonl"] == 18


def rewrite_shard(folder, old, new):
    """Change some bytes of the records, and the size of the shard in the manifest."""
    shard = folder / "shards/part-00000.jsonl.gz"
    shard.write_bytes(gzip.compress(gzip.decompress(shard.read_bytes()).replace(old, new, 1)))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["shards/part-00000.jsonl.gz"]["bytes"] = shard.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_verify_finds_a_changed_cell_and_says_where(run, tiny_mimic, tmp_path):
    command = ("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--verify")
    done = run(*command)
    assert done.returncode == 0 and "Verified: every cell of 5 tables" in done.stdout, done.stderr
    rewrite_shard(tmp_path / "storage/subjects", b'"500,000"', b'"500,001"')
    again = run(*command)
    assert (
        again.returncode == 2
        and "differ in labevents" in again.stderr
        and "part-00000" in again.stdout
    )


def test_verify_tells_an_empty_string_from_null(run, tiny_mimic, converted):
    command = ("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--verify")
    rewrite_shard(converted / "subjects", b',"drug":""', b"")
    assert "differ in prescriptions" in run(*command).stderr


def test_verify_tells_a_number_from_its_text(run, tiny_mimic, converted):
    command = ("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--verify")
    rewrite_shard(converted / "subjects", b'"value":"500,000"', b'"value":500000')
    rewrite_shard(converted / "subjects", b'"hadm_id":20000000', b'"hadm_id":"20000000"')
    assert "differ in admissions, labevents" in run(*command).stderr


def test_a_file_of_subject_ids_chooses_the_patients(run, tiny_mimic, tmp_path):
    chosen = tmp_path / "chosen.csv"
    chosen.write_bytes(b"\xef\xbb\xbfsubject_id\r\n10000007\r\n10000014\r\n")  # as Excel saves it
    command = ("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--subjects-file", chosen)
    assert run(*command).returncode == 0
    assert [orjson.loads(line)["subject_id"] for line in lines(tmp_path / "storage")] == [
        10000007,
        10000014,
    ]
    chosen.write_text('"subject_id"\n"10000007"\n10000014\n')  # as R and csv.QUOTE_ALL write it
    assert run(*command).returncode == 0
    for text, place in (
        ("10000007\n99\n", "line 2, where it is not in patients"),
        ("subject_id,age\n10000007,50\n", "line 1, where it is no subject_id"),
        ("10000007.0\n", "line 1, where it is no subject_id"),
    ):
        chosen.write_text(text)
        refused = run(*command)
        assert refused.returncode == 2 and f"not in patients; the first is in {place}" in (
            refused.stderr
        )
    chosen.write_text("subject_id\n")
    assert "one a line: it has none" in run(*command).stderr
    folder = run(*command[:-1], tmp_path)  # a folder is there, as the pipe of <(...) is
    assert folder.returncode == 2 and f"{tmp_path} is no file" in folder.stderr


def cut_off(folder):
    path = folder / "hosp/labevents.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    return "labevents.csv.gz"


def orphan(folder):
    rewrite(
        folder / "hosp/labevents.csv.gz",
        lambda header, rows: [*rows, ["99", "19999999", *rows[0][2:]]],
    )
    return "belong to no patient (1 of them in labevents: its patient is not in patients)"


def ragged(folder):
    rewrite(folder / "hosp/labevents.csv.gz", lambda header, rows: [*rows, rows[0][:5]])
    return "1 rows cannot be read"


def twice(folder):
    (folder / "hosp/labevents.csv").write_text("subject_id\n")
    return "is there twice"


def no_patients_file(folder):
    (folder / "hosp/patients.csv.gz").unlink()
    return "has no patients.csv.gz"


def wrong_header(folder):
    write_table(folder, "admissions", "subject_id,hadm_id", ["1,2"])
    return "expected column admittime"


def bad_subject_id(folder):
    rewrite(
        folder / "hosp/patients.csv.gz",
        lambda header, rows: [["x" + rows[0][0], *rows[0][1:]], *rows[1:]],
    )
    return "(first: data row 1, where it is not a whole number)"


def bad_hadm_id(folder):
    rewrite(
        folder / "hosp/diagnoses_icd.csv.gz",
        lambda header, rows: [[rows[0][0], "none", *rows[0][2:]], *rows[1:]],
    )
    return "1 of them in diagnoses_icd: hadm_id is a word for nothing, which must be an empty cell)"


def header_in_upper_case(folder):
    path = folder / "hosp/labevents.csv.gz"
    header, rows = gzip.decompress(path.read_bytes()).split(b"\n", 1)
    path.write_bytes(gzip.compress(header.upper() + b"\n" + rows))
    return "expected column labevent_id, found LABEVENT_ID"


def second_download(folder):
    (folder / "hosp/labevents (1).csv.gz").write_bytes(
        (folder / "hosp/labevents.csv.gz").read_bytes()
    )
    return "has a name that no table of the record can have"


def empty_file(folder):
    (folder / "hosp/labevents.csv.gz").write_bytes(gzip.compress(b""))
    return "is empty"


def changed_bit(folder):
    path = folder / "hosp/labevents.csv.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return "labevents.csv.gz cannot be read"


def changed_bit_far_behind(folder):
    def longer(header, rows):
        return [[str(n), *row[1:]] for n in range(900) for row in rows]

    rewrite(folder / "hosp/labevents.csv.gz", longer)
    path = folder / "hosp/labevents.csv.gz"
    data = bytearray(path.read_bytes())
    data[-3000] ^= 4
    path.write_bytes(data)
    return "labevents.csv.gz cannot be read, it is damaged"


def not_gzip(folder):
    (folder / "hosp/labevents.csv.gz").write_text("subject_id,itemid\n1,2\n")
    return "cannot be read"


@pytest.mark.parametrize(
    "spoil",
    [
        cut_off,
        orphan,
        ragged,
        twice,
        no_patients_file,
        wrong_header,
        bad_subject_id,
        bad_hadm_id,
        empty_file,
        not_gzip,
        changed_bit,
        changed_bit_far_behind,
    ]
    + [header_in_upper_case, second_download],
)
def test_bad_input_is_refused_in_a_sentence_and_leaves_the_previous_output(
    run, tiny_mimic, converted, spoil
):
    before = folder_bytes(converted / "subjects")
    expected = spoil(tiny_mimic)
    done = run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic)
    assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )
    assert folder_bytes(converted / "subjects") == before
    # what was read is kept for a run that allows the rejected rows, and for no other
    assert (converted / ".subjects.partial").exists() == ("--max-rejects" in done.stderr)


def test_rejected_rows_are_kept_with_their_reasons_and_up_to_the_limit_the_rest_is_converted(
    run, tiny_mimic, tmp_path
):
    labs = tiny_mimic / "hosp/labevents.csv.gz"
    rewrite(
        labs, lambda header, rows: [*rows, ["98", "19999999", *rows[0][2:]], ["99", rows[0][1]]]
    )
    assert run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic).returncode == 2
    listed = list(csv.DictReader(open(tmp_path / "storage/rejects/labevents.csv", newline="")))
    assert sorted((r["row"], r["reason"]) for r in listed) == [
        ("38", "its patient is not in patients"),
        ("39", "wrong number of fields"),
    ]
    # what was read is kept, for a run that allows them
    assert (
        tmp_path / "storage/.subjects.partial/parts/read/labevents-00000/labevents-00000.done.json"
    ).exists()
    assert (
        run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--max-rejects", "2").returncode == 0
    )
    rows = json.loads((tmp_path / "storage/subjects/manifest.json").read_text())["rows"][
        "labevents"
    ]
    assert rows["in"] == 38 and rows["rejected"] == 2 and rows["jsonl"] == 36
    assert not (tmp_path / "storage/rejects").exists()  # of the run that was refused


def test_files_of_the_user_in_a_folder_of_rejects_stay(tmp_path):
    own = {"mine.csv": "file,row,why\n1,2,3\n", "notes.txt": "file,row,reason,content\n"}
    for name, text in {"labevents.csv": "file,row,reason,content\n", **own}.items():
        (tmp_path / name).write_text(text)
    rejects.remember(tmp_path, ["labevents"])
    rejects.remove_rejects(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == own
    rejects.remove_rejects(tmp_path / "nothing")


def test_notes_in_a_list_of_rejected_rows_are_kept_beside_the_new_one(run, tiny_mimic, tmp_path):
    rewrite(tiny_mimic / "hosp/labevents.csv.gz", lambda header, rows: [*rows, rows[0][:2]])
    listed = tmp_path / "storage/rejects/labevents.csv"
    for said in ["", "labevents.csv was edited and is kept as labevents.csv.kept1"]:
        done = run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic)
        assert done.returncode == 2 and said in done.stdout and "kept2" not in done.stdout
        written = listed.read_bytes()
        listed.write_bytes(
            edited := written.replace(b"wrong number", b"cut, drop it: wrong number")
        )
    assert listed.with_name("labevents.csv.kept1").read_bytes() == edited != written
    listed.write_bytes(written)
    assert "kept" not in run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic).stdout


def test_a_table_without_subject_id_follows_its_stays(run, tiny_mimic, tmp_path):
    write_table(tiny_mimic, "extra", "hadm_id,score", ["20000007,5", "20000000,6"])
    command = ("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--verify")
    done = run(*command)
    assert "extra.csv.gz: not a table of MIMIC-IV" in done.stdout and "Verified" in done.stdout, (
        done.stderr
    )
    first = orjson.loads(lines(tmp_path / "storage")[0])
    assert first["extra"] == [{"subject_id": 10000000, "hadm_id": 20000000, "score": "6"}]
    rewrite_shard(tmp_path / "storage/subjects", b'"score":"6"', b'"score":"7"')
    assert "differ in extra" in run(*command).stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mimic-dir", "/nowhere"], "there is no folder /nowhere"),
        (["--sample", "1.5"], "--sample must be a share above 0 and up to 1, not 1.5"),
        (["--storage", __file__], "is a file"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(run, arguments, expected):
    done = run("convert_to_jsonl.py", *arguments)
    assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1
