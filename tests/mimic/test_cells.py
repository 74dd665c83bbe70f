"""The reading of cells: one meaning of a cell, whatever stands beside it and whoever reads it."""

import random
from datetime import datetime

import pyarrow as pa
import pytest

from mimic_qlora.mimic import cells
from mimic_qlora.prompts import audit_cells

NOON = datetime(2150, 3, 1, 12)
# kind -> text -> value, None where it fits no more; "mended" where it is written otherwise
READ = {
    "time": {
        "2150-03-01": datetime(2150, 3, 1),
        "2150-03-01 12": NOON,
        "2150-03-01 12:00": NOON,
        "2150-03-01 12:00:00": NOON,
        "2150-03-01T12:00:00": NOON,
        "2150-03-01 12:00:00.25": NOON.replace(microsecond=250_000),
        "2148-02-29": datetime(2148, 2, 29),
        "1000-01-01": datetime(1000, 1, 1),
        "2999-12-31 23:59:59.999999": datetime(2999, 12, 31, 23, 59, 59, 999_999),
    },
    "int": {"0": 0, "-0": 0, "7": 7, "-7": -7, "007": 7, str(2**63 - 1): 2**63 - 1},
    "num": {"0": 0.0, "1.5": 1.5, ".5": 0.5, "5.": 5.0, "+5": 5.0, "-1e3": -1000.0, "1E-400": 0.0},
    "code": {"4019": "4019", "I10": "I10", "0389": "0389", "0": "0"},
}
MENDED = {
    "time": {
        "2150-03-01 12:00:00 UTC": NOON,
        "2150-03-01 12:00 UTC": NOON,
        "2150-03-01T12:00:00Z": NOON,
        "2150-03-01 12:00:00+00:00": NOON,
        "2150-03-01 12:00:00+00": NOON,
        "2150-03-01 12:00:00.123456789": NOON.replace(microsecond=123_456),
        "2150-03-01 12:00:00.000000 UTC": NOON,
        " 2150-03-01 12:00:00": NOON,
        "2150-03-01 12:00:00\t": NOON,
        "2150-03-01\u00a0": datetime(2150, 3, 1),
    },
    "int": {" 7": 7, "7 ": 7, "7.0": 7, "-7.000": -7, "\u00a07.0 ": 7},
    "num": {" 1.5": 1.5, "1.5 ": 1.5, "\t1e3": 1000.0},
    "code": {
        "4019   ": "4019",
        "  4019": "4019",
        "i10": "I10",
        "I10.": "I10",
        "401.9": "4019",
        " e11.9 ": "E119",
        "E812.0": "E8120",
        "38.93": "3893",
    },
}
NONE = {
    "time": [
        *("2150-02-29", "2150-04-31 10:00:00", "2150-13-01", "2150-00-10", "2150-01-00"),
        *("0000-01-01", "0001-01-01", "0999-12-31 23:59:59", "3000-01-01", "9999-12-31"),
        *("2150-03-01 24:00:00", "2150-03-01 12:60", "2150-03-01 23:59:60", "2150-03-01 12:00:00."),
        *("2150-03-01 12:00:00+05:00", "2150-03-01T12:00:00-01:00", "2150-03-01 12:00:00 EST"),
        *("2150-03-01 UTC", "2150-03-01Z", "2150-03-01 12:00:00 UTC UTC", "2150-03-01 12.5"),
        *("03/01/2150", "01-03-2150 12:00:00", "2150/03/01", "21500301", "2150-3-1", "54000000000"),
        *("٢١٥٠-03-01", "2150-03-01  12:00:00", "2150-W10-1", "-2150-03-01", "12:00:00", "___"),
    ],
    "int": [
        *("1e3", "7.5", "1,000", "1_000", "0x1F", "+7", "7-", "- 7", "٧", "twelve", "inf", "True"),
        *("9223372036854775808", "-9223372036854775809", "9" * 30, "9" * 5000, ".0", "."),
    ],
    "num": [
        *("nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400", "1,5", "500,000", "1_0"),
        *("0x1p3", "1e", "e5", ".", "+", "5 mg", ">60", "50-100", "٥", "nan(1)", "1d", "--1"),
    ],
    "code": ["  ", ".", "nan", "NaN", "NULL", "None ", "NA", "___"]
    + ["4019.0", "25000.0", '="0389"', "'0389", "I10,E119", "4.019", "401.9.0", "Ⅸ", "E81.2.0"],
}
WORDS = ["", "nan", "NaN", "NULL", "null", "None", "NaT", "<NA>", "NA", "N/A", "___", "\\N"]
KINDS = ["time", "int", "num", "code"]


