"""The ledger: no line can be changed or taken away unseen, and none ends in a traceback."""

import errno
import hashlib
import json
from concurrent import futures
from pathlib import Path

import pytest

from helpers.step7 import QUESTIONS
from helpers.unreadable import unreadable
from mimic_qlora.clinical import content
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import ledger, plan

ASKED = content.asked_sha256(QUESTIONS)


@pytest.fixture
def store(tmp_path):
    """A storage folder whose test patients were opened for two adapters by a frozen plan."""
    plan.freeze(tmp_path, plan.TEMPLATE, QUESTIONS)
    for adapter in "ab":
        ledger.opening(tmp_path, plan.frozen(tmp_path, ASKED).sha256, {"default": adapter}, "c")
    return tmp_path


def lines_of(store) -> list[bytes]:
    return ledger.path_of(store).read_bytes().splitlines(keepends=True)


def test_an_undisturbed_ledger_says_what_was_opened_before(store):
    assert [entry["event"] for entry in ledger.ledger(store)] == ["frozen", "opened", "opened"]
    sha256 = plan.frozen(store, ASKED).sha256
    assert "1 in the ledger" in ledger.opening(store, sha256, {"default": "b"}, "c")
    assert "2 in the ledger" in ledger.opening(store, sha256, {"default": "c"}, "c")


def test_questions_that_were_edited_since_make_another_opening_and_another_look(tmp_path):
    """Questions or rules that were changed after the answers were seen are fitted to them."""
    plan.freeze(tmp_path, plan.TEMPLATE, QUESTIONS)
    sha256, adapter = plan.frozen(tmp_path, ASKED).sha256, {"default": "a"}
    assert "they were not opened under" in ledger.opening(tmp_path, sha256, adapter, ASKED)
    edited = content.asked_sha256(QUESTIONS[1:])
    with pytest.raises(UserError, match="questions or rules were edited since .*plan.yaml"):
        plan.frozen(tmp_path, edited)
    plan.freeze(tmp_path, plan.TEMPLATE, QUESTIONS[1:])
    assert plan.frozen(tmp_path, edited).sha256 == sha256
    assert "1 in the ledger" in ledger.opening(tmp_path, sha256, adapter, edited)
    for asked, look in ((ASKED, 1), (ASKED, 1), (edited, 2), (ASKED, 1)):
        assert f"look {look} at" in ledger.looked(tmp_path, adapter, {"n": 1}, asked)
    reviewed = [one.model_copy(update={"reviewed_by": "Dr. A"}) for one in QUESTIONS]
    assert content.asked_sha256(reviewed[::-1]) == ASKED


def test_a_line_of_an_earlier_version_which_notes_no_content_is_of_any(tmp_path):
    adapter = {"default": "a"}
    ledger.enter(tmp_path, "frozen", plan_sha256="p")
    ledger.enter(tmp_path, "opened", plan_sha256="p", adapters=adapter)
    assert "they were not opened under" in ledger.opening(tmp_path, "p", adapter, "c")
    assert len(ledger.ledger(tmp_path)) == 2


def test_runs_at_one_time_leave_a_whole_ledger(store):
    runs = [f"adapter {n}" for n in range(6)]
    with futures.ThreadPoolExecutor(len(runs)) as pool:
        told = list(
            pool.map(lambda run: ledger.looked(store, {"default": run}, {"n": 1}, "c"), runs)
        )
    assert len(ledger.ledger(store)) == 3 + len(runs)
    assert {sentence.split(" at ")[0] for sentence in told} == {
        f"No frozen plan: look {n + 1}" for n in range(len(runs))
    }


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_lines_that_were_taken_from_the_end_are_missed(store, kept):
    ledger.path_of(store).write_bytes(b"".join(lines_of(store)[:kept]))
    with pytest.raises(UserError, match=f"has {kept} lines and not the 3"):
        ledger.opening(store, plan.TEMPLATE.name, {"default": "b"}, "c")


def test_a_ledger_that_was_removed_is_missed(store):
    ledger.path_of(store).unlink()
    with pytest.raises(UserError, match="has 0 lines and not the 3"):
        ledger.ledger(store)


