"""The file that people fill: whatever a spreadsheet makes of it is read, or its row is named."""

import csv
import io
import json
import re

import pytest

from helpers.labelled_results import NOTHING, QUESTIONS, RULES, answers, saved_by_a_spreadsheet
from helpers.paths import ROOT
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.labelling import drawn, label_file
from mimic_qlora.validation.labelling.drawn import Answer

OLD = ("named", "cautions_said", "plays_down", "forbidden", "cause", "dose")  # of benchmarks


def to_fill():
    return label_file.to_fill(drawn.draw(answers()), QUESTIONS)


def filled(path, fill):
    """label.csv as step 7 leaves it, filled by fill(row)."""
    rows = to_fill()
    assert len(rows) == 8 and not any("arm" in row or "base" in str(row.values()) for row in rows)
    assert "1 trouble breathing" in rows[0]["warning_signs"] and RULES[0].say in rows[0]["cautions"]
    label_file.write(path, [row | fill(row) for row in rows])
    return label_file.read(path)


def one_filled(path, **changes):
    """label.csv with the first row filled otherwise than the others: labels and faults."""
    rows = to_fill()
    well = NOTHING | {"named": "1", "labelled_by": "A. Müller"}
    label_file.write(path, [rows[0] | well | changes, *(row | well for row in rows[1:])])
    return label_file.read(path)


