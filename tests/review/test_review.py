"""Judging answers blind: orders that tell nothing, and marks that survive whatever happens."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.reviewing import Server, make_results, mark, store_of
from mimic_qlora.review import assignment
from mimic_qlora.review import items as review_items
from mimic_qlora.review import server as web
from mimic_qlora.review.database import FILE
from mimic_qlora.review.decisions import Decision
from mimic_qlora.review.marks import CRITERIA, REQUIRED, SCALE
from mimic_qlora.review.store import Store
from mimic_qlora.step.errors import UserError


@pytest.fixture
def results(tmp_path):
    return make_results(tmp_path / "results")


# ---------------------------------------------------------------- orders


@pytest.mark.parametrize("n", [1, 3, 4, 20, 101, 1000])
def test_each_rater_sees_each_item_once_in_a_balanced_order_and_a_tenth_again(n):
    items = list(range(1, n + 1))
    anna, ben = (
        assignment.draw(items, "salt", name, flip)
        for name, flip in (("anna", False), ("ben", True))
    )
    for tasks in (anna, ben):
        first = [t for t in tasks if not t.again]
        again = [t for t in tasks if t.again]
        assert sorted(t.item for t in first) == items and [t.position for t in tasks] == [
            *range(1, len(tasks) + 1)
        ]
        assert abs(sum(t.swapped for t in first) * 2 - n) <= 1, (
            "one side holds the adapter too often"
        )
        assert len(again) == (round(n / 10) if n >= 10 else n >= 4)
        at = {t.item: t for t in first}
        assert all(
            t.swapped != at[t.item].swapped and t.position > at[t.item].position + 1 for t in again
        )
    sides = [{t.item: t.swapped for t in tasks if not t.again} for tasks in (anna, ben)]
    assert all(sides[0][item] != sides[1][item] for item in items), (
        "two raters see each item both ways"
    )
    assert n < 20 or [t.item for t in anna] != [t.item for t in ben]


def test_the_order_is_drawn_once_and_another_rater_changes_nobodys(results):
    store, _ = store_of(results, "anna")
    before = store.tasks.of("anna")
    store, _ = store_of(results, "ben", "anna")
    assert store.tasks.of("anna") == before and store.tasks.raters() == ["anna", "ben"]
    (results / FILE).unlink()
    orders = {tuple(t.swapped for t in store_of(results, "anna")[0].tasks.of("anna"))}
    assert orders != {tuple(t.swapped for t in before)}, "the draw can be foreseen"


def test_results_that_changed_after_rating_began_are_refused(results, run):
    store_of(results, "anna")
    with open(results / "results.jsonl", "a") as file:
        file.write((results / "results.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="has changed since its rating began"):
        store_of(results, "anna")
    done = run("run_files/review.py", "--results", results, "--report")
    assert done.returncode == 2 and "has changed since" in done.stderr


def test_the_page_of_the_two_orders_differs_in_nothing_but_the_two_texts(tmp_path):
    """The same rater at the same place, once with the adapter left, once right."""
    results = make_results(tmp_path / "results")
    store, items = store_of(results, "anna")
    with Server(results, raters="anna") as server:
        anna = server.client("anna")
        pages = {}
        for swapped in (0, 1):
            with store.database.open(write=True) as db:
                db.execute("UPDATE task SET swapped = ? WHERE position = 1", (swapped,))
            pages[swapped] = anna.get("/items/1")
        lefts = [
            re.search(r'<span id="a-1">(.*?)</span>', pages[swapped].text)[1] for swapped in (0, 1)
        ]
        assert lefts == ["Rest.", "See a doctor."]
        item = items[store.tasks.at("anna", 1).item]
        shapes = []
        for swapped in (0, 1):
            text = pages[swapped].text
            for side, answer in zip("ab", review_items.shown(item, bool(swapped)), strict=True):
                text = _without_answer(text, side, answer)
            shapes.append(text)
        assert shapes[0] == shapes[1]
        assert pages[0].pairs == pages[1].pairs, "the headers, the length included, are the same"
        for word in ("qlora", "base", "adapter", "trial", "q0", "lora"):
            assert word not in shapes[0].lower().replace("review: item", "")
        for position in range(1, 12):
            assert not re.search(r"10000\d{3}", anna.get(f"/items/{position}").text), (
                "the patient's id is on the page"
            )


def _without_answer(text: str, side: str, answer: str) -> str:
    """The page without the spans and the boxes that hold an answer's sentences."""
    n = sum(bool(said.strip()) for said, _ in review_items.sentences(answer))
    text, spans = re.subn(rf'<span id="{side}-\d+">.*?</span>\s*', "", text)
    text, boxes = re.subn(
        rf'<label><input type="checkbox" name="{side}_harm" value="\d+">.*?</label>\n', "", text
    )
    assert spans == boxes == n
    return text


