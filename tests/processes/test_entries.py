"""What is kept of long work: made anew without the loss of what is not made again."""

import pytest

from mimic_qlora.processes import entries
from mimic_qlora.processes.entries import Journal, Work


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def made(path, name, *keys):
    """Make entries of these keys as a run does that is not killed, and return those it makes."""
    fresh = []

    def make(key):
        fresh.append(key)
        return [{"key": key, "of": name}]

    works = [Work(key, [key], lambda key=key: make(key)) for key in keys]
    assert len([*entries.each(works, Journal(path))]) == len(keys)
    return fresh


def known(path):
    return {key: entry["of"] for key, entry in entries.kept(path).items() if key}


def test_what_is_made_anew_replaces_its_own_and_costs_nothing_else(path):
    entries.begin(path, {}, anew=False)
    made(path, "first", "a", "b")
    entries.begin(path, {}, anew=True)
    assert known(path) == {} and made(path, "second", "a") == ["a"]
    entries.gather(path)
    assert known(path) == {"a": "second", "b": "first"} and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("anew", [False, True])
def test_a_run_that_is_killed_while_it_makes_all_anew_loses_nothing(path, anew):
    entries.begin(path, {}, anew=False)
    made(path, "first", "a", "b", "c")
    entries.begin(path, {}, anew=True)
    made(path, "second", "a")
    entries.begin(path, {}, anew=anew)
    assert made(path, "third", "a", "b") == (["a", "b"] if anew else ["b"])
    entries.gather(path)
    assert known(path) == {"a": "third" if anew else "second", "b": "third", "c": "first"}


def test_a_kill_between_the_two_files_loses_nothing(path):
    entries.begin(path, {}, anew=False)
    made(path, "first", "a")
    path.replace(path.with_name("answers.before"))
    entries.begin(path, {}, anew=False)
    assert known(path) == {"a": "first"}


def test_a_damaged_line_of_a_part_costs_its_own_entry_alone(path):
    entries.begin(path, {}, anew=False)
    part = path.with_name("answers.run-1.part")
    for key in "abc":
        entries.add(part, {"key": key, "of": "first"})
    part.write_bytes(part.read_bytes().replace(b'"b"', b'"x"') + b'{"key": "d"')
    entries.gather(path)
    assert known(path) == {"a": "first", "c": "first"} and not part.exists()