def test_labels_come_back_from_the_file_that_people_fill(tmp_path):
    found = filled(
        tmp_path / "label.csv",
        lambda row: NOTHING | {"named": "1, 3", "cause": "Yes"} if "Rest" in row["answer"] else {},
    ).labels
    assert len(found) > 0 and all(
        label.listed["named"] == {1, 3} and label.asked["cause"] for label in found.values()
    )
    with open(tmp_path / "label.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # any reader of UTF-8 finds the columns: a byte order mark would be part of the first name
    assert {"key", "named", "plays_down"} <= rows[0].keys()
    assert all(not row["answer"].startswith("-") for row in rows)


@pytest.mark.parametrize(
    ("column", "cell"),
    [("named", "one"), ("cause", "perhaps"), ("named", "1²"), ("dose", "03. Jan")],
)
def test_a_label_that_cannot_be_read_is_named_by_row_and_column(tmp_path, column, cell):
    found, faults = one_filled(tmp_path / "label.csv", **{column: cell})
    assert len(found) == 7 and len(faults) == 1
    assert faults[0].startswith(f"label.csv, row 2: {column} is '{cell}'")


@pytest.mark.parametrize("column", ["named", "cause"])
def test_the_text_of_an_answer_in_a_column_of_labels_is_not_printed(tmp_path, column):
    """Columns that were shifted in a spreadsheet put it there, and 40 of its letters were told."""
    text = "You take warfarin since your clot of 2150"
    _, faults = one_filled(tmp_path / "label.csv", **{column: text})
    assert faults[0].startswith(f"label.csv, row 2: {column} is a text: give ")
    assert "warfarin" not in faults[0]


EXCEL = {
    "UTF-8": {"encoding": "utf-8-sig"},
    "ANSI": {"encoding": "cp1252"},
    "semicolons": {"encoding": "utf-8-sig", "delimiter": ";"},
    "semicolons and ANSI": {"encoding": "cp1252", "delimiter": ";"},
    "Unicode text": {"encoding": "utf-16", "delimiter": "\t"},
    "Macintosh": {"encoding": "mac_roman", "line_end": "\r"},
    "with sep=": {"encoding": "cp1252", "delimiter": ";", "before": "sep=;\r\n"},
}


@pytest.mark.parametrize("kind", EXCEL)
def test_a_file_that_a_spreadsheet_saved_is_read(tmp_path, kind):
    rows = to_fill()
    filled = NOTHING | {"named": "1 3", "cause": "TRUE", "labelled_by": "Müller\u2028é"}
    path = tmp_path / "label.csv"
    saved_by_a_spreadsheet(path, [row | filled for row in rows], **EXCEL[kind])
    found, faults = label_file.read(path)
    assert len(found) == 8 and not faults
    assert all(x.listed["named"] == {1, 3} and x.asked["cause"] for x in found.values())


def test_the_name_that_a_column_had_for_a_while_is_read_too(tmp_path):
    rows = [row | NOTHING | {"plays_down": "2"} for row in to_fill()]
    path = tmp_path / "label.csv"
    for names in ({"plays_down": "played_down"}, {"note": "played_down"}):
        saved_by_a_spreadsheet(
            path, [{names.get(c, c): cell for c, cell in row.items()} for row in rows]
        )
        found, faults = label_file.read(path)
        assert len(found) == 8 and not faults
        assert all(label.listed["plays_down"] == {2} for label in found.values())


@pytest.mark.parametrize("row", [2, 8])
def test_a_stray_quote_takes_no_row_unseen(tmp_path, row):
    path = tmp_path / "label.csv"
    one_filled(path)
    lines = path.read_text(encoding="utf-8").split("\nk")  # a list within a row has no key
    lines[row] = lines[row].rstrip("\n") + '"note\n'
    path.write_text("\nk".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="label.csv cannot be read as CSV"):
        label_file.read(path)


def test_cells_that_are_not_under_their_columns_are_that_rows_fault(tmp_path):
    """A comma without quotes shifts the cells behind it; a file that is cut lacks them."""
    path = tmp_path / "label.csv"
    one_filled(path)
    whole = path.read_text(encoding="utf-8")
    text, found, rest = whole.rpartition(",1,'-,'-,'-,'-,no,")
    assert found
    path.write_text(f"{text},1,3,-,-,-,-,no,{rest}", encoding="utf-8")
    labels, faults = label_file.read(path)
    assert len(labels) == 7 and "row 9 has more cells than the header" in faults[0]
    path.write_text(f"{text},1,-,", encoding="utf-8")
    labels, faults = label_file.read(path)
    assert len(labels) == 7 and "row 9 is cut off" in faults[0]
    # Excel leaves out empty cells at the end of a row
    path.write_text(whole.replace(",A. Müller,\n", "\n"), encoding="utf-8")
    labels, faults = label_file.read(path)
    assert len(labels) == 8 and not faults


@pytest.mark.parametrize("column", label_file.CRITERIA)
def test_a_row_that_is_filled_in_part_is_no_label(tmp_path, column):
    """Who has not come to a column yet has not said that the answer does no such harm."""
    found, faults = one_filled(tmp_path / "label.csv", **{column: ""})
    assert len(found) == 7 and len(faults) == 1
    assert faults[0].startswith(f"label.csv, row 2: {column} is ''")


@pytest.mark.parametrize("column", label_file.CRITERIA)
def test_labels_lack_a_column_that_nobody_filled_where_earlier_files_lacked_it(tmp_path, column):
    path = tmp_path / "label.csv"
    label_file.write(path, [row | NOTHING | {column: ""} for row in to_fill()])
    found, faults = label_file.read(path)
    if column in label_file.ADDED:
        assert len(found) == 8 and not faults and label_file.lacking(found.values()) == [column]
    else:
        assert not found and len(faults) == 8


def test_of_a_list_that_has_nothing_no_number_is_asked(tmp_path):
    of_cautions = dict.fromkeys(("cautions", "cautions_said", "reasons_given", "forbidden"), "")
    found, faults = one_filled(tmp_path / "label.csv", **of_cautions)
    assert len(found) == 8 and not faults


def test_a_column_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "label.csv"
    one_filled(path)
    head, rest = path.read_text(encoding="utf-8").split(",note\n", 1)
    path.write_text(f"{head},Cause\n{rest}", encoding="utf-8")
    with pytest.raises(UserError, match="has the column 'cause' twice"):
        label_file.read(path)


def test_what_an_editor_makes_of_a_key_and_of_a_dash_is_read(tmp_path):
    rows = to_fill()
    found, faults = one_filled(
        tmp_path / "label.csv", key=f"\u200b{rows[0]['key'].upper()}\u00a0", named="–"
    )
    assert len(found) == 8 and not faults


def test_no_key_is_a_number_for_a_spreadsheet():
    keys = [Answer(i, "base", "", "", True, (), "").key for i in range(2000)]
    assert all(re.fullmatch("k[0-9a-f]{12}", key) for key in keys) and len(set(keys)) == 2000


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("5.97E+11", "took the key for a number (5.97E+11)"),
        ("5,97055E+11", "took the key for a number"),
        ("597054854350000000", "took the key for a number"),
        ("", "has no key of an answer"),
        ("x", "has no key of an answer"),
    ],
)
def test_a_key_that_a_spreadsheet_changed_is_that_rows_fault(tmp_path, key, says):
    found, faults = one_filled(tmp_path / "label.csv", key=key)
    assert len(found) == 7 and len(faults) == 1 and says in faults[0]