def test_a_name_in_other_capitals_is_not_another_rater(tmp_path):
    store = Store(tmp_path)
    store.tasks.prepare(["anna", "ben"], [1, 2], "hash")
    with pytest.raises(UserError, match="Anna would be another rater than anna"):
        store.tasks.prepare(["carl", "Anna"], [1, 2], "hash")
    store.tasks.prepare(["ben", "anna"], [1, 2], "hash")
    assert store.tasks.raters() == ["anna", "ben"]


# ---------------------------------------------------------------- marks


def test_saving_twice_changes_nothing_and_undo_takes_back_step_by_step(results):
    store, _ = store_of(results, "anna")
    store.marks.save("anna", 1, {"a_safety": "2"})
    for _ in range(3):
        store.marks.save("anna", 1, {"a_all": "4"})
    store.marks.save("anna", 2, {"better": "b", "comment": " why "})
    assert store.marks.of("anna", 2) == {"better": "b", "comment": "why"}
    assert store.marks.undo("anna")[0] == 2 and store.marks.of("anna", 2) == {}
    assert store.marks.undo("anna") == (1, [f"a_{name}" for name in CRITERIA])
    assert store.marks.of("anna", 1) == {"a_safety": "2"}, (
        "what stood before the key for all four is back"
    )
    assert store.marks.undo("anna") == (1, ["a_safety"]) and store.marks.undo("anna") is None


def test_an_item_counts_as_answered_when_all_is_marked_and_work_goes_on_at_the_first_that_is_not(
    results,
):
    store, _ = store_of(results, "anna")
    assert store.marks.first_open("anna") == 1
    store.marks.save("anna", 1, mark())
    store.marks.save("anna", 3, mark())
    assert store.marks.answered("anna") == [1, 3] and store.marks.first_open("anna") == 2
    assert (
        store.marks.first_open("anna", after=2) == 4
        and store.marks.first_open("anna", after=999) == 2
    )
    store.marks.save("anna", 1, {"b_chart": ""})
    assert store.marks.answered("anna") == [3] and store.marks.first_open("anna") == 1


def test_the_form_works_without_a_script_and_keeps_what_it_does_not_mention(results):
    with Server(results, raters="anna") as server:
        anna = server.client("anna")
        answer = anna.post("/items/2", {**mark("5"), "a_harm": "1", "comment": "plain"})
        assert (answer.status, answer.getheader("location")) == (303, "/next?after=2")
        page = anna.get("/items/2").text
        assert page.count(" checked") == 2 * 5 + 1 + 1 and "plain</textarea>" in page
        full = {f"{side}_{name}": "5" for side in "ab" for name in CRITERIA} | {"better": "equal"}
        anna.post(
            "/items/2", {**full, "a_all": "3", "b_all": "5"}
        )  # the same form again, only "all four" of A changed
        assert anna.get("/items/2").text.count('value="3" data-key="3" checked') == 5


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_no_acknowledged_mark_is_lost_or_doubled_when_the_server_is_killed(results, kills):
    """SIGKILL at random moments amid two raters' clicks; what got its answer is there, once."""
    kept = {"anna": {}, "ben": {}}
    port, clients = None, {}
    for turn in range(kills):
        with Server(results, port=port) as server:
            port = server.port
            clients = clients or {name: server.client(name) for name in kept}
            threads = [
                threading.Thread(target=_click, args=(clients[n], kept[n], random.Random(turn)))
                for n in kept
            ]
            for thread in threads:
                thread.start()
            # a random number of clicks more, not of seconds: a busy machine clicks slowly
            wanted = min(12 * (turn + 1), 150) + random.randint(0, 9)
            while min(map(len, kept.values())) < wanted and all(
                thread.is_alive() for thread in threads
            ):
                time.sleep(0.001)
            server.stop(signal.SIGKILL)
            for thread in threads:
                thread.join()
    store = Store(results)
    for name, marks in kept.items():
        assert len(marks) > 20, "there were clicks before each kill"
        found = {
            p: {f: v for f, (v, _) in fields.items()} for p, fields in store.marks.all(name).items()
        }
        assert not {
            key: value for key, value in marks.items() if found.get(key[0], {}).get(key[1]) != value
        }
        changes = store.database.rows(
            "SELECT position, field, old, new FROM change WHERE rater = ?", name
        )
        assert all(c["old"] != c["new"] for c in changes), "a mark was kept twice"


