"""Step 1, killed, interrupted or out of disk: the same command goes on to the result of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from helpers.paths import ROOT
from helpers.scripts import folder_bytes
from mimic_qlora.mimic.synthetic import hospital


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimic")
    hospital.write(folder, 60, seed=1, progress=False)
    return folder


def start(mimic, storage, change="pass"):
    """A run with many small buckets, so that a kill finds some of them done; starts in its own session."""
    code = (
        f"import sys; from mimic_qlora.step import command_line; from mimic_qlora.subjects import buckets; buckets.PATIENTS_PER_BUCKET = 5; {change}; "
        "import convert_to_jsonl; sys.argv[0] = 'convert_to_jsonl.py'; command_line.run(convert_to_jsonl.main)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "--mimic-dir",
        str(mimic),
        "--storage",
        str(storage),
        "--workers",
        "1",
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


@pytest.fixture(scope="module")
def undisturbed(mimic, tmp_path_factory):
    storage = tmp_path_factory.mktemp("undisturbed")
    began = time.time()
    assert start(mimic, storage).wait() == 0
    return folder_bytes(storage / "subjects"), time.time() - began


def kill_and_rerun(mimic, storage, seconds):
    running = start(mimic, storage)
    time.sleep(seconds)
    running.kill()
    running.communicate()
    again = start(mimic, storage)
    _, errors = again.communicate()
    assert again.returncode == 0, errors


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_killed_run_goes_on_to_the_same_bytes(mimic, undisturbed, tmp_path, share):
    expected, seconds = undisturbed
    kill_and_rerun(mimic, tmp_path, seconds * share)
    assert folder_bytes(tmp_path / "subjects") == expected


@pytest.mark.soak
@pytest.mark.parametrize("ten", range(5))
def test_fifty_kills_at_random_moments_end_with_the_same_bytes(mimic, undisturbed, tmp_path, ten):
    expected, seconds = undisturbed
    draw = random.Random(ten)
    for n in range(10):
        kill_and_rerun(mimic, tmp_path / str(n), draw.uniform(0, seconds * 1.1))
        assert folder_bytes(tmp_path / str(n) / "subjects") == expected


def test_what_is_done_is_not_redone(mimic, undisturbed, tmp_path):
    running = start(mimic, tmp_path)
    parts = tmp_path / ".subjects.partial" / "parts"
    while not list(parts.glob("*.done.json")) and running.poll() is None:
        time.sleep(0.01)
    running.kill()
    running.communicate()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*.done.json")}
    if not done:
        pytest.skip("the run ended before it could be killed")
    again = start(mimic, tmp_path)
    while again.poll() is None:
        now = {path: path.stat().st_mtime_ns for path in list(done) if path.exists()}
        assert now.items() <= done.items()
        time.sleep(0.02)
    assert folder_bytes(tmp_path / "subjects") == undisturbed[0]


def test_ctrl_c_says_how_far_it_came_and_keeps_the_previous_output(mimic, undisturbed, tmp_path):
    running = start(mimic, tmp_path)
    parts = tmp_path / ".subjects.partial" / "parts"
    while not list(parts.glob("*.done.json")) and running.poll() is None:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate()
    assert (
        running.returncode == 130 and "goes on from there" in errors and "Traceback" not in errors
    )
    assert start(mimic, tmp_path).wait() == 0
    assert folder_bytes(tmp_path / "subjects") == undisturbed[0]


def test_two_runs_at_once_are_refused(mimic, tmp_path):
    first = start(mimic, tmp_path)
    while not (tmp_path / ".subjects.partial").exists() and first.poll() is None:
        time.sleep(0.01)
    second = start(mimic, tmp_path)
    _, errors = second.communicate()
    assert first.wait() == 0
    assert second.returncode == 2 and "another run" in errors and errors.count("\n") == 1


def test_a_full_disk_ends_in_a_sentence_and_leaves_the_previous_output(mimic, tmp_path, tiny_mimic):
    """A real full disk: a small tmpfs, with the estimate that would refuse the run beforehand switched off."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    try:
        first = start(tiny_mimic, disk / "s", "buckets.unpacked_bytes = lambda source: 0")
        assert (first.communicate(), first.returncode)[1] == 0
        before = folder_bytes(disk / "s" / "subjects")
        second = start(mimic, disk / "s", "buckets.unpacked_bytes = lambda source: 0")
        _, errors = second.communicate()
        assert second.returncode == 2 and "the disk is full" in errors and "Traceback" not in errors
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
