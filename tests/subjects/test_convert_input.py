"""Step 1 on odd input: layouts of the folder, paths, arguments, storage it cannot write."""

import csv
import errno
import gzip
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

import convert_to_jsonl
from helpers.mimic_tables import rewrite, write_table
from helpers.paths import ROOT
from helpers.scripts import folder_bytes, run_here
from mimic_qlora.mimic import own_ids, releases, tables
from mimic_qlora.step import faults, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import file_sha256
from mimic_qlora.subjects import buckets, conversion, nesting, partition, quality, reader
from mimic_qlora.subjects.manifest import subjects_manifest


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """convert("--sample", "0.5"): run step 1 in this process; returns its storage folder."""

    def convert(*arguments):
        place = tmp_path / "storage"
        monkeypatch.delenv("MIMIC_DIR", raising=False)
        monkeypatch.setattr(
            "sys.argv", ["convert", "--storage", str(place), "--workers", "1", *map(str, arguments)]
        )
        convert_to_jsonl.main()
        return place

    return convert


def records(place):
    shards = sorted((place / "subjects/shards").iterdir())
    return [
        orjson.loads(line)
        for shard in shards
        for line in gzip.decompress(shard.read_bytes()).splitlines()
    ]


def flat(folder):
    for path in (folder / "hosp").iterdir():
        path.rename(folder / path.name)
    (folder / "hosp").rmdir()


def plain(folder):
    for path in (folder / "hosp").iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


def flat_and_plain(folder):
    plain(folder)
    flat(folder)


def byte_order_mark(folder):
    path = folder / "hosp/labevents.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + gzip.decompress(path.read_bytes())))


def windows_lines(folder):
    path = folder / "hosp/labevents.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"\n", b"\r\n")))


def no_last_newline(folder):
    path = folder / "hosp/labevents.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).rstrip(b"\n")))


def two_gzip_members(folder):
    path = folder / "hosp/labevents.csv.gz"
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(text[:500]) + gzip.compress(text[500:]))


@pytest.mark.parametrize(
    "lay",
    [
        flat,
        plain,
        flat_and_plain,
        byte_order_mark,
        windows_lines,
        no_last_newline,
        two_gzip_members,
    ],
)
def test_the_layout_of_the_folder_changes_no_record(convert, tiny_mimic, converted, lay):
    expected = records(converted)
    lay(tiny_mimic)
    assert records(convert("--mimic-dir", tiny_mimic)) == expected


def test_only_patients_and_admissions_must_be_there(convert, tiny_mimic, capsys):
    for path in (tiny_mimic / "hosp").iterdir():
        if path.name.split(".")[0] not in tables.REQUIRED:
            path.unlink()
    assert all(
        r.keys() == {"subject_id", "admissions", "patients"}
        for r in records(convert("--mimic-dir", tiny_mimic))
    )
    assert "Tables: 2 found" in capsys.readouterr().out


def test_emergency_and_note_tables_join_the_record(convert, tiny_mimic):
    write_table(
        tiny_mimic,
        "triage",
        "subject_id,stay_id,chiefcomplaint",
        ["10000000,30000000,Chest pain"],
        "ed",
    )
    write_table(
        tiny_mimic,
        "discharge",
        "note_id,subject_id,hadm_id,text",
        ['n1,10000000,,"two\nlines"'],
        "note",
    )
    first = records(convert("--mimic-dir", tiny_mimic))[0]
    assert first["triage"] == [
        {"subject_id": 10000000, "stay_id": 30000000, "chiefcomplaint": "Chest pain"}
    ]
    assert first["discharge"] == [{"note_id": "n1", "subject_id": 10000000, "text": "two\nlines"}]


def test_a_table_may_be_named_like_the_beginning_of_another(convert, tiny_mimic):
    for name in ("labevents-more", "labevents_more"):
        write_table(tiny_mimic, name, "subject_id,x", ["10000000,1"])
    first = records(convert("--mimic-dir", tiny_mimic))[0]
    assert (
        first["labevents-more"] == first["labevents_more"] == [{"subject_id": 10000000, "x": "1"}]
    )


