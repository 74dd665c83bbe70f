"""YAML with a key twice or a number misread: one sentence with the file and the line."""

import re

import pytest

from helpers.paths import ROOT
from mimic_qlora.clinical import schema
from mimic_qlora.step import yaml_files
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import recipes
from mimic_qlora.validation import plan


def test_yaml_reads_as_ever_with_anchors_merges_and_lists():
    text = "a: &x {b: 1, c: [2, 3]}\nd: {<<: *x, b: 4}\n'1': {}\n1: ~\n"
    assert yaml_files.loads(text, "a.yaml") == {
        "a": {"b": 1, "c": [2, 3]},
        "d": {"b": 4, "c": [2, 3]},
        "1": {},
        1: None,
    }


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", 3),
        ("- id: x\n  say: {when: 1, when: 2}\n", "when", 2),
        ("x:\n- deep:\n    in: [{k: 1}, {k: 1, 'k': 2}]\n", "k", 3),
    ],
)
def test_a_key_that_stands_twice_is_told_with_file_line_and_key(text, key, line):
    with pytest.raises(UserError) as told:
        yaml_files.loads(text, "some.yaml")
    assert f"some.yaml: the key '{key}' stands twice" in str(told.value)
    assert f"line {line})" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(("number", "read_as"), [("010", 8), ("0x1F", 31), ("1:30", 90)])
def test_a_number_that_yaml_misreads_is_told_with_file_and_line(number, read_as):
    with pytest.raises(UserError) as told:
        yaml_files.loads(f"a: 1\nb: [2, {number}]\n", "some.yaml")
    assert f"some.yaml, line 2: a number is {read_as} to YAML, not {number}" in str(told.value)


def test_other_numbers_are_read_as_ever():
    text = "[0, -7, +3, 1_000, 0.5, 08, '010', 2150-01-01]"
    assert yaml_files.loads(text, "a.yaml")[:-1] == [0, -7, 3, 1000, 0.5, "08", "010"]


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: schema.raw(folder, "twice"),
        lambda folder: recipes.read_recipe("twice", folder),
        lambda folder: plan.load(folder / "twice.yaml"),
    ],
    ids=["content", "recipe", "plan"],
)
def test_files_that_people_write_hide_no_entry(tmp_path, read):
    (tmp_path / "twice.yaml").write_text("epochs: 1\nepochs: 2\n")
    with pytest.raises(UserError, match=r"twice\.yaml: the key 'epochs' stands twice"):
        read(tmp_path)


def test_the_library_reads_yaml_in_no_other_way():
    library = [*(ROOT / "mimic_qlora").rglob("*.py"), *(ROOT / "run_files").glob("*.py")]
    found = {
        path.name
        for path in library
        if re.search(r"\byaml\.(?:safe_|full_|unsafe_)?load", path.read_text(encoding="utf-8"))
    }
    assert found == {"yaml_files.py"}
