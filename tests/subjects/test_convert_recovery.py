"""Step 1, killed, interrupted or out of disk: the same command goes on to the same result."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import convert_to_jsonl
from helpers.paths import ROOT
from helpers.scripts import folder_bytes
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import buckets, nesting


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimic")
    hospital.write(folder, 60, seed=1, progress=False)
    return folder


def start(mimic, storage, change="", *options):
    """A run with many small buckets, in a session of its own; `change` is Python run before it."""
    code = f"""
import sys
from pathlib import Path

from mimic_qlora.step import command_line
from mimic_qlora.subjects import buckets, nesting, partition

buckets.PATIENTS_PER_BUCKET = 5
{change}
import convert_to_jsonl

sys.argv[0] = "convert_to_jsonl.py"
command_line.run(convert_to_jsonl.main)
"""
    command = [sys.executable, "-c", code, "--mimic-dir", mimic, "--storage", storage]
    return subprocess.Popen(
        [*map(str, command), "--workers", "1", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Pause:
    """Makes a run wait at the n-th call of a function until it is let go, killed or interrupted."""

    def __init__(self, folder, function, call):
        self.reached, self.go = folder / "reached", folder / "go"
        self.change = f"""
import itertools, time
whole, calls = {function}, itertools.count(1)
def pausing(*arguments, **options):
    if next(calls) == {call}:
        Path({str(self.reached)!r}).touch()
        while not Path({str(self.go)!r}).exists():
            time.sleep(0.01)
    return whole(*arguments, **options)
{function} = pausing
"""

    def wait(self, running):
        while not self.reached.exists():
            assert running.poll() is None, running.communicate()
            time.sleep(0.01)


MARKER = "buckets.atomic_write"  # writes the marker of a table or a bucket that is done


@pytest.fixture(scope="module")
def undisturbed(mimic, tmp_path_factory):
    storage = tmp_path_factory.mktemp("undisturbed")
    began = time.time()
    assert start(mimic, storage).wait() == 0
    return folder_bytes(storage / "subjects"), time.time() - began


def rerun(mimic, storage, change=""):
    again = start(mimic, storage, change)
    _, errors = again.communicate()
    assert again.returncode == 0, errors


@pytest.mark.parametrize(
    ("function", "call"),
    [
        (MARKER, 3),  # between two tables
        ("partition.pa.ipc.new_stream", 100),  # within a table
        ("nesting.parquet_files.write", 40),  # within a bucket
        ("nesting.igzip.compress", 33),  # within a shard
        (MARKER, 30),  # between two buckets
        ("nesting.write_index", 1),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(mimic, undisturbed, tmp_path, function, call):
    pause = Pause(tmp_path, function, call)
    running = start(mimic, tmp_path / "s", pause.change)
    pause.wait(running)
    running.kill()
    running.communicate()
    assert not (tmp_path / "s/subjects").exists()
    rerun(mimic, tmp_path / "s")
    assert folder_bytes(tmp_path / "s/subjects") == undisturbed[0]


@pytest.mark.soak
@pytest.mark.parametrize("ten", range(5))
def test_fifty_kills_at_random_moments_end_with_the_same_bytes(mimic, undisturbed, tmp_path, ten):
    expected, seconds = undisturbed
    draw = random.Random(ten)
    for n in range(10):
        running = start(mimic, tmp_path / str(n))
        time.sleep(draw.uniform(0, seconds * 1.1))
        running.kill()
        running.communicate()
        rerun(mimic, tmp_path / str(n))
        assert folder_bytes(tmp_path / str(n) / "subjects") == expected


def test_what_is_done_is_not_redone(mimic, undisturbed, tmp_path):
    pause = Pause(tmp_path, MARKER, 35)  # the first call keeps the number of buckets
    running = start(mimic, tmp_path / "s", pause.change)
    pause.wait(running)
    running.kill()
    running.communicate()
    done = {path.name for path in (tmp_path / "s/.subjects.partial/parts").rglob("*.done.json")}
    assert len(done) == 33 and any(name.startswith("bucket-") for name in done)
    log = tmp_path / "log"
    tell = f"""