def _click(client, kept: dict, rng) -> None:
    """Save marks until the server is gone; `kept` holds what it answered for.

    Each mark is made once, like a click.
    """
    while True:
        key = (rng.randint(1, 26), rng.choice(REQUIRED[:-1]))
        value = rng.choice([v for v in SCALE if v != kept.get(key)])
        try:
            answer = client.post(f"/items/{key[0]}", {key[1]: value, "marking": "1"})
        except OSError:
            kept.pop(key, None)  # not acknowledged: either is right
            return
        assert answer.status == 200 and json.loads(answer.text)["marks"][key[1]] == value
        kept[key] = value


def test_ctrl_c_ends_the_page_with_a_word_and_without_an_error(results):
    with Server(results, raters="anna") as server:
        assert server.client("anna").get("/items/1").status == 200
        server.stop(signal.SIGINT)
        assert server.process.returncode == 0
        log = server.log.read_text()
        assert "All marks are kept" in log and "Traceback" not in log


def test_a_request_that_never_ends_does_not_hold_the_page(results):
    """As a tunnel leaves it that drops amid a request; the page waited for its end."""
    with Server(results, raters="anna") as server:
        anna = server.client("anna")
        head = f"POST /items/1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: "
        head += f"http://127.0.0.1:{server.port}\r\nCookie: {anna.cookie}\r\nContent-Length: 99"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{head}\r\n\r\na_safety=".encode())
            assert anna.get("/items/1").status == 200
            server.stop(signal.SIGINT)
        assert server.process.returncode == 0
        log = server.log.read_text()
        assert "All marks are kept" in log and "Traceback" not in log


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_lost_connection_ends_the_page_in_order_and_not_in_the_midst_of_its_loop(monkeypatch):
    """An exception there left a thread for which the process waited for ever, now and then."""
    ended, seen = [], []

    class HungUp:
        should_exit = False

        def __init__(self, config):
            pass

        def run(self, sockets):
            signal.raise_signal(signal.SIGHUP)
            seen.append((self.should_exit, list(ended)))

    monkeypatch.setattr(web.uvicorn, "Server", HungUp)
    monkeypatch.setattr(web.site, "build", lambda *_: None)
    before = signal.signal(signal.SIGHUP, lambda number, frame: ended.append(number))
    try:
        web.run(None, {}, ROOT, 1, None)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [(True, [])] and ended == [signal.SIGHUP]


# ---------------------------------------------------------------- what is read


def test_sentences_joined_are_the_text():
    sentences = [
        "Try now",
        "- Rest (a lot).",
        "Take 2.5 mg.",
        '"Stop."',
        "Then?",
        "1. Call 911!",
        "e.g. now… ok",
    ]
    text = "{}\n{} {} {} {}\n\n{} {}".format(*sentences)
    parts = review_items.sentences(text)
    assert "".join(said + gap for said, gap in parts) == text
    assert [said for said, _ in parts] == sentences


def test_only_the_two_arms_that_are_compared_are_judged(tmp_path):
    folder = make_results(tmp_path / "results", questions=2, each=1)
    lines = (folder / "results.jsonl").read_text().splitlines()
    others = [
        {
            **json.loads(line),
            "arm": arm,
            "answer": "?",
            "messages": [{"content": "c\n\nQuestion\nother?"}],
        }
        for line in lines
        for arm in ("base-rules", "adapter@b")
    ]
    knowledge = [{**json.loads(lines[0]), "kind": "knowledge", "trial": 9}]
    (folder / "results.jsonl").write_text(
        "\n".join([*map(json.dumps, others + knowledge), *lines]) + "\n"
    )
    items, _ = review_items.read(folder)
    assert list(items) == [1, 2] and [item.question for item in items.values()] == [
        f"What about symptom {n}?" for n in (0, 1)
    ]
    assert all(
        list(item.answers) == ["base", "adapter"] and "?" not in item.answers.values()
        for item in items.values()
    )


def test_damaged_missing_and_one_armed_results_are_refused_in_one_sentence(tmp_path, run):
    folder = make_results(tmp_path / "results")
    lines = (folder / "results.jsonl").read_text().splitlines()
    for content, message in (
        ("{broken", "cannot be read"),
        ("\n".join(lines[::2]), "holds no question that both"),
        (None, "is missing"),
    ):
        (folder / "results.jsonl").unlink(missing_ok=True)
        if content is not None:
            (folder / "results.jsonl").write_text(content)
        done = run("run_files/review.py", "--results", folder)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("names", ["anna,anna", "", "anna,../x", "a b"])
def test_names_of_raters_must_be_names(results, run, names):
    done = run("run_files/review.py", "--results", results, "--raters", names)
    assert done.returncode == 2 and "--raters" in done.stderr


