"""The second reader of CSV files: what it counts, which cells it refuses, and the other readers."""

import csv
import gzip
import io
import random

import pytest
from pyarrow import csv as arrow_csv

from mimic_qlora.mimic import second_reader, tables
from mimic_qlora.mimic.second_reader import LineCounter
from mimic_qlora.step.errors import UserError

TWO = {"a": "text", "b": "text"}
LABS = tables.schema()["labevents"].columns
NOTES = tables.schema()["discharge"].columns


def counted(path, data, columns=TWO, texts=("a", "b"), piece=None):
    counter = LineCounter(path / "t.csv", columns, texts)
    for start in range(0, len(data), piece or len(data)):
        counter.add(data[start : start + (piece or len(data))])
    return tuple(counter.finish())


@pytest.mark.parametrize("piece", [1, 2, 7, None])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a,b\n1,2\n3,4\n", (3, 2, 0, 0, 0)),
        (b"a,b\r\n1,2\r\n\r\n3,4", (4, 2, 0, 0, 1)),
        (b"a,b\r1,2\r3,4\r", (3, 2, 0, 0, 0)),
        (b'\xef\xbb\xbf"a",b\n1,2\n', (2, 1, 0, 0, 0)),
        (b"a,b\n\n\n1,2\n\n", (5, 1, 0, 0, 3)),
        (b'a,b\n1,"x ""y"" z"\n2,""\n3,"""\n"""\n', (5, 3, 1, 1, 0)),
        (b'a,b\n1,5" pipe\n2,6" and 7"\n3,"x"y"z\n', (4, 3, 0, 0, 0)),
        (b'a,b\n"1\n\n2","3\r\n4"\n5,6\n', (6, 2, 2, 3, 0)),
        (b'a,b\n1,"x,\n,y"\n2,"\n"\n', (5, 2, 2, 2, 0)),
        ("a,b\n1,é\u2028\x0b\x0c\x85\n".encode(), (2, 1, 0, 0, 0)),
        (b"a,b\n", (1, 0, 0, 0, 0)),
    ],
)
def test_lines_rows_and_cells_that_span_lines(tmp_path, data, piece, expected):
    """expected: lines, rows, cells that span lines, lines within these, empty lines."""
    assert counted(tmp_path, data, piece=piece) == expected


def random_file(draw):
    pieces = ["a", '"', '"', '""', ",", ",", "\n", "\n", "\r\n", "\r", "é", 'x"y', '","', "\n\n"]
    body = "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 25)))
    return f"a,b\n{body}".encode()


def by_arrow(data):
    """Whole rows, and how many have another number of cells; the last line has an end."""
    ragged = []
    parse = arrow_csv.ParseOptions(
        newlines_in_values=True, invalid_row_handler=lambda row: ragged.append(row) or "skip"
    )
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(TWO, "string"),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    read = arrow_csv.ReadOptions(use_threads=False)
    end = b"" if data.endswith((b"\n", b"\r")) else b"\n"
    found = arrow_csv.read_csv(io.BytesIO(data + end), read, parse, convert)
    return [list(row.values()) for row in found.to_pylist()], len(ragged)


def test_it_reads_what_arrow_and_the_csv_module_read(tmp_path, monkeypatch):
    """On odd files by chance: quotes in all places, every end of a line, pieces of every size."""
    draw, path = random.Random(0), tmp_path / "t.csv"
    compared = 0
    while compared < 300:
        data = random_file(draw)
        whole, n_ragged = by_arrow(data)
        try:
            counts = counted(tmp_path, data, piece=draw.choice([1, 3, None]))
        except UserError as error:
            assert "never closed" in str(error) or "text behind it" in str(error)
            continue
        path.write_bytes(data)
        monkeypatch.setattr(second_reader, "PIECE_BYTES", draw.choice([1, 3, 1 << 18]))
        cells = [row for block in second_reader.rows(path) for row in block]
        assert counts[1] == len(cells) == len(whole) + n_ragged
        assert [row for row in cells if len(row) == 2] == whole
        plain = csv.reader(io.StringIO(data.decode(), newline=""))
        assert [[cell or "" for cell in row] for row in cells] == [r for r in plain if r][1:]
        compared += 1