def test_the_size_of_a_table_is_known_before_it_is_read(tmp_path):
    def size(data):
        path = tmp_path / "t.csv.gz"
        path.write_bytes(data)
        return buckets.unpacked_bytes(tables.Source(path, "hosp", {}, ""))

    text = b"subject_id,value\n" + b"10000000,1\n" * 90_000
    assert size(gzip.compress(text)) == len(text)
    several = gzip.compress(text) + gzip.compress(b"\n")
    assert size(several) == buckets.GZIP_RATIO * len(several)
    plain = tmp_path / "t.csv"
    plain.write_bytes(text)
    assert buckets.unpacked_bytes(tables.Source(plain, "hosp", {}, "")) == len(text)


def test_a_dictionary_loses_no_row_or_cell_in_silence(convert, tiny_mimic):
    header = "itemid,label,fluid,category"
    write_table(tiny_mimic, "d_labitems", header, ["1,a,b,c", "2,a", "x3,a,b,c"])
    with pytest.raises(UserError, match="1 of them in d_labitems"):
        convert("--mimic-dir", tiny_mimic)
    place = convert("--mimic-dir", tiny_mimic, "--max-rejects", "1")
    manifest = storage.verified_manifest(place, "subjects")
    assert manifest["dictionaries"]["d_labitems"] == 2
    assert manifest["cells_not_of_their_type"] == {"d_labitems.itemid": 1}
    assert (place / "subjects/rejects/d_labitems.csv").read_text().count(
        "wrong number of fields"
    ) == 1


@pytest.mark.parametrize("cell", ["007", "+5", "5.0"])
def test_an_id_that_would_not_come_back_as_it_was_is_rejected_and_not_missed_later(
    convert, tiny_mimic, cell
):
    coded = ["10000000,20000000,1,I10,10", f"10000000,{cell},2,I10,10"]
    write_table(
        tiny_mimic, "diagnoses_icd", "subject_id,hadm_id,seq_num,icd_code,icd_version", coded
    )
    place = convert("--mimic-dir", tiny_mimic, "--max-rejects", "1", "--verify")
    assert len(records(place)[0]["diagnoses_icd"]) == 1


def test_a_row_is_rejected_with_what_is_wrong_with_its_id(convert, tiny_mimic, tmp_path):
    faults = {
        "20000000.0": "hadm_id has a decimal point",
        "0017": "hadm_id begins with 0",
        "9223372036854775807": "hadm_id has more than 18 digits",
        '""': "hadm_id is empty",
        "+5": "hadm_id has a sign in front",
        " 0 5": "hadm_id is not a whole number",
        "x.y": "hadm_id is not a whole number",
        "NA": "hadm_id is a word for nothing, which must be an empty cell",
        ".": "hadm_id is a word for nothing, which must be an empty cell",
        "\\N": "hadm_id is a word for nothing, which must be an empty cell",
    }
    rows = [f"10000000,{cell},1,I10,10" for cell in faults]
    rows += ["010000000,20000000,1,I10,10", "5,20000000,1,I10,10", ",20000000,1,I10,10"]
    header = "subject_id,hadm_id,seq_num,icd_code,icd_version"
    write_table(tiny_mimic, "diagnoses_icd", header, rows)
    with pytest.raises(UserError, match="13 rows cannot be read"):
        convert("--mimic-dir", tiny_mimic)
    place = tmp_path / "storage" / "rejects" / "diagnoses_icd.csv"
    listed = list(csv.DictReader(open(place, newline="")))
    others = ["subject_id begins with 0", "its patient is not in patients"]
    others += ["subject_id is empty"]
    by_row = sorted(listed, key=lambda row: int(row["row"]))
    assert [row["reason"] for row in by_row] == [*faults.values(), *others]


def test_ids_that_a_database_has_padded_are_read_without_their_blanks(convert, tiny_mimic):
    """As of columns of fixed width."""

    def padded(header, rows):
        ids = [column in tables.IDS for column in header]
        return [
            [f" {c}\t" if c and is_id else c for c, is_id in zip(row, ids, strict=True)]
            for row in rows
        ]

    made = []
    write_table(tiny_mimic, "of_stays", "hadm_id,x", ["20000007,1", "20000000,2"])
    for change in lambda header, rows: rows, padded:
        for path in tiny_mimic.glob("hosp/*.csv.gz"):
            rewrite(path, change)
        place = convert("--mimic-dir", tiny_mimic, "--verify")
        made.append(folder_bytes(place / "subjects"))
    assert made[0] == made[1]
    mended = subjects_manifest(place)["cells_mended"]
    assert mended["of_stays.hadm_id"] == 2 and mended["patients.subject_id"] == 12