def test_a_damaged_store_is_refused_in_one_sentence(results, run):
    (results / FILE).write_text("this is no database" * 100)
    done = run("run_files/review.py", "--results", results, "--report")
    assert done.returncode == 2 and "cannot be used" in done.stderr and done.stderr.count("\n") == 1


def test_newer_results_do_not_hide_that_earlier_ones_have_been_rated(tmp_path, run):
    for name in ("20260101-000000-a", "20260102-000000-b"):
        (tmp_path / "storage/validation" / name).mkdir(parents=True)
        folder = make_results(tmp_path / "storage/validation" / name, questions=4, each=1)
        store_of(folder, "anna")
        done = run("run_files/review.py", "--report")
        assert done.returncode == 0 and f"validation/{name}" in done.stdout.splitlines()[-1]
        assert ("Earlier results have ratings too: --results " in done.stdout) == name.endswith("b")
    assert "20260101-000000-a goes on with those" in done.stdout


def test_a_refused_start_and_a_report_on_nothing_leave_no_file_of_marks(results, tmp_path, run):
    before = sorted(results.iterdir())
    taken = tmp_path / "no" / "socket"
    for how in (("--socket", taken), ("--report",), ("--export",), ("--raters", "a b")):
        done = run("run_files/review.py", "--results", results, *how)
        refused = how[0] not in ("--report", "--export")
        assert done.returncode == (2 if refused else 0), done.stderr
        assert refused or "judged in" in done.stdout
    assert sorted(results.iterdir()) == before
    (tmp_path / "storage").mkdir()
    assert run("run_files/review.py", "--socket", taken).returncode == 2
    assert not (tmp_path / "storage" / "review").exists()


def test_a_file_of_marks_that_cannot_be_made_leaves_nothing(results, monkeypatch):
    monkeypatch.setattr("mimic_qlora.review.database._SCHEMA", "CREATE nonsense")
    with pytest.raises(UserError, match="cannot be used"):
        Store(results)
    assert not (results / FILE).exists()


@pytest.mark.parametrize(("file", "folder"), [(0o400, 0o700), (0o600, 0o500)])
def test_marks_that_are_read_only_stay_so_and_the_remedy_is_told(results, file, folder):
    store_of(results, "anna")
    command = [sys.executable, "run_files/review.py", "--results", str(results), "--report"]
    if os.getuid() == 0:  # who may write everywhere, without this privilege
        if not shutil.which("setpriv"):
            pytest.skip("root writes everywhere, and setpriv is not installed")
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]
    (results / FILE).chmod(file)
    results.chmod(folder)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (results / FILE, results)]
    results.chmod(0o700)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and modes == [file, folder]
    assert "is read-only for you: make it and its folder writable" in done.stderr


def other_database(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE rater (a)")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(mode=0o755),
        lambda path: path.symlink_to("disk-that-is-gone/ratings.sqlite"),
        os.mkfifo if hasattr(os, "mkfifo") else Path.mkdir,
        other_database,
    ],
)
def test_what_is_no_file_of_marks_is_refused_and_left_as_it_is(results, run, make):
    make(results / FILE)
    before = (results / FILE).lstat()
    done = run("run_files/review.py", "--results", results, "--report")
    assert done.returncode == 2 and FILE in done.stderr and done.stderr.count("\n") == 1
    assert "move it away" in done.stderr
    after = (results / FILE).lstat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    assert stat.S_ISREG(after.st_mode) or before.st_mode == after.st_mode


def test_what_was_decided_before_there_were_results_is_told_and_can_be_exported(tmp_path, run):
    alone = tmp_path / "storage" / "review"
    alone.mkdir(parents=True)
    store = Store(alone)
    store.tasks.prepare(["anna"], [], "")
    store.decisions.add(Decision("anna", "ideals/q0", "reject", ["a"], ["a"], "f", comment="no"))
    folder = tmp_path / "storage/validation/20260101-000000-a"
    folder.parent.mkdir()
    make_results(folder, questions=4, each=1)
    done = run("run_files/review.py", "--export")
    assert f"--results {alone} goes on with those" in done.stdout
    done = run("run_files/review.py", "--export", "--results", alone)
    assert done.returncode == 0 and "No file changed: no wording" in done.stdout


def test_without_results_the_ideals_can_be_reviewed_alone(tmp_path, run):
    shutil.rmtree(tmp_path / "storage", ignore_errors=True)
    assert "there is no storage folder" in run("run_files/review.py", "--export").stderr
    (tmp_path / "storage").mkdir()
    done = run("run_files/review.py", "--export")
    assert (
        done.returncode == 0
        and "only ideals and rules" in done.stdout
        and "No file changed" in done.stdout
    )
