"""Pieces of a file: together they are its rows, each once, wherever the cuts fall."""

import gzip
import io
import os
import random

import pytest

from helpers.block_gzip import packed
from mimic_qlora.mimic import pieces, reading, tables

HEADER = b"subject_id,x\n"


def rows_of(path, piece):
    with open(path, "rb") as file:
        rows = pieces.Rows(file, piece, ["subject_id", "x"])
        found, draw = [], random.Random(1)
        while data := rows.read(draw.randrange(1, 40)):
            found.append(data)
    return b"".join(found), rows


def text(end, draw, n=40):
    """Rows from one byte to some hundred long."""
    lines = (b"%d,%s" % (i, b"x" * draw.choice([0, 1, 30, 300])) for i in range(n))
    return HEADER + b"".join(line + end for line in lines)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CR LF", "CR"])
@pytest.mark.parametrize("form", ["plain", "bgzip"])
def test_pieces_hold_each_row_once_wherever_they_are_cut(tmp_path, end, form):
    draw = random.Random(7)
    for trial in range(8):
        whole = text(end, draw)
        whole = whole[: -draw.randrange(0, 2) or None]  # perhaps without the last end of a line
        path = tmp_path / f"{trial}.csv{'.gz' * (form == 'bgzip')}"
        stored = packed(whole, draw.randrange(1, 500)) if form == "bgzip" else whole
        path.write_bytes(stored)
        cuts = pieces.cut(path, False, step := draw.randrange(60, 900), step)
        assert len(cuts) > 1 or step >= len(stored) or form == "bgzip"
        joined, beyond = b"", 0
        for piece in cuts:
            data, rows = rows_of(path, piece)
            joined += data if piece.start == 0 else data.removeprefix(HEADER)
            assert rows.skipped == beyond
            beyond = rows.beyond
        assert joined == whole and beyond == 0


def test_what_cannot_be_cut_is_one_piece(tmp_path):
    lines = text(b"\n", random.Random(0), 400)
    plain, stream = tmp_path / "a.csv", tmp_path / "b.csv.gz"
    plain.write_bytes(lines)
    stream.write_bytes(gzip.compress(lines))
    assert pieces.cut(plain, True, 100, 10) == [pieces.Piece(plain)]
    assert pieces.cut(stream, False, 100, 10) == [pieces.Piece(stream)]
    assert len(pieces.cut(plain, False, 100, 10)) > 10


def test_bytes_that_only_look_like_a_block_are_none(tmp_path):
    """A cell may hold the head of a block; no other follows where it says."""
    blocks, noise = packed(random.Random(0).randbytes(4000), 1 << 10), b"x" * 30
    fake = blocks[:18] + noise * 100
    stored = noise + fake + blocks
    file, size = io.BytesIO(stored), len(stored)
    assert pieces._block_behind(file, 0, size) == len(noise + fake)
    assert pieces._block_behind(file, size - 5, size) is None


def test_a_table_may_be_a_folder_of_files(tmp_path, tiny_mimic):
    labs, folder = tiny_mimic / "hosp/labevents.csv.gz", lay_in_two(tiny_mimic)
    header = (folder / "1.csv").read_bytes().splitlines(keepends=True)[0]
    (folder / "2.csv.gz").write_bytes(gzip.compress((folder / "2.csv").read_bytes()))
    (folder / "2.csv").unlink()
    source = tables.find(tiny_mimic)["labevents"]
    assert [source.key(path) for path in source.files] == [
        "hosp/labevents/1.csv",
        "hosp/labevents/2.csv.gz",
    ]
    assert sum(batch.num_rows for batch in reading.read(source)) == 36
    (folder / "3.csv").write_bytes(b"subject_id,value\n")
    with pytest.raises(tables.UserError, match="3.csv has other columns than .*1.csv"):
        tables.find(tiny_mimic)
    (folder / "3.csv").unlink()
    labs.write_bytes(gzip.compress(header))
    with pytest.raises(tables.UserError, match="table labevents is there twice"):
        tables.find(tiny_mimic)


def lay_in_two(mimic):
    """Lay labevents in a folder of two files, and return the folder."""
    labs = mimic / "hosp/labevents.csv.gz"
    header, *lines = gzip.decompress(labs.read_bytes()).splitlines(keepends=True)
    labs.unlink()
    folder = mimic / "hosp/labevents"
    folder.mkdir()
    (folder / "1.csv").write_bytes(b"".join([header, *lines[:20]]))
    (folder / "2.csv").write_bytes(b"".join([header, *lines[20:]]))
    return folder


@pytest.mark.parametrize(
    "name", ["3.csv.zst", "3.csv.gz.part", "3.CSV.bz2", "part-3", "3.csv/3.csv"]
)
def test_a_piece_of_a_table_that_is_not_read_is_not_absent(tiny_mimic, name):
    folder = lay_in_two(tiny_mimic)
    (folder / "_SUCCESS").touch()
    (folder / ".3.csv.crc").write_text("x")
    tables.find(tiny_mimic)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    with pytest.raises(tables.UserError, match=f"{name.split('/')[0]} is among the files of"):
        tables.find(tiny_mimic)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_piece_of_a_table_that_is_there_twice_by_a_link_is_refused(tiny_mimic, link):
    folder = lay_in_two(tiny_mimic)
    link(folder / "1.csv", folder / "3.csv")
    with pytest.raises(tables.UserError, match="3.csv and .*1.csv are one file"):
        tables.find(tiny_mimic)