@pytest.mark.parametrize("piece", [1, 5, None])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'a,b\n1,2\n3,"4\n5,6\n7,8\n', r"line 3 \(column b\) is never closed.* 2 lines behind"),
        (b'a,b\n1,2\n3,"4\n5,6\n', r"line 3 \(column b\) is never closed, .* the line behind"),
        (b'a,b\n1,2\n3,"', r"line 3 \(column b\) is never closed: fix that line"),
        (b'a,b\n1,2\n"3,4\n5,"6"\n', r"line 3 \(column a\) goes on until line 4"),
        (b'a,b\n1,2\n3,"4\n5,6\n7,8"\n9,\n', r"line 3 \(column b\) goes on until line 5"),
        (b'a,b\r\n1,"2\r\n"\r\n', r"line 2 \(column b\) goes on until line 3"),
        (b'a,b\n"x,y","2\r"\n', r"line 2 \(column b\) goes on until line 3"),
    ],
)
def test_a_cell_of_codes_and_numbers_that_spans_lines_is_named(tmp_path, data, piece, words):
    with pytest.raises(UserError, match=words):
        counted(tmp_path, data, texts=(), piece=piece)


def test_the_column_is_right_behind_another_cell_that_spans_lines(tmp_path):
    data = b'a,b,c\n1,"x, ""\ny, ""z""",3\n"1\n2",2,"x\ny"\n'
    columns = {**TWO, "c": "text"}
    assert counted(tmp_path, data, columns, ("a", "b", "c")) == (6, 2, 3, 3, 0)
    with pytest.raises(UserError, match=r"line 4 \(column a\)"):
        counted(tmp_path, data, columns, ("b", "c"))
    with pytest.raises(UserError, match=r"line 5 \(column c\)"):
        counted(tmp_path, data, columns, ("a", "b"))


LAB = "7,10000032,,9,50912,,2150-03-02 08:00:00,2150-03-02 09:00:00,.1,.1,mg/dL,0.4,1.1,,,"
NOTE = "10000032-DS-21,10000032,22841357,DS,21,2180-05-07 00:00:00,2180-05-09 15:26:00,"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("piece", [11, None])
@pytest.mark.parametrize(
    ("columns", "texts", "rows", "line"),
    [
        (LABS, ["comments"], [f'{LAB}"haemolysed', LAB, f'{LAB}"'], 3),
        (NOTES, [*NOTES], [f'{NOTE}"Name:\n\nSex: F', f'{NOTE}"Name:\nSex: M"'], 5),
    ],
)
def test_rows_that_a_text_has_swallowed_are_found(tmp_path, columns, texts, rows, line, piece, end):
    data = "\n".join([",".join(columns), *rows, ""]).replace("\n", end).encode()
    with pytest.raises(UserError, match=f"line 2.* looks like a row of the table, in line {line}:"):
        counted(tmp_path, data, columns, texts, piece)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("piece", [3, None])
@pytest.mark.parametrize("order", ["id,text", "text,id"])
def test_a_quote_that_began_another_cell_tells_that_a_row_was_swallowed(
    tmp_path, order, piece, end
):
    """In texts of one line, by an id that finds no row by its looks."""
    texts = ['"one"', '"two', '"three"', '"four ""x"""']
    rows = [f"2000,{text}" if order == "id,text" else f"{text},2000" for text in texts]
    columns = dict.fromkeys(order.split(","), "text")
    data = "\n".join([order, *rows, ""]).replace("\n", end).encode()
    with pytest.raises(UserError, match=r"line 3 ends in line 4 at a quote with text behind it"):
        counted(tmp_path, data, columns, [*columns], piece)


def test_lines_of_a_note_are_not_taken_for_rows(tmp_path):
    text = '"1. Aspirin, 81 mg, daily\n2,5 mg, 3,\n10000032\n\n2180-05-07, 8:00,\nWBC-5,Hgb-9,,"'
    data = "\n".join([",".join(NOTES), f"{NOTE}{text}", f"{NOTE}one line", ""]).encode()
    assert counted(tmp_path, data, NOTES, NOTES) == (8, 2, 1, 5, 0)


def test_a_note_may_be_longer_than_what_is_read_at_once(tmp_path):
    text = 'line, of a ""note""\n' * 200
    data = "\n".join([",".join(NOTES), *[f'{NOTE}"{text}"'] * 3, ""]).encode()
    assert counted(tmp_path, data, NOTES, NOTES, piece=1000) == (604, 3, 3, 600, 0)


@pytest.mark.parametrize("change", [lambda d: d[:-9], lambda d: d + b"rest", lambda d: d[:200]])
def test_a_file_that_breaks_off_or_goes_on_with_something_else_is_refused(tmp_path, change):
    path = tmp_path / "t.csv.gz"
    whole = gzip.compress(b"a,b\n") + gzip.compress(random.Random(0).randbytes(999).hex().encode())
    path.write_bytes(whole)
    assert sum(map(len, second_reader.unpacked(path))) == 4 + 1998
    path.write_bytes(change(whole))
    with pytest.raises(UserError, match="cannot be read"):
        list(second_reader.rows(path))
