"""Real patients are not replaced unasked, and the same tables elsewhere are the same."""

import contextlib
import errno
import gzip
import json
import os
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

import convert_to_jsonl
from helpers.mimic_tables import rewrite, write_table
from helpers.scripts import folder_bytes
from helpers.unreadable import unreadable
from mimic_qlora.mimic import passed_over, tables
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.step import manifests, storage
from mimic_qlora.step.errors import GoesOn, UserError
from mimic_qlora.subjects import (
    conversion,
    nesting,
    parquet_files,
    partition,
    patients,
    reader,
    replacement,
    split_file,
)


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """convert("--sample", "0.5"): run step 1 in this process; returns its folder."""

    def convert(*arguments):
        place = tmp_path / "storage"
        monkeypatch.delenv("MIMIC_DIR", raising=False)
        command = ["convert", "--storage", place, "--workers", "1", *arguments]
        monkeypatch.setattr("sys.argv", [*map(str, command)])
        convert_to_jsonl.main()
        return place / "subjects"

    return convert


def identity(subjects) -> str:
    return storage.verified_manifest(subjects.parent, "subjects")["id"]


@pytest.fixture
def synthetic_is_small(monkeypatch):
    whole = hospital.write
    monkeypatch.setattr(
        hospital, "write", lambda folder, n, seed, **more: whole(folder, 10, seed, False)
    )


@pytest.mark.parametrize("force", [[], ["--force"], ["--sample", "0.5"]])
def test_synthetic_patients_do_not_replace_real_ones(convert, tiny_mimic, tmp_path, force):
    before = folder_bytes(convert("--mimic-dir", tiny_mimic))
    with pytest.raises(UserError, match=f"{tiny_mimic}.*synthetic.*--replace-patients"):
        convert(*force)
    assert folder_bytes(tmp_path / "storage" / "subjects") == before
    assert not (tmp_path / "storage" / "synthetic").exists(), "none was made"


def test_they_do_when_that_is_meant_and_real_ones_replace_them(
    convert, tiny_mimic, synthetic_is_small
):
    convert("--mimic-dir", tiny_mimic)
    subjects = convert("--replace-patients")
    assert json.loads((subjects / "manifest.json").read_text())["source"]["kind"] == "synthetic"
    convert("--mimic-dir", tiny_mimic)
    assert json.loads((subjects / "manifest.json").read_text())["source"]["kind"] == "mimic"


def others(folder, tiny_mimic):
    """Copy the tables with other ids: those of another MIMIC-IV."""
    other = shutil.copytree(tiny_mimic, folder / "other")

    def change(header, rows):
        place = header.index("subject_id")
        return [[*row[:place], f"2{row[place][1:]}", *row[place + 1 :]] for row in rows]

    for name in ("patients", "admissions", "diagnoses_icd", "labevents", "prescriptions"):
        rewrite(other / "hosp" / f"{name}.csv.gz", change)
    return other


def test_the_folder_to_give_can_be_pasted(convert, tiny_mimic, tmp_path):
    odd = shutil.copytree(tiny_mimic, tmp_path / "it's mine; $HOME")
    convert("--mimic-dir", odd)
    with pytest.raises(UserError) as error:
        convert()
    given = str(error.value).partition("give ")[2].partition(" (or set")[0]
    assert shlex.split(given) == ["--mimic-dir", str(odd)]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_those_of_another_folder_do_not_and_both_are_named(convert, tiny_mimic, tmp_path, force):
    before = folder_bytes(convert("--mimic-dir", tiny_mimic))
    other = others(tmp_path, tiny_mimic)
    with pytest.raises(UserError, match=f"{tiny_mimic}, which those of {other} would replace"):
        convert("--mimic-dir", other, *force)
    assert folder_bytes(tmp_path / "storage" / "subjects") == before
    convert("--mimic-dir", other, "--replace-patients")


def test_a_part_of_them_does_not_but_more_of_them_do(convert, tiny_mimic, tmp_path):
    convert("--mimic-dir", tiny_mimic, "--sample", "0.5")
    convert("--mimic-dir", tiny_mimic)
    for fewer in (["--sample", "0.5"], ["--sample", "0.9", "--force", "--seed", "1"]):
        with pytest.raises(UserError, match=r"would leave out \d+ of them: give --sample, "):
            convert("--mimic-dir", tiny_mimic, *fewer)
    listed = tmp_path / "listed.txt"
    listed.write_text("10000000\n10000007\n")
    with pytest.raises(UserError, match="would leave out 10 of them"):
        convert("--mimic-dir", tiny_mimic, "--subjects-file", listed)
    convert("--mimic-dir", tiny_mimic, "--sample", "0.5", "--replace-patients")