def test_a_module_whose_disk_is_not_mounted_is_not_taken_for_absent(convert, tiny_mimic):
    (tiny_mimic / "note").symlink_to("/not/mounted/note")
    with pytest.raises(UserError, match="note is a link to a folder that cannot be reached"):
        convert("--mimic-dir", tiny_mimic)


def test_absent_tables_of_an_emergency_department_that_is_there_are_named(
    convert, tiny_mimic, capsys
):
    """A download of ed/ that was stopped lacked triage: no complaint, no medicine of home."""
    convert("--mimic-dir", tiny_mimic)
    assert "triage" not in capsys.readouterr().out
    write_table(tiny_mimic, "edstays", "subject_id,stay_id", ["10000000,30000000"], "ed")
    convert("--mimic-dir", tiny_mimic)
    said = capsys.readouterr().out
    assert "diagnosis, medrecon, pyxis, triage, vitalsign\n" in said and "radiology" not in said


def test_sums_of_some_files_are_not_told_as_those_of_all(convert, tiny_mimic, capsys):
    """ed/ of another download lies beside a list that does not name it, or the list broke off."""
    write_table(tiny_mimic, "edstays", "subject_id,stay_id", ["10000000,30000000"], "ed")
    paths = sorted(tiny_mimic.glob("*/*.csv.gz"))
    lines = [f"{file_sha256(path)}  {path.relative_to(tiny_mimic)}\n" for path in paths]
    (tiny_mimic / "SHA256SUMS.txt").write_text("".join(lines))
    convert("--mimic-dir", tiny_mimic, "--verify-checksums")
    assert "Checksums are right\n" in capsys.readouterr().out
    (tiny_mimic / "SHA256SUMS.txt").write_text("".join(lines[2:]))
    convert("--mimic-dir", tiny_mimic, "--verify-checksums")
    assert (
        "Checksums are right for 5 of the 7 files that are read\n"
        "  in no list: hosp/admissions.csv.gz, ed/edstays.csv.gz\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("place", ["hosp", ".", "..", "mimic-iv-ed/2.2", "mimic-iv-ed/2.2/ed"])
def test_one_module_of_several_is_not_taken_for_the_whole(convert, tiny_mimic, capsys, place):
    """PhysioNet's downloads leave each module in a folder of its own."""
    (tiny_mimic / "icu").mkdir()
    (tiny_mimic / "cohort.csv").write_text("subject_id\n")
    ed = tiny_mimic / "mimic-iv-ed/2.2/ed"
    ed.mkdir(parents=True)
    (ed / "edstays.csv").write_text("subject_id,stay_id\n")
    (tiny_mimic / "hosp/scores").mkdir()
    (tiny_mimic / "hosp/scores/part-0.csv").write_text("subject_id\n")
    for name in "frailty.parquet", "scores/part-0.csv.bak", ".rsync-x", "index.html":
        (tiny_mimic / "hosp" / name).write_text("x")
    for name in "LICENSE.txt", "note.tar.gz":
        (tiny_mimic / name).write_text("x")
    for name in "notes/discharge.csv", "derived/sofa.csv", "derived/patients.csv", "docs/a.txt":
        (tiny_mimic / name).parent.mkdir(exist_ok=True)
        (tiny_mimic / name).write_text("subject_id\n")
    if place == ".":
        convert("--mimic-dir", tiny_mimic)
        said = capsys.readouterr().out
        others = "cohort.csv, derived/, notes/ (with discharge)\n"
        assert f"not read, as they do not lie in hosp/, icu/, ed/ or note/: {others}" in said
        assert "not read, as they are not named after a table of MIMIC-IV: scores/\n" in said
        assert "  no table in icu/: is its disk mounted?\n" in said
        assert "not read, as only .csv and .csv.gz are: frailty.parquet, note.tar.gz\n" in said
        assert f"not read: {ed}. Put it, or a link to it, into {tiny_mimic} as ed/" in said
        return
    says = {
        "hosp": "only one part of MIMIC-IV: give the folder around it",
        "..": f"give {tiny_mimic}, which holds hosp/, by --mimic-dir",
    }
    with pytest.raises(UserError, match=says.get(place, "put its ed/ beside MIMIC-IV's hosp/")):
        convert("--mimic-dir", tiny_mimic / place)


def test_a_header_that_differs_is_told_as_expected_and_found(convert, tiny_mimic, capsys):
    write_table(
        tiny_mimic,
        "omr",
        "subject_id,chartdate,seq,result_name,result_value",
        ["10000000,2150-01-01,1,BMI,20"],
    )
    convert("--mimic-dir", tiny_mimic)
    assert "omr.csv.gz: expected seq_num, found seq" in capsys.readouterr().out


def test_coded_rows_without_their_code_go_without_a_title(convert, tiny_mimic, capsys):
    write_table(
        tiny_mimic, "diagnoses_icd", "subject_id,hadm_id,seq_num,code", ["10000000,20000000,1,I10"]
    )
    (record,) = (r for r in records(convert("--mimic-dir", tiny_mimic)) if "diagnoses_icd" in r)
    assert "expected icd_code, icd_version, found code" in capsys.readouterr().out
    assert record["diagnoses_icd"] == record["diagnoses_icd_labeled"]


def test_odd_paths_a_relative_storage_folder_and_another_working_folder(tiny_mimic, tmp_path):
    odd = tmp_path / 'Ménière\'s "data" [1]'
    tiny_mimic.rename(odd)
    environment = {**os.environ, "STORAGE_DIR": "a storage/日本", "MIMIC_DIR": odd.name}
    command = [sys.executable, ROOT / "convert_to_jsonl.py", "--verify"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Verified" in done.stdout, done.stderr
    assert len(records(tmp_path / "a storage/日本")) == 12


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_in_a_sentence_or_with_the_output_whole(
    tiny_mimic, tmp_path, unbuffered
):
    script = f"'{sys.executable}' convert_to_jsonl.py --mimic-dir '{tiny_mimic}' "
    script += f"--storage '{tmp_path / 's'}' | head -1"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
    if done.returncode == 141:
        assert done.stderr.startswith("error: stopped") and done.stderr.count("\n") == 1
    else:
        assert done.returncode == 0 and storage.verified_manifest(tmp_path / "s", "subjects"), (
            done.stderr
        )


@pytest.mark.parametrize("place", ["/dev/null/storage", "/proc/storage"])
def test_storage_that_cannot_be_made_is_refused_in_a_sentence(run, tiny_mimic, place):
    if not os.path.exists(os.path.dirname(place)):
        pytest.skip(f"there is no {os.path.dirname(place)} here")
    done = run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--storage", place)
    assert done.returncode == 2 and place in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "0"],
        ["--workers", "-1"],
        ["--memory", "0"],
        ["--memory", "-1"],
        ["--memory", "nan"],
        ["--memory", "0.1"],
        ["--memory", "1e9"],
        ["--sample", "nan"],
        ["--sample", "-0.5"],
        ["--synthetic-patients", "3"],
        ["--max-rejects", "-1"],
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_written(
    convert, tmp_path, tiny_mimic, arguments
):
    with pytest.raises(UserError, match=f"{arguments[0]} "):
        convert("--mimic-dir", tiny_mimic, *arguments)
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize(
    "arguments", [["--synthetic-patients", "20"], ["--synthetic-emergency"], ["--fetch-demo", "x"]]
)
def test_two_sources_of_tables_are_refused(tmp_path, tiny_mimic, arguments):
    place = tmp_path / "storage"
    calls = [run_here("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, *arguments, storage=place)]
    if arguments[0] != "--fetch-demo":  # which is meant to go before the variable
        from_variable = {"MIMIC_DIR": str(tiny_mimic)}
        calls.append(run_here("convert_to_jsonl.py", *arguments, storage=place, **from_variable))
    for done in calls:
        assert done.returncode == 2 and done.stderr.startswith(f"error: {arguments[0]}")
    assert not place.exists()


def test_more_workers_and_least_memory_change_no_byte(convert, tiny_mimic, converted):
    expected = folder_bytes(converted / "subjects")
    place = convert(
        "--mimic-dir", tiny_mimic, "--force", "--workers", "1000000000", "--memory", "0.5"
    )
    assert folder_bytes(place / "subjects") == expected


def test_a_file_that_changes_while_it_is_read_is_noticed(
    convert, tiny_mimic, converted, monkeypatch
):
    before = folder_bytes(converted / "subjects")
    whole = conversion.convert

    def change_meanwhile(*arguments):
        converted = whole(*arguments)
        os.utime(tiny_mimic / "hosp/labevents.csv.gz", ns=(1, 1))
        return converted

    monkeypatch.setattr(conversion, "convert", change_meanwhile)
    with pytest.raises(UserError, match="hosp/labevents.csv.gz changed while it was read"):
        convert("--mimic-dir", tiny_mimic, "--force")
    assert folder_bytes(converted / "subjects") == before


def test_a_run_stopped_while_it_looks_at_the_quality_reads_no_table_again(
    convert, tiny_mimic, converted, monkeypatch
):
    expected = folder_bytes(converted / "subjects")
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(quality, "flags", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        convert("--mimic-dir", tiny_mimic, "--force")
    monkeypatch.setattr(partition, "with_subject_ids", None)  # what each table is read with
    monkeypatch.setattr(nesting, "json_rows", None)
    assert folder_bytes(convert("--mimic-dir", tiny_mimic, "--force") / "subjects") == expected


def test_more_memory_than_a_bucket_needs_changes_nothing(convert, tiny_mimic, converted, capsys):
    convert("--mimic-dir", tiny_mimic, "--memory", "1.5")
    assert "is up to date" in capsys.readouterr().out


def spoil(path):
    """Other bytes in the middle, the same size."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(255 - byte for byte in data[middle : middle + 40])
    path.write_bytes(data)


def test_damage_that_leaves_the_size_is_named_with_what_to_run(tiny_mimic, converted):
    place, folder = converted, converted / "subjects"
    for path, read in {
        folder / "shards/part-00000.jsonl.gz": lambda: [
            reader.raw_record(place, s) for s in reader.split_of(place)
        ],
        folder / "tables/labevents/part-00000.parquet": lambda: list(
            reader.records(place, {"labevents": ["value"]})
        ),
    }.items():
        read()
        spoil(path)
        for look in (read, lambda: conversion.verify(place, tables.find(tiny_mimic))):
            with pytest.raises(UserError, match=f"{path.name} is damaged: run .*--force"):
                look()
    spoil(folder / "index.parquet")
    with pytest.raises(UserError, match="index.parquet"):
        storage.verified_manifest(place, "subjects")


def test_damage_that_duckdb_finds_is_named_with_what_to_run(converted, run):
    damaged = converted / "subjects/tables/labevents/part-00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"gone")
    done = run("summarize_jsonl.py")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"{damaged} is damaged: run" in done.stderr


def test_a_worker_that_the_system_killed_is_told_in_a_sentence():
    from concurrent.futures.process import BrokenProcessPool

    assert "fewer --workers" in faults.sentence(BrokenProcessPool("terminated abruptly"))


def test_a_previous_output_is_not_put_back_while_a_run_renames_its_own(converted):
    place = converted
    os.rename(place / "subjects", place / ".subjects.old")
    with (
        storage.locked(place / "subjects", "subjects"),
        pytest.raises(UserError, match="another run"),
    ):
        storage.verified_manifest(place, "subjects")
    assert storage.verified_manifest(place, "subjects") and not (place / ".subjects.old").exists()


def test_a_file_that_is_not_the_one_in_the_list_beside_it_is_told(tiny_mimic, convert, capsys):
    names = [path.relative_to(tiny_mimic).as_posix() for path in tiny_mimic.rglob("*.csv.gz")]
    sums = {name: file_sha256(tiny_mimic / name) for name in names}
    sums |= {"hosp/diagnoses_icd.csv.gz": "0" * 64, "hosp/absent.csv.gz": "1" * 64}
    lines = "".join(f"{sum_} {name}\n" for name, sum_ in sums.items())
    (tiny_mimic / "SHA256SUMS.txt").write_text(lines)
    told = "hosp/diagnoses_icd.csv.gz: not the file that SHA256SUMS.txt lists"
    place = convert("--mimic-dir", tiny_mimic)
    assert f"  {told}: check the download, or report it" in capsys.readouterr().out
    assert subjects_manifest(place)["source"]["unexpected"] == [told]
    elsewhere = lines.replace(" hosp/", " mimiciv/3.1/hosp/").replace(" icu/", " mimiciv/3.1/icu/")
    for other in ("another list of that name", lines + "half a line", elsewhere):
        (tiny_mimic / "SHA256SUMS.txt").write_text(other)
        (unread,) = subjects_manifest(convert("--force", "--mimic-dir", tiny_mimic))["source"][
            "unexpected"
        ]
        assert "was compared with it" in unread


def test_rows_of_each_table_are_compared_with_those_of_the_release():
    rows = {table: n for table, n in releases.row_counts()["3.1"].items() if table != "omr"} | {
        "extra": 5
    }
    assert releases.identify(rows) == ("MIMIC-IV 3.0 or 3.1", 27, [])
    for folder, version in {"/x/files/mimiciv/3.0": "3.0", "/x/mimic-iv-3.1/": "3.1"}.items():
        assert (
            releases.identify(rows, Path(folder))[0] == f"MIMIC-IV {version} (by its folder's name)"
        )
    for release in ("2.2", "demo 2.2"):
        name, agreeing, differing = releases.identify(releases.row_counts()[release])
        assert release.split()[-1] in name and agreeing >= 28 and not differing
    name, agreeing, differing = releases.identify({**rows, "labevents": 158_374_763})
    assert (agreeing, differing) == (
        26,
        ["labevents: expected 158,374,764 rows, found 158,374,763"],
    )
    assert releases.identify({"patients": 12, "admissions": 12})[1:] == (0, [])
    cut = releases.identify({**rows, "admissions": 546_027})
    assert cut.differing == ["admissions: expected 546,028 rows, found 546,027"]
    assert "3.1" in cut.name and cut.agreeing == 26
    some = {
        name: n // 2 if "subject_id" in tables.schema()[name].columns else n
        for name, n in releases.row_counts()["3.1"].items()
    }
    assert releases.identify(some) == (releases.UNLISTED, 0, []), "the dictionaries alone are whole"
    known = tables.schema().keys()
    assert all(counts.keys() <= known for counts in releases.row_counts().values())


def test_json_of_columns_with_and_without_nulls_is_what_a_json_writer_makes():
    import json
    import random

    import pyarrow as pa

    from mimic_qlora.subjects import nesting

    draw = random.Random(0)
    columns = {
        "a": "text",
        "n": "id",
        "b": "text",
        "s": "id",
        "c": "text",
        "never": "text",
        "d": "num",
    }
    for nullable in (set(), {"a", "c"}, {"a", "n", "b"}, {"a", "n", "b", "c", "d"}):
        rows = [
            {
                c: None
                if c == "never" or (c in nullable and draw.random() < 0.5)
                else str(draw.randrange(1, 99))
                if kind == "id"
                else draw.choice(["", "é", 'a"b', "\\", "\n", "\x01", "</x>", ", "])
                for c, kind in columns.items()
            }
            for _ in range(40)
        ]
        made = nesting.json_rows(
            pa.table({c: pa.array([r[c] for r in rows], pa.string()) for c in columns}), columns
        )
        for row, text in zip(rows, made.to_pylist(), strict=True):
            expected = {
                c: int(v) if columns[c] == "id" else v for c, v in row.items() if v is not None
            }
            assert text.endswith("},") and json.loads(text[:-1]) == expected
            assert list(json.loads(text[:-1])) == list(expected)


@pytest.mark.parametrize("cell", ["007", "+5", "-5", "0x1F", "5 5", " ", "1e3", "٣", "9" * 19, "0"])
def test_ids_are_numbers_only_as_one_writes_them(cell):
    import pyarrow as pa

    found = partition.whole_numbers(pa.array([cell, "42", None, " 17\t"])).tolist()
    assert found == [0, 42, 0, 17]


@pytest.mark.parametrize("beside", ["42", "x", None])
def test_an_id_of_19_digits_is_none_whatever_stands_beside_it(beside):
    """The comparison with the CSV files, which reads each alone, would find a difference."""
    import pyarrow as pa

    longest, longer = "9" * 18, "9223372036854775807"
    found = partition.whole_numbers(pa.array([longest, longer, beside])).tolist()
    assert found[:2] == [int(longest), 0]


LEAK = "10000000"


@pytest.mark.parametrize(
    ("table", "first_lines"),
    [
        ("labevents", [f"1,{LEAK},,1,50912,,2150-03-02 08:00:00,Secret,.1,.1,mg/dL"]),
        ("patients", [f"{LEAK},F,40,2150,2011 - 2013,Secret"]),
        ("patients", [f"subject_id,gender,anchor_age,anchor_year,dod{LEAK},F,40,2150,Secret"]),
        ("admissions", [f"{LEAK},Secret,Secret"]),
        ("diagnoses_icd", [f"subject_id,hadm_id,seq_num,icd_code,icd_version{LEAK},Secret"]),
        ("diagnoses_icd", [f"subject_id,hadm_id,{LEAK},{LEAK},Secret"]),
        ("not_of_mimic", [f"{LEAK},Secret,Secret", "1,2,3"]),
        ("not_of_mimic", [f"{LEAK},Secret", "1,2"]),
        ("patients", ["Secret,F"]),
        ("labevents", ["subject_id,hadm_id,Secret,F,comments,"]),
        ("omr", [f"{LEAK},2150-01-01,1,Secret,subject_id"]),
    ],
)
def test_a_first_line_that_is_no_header_reaches_no_message(
    convert, tiny_mimic, capsys, table, first_lines
):
    (tiny_mimic / "hosp" / f"{table}.csv.gz").unlink(missing_ok=True)
    write_table(tiny_mimic, table, first_lines[0], first_lines[1:])
    try:
        convert("--mimic-dir", tiny_mimic, "--max-rejects", "100")
        said = ""
    except UserError as refused:
        said = str(refused)
    said += "".join(capsys.readouterr())
    assert LEAK not in said and "Secret" not in said


@pytest.mark.parametrize(
    ("name", "columns", "n"),
    [
        ("turned", "10000007,20000000,2019,24,snomed_30000000", "for 2 of its columns"),
        ("turned", "2150-03-01,1/3/2150 8:00,Mar 1_ 2150,y2019,v1.2.3", "for 3 of its columns"),
        ("of_21500301", "x", "table whose name"),
    ],
)
def test_names_that_are_patients_ids_or_dates_are_refused_unquoted(tiny_mimic, name, columns, n):
    """Step 2's tables name columns and tables, and may leave the machine."""
    write_table(tiny_mimic, name, f"subject_id,{columns}", [])
    with pytest.raises(UserError, match=f" has .*{n}") as refused:
        tables.find(tiny_mimic)
    assert not re.search("00000|2150", str(refused.value).replace(str(tiny_mimic), ""))


@pytest.mark.parametrize(
    ("name", "columns", "n"),
    [
        ("turned", "x10000007,20000000_hr,of_20000000,50912", "2 in all"),
        ("of_10000000", "x", "1 in all"),
        ("cohort_20240115", "v3_1_20240115,snomed_38341003,lab_10000001", None),
    ],
)
def test_names_with_an_id_of_these_patients_are_refused_unquoted(
    convert, tiny_mimic, capsys, name, columns, n
):
    """A code or an export's date may look like an id."""
    write_table(tiny_mimic, name, f"subject_id,{columns}", [])
    if n is None:
        own_ids.check(tables.find(tiny_mimic))
        return
    with pytest.raises(UserError, match=n) as refused:
        convert("--mimic-dir", tiny_mimic)
    said = str(refused.value) + "".join(capsys.readouterr())
    assert "00000" not in said.replace(str(tiny_mimic), "")


@pytest.mark.parametrize("table", ["d_icd_diagnoses", "d_labitems", "provider"])
def test_a_dictionary_that_lost_its_header_is_told_so(convert, tiny_mimic, table):
    write_table(tiny_mimic, table, "Secret 123", ["Secret 456"])
    with pytest.raises(UserError, match=f"is not MIMIC-IV's {table}: .* a row and no header"):
        convert("--mimic-dir", tiny_mimic)


def test_a_file_whose_first_line_is_empty_is_told_so(convert, tiny_mimic):
    path = tiny_mimic / "hosp/labevents.csv.gz"
    path.write_bytes(gzip.compress(b"\n" + gzip.decompress(path.read_bytes())))
    with pytest.raises(UserError, match="labevents.csv.gz is empty, or its first line is"):
        convert("--mimic-dir", tiny_mimic)


def test_a_compressed_file_that_lacks_its_ending_is_told_so(tiny_mimic):
    path = tiny_mimic / "hosp/labevents.csv.gz"
    path.rename(path.with_suffix(""))
    with pytest.raises(UserError, match="labevents.csv .*it is compressed, and its name lacks .gz"):
        tables.find(tiny_mimic)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace(b",", b";"), "has semicolons between its columns"),
        (lambda text: text.replace(b",", b"\t"), "has tabs between its columns"),
        (lambda text: text.decode().encode("utf-16"), "it is UTF-16, not UTF-8"),
        (gzip.compress, "it is compressed twice"),
        (
            lambda text: b"labevents.csv" + bytes(499) + text,
            "it has bytes of zero, as a tar archive",
        ),
    ],
)
def test_a_file_in_another_form_is_told_by_it(convert, tiny_mimic, change, says):
    path = tiny_mimic / "hosp/labevents.csv.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    with pytest.raises(UserError, match=f"labevents.csv.gz .*{says}"):
        convert("--mimic-dir", tiny_mimic)


def test_an_odd_id_of_a_stay_leads_no_row_of_another_table_anywhere(convert, tiny_mimic):
    """In a table without subject_id the stay tells whose row it is."""
    odd = ["9" * 19, "1" * 5000, "٣", "020000007", "1e7", "-5", "2.0"]
    whose = [10000000, *range(10000014, 10000056, 7)]  # the stay of 10000007 keeps its id

    def change(header, rows):
        subject, stay = header.index("subject_id"), header.index("hadm_id")
        given = dict(zip(map(str, whose), odd, strict=True))
        return [
            [given.get(row[subject], cell) if n == stay else cell for n, cell in enumerate(row)]
            for row in rows
        ]

    lines = [f"{one},{subject_id}" for one, subject_id in zip(odd, whose, strict=True)]
    write_table(tiny_mimic, "extra", "hadm_id,x", [*lines, "20000007,10000007"])
    rewrite(tiny_mimic / "hosp" / "admissions.csv.gz", change)
    with pytest.raises(UserError, match=r"[0-9]+ rows cannot be read or belong to no patient"):
        convert("--mimic-dir", tiny_mimic)
    place = convert("--mimic-dir", tiny_mimic, "--max-rejects", 2 * len(odd))
    rows = {r["subject_id"]: [row["x"] for row in r.get("extra", [])] for r in records(place)}
    assert rows[10000007] == ["10000007"]
    assert all(found in ([], [str(subject_id)]) for subject_id, found in rows.items())


def test_stays_of_two_patients_lead_no_row_to_either(convert, tiny_mimic):
    """As of ICU and emergency stays of different releases, or two ids that do not fit."""
    write_table(
        tiny_mimic, "icustays", "subject_id,stay_id,intime", ["10000000,30000000,2150-01-01"]
    )
    visits = ["10000007,30000000,2150-02-01", "10000007,30000001,2150-02-02"]
    write_table(tiny_mimic, "edstays", "subject_id,stay_id,intime", visits)
    of_stays = [",30000000,a", ",30000001,b", "20000007,30000001,c", "20000000,30000001,d"]
    write_table(tiny_mimic, "ventilation", "hadm_id,stay_id,status", of_stays)
    with pytest.raises(UserError, match="in ventilation: its stay is not that of one patient"):
        convert("--mimic-dir", tiny_mimic)
    with open(tiny_mimic.parent / "storage/rejects/ventilation.csv", newline="") as file:
        assert [row["content"] for row in csv.DictReader(file)] == [of_stays[0], of_stays[3]]
    place = convert("--mimic-dir", tiny_mimic, "--max-rejects", 2, "--verify")
    rows = {r["subject_id"]: r["ventilation"] for r in records(place) if r.get("ventilation")}
    assert [row["status"] for row in rows.pop(10000007)] == ["b", "c"] and not rows


def test_a_table_that_may_not_be_read_is_no_fault_of_the_download(tiny_mimic, monkeypatch):
    def refused(stored, path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(tables, "uncompressed", refused)  # root may read whatever its mode is
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)$"):
        tables.find(tiny_mimic)
