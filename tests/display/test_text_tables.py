"""Tables of text: within their width, with every word and every number whole."""

import pytest

from mimic_qlora.display import text, text_tables
from mimic_qlora.step import terminal

LONG = "one two three four five six seven eight nine ten eleven twelve " * 4


def words(table: str) -> list[str]:
    return table.split()


def test_long_text_goes_on_in_further_lines_and_loses_no_word():
    rows = [{"title": LONG, "n": 1234567}, {"title": "short", "n": 2}]
    table = text_tables.text_table(rows, "Title")
    assert max(map(len, table.splitlines())) <= terminal.WIDTH
    assert "1,234,567" in table and "…" not in table
    assert [word for word in words(table) if word in LONG.split()] == LONG.split()


@pytest.mark.parametrize("width", [55, 60, 80, 100])
def test_a_table_keeps_within_the_width_that_it_is_given(width):
    rows = [{"who": LONG, "what": LONG, "patients": n, "patients_share": n / 9} for n in range(9)]
    table = text_tables.text_table(rows, width=width)
    assert max(map(len, table.splitlines())) <= width


def test_numbers_are_flush_right_and_text_flush_left():
    rows = [{"name": "a", "n": 5}, {"name": "long name", "n": 1000}, {"name": "c", "n": "<10"}]
    assert text_tables.text_table(rows, "T").splitlines() == [
        "",
        "T",
        "name           n",
        "---------  -----",
        "a              5",
        "long name  1,000",
        "c            <10",
    ]


def test_a_word_is_broken_only_where_no_column_could_hold_it():
    table = text_tables.text_table([{"name": "x" * 250, "n": 1}])
    assert max(map(len, table.splitlines())) <= terminal.WIDTH
    assert table.count("x") == 250
    narrow = text_tables.text_table([{"a": "alpha beta", "b": "gamma delta epsilon"}], width=22)
    assert {"alpha", "gamma", "delta", "epsilon"} <= set(words(narrow))


def test_the_name_of_a_column_breaks_after_a_dot_or_an_underscore():
    lines = text_tables.wrap("prescriptions.prod_strength, rate", 22)
    assert lines == ["prescriptions.prod_", "  strength, rate"]


def test_wide_characters_count_for_the_two_columns_that_they_take():
    rows = [{"name": "漢字漢字 " * 20, "n": 1}, {"name": "plain", "n": 2}]
    lines = text_tables.text_table(rows, width=40).splitlines()
    assert max(map(text.columns, lines)) <= 40 and "漢字漢字" in lines[2]


def test_an_indent_is_kept_on_further_lines():
    lines = text_tables.wrap("  " + LONG, 40)
    assert lines[0].startswith("  one") and all(line.startswith("    ") for line in lines[1:])


def test_a_table_without_rows_says_so():
    assert text_tables.text_table([], "Nothing here") == "\nNothing here\n  (none)"


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\x0b", "\x85", "\u2028"])
def test_text_of_a_chart_stays_in_its_cell(line_break):
    rows = [{"drug\x1b[2J": f"  a{line_break}b\x1b]0;x\x07\u202ec", "n": 1}]
    lines = text_tables.text_table(rows).splitlines()
    assert len(lines) == 3 and lines[2] == "  a b]0;xc  1" and all(x.isprintable() for x in lines)


@pytest.mark.parametrize("width", [60, 100])
def test_a_narrow_table_folds_headings_then_leaves_out_its_last_columns(width):
    row = {"column": "labevents.valuenum", "permutation_drop": 0.06, "drop_low": 0.05}
    row |= {"drop_high": 0.07, "selected_share": 1.0, "gain_share": 0.28, "features": 1_234_567}
    table = text_tables.text_table([row], "Columns", width=width)
    assert max(map(len, table.splitlines())) <= width and "labevents.valuenum" in table
    assert "fall of" in table and "permutation_drop" not in table
    assert ("1,234,567" in table) == (width == 100)
    if width == 60:
        assert table.splitlines()[-1].startswith("(in a wider window also: ")
        assert table.splitlines()[-1].endswith("features)")