ODD = {
    "a list": lambda lines: [b"[1]\n", *lines[1:]],
    "null": lambda lines: [*lines[:2], b"null\n"],
    "a number": lambda lines: [*lines[:2], b"5\n"],
    "a long number": lambda lines: [b"9" * 5000 + b"\n", *lines[1:]],
    "deep lists": lambda lines: [b"[" * 100_000 + b"\n", *lines[1:]],
    "no event": lambda lines: [b'{"before": ""}\n', *lines[1:]],
    "an event that is a number": lambda lines: [
        lines[0].replace(b'"frozen"', b"1"),
        *lines[1:],
    ],
    "empty": lambda lines: [b"\n", *lines[1:]],
    "empty, between": lambda lines: [lines[0], b"\n", *lines[1:]],
    "half": lambda lines: [lines[0], lines[1][:40]],
    "half, between": lambda lines: [lines[0][:40] + b"\n", *lines[1:]],
    "not UTF-8": lambda lines: [lines[0].replace(b"frozen", b"fr\xffzen"), *lines[1:]],
    "twice": lambda lines: [lines[0], *lines],
    "the last one twice": lambda lines: [*lines, lines[-1]],
    "another order": lambda lines: [lines[0], lines[2], lines[1]],
    "one taken out": lambda lines: [lines[0], lines[2]],
    "a changed last one": lambda lines: [*lines[:2], lines[2].replace(b'"b"', b'"x"')],
    "NUL": lambda lines: [*lines[:2], b"\0" * 50 + b"\n"],
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_line_is_one_sentence(store, odd):
    ledger.path_of(store).write_bytes(b"".join(ODD[odd](lines_of(store))))
    with pytest.raises(UserError, match="ledger.jsonl (was edited at line|has)") as refused:
        ledger.enter(store, "opened", plan_sha256="0")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("unfinished", [b"", b'{"event": "ope', b"\xff\0"])
def test_a_line_that_a_killed_run_left_unfinished_is_no_line(store, unfinished):
    whole = b"".join(lines_of(store))
    ledger.path_of(store).write_bytes(whole + unfinished)
    assert len(ledger.ledger(store)) == 3
    ledger.enter(store, "opened", plan_sha256="0")
    assert b"".join(lines_of(store)[:3]) == whole and len(ledger.ledger(store)) == 4


def test_a_run_killed_before_it_wrote_the_head_leaves_a_ledger_that_goes_on(store):
    head = (store / ledger.HEAD).read_bytes()
    ledger.enter(store, "opened", plan_sha256="0")
    (store / ledger.HEAD).write_bytes(head)
    assert len(ledger.ledger(store)) == 4
    # what enters nothing counts the line too: else nobody would miss it once it is deleted
    whole, old = lines_of(store), json.loads(lines_of(store)[1])
    ledger.opening(store, old["plan_sha256"], old["adapters"], old["content"])
    assert lines_of(store) == whole and json.loads((store / ledger.HEAD).read_text())["lines"] == 4
    ledger.enter(store, "opened", plan_sha256="1")
    assert len(ledger.ledger(store)) == 5


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_head_that_was_removed_is_missed_whatever_lines_are_left(store, kept):
    (store / ledger.HEAD).unlink()
    ledger.path_of(store).write_bytes(b"".join(lines_of(store)[:kept]))
    with pytest.raises(UserError, match="has lost its head"):
        ledger.opening(store, plan.TEMPLATE.name, {"default": "b"}, "c")


def test_a_run_killed_at_the_first_line_goes_on(tmp_path):
    ledger.enter(tmp_path, "frozen", plan_sha256="0")
    (tmp_path / ledger.HEAD).write_text('{"lines": 0, "sha256": ""}')
    ledger.enter(tmp_path, "opened", plan_sha256="0")
    assert [entry["line"] for entry in ledger.ledger(tmp_path)] == [1, 2]


def test_a_ledger_of_an_earlier_version_gets_a_head_with_its_next_line(store):
    """Its lines have no number, and nothing counts them."""
    before, entries = "", ledger.ledger(store)
    for entry in entries:
        line = json.dumps({**entry, "line": None, "before": before}).encode()
        before = hashlib.sha256(line).hexdigest()
        with open(ledger.path_of(store), "wb" if entry is entries[0] else "ab") as file:
            file.write(line + b"\n")
    (store / ledger.HEAD).unlink()
    assert len(ledger.ledger(store)) == 3
    ledger.enter(store, "opened", plan_sha256="0")
    assert json.loads((store / ledger.HEAD).read_text())["lines"] == 4


@pytest.mark.parametrize("head", [b"", b"{", b"[]", b'{"lines": "4", "sha256": ""}', b"\xff"])
def test_a_head_that_cannot_be_read_is_one_sentence(store, head):
    (store / ledger.HEAD).write_bytes(head)
    with pytest.raises(UserError, match="has no head that can be read"):
        ledger.ledger(store)


def test_a_head_on_a_disk_that_does_not_answer_is_not_called_edited(store, monkeypatch):
    """The advice for an edited one is to begin anew, without what was opened."""
    monkeypatch.setattr(Path, "read_bytes", unreadable(errno.ESTALE))
    with pytest.raises(OSError, match="Stale"):
        ledger._head(store)


@pytest.mark.parametrize(
    "text",
    ["[" * 1000, "n: " + "9" * 5000, "\0", "a: *b", "- 1", "n: [1", "!!python/name:os.system"],
)
def test_a_plan_that_cannot_be_read_is_one_sentence(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(UserError, match="plan.yaml") as refused:
        plan.freeze(tmp_path, tmp_path / "plan.yaml", QUESTIONS)
    assert "\n" not in str(refused.value) and not (tmp_path / "validation").exists()