@pytest.mark.parametrize("name", ["3.csv", "1.csv.gz"])
def test_a_copy_of_a_piece_is_refused_as_is_one_beside_its_gz(tiny_mimic, name):
    folder = lay_in_two(tiny_mimic)
    text = (folder / "1.csv").read_bytes()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    with pytest.raises(tables.UserError, match="1.csv.* copies of one, whose rows would count"):
        tables.find(tiny_mimic)


def test_pieces_that_begin_alike_or_hold_a_header_alone_are_no_copies(tiny_mimic):
    folder = lay_in_two(tiny_mimic)
    header, *rows = (folder / "1.csv").read_bytes().splitlines(keepends=True)
    for name in ("1.csv", "3.csv"):  # longer than what is compared first, and of one size
        last = rows[0].replace(b"50912", b"5091" + name[:1].encode())
        (folder / name).write_bytes(b"".join([header, *rows * 20, last]))
    for name in ("4.csv", "5.csv"):
        (folder / name).write_bytes(header)
    assert len(tables.find(tiny_mimic)["labevents"].files) == 5


@pytest.mark.parametrize(
    "names",
    [
        ("labevents-000000000000", "labevents-000000000001"),  # as BigQuery writes it
        ("labevents", "labevents_2"),
        ("mimiciv_hosp_labevents",),
        ("lab_events",),
    ],
)
def test_a_table_of_mimic_under_another_name_is_no_table_of_the_users(tiny_mimic, names):
    own = tiny_mimic / "hosp/labevents.csv.gz"
    content = own.read_bytes()
    own.unlink()
    for name in names:
        (own.parent / f"{name}.csv.gz").write_bytes(content)
    with pytest.raises(tables.UserError, match="has the columns of MIMIC-IV's labevents") as error:
        tables.find(tiny_mimic)
    assert f"{names[-1]}.csv.gz" in str(error.value) or f"{names[0]}.csv.gz" in str(error.value)
    for name in names:
        (own.parent / f"{name}.csv.gz").unlink()
    for name in ("labevents", "labevents_old"):  # kept beside it
        (own.parent / f"{name}.csv.gz").write_bytes(content)
    assert {"labevents", "labevents_old"} <= tables.find(tiny_mimic).keys()


@pytest.mark.parametrize("ending", [".csv.zst", ".csv.gz.part", ".txt.gz", ""])
def test_a_table_in_a_form_that_is_not_read_is_not_absent(tiny_mimic, ending):
    labs = tiny_mimic / "hosp/labevents.csv.gz"
    other = labs.with_name(f"labevents{ending}")
    labs.rename(other)
    if not ending:  # a folder of other files
        other.unlink()
        other.mkdir()
    with pytest.raises(tables.UserError, match=f"{other} is named like the table labevents"):
        tables.find(tiny_mimic)
    other.rename(labs.with_name("old_labs"))
    assert "labevents" not in tables.find(tiny_mimic)


@pytest.mark.parametrize("ending", [".csv.bak", ".csv.tmp", ".csv_old"])
def test_a_folder_that_was_set_aside_or_not_finished_is_not_read(tiny_mimic, ending):
    lay_in_two(tiny_mimic).rename(tiny_mimic / f"hosp/labevents{ending}")
    with pytest.raises(tables.UserError, match=f"labevents{ending} is named like the table"):
        tables.find(tiny_mimic)


@pytest.mark.parametrize("header", ["subject_id,emar_id", "emar_id,subject_id,own"])
def test_a_file_that_another_table_replaces_before_it_is_read_is_named(tiny_mimic, header):
    source = tables.find(tiny_mimic)["labevents"]
    source.path.write_bytes(gzip.compress(f"{header}\n{header}\n".encode()))
    with pytest.raises(tables.UserError, match="labevents.csv.gz changed while it was read"):
        list(reading.read(source))


def test_a_folder_of_tables_in_capital_letters_is_not_absent(tiny_mimic):
    (tiny_mimic / "ICU").mkdir()
    (tiny_mimic / "ICU/chartevents.csv.gz").write_text("x")
    with pytest.raises(tables.UserError, match="ICU must be icu, in small letters: rename it"):
        tables.find(tiny_mimic)


@pytest.mark.parametrize("name", ["labevents.csv.gz", "edstays.csv", "omr"])
def test_a_table_beside_the_folders_that_are_read_is_not_absent(tiny_mimic, name):
    (tiny_mimic / "hosp/labevents.csv.gz").unlink()
    (tiny_mimic / name).write_text("x")
    with pytest.raises(tables.UserError, match=f"{name} is named .* beside the folders hosp"):
        tables.find(tiny_mimic)
    (tiny_mimic / name).rename(tiny_mimic / "old.csv")
    assert "labevents" not in tables.find(tiny_mimic)


def test_what_is_no_file_is_not_opened(tiny_mimic):
    """Opening a pipe would wait for ever."""
    (tiny_mimic / "hosp/extra.csv").mkdir()
    with pytest.raises(tables.UserError, match="is a folder without a CSV file"):
        tables.find(tiny_mimic)
    (tiny_mimic / "hosp/extra.csv").rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tiny_mimic / "hosp/extra.csv")
        with pytest.raises(tables.UserError, match="is a pipe or device"):
            tables.find(tiny_mimic)
