"""Step 5 killed, interrupted, out of disk, and on two processes: it ends with the same adapter."""

import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.forking import forked
from helpers.launched import variables
from helpers.ports import free_port
from helpers.training_runs import (
    PRELOADED,
    Hold,
    KillAfter,
    adapter_bytes,
    start,
    write_store,
)
from mimic_qlora.training import callbacks

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="runs are forked, which Windows cannot"
)
LENGTH = ["--epochs", "6"]  # of three steps each
EPOCHS = [*LENGTH, "--save-minutes", "0"]


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory) -> tuple[bytes, float]:
    """The adapter of a run that nothing disturbs, and its seconds."""
    store = write_store(tmp_path_factory.mktemp("undisturbed") / "storage", tiny)
    forked(PRELOADED, time.time).join()  # which imports the libraries, and waits for it
    began = time.time()
    run = start(store, tiny, *EPOCHS)
    run.join()
    assert run.exitcode == 0, store.with_suffix(".log").read_text()
    return adapter_bytes(store), time.time() - began


def ends_with(expected: bytes, store: Path, tiny) -> None:
    """Let a run end: the adapter is the expected one and nothing else is left."""
    run = start(store, tiny, *EPOCHS)
    run.join()
    log = store.with_suffix(".log").read_text()
    assert run.exitcode == 0, log
    assert adapter_bytes(store) == expected, log
    assert [p.name for p in (store / "adapters").iterdir() if not p.name.endswith(".lock")] == [
        "default"
    ]


def test_three_kills_at_random_moments_end_with_the_same_adapter(tiny, undisturbed, tmp_path):
    """A moment is counted from the end of a step, so that a busy machine does not matter."""
    store, draw = write_store(tmp_path / "storage", tiny), random.Random(1)
    for first, last in ((1, 3), (5, 7), (8, 10)):
        event = KillAfter(draw.randint(first, last), draw.uniform(0, 0.2))
        run = start(store, tiny, *EPOCHS, event=event)
        run.join()
        assert run.exitcode == -signal.SIGKILL, store.with_suffix(".log").read_text()
    ends_with(undisturbed[0], store, tiny)


@pytest.mark.soak
def test_twenty_kills_at_random_moments_end_with_the_same_adapter(tiny, undisturbed, tmp_path):
    """Also before the first step and after the last one: some runs end before they are killed."""
    expected, seconds = undisturbed
    draw, killed, rounds = random.Random(2), 0, 0
    while killed < 20:
        rounds += 1
        store = write_store(tmp_path / str(rounds) / "storage", tiny)
        for _ in range(4):
            run = start(store, tiny, *EPOCHS)
            run.join(draw.uniform(0, 1) * seconds)
            run.kill()
            run.join()
            killed += run.exitcode == -signal.SIGKILL
        ends_with(expected, store, tiny)
    print(f"{killed} runs were killed in {rounds} rounds")


