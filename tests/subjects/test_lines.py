"""Step 1 proves by a second reader that no line was lost: stray quotes, rejects, `--verify`."""

import csv
import gzip
import json

import pyarrow.parquet as pq
import pytest

import convert_to_jsonl
from helpers.mimic_tables import write_table
from mimic_qlora.mimic import reading, tables
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import conversion, runs


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """convert("--sample", "0.5"): run step 1 in this process; returns its storage folder."""

    def convert(*arguments):
        place = tmp_path / "storage"
        monkeypatch.setattr(
            "sys.argv",
            ["convert", "--storage", str(place), "--workers", "1"]
            + ["--mimic-dir", str(tmp_path / "mimic"), *map(str, arguments)],
        )
        convert_to_jsonl.main()
        return place

    return convert


def change(folder, table, change_lines):
    """Change the lines of a table, the header among them."""
    path = next(folder.glob(f"*/{table}.csv.gz"))
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    change_lines(lines)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def open_quote(*numbers, cell=-1):
    """Put a quote in front of a cell of these lines, the header being 1."""

    def put(lines):
        for number in numbers:
            cells = lines[number - 1].split(",")
            cells[cell] = f'"{cells[cell]}'
            lines[number - 1] = ",".join(cells)

    return put


LAB = "99,10000000,,9,50912,,2150-03-02 08:00:00,2150-03-02 09:00:00,1,1,mg/dL,0.4,1.1"


def add_line(line):
    return lambda lines: lines.append(line)


def close_quote(number):
    return lambda lines: lines.__setitem__(number - 1, f'{lines[number - 1]}"')


def rows_of(place, table):
    return json.loads((place / "subjects/manifest.json").read_text())["rows"][table]


@pytest.mark.parametrize(
    ("table", "changes", "words"),
    [
        ("prescriptions", [open_quote(5)], "line 5 .column stoptime. is never closed.* 8 lines"),
        ("prescriptions", [open_quote(5, cell=4)], "line 5 .column starttime. is never closed"),
        ("prescriptions", [open_quote(4), close_quote(9)], "line 4 .* goes on until line 9"),
        ("prescriptions", [open_quote(13)], "line 13 .* is never closed: fix"),
        ("patients", [open_quote(3)], "patients.csv.gz .* line 3 .column dod. is never closed"),
        ("admissions", [open_quote(2), close_quote(3)], "line 2 .* goes on until line 3"),
        ("d_icd_diagnoses", [open_quote(2)], "d_icd_diagnoses.csv.gz .* line 2"),
        ("labevents", [open_quote(7)], "line 7 .* looks like a row of the table, in line 8"),
        ("labevents", [add_line(f'{LAB},,,"cut off')], "line 38 .column comments. is never closed"),
    ],
)
def test_a_stray_quote_is_an_error_that_names_its_line(convert, tiny_mimic, table, changes, words):
    for one in changes:
        change(tiny_mimic, table, one)
    with pytest.raises(UserError, match=words):
        convert("--max-rejects", "1000")


def test_a_cell_that_arrow_cannot_hold_is_named_by_where_it_begins(convert, tiny_mimic):
    change(tiny_mimic, "prescriptions", open_quote(5))
    more = "10000000,20000000,x,1,2150-03-02 08:00:00,2150-03-01 08:00:00\n" * 100_000
    path = tiny_mimic / "hosp/prescriptions.csv.gz"
    path.write_bytes(path.read_bytes() + gzip.compress(more.encode(), 1))
    with pytest.raises(UserError, match="line 5 .column stoptime. is never closed.* 100,008 lines"):
        convert()
    text = "x" * (5 << 20)
    write_table(
        tiny_mimic, "discharge", "note_id,subject_id,text", [f'a,10000000,"{text}"'], "note"
    )
    path.unlink()
    with pytest.raises(UserError, match="discharge.csv.gz .* has a row of more than 2 MiB"):
        convert()


