"""The table of docs/clinical_review.md: each point says what became of it, and by which source."""

import re

import yaml

from helpers.paths import ROOT
from mimic_qlora.clinical import content

TEXT = (ROOT / "docs" / "clinical_review.md").read_text(encoding="utf-8")
POINTS, SOURCES = TEXT.split("\n## Sources\n")
CONTENT = content.load()


def rows(text, columns):
    """The cells of each row of the tables with that many columns, without their heads."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip(" |") for cell in row] for row in found]
    cells = [[*row, ""] if len(row) == columns - 1 else row for row in cells]
    assert all(len(row) == columns for row in cells), [r for r in cells if len(r) != columns]
    return [row for row in cells if row[0] not in ("point", "number") and set(row[0]) != {"-"}]


def test_each_point_says_what_became_of_it_and_names_an_opened_source_or_none():
    points, sources = rows(POINTS, 4), rows(SOURCES, 3)
    numbers = [number for number, *_ in sources]
    assert numbers == [str(n) for n in range(1, len(sources) + 1)]
    for point, what, source, _ in points:
        assert len(what) >= 4, point
        assert source == "not seen" or set(source.split(", ")) <= set(numbers), point
    used = {number for _, _, source, _ in points for number in source.split(", ")}
    assert [number for number in numbers if number not in used] == []


def test_a_source_has_a_title_an_address_and_the_fact_that_was_taken():
    for number, where, fact in rows(SOURCES, 3):
        assert re.fullmatch(r"\[[^\]]{5,}\]\(https?://[^)]+\)", where), number
        assert len(fact) >= 5, number
    assert re.search(r"Read on \d{4}-\d\d-\d\d", SOURCES)


def test_no_two_points_are_answered_in_the_same_many_words():
    answers = [what for _, what, *_ in rows(POINTS, 4) if len(what) > 60]
    assert sorted({what for what in answers if answers.count(what) > 1}) == []


def test_what_a_point_names_is_in_the_content():
    known = {name for entries in CONTENT for name in entries}
    named = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", POINTS))
    assert sorted(named - known - {"never_when", "reviewed_by"}) == []


def test_a_source_of_a_change_is_one_of_the_table():
    path = ROOT / "mimic_qlora" / "clinical" / "data" / "changes.yaml"
    changes = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    listed = set(re.findall(r"\]\((https?://[^)]+)\)", SOURCES))
    assert {c["source"]["url"] for c in changes if c["source"]} <= listed
