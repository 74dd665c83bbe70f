"""YAML that would be misread, or read for ever: one sentence with the file and the line."""

import re
import time

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


REPEATED = "\n".join(
    ["a0: &a0 [x, y]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
)
MERGED = "\n".join(
    ["a0: &a0 {k: x}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10)]
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (REPEATED, r"line 6: aliases \(such as \*a4\) stand for more than 100,000 values"),
        (MERGED, r"line 6: aliases \(such as \*a4\) stand for more than 100,000 values"),
        ("a: &a [1, *a]", r"line 1: \*a stands within what it stands for"),
        ("a:\n- " + "[" * 200_000, "line 2: more than 100 lists or records stand in one another"),
        ("- " * 200, "line 1: more than 100 lists or records stand in one another"),
    ],
    ids=["aliases", "merges", "loop", "brackets", "dashes"],
)
@pytest.mark.parametrize("read", [yaml_files.loads, yaml_files.compose])
def test_what_would_take_all_time_or_memory_is_refused_at_once(read, text, says):
    before = time.process_time()
    with pytest.raises(UserError, match="some.yaml, " + says):
        read(text, "some.yaml")
    assert time.process_time() - before < 2


def test_aliases_that_stand_for_little_are_read():
    text = "a: &a [1, 2, &b 3]\nb: [*a, *b, *a]\n" + "c: " + "[" * 90 + "]" * 90
    assert yaml_files.loads(text, "a.yaml")["b"] == [[1, 2, 3], 3, [1, 2, 3]]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("2150-02-30", "a value cannot be read: day is out of range for month"),
        ("2150-01-01 25:00:00", "a value cannot be read: hour must be in 0..23"),
        ("!!bool perhaps", "a value cannot be read: 'perhaps'"),
        ("!!timestamp x", "a value cannot be read: "),
        ("9" * 5000, "a number has more than 100 digits"),
        ("0x" + "f" * 5000, "a number has more than 100 digits"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_file_and_line(value, says):
    with pytest.raises(UserError) as told:
        yaml_files.loads(f"a: 1\nb: [2, {value}]\n", "some.yaml")
    assert str(told.value).startswith(f"some.yaml, line 2: {says}") and len(str(told.value)) < 200


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
        if re.search(
            r"\byaml\.(?:safe_|full_|unsafe_)?(?:load|compose)", path.read_text(encoding="utf-8")
        )
    }
    assert found == {"yaml_files.py"}