def test_lines_of_the_file_are_counted_beside_its_rows(convert, tiny_mimic, capsys):
    note = 'n1,10000000,,"two\nlines, ""quoted""\n\nand more"'
    write_table(tiny_mimic, "discharge", "note_id,subject_id,hadm_id,text", [note], "note")
    change(tiny_mimic, "labevents", lambda lines: lines.insert(3, ""))
    place = convert("--sample", "0.5", "--verify")
    labs, notes = rows_of(place, "labevents"), rows_of(place, "discharge")
    assert (labs["lines"], labs["spanning"], labs["in"], labs["unsampled"]) == (38, 0, 36, 18)
    assert (notes["lines"], notes["spanning"], notes["in"]) == (5, 1, 1)
    printed = capsys.readouterr().out.splitlines()
    proof = printed[printed.index("rows in = not sampled + rejected + JSONL; columnar = JSONL") :]
    (labs,) = (line.split() for line in proof if line.startswith("labevents "))
    (codes,) = (line.split() for line in proof if line.startswith("d_icd_diagnoses "))
    assert labs == ["labevents", "38", "0", "36", "18", "0", "18", "18"]
    assert codes == ["d_icd_diagnoses", "4", "0", "3", "0", "3"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n\n"], ids=repr)
def test_a_table_of_a_header_alone_has_no_rows_whatever_ends_it(convert, tiny_mimic, end):
    path = tiny_mimic / "hosp" / "prescriptions.csv.gz"
    first = gzip.decompress(path.read_bytes()).split(b"\n")[0]
    path.write_bytes(gzip.compress(first + end))
    assert rows_of(convert("--verify"), "prescriptions")["in"] == 0


def test_a_rejected_stretch_counts_all_its_lines(convert, tiny_mimic):
    notes = ['n1,10000000,"one\ntwo\nthree"', 'n2,99999999,,"of\nnobody"', "n3,10000000,,fine"]
    write_table(tiny_mimic, "discharge", "note_id,subject_id,hadm_id,text", notes, "note")
    with pytest.raises(UserError, match="5 rows cannot be read .*5 of them in discharge"):
        convert("--max-rejects", "4")
    counts = rows_of(convert("--max-rejects", "5", "--verify"), "discharge")
    assert (counts["in"], counts["rejected"], counts["jsonl"], counts["lines"]) == (6, 5, 1, 7)


def test_columns_of_texts_may_be_named(convert, tiny_mimic):
    write_table(tiny_mimic, "extra", "subject_id,a,b", ['10000000,"one\ntwo",b'])
    with pytest.raises(UserError, match="extra.csv.gz .* line 2 .column a. .*--multiline"):
        convert()
    assert rows_of(convert("--multiline", "extra.a", "--verify"), "extra")["spanning"] == 1
    with pytest.raises(UserError, match="labevents.nothing is none"):
        convert("--multiline", "extra.a", "labevents.nothing")


def test_counts_are_kept_of_a_table_that_was_read_before_a_kill(convert, tiny_mimic, monkeypatch):
    expected = rows_of(convert(), "labevents")
    whole, read = runs.publish, []

    def killed(made, place):
        whole(made, place)
        if place.name.startswith("labevents"):
            raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(runs, "publish", killed)
        convert("--force")
    reader = reading.read
    monkeypatch.setattr(
        reading, "read", lambda s, *a, **o: read.append(s.path.name) or reader(s, *a, **o)
    )
    assert rows_of(convert("--force"), "labevents") == expected
    assert "labevents.csv.gz" not in read and "patients.csv.gz" in read


def test_readers_that_disagree_are_an_error(convert, tiny_mimic, monkeypatch):
    whole = reading._batches

    def losing(*arguments):
        for batch in whole(*arguments):
            yield batch.slice(1)

    monkeypatch.setattr(reading, "_batches", losing)
    with pytest.raises(UserError, match="has 11 rows to one reader and 12 to another"):
        convert()


def test_verify_does_not_use_the_reader_that_converted(convert, tiny_mimic, monkeypatch, capsys):
    place, sources = convert(), tables.find(tiny_mimic)
    monkeypatch.setattr(reading, "read", None)
    conversion.verify(place, sources)
    assert (
        "Verified: every cell of 5 tables is in the JSONL and in the typed tables, and of 1 that"
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize("table", ["tables/labevents/part-00000", "dictionaries/d_icd_diagnoses"])
def test_verify_finds_a_typed_cell_that_was_changed(convert, tiny_mimic, table, capsys):
    path = convert() / f"subjects/{table}.parquet"
    rows = pq.read_table(path).to_pylist()
    column = "valuenum" if "labevents" in table else "icd_version"
    rows[3 - ("d_" in table)][column] = 7
    written = pq.ParquetFile(path).schema_arrow
    size = path.stat().st_size
    pq.write_table(pq.read_table(path).from_pylist(rows, written), path, compression="zstd")
    with open(path.parents[2 if "tables/" in table else 1] / "manifest.json", "r+") as file:
        text = file.read().replace(f'"bytes": {size}', f'"bytes": {path.stat().st_size}')
        manifest = json.loads(text)
        for one in manifest["files"].values():
            if one["bytes"] == path.stat().st_size:
                one.pop("sha256", None)
        file.seek(0)
        file.truncate()
        json.dump(manifest, file)
    with pytest.raises(UserError, match=f"differ in {table.split('/')[1]}:"):
        convert("--verify")
    assert "in the typed table" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "+1", "@SUM(A1)", " =1+1", "-2+3"])
def test_rejected_rows_run_nothing_in_a_spreadsheet(convert, tiny_mimic, tmp_path, cell):
    change(tiny_mimic, "labevents", lambda lines: lines.append(f"{cell},10000000"))
    with pytest.raises(UserError, match="1 of them in labevents"):
        convert()
    with open(tmp_path / "storage/rejects/labevents.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["content"] == f"'{cell},10000000"
