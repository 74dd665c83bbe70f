"""Step 7 on several processes: each batch is answered once, and the results are those of one."""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from helpers.forked import NOBODY, Kill, codes, start
from helpers.step7 import results

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
OPTIONS = ["6", "--batch-size", 3, "--max-new-tokens", 30, "--no-knowledge"]
BATCHES = 4  # of twelve answers


@pytest.fixture
def ask(tuned_store, tmp_path):
    """ask("one", n=1) -> the exit codes and logs of n processes on a storage folder of its own."""
    made = []

    def ask(name: str, *options: object, n: int = 1, kill: Kill = NOBODY, **variables: str):
        store = tmp_path / name
        if not store.exists():
            shutil.copytree(tuned_store.path, store)
        where = ["--model", tuned_store.model, "--storage", store]
        script, log = "run_files/validate.py", tmp_path / f"{name}.log"
        started = start(script, [*OPTIONS, *options, *where], log, n, kill, **variables)
        found = codes(started), [Path(f"{log}.{rank}").read_text() for rank in range(n)]
        made.extend(results(text) for text in found[1] if "\nResults: " in text)
        return found

    ask.folder = tmp_path
    yield ask
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


def tables(store: Path) -> dict[str, bytes | list]:
    """Return the files of the newest results; of output.csv all but the times that it took."""
    folder = max(path for path in (store / "validation").iterdir() if path.name[0] == "2")
    with open(folder / "output.csv", newline="", encoding="utf-8") as file:
        rows = [
            {name: cell for name, cell in row.items() if not name.startswith("lat_ms")}
            for row in csv.DictReader(file)
        ]
    names = ("summary.csv", "label.csv", "label_draw.csv")
    return {"output.csv": rows, **{name: (folder / name).read_bytes() for name in names}}


def answered(store: Path) -> Counter:
    """Return how often each batch, and the probe, is in the cache of answers."""
    (path,) = (store / "validation" / "answers").glob("*.jsonl")
    assert not [*path.parent.glob("*.part")]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return Counter(line["key"] for line in lines if "key" in line)


def test_processes_leave_what_one_leaves_and_one_speaks(ask):
    exits, (one,) = ask("one")
    assert exits == [0], one
    exits, logs = ask("two", n=2, MADE_UP_DEVICE="a GPU")
    assert exits == [0, 0], logs
    assert logs[1] == "", "the first process speaks for all"
    said = [line for line in logs[0].splitlines() if line.startswith(("Answering", "Loading"))]
    assert len(said) == 2 and logs[0].count("scp -r") == 1 and "kept from" not in logs[0]
    one, two = ask.folder / "one", ask.folder / "two"
    assert tables(one) == tables(two) and len(tables(one)["output.csv"]) == 6
    assert "answered 6 of the prompts once more: 0 answers (0.0%) and the scores of 0" in logs[0]
    assert answered(one) <= answered(two) and len(answered(one)) == BATCHES + 1
    assert [*answered(two).values()] == [1] * (BATCHES + 1 + 2)
    assert len((two / "validation" / "ledger.jsonl").read_text().splitlines()) == 1


def test_a_killed_process_ends_the_others_and_the_same_command_goes_on(ask):
    (first, second), logs = ask("killed", n=2, kill=Kill(rank=1, batch=1))
    assert (first, second) == (2, -9), logs
    assert logs[0].count("error: process 1 of 2 on ") == 1 and "Traceback" not in logs[0]
    assert not (ask.folder / "killed" / "validation" / "ledger.jsonl").exists()
    exits, logs = ask("killed", n=3)
    assert exits == [0, 0, 0] and "9 of 12 answers were kept from an earlier run" in logs[0]
    assert "note: 2 of 3 processes have nothing to answer" in logs[0]
    exits, logs = ask("one")
    assert tables(ask.folder / "one") == tables(ask.folder / "killed")
    assert answered(ask.folder / "killed") == answered(ask.folder / "one")