def test_a_table_that_was_downloaded_again_may_take_its_place_and_no_table_may_not(
    convert, tiny_mimic
):
    """What is gone was on a disk that is not mounted, or a colleague made room."""
    convert("--mimic-dir", tiny_mimic)
    path = tiny_mimic / "hosp" / "labevents.csv.gz"
    rewrite(path, lambda header, rows: rows[::-1])
    path.with_name("labevents").mkdir()
    path = path.rename(path.with_name("labevents") / "1.csv.gz")  # the table in files of its own
    before = folder_bytes(subjects := convert("--mimic-dir", tiny_mimic))
    path.unlink()
    path.parent.rmdir()
    (tiny_mimic / "hosp" / "d_icd_diagnoses.csv.gz").unlink()
    for more in [], ["--force"]:
        with pytest.raises(UserError, match="their tables d_icd_diagnoses, labevents, which"):
            convert("--mimic-dir", tiny_mimic, *more)
    assert folder_bytes(subjects) == before


def test_a_table_does_not_lose_one_of_its_files_and_may_be_cut_into_others(convert, tiny_mimic):
    """A file of several was purged; an export that is made anew has names of its own."""
    whole = tiny_mimic / "hosp" / "labevents.csv.gz"
    place = whole.with_name("labevents")
    place.mkdir()
    shutil.copy(whole, place / "part-0.csv.gz")
    rewrite(place / "part-0.csv.gz", lambda header, rows: rows[:20])
    rewrite(whole, lambda header, rows: rows[20:])
    whole.rename(place / "part-1.csv.gz")
    before = folder_bytes(subjects := convert("--mimic-dir", tiny_mimic))
    lost = (place / "part-1.csv.gz").rename(tiny_mimic / "aside")
    with pytest.raises(UserError, match=r"files hosp/labevents/part-1\.csv\.gz, which are no"):
        convert("--mimic-dir", tiny_mimic, "--force")
    assert folder_bytes(subjects) == before
    lost.rename(place / "b.csv.gz")
    (place / "part-0.csv.gz").rename(place / "a.csv.gz")
    assert folder_bytes(convert("--mimic-dir", tiny_mimic)) == before


def test_a_table_does_not_lose_all_its_rows(convert, tiny_mimic, capsys):
    """An export that broke off leaves the header alone."""
    before = folder_bytes(subjects := convert("--mimic-dir", tiny_mimic))
    for name in "labevents", "d_icd_diagnoses":
        rewrite(tiny_mimic / "hosp" / f"{name}.csv.gz", lambda header, rows: [])
        with pytest.raises(UserError, match=rf"the rows of .*{name}.*, of which only the header"):
            convert("--mimic-dir", tiny_mimic)
    assert folder_bytes(subjects) == before
    convert("--mimic-dir", tiny_mimic, "--replace-patients")
    assert "\n  no rows: d_icd_diagnoses, labevents\n" in capsys.readouterr().out
    convert("--mimic-dir", tiny_mimic, "--seed", "7")  # there was none to lose


def test_a_table_does_not_lose_some_of_its_rows(convert, tiny_mimic, monkeypatch):
    """What was read is kept for the run that is told to take the fewer rows."""
    before = folder_bytes(subjects := convert("--mimic-dir", tiny_mimic))
    for name in "labevents", "d_icd_diagnoses":
        rewrite(tiny_mimic / "hosp" / f"{name}.csv.gz", lambda header, rows: rows[:-1])
    said = r"rows of labevents \(36 then, 35 now\), d_icd_diagnoses \(3 then, 2 now\): give"
    with pytest.raises(GoesOn, match=f"12 patients of {tiny_mimic}, and .* {said}"):
        convert("--mimic-dir", tiny_mimic)
    assert folder_bytes(subjects) == before
    monkeypatch.setattr(partition, "_read_piece", None)
    convert("--mimic-dir", tiny_mimic, "--replace-patients")


def test_an_empty_text_that_another_export_leaves_out_is_no_cell_lost(convert, tiny_mimic):
    """pandas writes `""` as nothing: that is all that it takes away."""
    path = tiny_mimic / "hosp" / "labevents.csv.gz"

    def as_empty(cell):
        return lambda header, rows: [
            [cell if header[i] == "valueuom" else c for i, c in enumerate(row)] for row in rows
        ]

    rewrite(path, as_empty("EMPTY"))
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace("EMPTY", '""').encode()))
    convert("--mimic-dir", tiny_mimic)
    rewrite(path, as_empty(""))
    convert("--mimic-dir", tiny_mimic)