def odd(kind):
    return [*READ[kind], *MENDED[kind], *NONE[kind], *WORDS, " ", "\n"]


def typed(texts, kind):
    return cells.typed({"c": kind}, pa.table({"c": pa.array(texts, pa.string())}))


def audited(text, kind):
    """The value of a cell as the audit reads it."""
    (row,) = audit_cells.read({"t": [{"c": text}]}, {"t": {"c": kind}})["t"]
    told = row.get("c")
    as_value = {"time": datetime.fromisoformat, "int": int, "num": float, "code": str}[kind]
    return None if told is None else as_value(told)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_has_one_meaning_or_none(kind):
    for text, value in READ[kind].items():
        assert cells.read(text, kind) == (value, False), text
    for text, value in MENDED[kind].items():
        assert cells.read(text, kind) == (value, True), text
    for text in [*NONE[kind], *WORDS, " "]:
        assert cells.read(text, kind).value is None, text


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_beside_a_cell_does_not_change_its_reading(kind):
    for text in odd(kind):
        alone = typed([text], kind)
        assert alone.rows["c"].to_pylist() == [cells.read(text, kind).value], text
        for beside in (next(iter(READ[kind])), NONE[kind][0], None):
            both = typed([beside, text, beside], kind).rows["c"].to_pylist()
            assert both[1] == alone.rows["c"][0].as_py(), (text, beside)


@pytest.mark.parametrize("kind", KINDS)
def test_random_cells_are_read_alike_alone_and_in_a_column(kind):
    draw = random.Random(1)
    letters = "0123456789" * 3 + "-+.:eExT Zan_,"
    seeds = odd(kind)
    for _ in range(1000):
        text = [*draw.choice(seeds)]
        for _ in range(draw.randrange(3)):
            text.insert(draw.randrange(len(text) + 1), draw.choice(letters))
            del text[draw.randrange(len(text))]
        cell = "".join(text)
        value = cells.read(cell, kind).value
        assert typed([cell], kind).rows["c"][0].as_py() == audited(cell, kind) == value, cell


@pytest.mark.parametrize("kind", KINDS)
def test_the_audit_reads_a_cell_as_the_typed_tables_have_it(kind):
    for text in odd(kind):
        assert audited(text, kind) == cells.read(text, kind).value, text


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_that_was_mended_or_does_not_fit_is_counted(kind):
    fitting, words = next(iter(READ[kind])), WORDS
    texts = [fitting] * 3 + [None] * 2 + [*MENDED[kind]] * 2 + [*NONE[kind]] + words
    counts = typed(texts, kind).counts["c"]
    n_words = sum(text.strip() in WORDS for text in texts if text is not None)
    n_mended = 2 * len(MENDED[kind])
    assert counts == (3 + n_mended, n_mended, n_words, len(NONE[kind]) + len(words) - n_words, 0)
    assert counts.misfits == len(NONE[kind]) + len(words)


def test_text_stays_as_it_is():
    texts = [" a ", "NULL", "", None, "i10."]
    assert typed(texts, "text").rows["c"].to_pylist() == texts
    assert typed(texts, "text").counts == {}


def test_a_slice_of_a_column_is_read_by_its_own_cells():
    column = pa.array(["0x1F", "7", "8", None, "0x1F"])
    parts = ((column.slice(1, 3), [7, 8, None]), (column.slice(1), [7, 8, None, None]))
    for part, expected in parts:
        made = cells.typed({"c": "int"}, pa.table({"c": part}))
        assert made.rows["c"].to_pylist() == expected
    empty = cells.typed({"c": "time", "d": "num"}, pa.table({"c": column[:0], "d": column[:0]}))
    assert empty.rows.num_rows == 0
