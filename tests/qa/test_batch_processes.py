"""--batch on several processes: each batch is answered once, and the lines are those of one."""

import json
import os
import shutil
from pathlib import Path

import pytest

from helpers.forked import NOBODY, Kill, codes, start
from helpers.storage_folders import TUNED_IDS as IDS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
ASKED = [{"subject_id": IDS[i % 7], "question": f"My head hurts {'so ' * i}."} for i in range(10)]
ASKED[3] = {"subject_id": 99, "question": "Whose chart is this?"}


@pytest.fixture
def ask(tuned_store, tmp_path):
    """ask(n=2) -> the exit codes and logs of n processes, and the lines that the first printed."""
    store = tmp_path / "storage"
    shutil.copytree(tuned_store.path, store)
    path = tmp_path / "questions.jsonl"

    def ask(n: int = 1, kill: Kill = NOBODY, **variables: str):
        path.write_text("\n".join(map(json.dumps, ASKED)), encoding="utf-8")
        options = ["--batch", path, "--batch-size", 2, "--max-new-tokens", 20]
        where = ["--model", tuned_store.model, "--storage", store]
        log = tmp_path / "log"
        exits = codes(start("qa_by_subject.py", [*options, *where], log, n, kill, **variables))
        logs = [Path(f"{log}.{rank}").read_text() for rank in range(n)]
        return exits, logs, [line for line in logs[0].splitlines() if line.startswith("{")]

    ask.store = store
    return ask


def transcripts(store: Path) -> list[int]:
    """Return how many answers each transcript holds."""
    return sorted(len(path.read_text().splitlines()) for path in (store / "qa").glob("2*.jsonl"))


def test_processes_print_the_lines_of_one_and_go_on_after_a_kill(ask):
    exits, _, one = ask()
    assert exits == [1] and len(one) == 10 and "error" in one[3] and transcripts(ask.store) == [9]
    exits, logs, _ = ask(n=2, kill=Kill(rank=1, batch=1), MADE_UP_DEVICE="a GPU")
    assert exits == [2, -9] and "Traceback" not in logs[0], logs
    assert logs[0].count("error: process 1 of 2 on ") == 1 and logs[1] == ""
    (kept,) = (ask.store / "qa" / ".answers").glob("*.jsonl")
    exits, logs, two = ask(n=2, MADE_UP_DEVICE="a GPU")
    assert exits == [1, 0] and two == one and logs[1] == ""
    assert "answered 4 of the prompts once more: 0 answers (0.0%) differ." in logs[0]
    assert logs[0].count("1 of 10 lines could not be answered") == 1 and not kept.exists()
    assert transcripts(ask.store)[-2:] == [9, 9]


def test_standard_input_and_a_conversation_are_not_shared(ask, monkeypatch):
    from helpers.launched import launched
    from helpers.scripts import run_here

    for options in (("--batch", "-", "--processes", 2), ("--processes", 2), ("--check", 1)):
        if "--check" in options:
            launched(monkeypatch, rank=0)
        done = run_here("qa_by_subject.py", *options, storage=ask.store)
        assert done.returncode == 2 and done.stderr.startswith("error: several processes share")
