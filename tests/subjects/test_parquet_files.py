"""Parquet files of step 1: a bit that has changed is noticed by whatever reads them."""

import errno
import random
import shutil

import pyarrow as pa
import pytest

import convert_to_jsonl
from mimic_qlora.chart import columns
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import database, parquet_files, reader


@pytest.fixture
def store(tiny_mimic, tmp_path, monkeypatch):
    """Step 1's output on the small tables."""
    place = tmp_path / "storage"
    monkeypatch.setattr(
        "sys.argv", ["convert", "--mimic-dir", str(tiny_mimic), "--storage", str(place)]
    )
    convert_to_jsonl.main()
    return place


def flip(path, draw):
    """Change one bit of a file; return what puts it back."""
    whole = bytearray(path.read_bytes())
    before = bytes(whole)
    whole[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    path.write_bytes(whole)
    return lambda: path.write_bytes(before)


def test_a_bit_in_a_page_is_noticed_without_a_sum(tmp_path):
    draw, path = random.Random(0), tmp_path / "a.parquet"
    rows = pa.table({"a": list(range(500)), "b": [str(draw.random()) for _ in range(500)]})
    parquet_files.write(rows, path, compression="zstd")
    pages = parquet_files.pq.ParquetFile(path).metadata.row_group(0)
    first = min(pages.column(k).dictionary_page_offset or 4 for k in range(2))
    last = first + sum(pages.column(k).total_compressed_size for k in range(2))
    before = path.read_bytes()
    for place in draw.sample(range(first, last), 60):
        changed = bytearray(before)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        for read in (parquet_files.read, lambda p: pa.Table.from_batches(parquet_files.batches(p))):
            try:
                assert read(path).equals(rows)  # a bit without an effect, as in a header's padding
            except UserError as error:
                assert "a.parquet is damaged: run" in str(error)


@pytest.mark.parametrize("name", ["tables/labevents/part-00000", "tables/admissions/part-00000"])
def test_no_step_reads_a_table_with_a_changed_bit(store, tmp_path, name):
    path = store / f"subjects/{name}.parquet"
    draw = random.Random(0)
    for n in range(6):
        back = flip(path, draw)
        with pytest.raises(UserError, match="part-00000.parquet is damaged: run .* --force"):
            database.connect(store, tmp_path / str(n))
        with pytest.raises(UserError, match="part-00000.parquet is damaged: run .* --force"):
            list(reader.records(store, columns.WANTED))
        back()
    database.connect(store, tmp_path / "whole")
    assert len(list(reader.records(store, columns.WANTED))) == 12


def test_a_changed_bit_of_a_dictionary_is_noticed(store, tmp_path):
    path = store / "subjects/dictionaries/d_icd_diagnoses.parquet"
    flip(path, random.Random(1))
    with pytest.raises(UserError, match="d_icd_diagnoses.parquet is damaged"):
        reader.labels(store, "d_icd_diagnoses", "icd_code", "long_title")
    with pytest.raises(UserError, match="d_icd_diagnoses.parquet is damaged"):
        database.connect(store, tmp_path / "x")
    with pytest.raises(UserError, match="d_icd_diagnoses.parquet is damaged"):
        parquet_files.checked(store, [path])


def test_a_table_that_may_not_be_read_is_not_called_damaged(store, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(parquet_files, "unchanged_sha256", refused)
    with pytest.raises(PermissionError):
        parquet_files.checked(store, [store / "subjects/tables/admissions/part-00000.parquet"])


def test_a_copy_beside_a_file_of_step_1_is_no_part_of_a_table(store, tmp_path):
    """What a sync client or `cp` leaves there was counted: rows twice, and a table of its own."""
    folder = store / "subjects"
    part = folder / "tables/admissions/part-00000.parquet"

    def found():
        with database.connect(store, tmp_path) as con:
            n = con.execute("SELECT count(*) FROM admissions").fetchall()
            return n, database.names(con)

    before = found()
    shutil.copy(part, part.with_name("part-00000 (conflicted copy).parquet"))
    shutil.copytree(part.parent, folder / "tables/admissions-backup")
    shutil.copy(part, folder / "dictionaries/d_labitems-backup.parquet")
    assert found() == before