@pytest.mark.parametrize("nothing", ["", "NULL", " ___"])
def test_columns_do_not_lose_most_of_their_cells(convert, tiny_mimic, monkeypatch, nothing):
    """An export in which a column came out empty has all rows and all columns."""

    def emptied(column, few):
        def change(header, rows):
            place = header.index(column)
            return [
                [*r[:place], nothing, *r[place + 1 :]] if n % few else r for n, r in enumerate(rows)
            ]

        return change

    before = folder_bytes(subjects := convert("--mimic-dir", tiny_mimic))
    for name, column, few in (
        ("labevents", "valuenum", 8),
        ("labevents", "valueuom", 2),  # half of them is no such loss
        ("patients", "gender", 12),
        ("d_icd_diagnoses", "long_title", 9),  # nor are fewer than ten
    ):
        rewrite(tiny_mimic / "hosp" / f"{name}.csv.gz", emptied(column, few))
    said = (
        r"cells of labevents.valuenum \(18 then, 5 now\), patients.gender \(12 then, 1 now\): give"
    )
    with pytest.raises(GoesOn, match=f"this run would leave out {said}"):
        convert("--mimic-dir", tiny_mimic)
    assert folder_bytes(subjects) == before
    monkeypatch.setattr(nesting, "_write_bucket", None)
    convert("--mimic-dir", tiny_mimic, "--replace-patients")