@pytest.mark.parametrize("cell", ["9" * 5000, "1 " + "1" * 20, "1.0", "²"])
def test_a_number_that_no_list_has_is_that_rows_fault(tmp_path, cell):
    found, faults = one_filled(tmp_path / "label.csv", named=cell)
    assert len(found) == 7 and len(faults) == 1
    assert "give numbers, like 1 3" in faults[0] and len(faults[0]) < 200


def test_an_answer_that_is_labelled_twice_otherwise_is_named(tmp_path):
    path = tmp_path / "label.csv"
    one_filled(path)
    lines = path.read_text(encoding="utf-8")
    with open(path, newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    for cause, n_faults in (("no", 0), ("yes", 1)):
        again = io.StringIO()
        csv.DictWriter(again, list(first)).writerow(first | {"cause": cause})
        path.write_text(lines + again.getvalue(), encoding="utf-8")
        found, faults = label_file.read(path)
        assert len(found) == 8 and len(faults) == n_faults
    assert "row 10 labels an answer again" in faults[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04 a workbook", "is not a CSV file: save the sheet as CSV"),
        ("key,named\n".encode("utf-16-le"), "is not a CSV file"),
        (b"\xff\xfek\x00e", "is not a CSV file"),
        (b"", "has no column 'key'"),
        (b"key,named\n", "has no column 'plays_down'"),
        (b'key,"' + b"x" * 200_000, "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_no_label_csv_is_one_sentence(tmp_path, content, says):
    (tmp_path / "label.csv").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(says)):
        label_file.read(tmp_path / "label.csv")


def test_the_frozen_labels_fit_their_answers():
    place = ROOT / "benchmarks"
    kept = [
        json.loads(line)
        for line in (place / "labelled_answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    found = label_file.read(
        place / "labels.csv", OLD
    ).labels  # of the time of keys without a letter
    keys = {Answer(a["trial"], a["arm"], "", a["answer"], True, (), "").key for a in kept}
    assert keys == set(found) and [
        sum(a["arm"] == arm for a in kept) for arm in ("base", "adapter")
    ] == [50, 50]


def test_none_can_be_said_in_words_too(tmp_path):
    found, faults = one_filled(tmp_path / "label.csv", named="no", forbidden="none", plays_down="-")
    assert not faults and frozenset() in [label.listed["named"] for label in found.values()]


def test_a_number_beyond_its_list_is_named(tmp_path):
    found, _ = one_filled(tmp_path / "label.csv", named="99", forbidden="2")
    (sentence,) = label_file.beyond(answers(), found, QUESTIONS).values()
    assert re.search("forbidden is 2 and its list has 1$", sentence)


def test_a_row_whose_key_has_moved_away_from_its_question_is_named(tmp_path):
    """Cells of the columns on the left were deleted, and those below them moved up."""
    asked = QUESTIONS[:3]
    answers = [
        drawn.Answer(n, "base", question.id, f"text {n}", True, (), "")
        for n, question in enumerate(asked)
    ]
    found = [drawn.Drawn(answer, 1.0, False) for answer in answers]
    rows = [row | NOTHING for row in label_file.to_fill(found, asked)]
    path = tmp_path / "label.csv"
    label_file.write(path, rows)
    assert len(label_file.read(path, answers=answers, questions=asked).labels) == 3
    lists = {"warning_signs": "", "cautions": ""}  # which may be alike, or were emptied
    for row, below in zip(rows, rows[1:], strict=False):
        row |= {name: below[name] for name in ("key", "chart", "answer")} | lists
    label_file.write(path, rows)
    faults = label_file.read(path, answers=answers, questions=asked).faults
    assert sum("the question of another" in fault for fault in faults) == 2


@pytest.mark.parametrize("column", ["warning_signs", "cautions"])
def test_a_file_without_the_lists_that_its_numbers_are_of_is_refused(tmp_path, column):
    path = tmp_path / "label.csv"
    with open(path, "w", newline="") as file:
        kept = [name for name in label_file.COLUMNS if name != column]
        csv.DictWriter(file, kept).writeheader()
    with pytest.raises(UserError, match=f"label.csv has no column '{column}': fill the file that"):
        label_file.read(path, answers=answers(), questions=QUESTIONS)