whole = {MARKER}
def telling(path, content):
    with open({str(log)!r}, "a") as file:
        file.write(path.name + "\\n")
    whole(path, content)
{MARKER} = telling
"""
    rerun(mimic, tmp_path / "s", tell)
    redone = set(log.read_text().split())
    assert redone and not redone & done
    assert folder_bytes(tmp_path / "s/subjects") == undisturbed[0]


@pytest.fixture
def convert(tiny_mimic, tmp_path, monkeypatch):
    """convert(): run step 1 in this process, six patients in a bucket."""
    command = ["convert", "--mimic-dir", tiny_mimic, "--storage", tmp_path / "s", "--workers", "1"]
    monkeypatch.setattr("sys.argv", [*map(str, command)])
    monkeypatch.setattr(buckets, "PATIENTS_PER_BUCKET", 6)
    return convert_to_jsonl.main


def empty(path):
    path.write_bytes(b"")


def zeros(path):
    path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("shards/part-00000.jsonl.gz", zeros),
        ("parts/read/labevents-00000/00001.arrow", empty),
        ("parts/read/labevents-00000/00001.arrow", Path.unlink),
        ("parts/read/labevents-00000/labevents-00000.done.json", empty),
    ],
)
def test_after_a_power_cut_a_run_says_what_is_damaged_and_begins_anew(
    convert, tmp_path, monkeypatch, name, damage
):
    """The files of what was done are not yet on the disk when the marker is."""
    write, parts = nesting._write_bucket, tmp_path / "s/.subjects.partial"
    with monkeypatch.context() as cut_off, pytest.raises(KeyboardInterrupt):
        cut_off.setattr(
            nesting, "_write_bucket", lambda n, *a: {0: write}.get(n, _interrupted)(n, *a)
        )
        convert()
    damage(parts / name)
    with pytest.raises(UserError, match="damaged, and so all"):
        convert()
    assert not parts.exists()
    convert()


def _interrupted(*_):
    raise KeyboardInterrupt


def test_too_little_space_for_the_rest_costs_nothing_of_what_is_done(
    convert, tmp_path, monkeypatch
):
    with monkeypatch.context() as cut_off, pytest.raises(KeyboardInterrupt):
        cut_off.setattr(nesting, "_write_bucket", _interrupted)
        convert()
    with monkeypatch.context() as full, pytest.raises(UserError, match="GB are needed"):
        full.setattr(buckets, "unpacked_bytes", lambda source: 1 << 60)
        convert()
    assert (tmp_path / "s/.subjects.partial/parts/read/labevents-00000").exists()


def test_ctrl_c_says_how_far_it_came_and_keeps_the_previous_output(mimic, undisturbed, tmp_path):
    pause = Pause(tmp_path, MARKER, 7)
    running = start(mimic, tmp_path / "s", pause.change)
    pause.wait(running)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate()
    assert running.returncode == 130 and "Traceback" not in errors
    assert (
        "5 pieces of tables read and 0 buckets of patients nested; the same command goes" in errors
    )
    rerun(mimic, tmp_path / "s")
    assert folder_bytes(tmp_path / "s/subjects") == undisturbed[0]


def test_two_runs_at_once_are_refused(mimic, tmp_path):
    pause = Pause(tmp_path, MARKER, 1)
    first = start(mimic, tmp_path / "s", pause.change)
    pause.wait(first)
    second = start(mimic, tmp_path / "s")
    _, errors = second.communicate()
    pause.go.touch()
    _, errors_of_first = first.communicate()
    assert first.returncode == 0, errors_of_first
    assert second.returncode == 2 and "another run" in errors and errors.count("\n") == 1


def test_a_full_disk_ends_in_a_sentence_and_leaves_the_previous_output(mimic, tmp_path, tiny_mimic):
    """A real full disk: a small tmpfs, without the estimate that would refuse the run before."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    try:
        first = start(tiny_mimic, disk / "s", "buckets.unpacked_bytes = lambda source: 0")
        assert (first.communicate(), first.returncode)[1] == 0
        before = folder_bytes(disk / "s" / "subjects")
        second = start(
            mimic, disk / "s", "buckets.unpacked_bytes = lambda source: 0", "--replace-patients"
        )
        _, errors = second.communicate()
        assert second.returncode == 2 and "is full" in errors and "Traceback" not in errors
        assert folder_bytes(disk / "s" / "subjects") == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_too_little_space_is_refused_before_the_start(run, mimic, tmp_path, monkeypatch):
    import shutil

    from mimic_qlora.mimic import tables
    from mimic_qlora.step.errors import UserError
    from mimic_qlora.subjects import conversion

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    sources = tables.find(mimic)
    with pytest.raises(UserError, match=r"0\.0 GB free"):
        conversion.check_space(sources, 1.0, tmp_path)
    conversion.check_space(sources, 0.0, tmp_path)  # as little as that needs none
    with open(tmp_path / "left by a run that was killed", "wb") as file:
        file.truncate(1 << 40)
    conversion.check_space(sources, 1.0, tmp_path)