def test_a_table_does_not_lose_some_of_its_patients(convert, tiny_mimic):
    """An export of half of the cohort, joined with itself, has as many rows."""
    before = folder_bytes(subjects := convert("--mimic-dir", tiny_mimic))

    path = tiny_mimic / "hosp" / "diagnoses_icd.csv.gz"
    rewrite(path, lambda header, rows: sorted(rows)[: len(rows) // 2] * 2)
    with pytest.raises(GoesOn, match=r"patients of diagnoses_icd \(12 then, 6 now\): give"):
        convert("--mimic-dir", tiny_mimic)
    assert folder_bytes(subjects) == before
    convert("--mimic-dir", tiny_mimic, "--replace-patients")


FOUND = {
    "source": {"kind": "mimic", "version": "", "folder": "there", "patients": 3},
    "rows": {"labevents": {"in": 12, "rejected": 2}, "own": {"in": 5, "rejected": 0}},
    "dictionaries": {"d_items": 4},
}


@pytest.mark.parametrize(
    ("kind", "rows", "fewer"),
    [
        ("mimic", {"labevents": 10, "own": 6, "d_items": 4}, None),
        ("mimic", {"labevents": 9, "own": 5, "d_items": 4}, "labevents (10 then, 9 now)"),
        ("mimic", {"labevents": 10, "own": 5, "d_items": 3}, "d_items (4 then, 3 now)"),
        ("synthetic", {"labevents": 1, "own": 1, "d_items": 1}, None),
    ],
)
def test_rows_that_can_be_used_are_compared(tmp_path, kind, rows, fewer):
    """Of a row that spans lines and was rejected, each line counted as a row."""
    found = FOUND | {"source": FOUND["source"] | {"kind": kind}}
    with contextlib.nullcontext() if fewer is None else pytest.raises(GoesOn) as error:
        replacement.check_rows(tmp_path, found, rows)
    assert fewer is None or f"rows of {fewer}: give" in str(error.value)


@pytest.mark.parametrize(
    ("module", "function"),
    [(split_file, "read"), (parquet_files, "read"), (pyarrow.parquet, "read_schema")],
)
def test_what_cannot_be_read_now_does_not_let_others_in(tmp_path, monkeypatch, module, function):
    monkeypatch.setattr(module, function, unreadable(errno.ESTALE))
    with pytest.raises(OSError, match="Stale file handle"):
        replacement.check(tmp_path, Path("there"), {}, {}, [], list, FOUND)


def rename_column(path, old, new):
    text = gzip.decompress(path.read_bytes()).replace(old, new, 1)
    path.write_bytes(gzip.compress(text))


def test_a_table_does_not_lose_a_column(convert, tiny_mimic):
    """By its id's other name a table of patients becomes a dictionary, and leaves their records."""
    own = write_table(tiny_mimic, "frailty", "subject_id,score", ["10000000,3"])
    write_table(tiny_mimic, "of_stays", "hadm_id,score", ["20000000,3"])  # its owner is added
    before = folder_bytes(subjects := convert("--mimic-dir", tiny_mimic))
    rename_column(own, b"subject_id", b"SubjectID2")
    rename_column(tiny_mimic / "hosp/labevents.csv.gz", b"valuenum", b"number")
    rename_column(tiny_mimic / "hosp/d_icd_diagnoses.csv.gz", b"long_title", b"title")
    found, sources = manifests.read_any(subjects), tables.find(tiny_mimic)
    with pytest.raises(UserError) as error:
        replacement.check_folder(subjects.parent, tiny_mimic, found["inputs"], sources, [], found)
    lost = "d_icd_diagnoses.long_title, frailty.subject_id, labevents.valuenum"
    assert f"leave out the columns {lost}, which are no longer there: give" in str(error.value)
    with pytest.raises(UserError, match=lost):
        convert("--mimic-dir", tiny_mimic, "--force")
    assert folder_bytes(subjects) == before


def test_a_run_looks_once_into_each_file_for_rows(convert, tiny_mimic, monkeypatch):
    has_rows, asked = passed_over.has_rows, []
    monkeypatch.setattr(passed_over, "has_rows", lambda path: asked.append(path) or has_rows(path))
    convert("--mimic-dir", tiny_mimic)
    assert "labevents.csv.gz" in {path.name for path in asked} and len({*asked}) == len(asked)


def test_a_folder_whose_manifest_is_damaged_is_not_replaced_by_other_patients(
    convert, tiny_mimic, tmp_path
):
    subjects = convert("--mimic-dir", tiny_mimic)
    (subjects / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="holds patients, which the built-in"):
        convert()
    with pytest.raises(UserError, match="manifest cannot be read, and this run of .*/other would"):
        convert("--mimic-dir", others(tmp_path, tiny_mimic), "--force")
    convert("--mimic-dir", tiny_mimic)
    (subjects / "manifest.json").unlink()
    (subjects / "split.csv").write_bytes(b"\xff\0")
    convert("--mimic-dir", tiny_mimic)


@pytest.mark.parametrize("cut", ["10000000,tr", "", "10000000,train\n"])
@pytest.mark.parametrize("index", ["whole", "damaged", "gone"])
def test_other_patients_of_the_same_number_are_told_without_the_split(
    convert, tiny_mimic, index, cut
):
    """The table was exported anew into the same folder, for a cohort of as many."""
    subjects = convert("--mimic-dir", tiny_mimic)
    (subjects / "split.csv").write_text(f"subject_id,split\n{cut}")
    if index == "damaged":
        (subjects / "index.parquet").write_bytes(b"PAR1")
    elif index == "gone":
        (subjects / "index.parquet").unlink()
    found, sources = manifests.read_any(subjects), tables.find(tiny_mimic)
    asked = (subjects.parent, tiny_mimic, found["inputs"], sources, [])
    same = patients.read(sources["patients"])
    told = "would leave out 12 of them" if index == "whole" else "nothing tells who they are"
    for chosen, may in ((same, index == "whole"), ([s + 1 for s in same], False)):
        with contextlib.nullcontext() if may else pytest.raises(UserError, match=told):
            replacement.check(*asked, chosen.copy, found)


def test_an_unfinished_conversion_is_not_dropped(convert, tiny_mimic, tmp_path, monkeypatch):
    with monkeypatch.context() as stopped:
        stopped.setattr(nesting, "nest_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert("--mimic-dir", tiny_mimic)
    for arguments in ([], ["--mimic-dir", others(tmp_path, tiny_mimic)]):
        with pytest.raises(UserError, match=f"unfinished conversion of {tiny_mimic}"):
            convert(*arguments, "--force")
    record = tmp_path / "storage" / ".subjects.partial" / ".run.json"
    whole = record.read_bytes()
    record.write_bytes(b"")
    with pytest.raises(UserError, match="a conversion that stopped, and whose record is damaged"):
        convert("--force")
    record.write_bytes(whole)
    convert("--mimic-dir", tiny_mimic)


def moved(tiny_mimic, folder):
    return shutil.move(tiny_mimic, folder / "elsewhere")


def copied(tiny_mimic, folder):
    return shutil.copytree(tiny_mimic, folder / "copy", copy_function=shutil.copy)


def linked(tiny_mimic, folder):
    moved_to = shutil.move(tiny_mimic, folder / "mounted")
    tiny_mimic.symlink_to(moved_to)
    return tiny_mimic


@pytest.mark.parametrize("change", [moved, copied, linked])
def test_tables_elsewhere_are_the_same_and_nothing_is_done_again(
    convert, tiny_mimic, tmp_path, capsys, monkeypatch, change
):
    before = identity(convert("--mimic-dir", tiny_mimic))
    elsewhere = change(tiny_mimic, tmp_path)
    monkeypatch.setattr(conversion, "convert", None)
    for _ in range(2):
        subjects = convert("--mimic-dir", elsewhere)
        assert "up to date" in capsys.readouterr().out
    manifest = json.loads((subjects / "manifest.json").read_text())
    assert manifest["id"] == before
    assert (
        manifest["source"]["folder"]
        == manifest["settings"]["folder"]
        == str(os.path.realpath(elsewhere))
    )
    monkeypatch.setattr("mimic_qlora.step.files.file_sha256", None)
    convert("--mimic-dir", elsewhere)  # what was found there once is not read again


def test_the_same_tables_converted_into_another_storage_have_the_same_id(
    convert, tiny_mimic, tmp_path
):
    before = identity(convert("--mimic-dir", tiny_mimic))
    shutil.move(tmp_path / "storage", tmp_path / "first")
    assert identity(convert("--mimic-dir", copied(tiny_mimic, tmp_path))) == before


def test_one_changed_byte_under_an_old_size_and_time_elsewhere_is_noticed(
    convert, tiny_mimic, tmp_path
):
    before = identity(convert("--mimic-dir", tiny_mimic))
    other = shutil.copytree(tiny_mimic, tmp_path / "copy")
    path = other / "hosp" / "d_icd_diagnoses.csv.gz"
    status, data = path.stat(), bytearray(path.read_bytes())
    data[4] ^= 1  # the time in gzip's header
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match="which those of"):
        convert("--mimic-dir", other)
    assert identity(convert("--mimic-dir", other, "--replace-patients")) == before


def test_a_folder_of_an_earlier_version_keeps_its_id_when_its_tables_are_copied(
    convert, tiny_mimic, tmp_path
):
    subjects = convert("--mimic-dir", tiny_mimic)
    path = subjects / "manifest.json"
    manifest = json.loads(path.read_text())
    for file in manifest["inputs"].values():
        del file["sha256"]
    for name, file in manifest["files"].items():
        if "/" in name:
            del file["sha256"]
    manifest["id"] = manifests.new_manifest("subjects", manifest["settings"], manifest["inputs"])[
        "id"
    ]
    path.write_text(json.dumps(manifest))
    convert("--mimic-dir", tiny_mimic)
    assert identity(subjects) == manifest["id"], "it opens without a redo"
    assert identity(convert("--mimic-dir", copied(tiny_mimic, tmp_path))) == manifest["id"]


def test_an_adapter_stays_usable_when_its_tables_are_copied_and_converted_again(
    convert, tiny_mimic, tmp_path
):
    subjects = convert("--mimic-dir", tiny_mimic)
    store, before = subjects.parent, folder_bytes(subjects)
    made_from = {"subjects": identity(subjects)}
    for step in ("prompts", "adapters/default"):
        with storage.step_output(store, step, {}, made_from) as out:
            (out.path / "made").write_text(step)
        made_from = {step: out.manifest["id"]}
    shutil.rmtree(subjects)
    elsewhere = copied(tiny_mimic, tmp_path)
    assert folder_bytes(convert("--mimic-dir", elsewhere, "--force")) == before
    storage.verified_manifest(store, "adapters/default")
    convert("--mimic-dir", elsewhere, "--seed", "7")  # another split is another content
    with pytest.raises(UserError, match="made from an older version of subjects"):
        storage.verified_manifest(store, "adapters/default")


def test_a_command_that_is_open_meanwhile_shows_no_other_patient(convert, tiny_mimic, tmp_path):
    """It has read where each patient lies, and another one may lie there now."""
    store = convert("--mimic-dir", tiny_mimic).parent
    asked = [*reader._index(store)]
    assert reader.raw_record(store, asked[0])["subject_id"] == asked[0]
    convert("--mimic-dir", others(tmp_path, tiny_mimic), "--replace-patients")
    for subject_id in asked:
        with pytest.raises(UserError, match="was written anew since this command began"):
            reader.raw_record(store, subject_id)