def checkpoints(store: Path) -> list[Path]:
    """The whole checkpoints of an unfinished run."""
    return list((store / "adapters" / ".default.training").glob("checkpoint-*/trainer_state.json"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(tiny, undisturbed, tmp_path, number):
    store, log = write_store(tmp_path / "storage", tiny), tmp_path / "storage.log"
    hold = Hold(tmp_path)
    run = start(store, tiny, *LENGTH, event=hold)
    hold.wait(run)
    os.kill(run.pid, number)
    if number == signal.SIGHUP:  # a lost terminal, of which run_all.py tells its step once more
        os.kill(run.pid, signal.SIGTERM)
    run.join()
    said = log.read_text()
    assert run.exitcode == 128 + number, "".join(said)
    assert "the same command goes on" in said and "Traceback" not in said
    assert checkpoints(store)
    assert not (store / "adapters" / "default").exists()
    if number != signal.SIGTERM:  # the others differ in nothing but their number
        return
    again = start(store, tiny, *LENGTH)
    again.join()
    assert again.exitcode == 0 and "Going on from step" in log.read_text()
    assert adapter_bytes(store) == undisturbed[0], (
        "a run that went on equals one that was left alone, to the last bit"
    )


@pytest.mark.parametrize("number", [signal.SIGHUP, None])
def test_a_run_that_nobody_reads_any_more_saves_a_checkpoint(tiny, tmp_path, number):
    """Ctrl-C and a closed terminal end the `tee` behind step 5 too, as may a full disk."""
    store, pipe = write_store(tmp_path / "storage", tiny), tmp_path / "pipe"
    os.mkfifo(pipe)
    hold = Hold(tmp_path)
    run = start(store, tiny, *LENGTH, output=pipe, event=hold)
    with open(pipe) as tee:
        assert any(" grad " in line for line in tee)
        hold.wait(run)
    if number:
        os.kill(run.pid, number)
    else:
        hold.go()
    run.join()
    assert run.exitcode == 128 + (number or callbacks.UNHEARD)
    assert checkpoints(store)


def test_a_full_disk_ends_in_one_sentence_with_the_last_checkpoint_intact(
    tiny, undisturbed, tmp_path
):
    """A real full disk: a small tmpfs, filled up once the first checkpoint is there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    log, hold = tmp_path / "log", Hold(tmp_path)
    try:
        store = write_store(disk / "storage", tiny)
        run = start(store, tiny, *EPOCHS, output=log, event=hold)
        hold.wait(run)
        assert checkpoints(store)
        with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"0" * 4096)
        hold.go()
        run.join()
        said = log.read_text()
        assert run.exitcode == 2 and "is full, or its quota used up; the checkpoint of" in said
        assert "Traceback" not in said
        (disk / "filler").unlink()
        again = start(store, tiny, *EPOCHS, output=log)
        again.join()
        assert again.exitcode == 0 and "Going on from step" in log.read_text(), log.read_text()
        assert adapter_bytes(store) == undisturbed[0]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def several(store: Path, tiny, n: int, *options) -> list:
    """Start n processes of a run over gloo, as `accelerate launch` starts them on n hosts."""
    port = free_port()
    return [
        start(
            store,
            tiny,
            *options,
            environment=variables(rank, n, port) | {"ACCELERATE_USE_CPU": "true"},
            output=Path(f"{store}.{rank}.log"),
        )
        for rank in range(n)
    ]


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.soak)])
def test_several_processes_equal_one_with_the_same_global_batch(tiny, tmp_path, n):
    """Sums are added in another order, so they are not equal to the last bit."""
    import torch
    from safetensors.torch import load

    options = ["--epochs", "3", "--dropout", "0", "--batch-tokens", "200", "--seed", "7"]
    one, more = (write_store(tmp_path / name, tiny) for name in ("one", "more"))
    runs = [start(one, tiny, *options, "--accumulate", n)]
    runs += several(more, tiny, n, *options, "--accumulate", 1)
    for run in runs:
        run.join()
    logs = [path.read_text() for path in tmp_path.glob("*.log")]
    assert [run.exitcode for run in runs] == [0] * (n + 1), "\n".join(logs)
    # AdamW forgives gradients of another scale, the log does not
    for name, within in (("loss", 1e-4), ("eval_loss", 1e-4), ("grad_norm", 1e-3)):
        rows = [
            list(csv.DictReader(open(s / "adapters" / "default" / "log.csv"))) for s in (one, more)
        ]
        values = [[float(row[name]) for row in found if row[name]] for found in rows]
        assert values[0] and values[0] == pytest.approx(values[1], rel=within)
    ours, theirs = load(adapter_bytes(one)), load(adapter_bytes(more))
    assert all(weight.any() for weight in ours.values())
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_a_process_that_is_killed_ends_the_other_and_the_same_command_goes_on(tiny, tmp_path, lost):
    """No launcher tells the other one; gloo notices that the connection is closed."""
    store = write_store(tmp_path / "storage", tiny)
    options = ["--epochs", "3", "--batch-tokens", "200", "--save-minutes", "0"]
    runs = several(store, tiny, 2, *options)
    while len(checkpoints(store)) < 2:  # the first of them is whole
        assert all(run.is_alive() for run in runs), "a run ended before it was to be disturbed"
        time.sleep(0.05)
    runs[lost].kill()
    for run in runs:
        run.join()
    said = Path(f"{store}.{1 - lost}.log").read_text()
    assert runs[1 - lost].exitcode == 2 and "Traceback" not in said, said
    assert "another process of this run has ended" in said
    again = several(store, tiny, 2, *options)
    for run in again:
        run.join()
    assert [run.exitcode for run in again] == [0, 0], Path(f"{store}.0.log").read_text()
    assert "Going on from step" in Path(f"{store}.0.log").read_text()


def test_processes_with_other_arguments_are_refused_before_they_train(tiny, tmp_path):
    store = write_store(tmp_path / "storage", tiny)
    port, runs = free_port(), []
    for rank, rate in enumerate(("0.01", "0.02")):
        where = variables(rank, 2, port) | {"ACCELERATE_USE_CPU": "true"}
        output = tmp_path / f"{rank}.log"
        runs.append(start(store, tiny, "--lr", rate, environment=where, output=output))
    for run in runs:
        run.join()
    said = (tmp_path / "0.log").read_text()
    assert runs[0].exitcode == 2 and said.count("error: ") == 1, said
    assert "has another set of arguments than the first" in said
    assert runs[1].exitcode == 0 and not (tmp_path / "1.log").read_text()
