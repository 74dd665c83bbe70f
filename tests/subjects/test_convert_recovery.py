"""Step 1, killed, interrupted or out of disk: the same command goes on to the same result."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import convert_to_jsonl
from helpers.interrupted_step_1 import Pause, Run, small_buckets
from helpers.scripts import folder_bytes, run_here
from mimic_qlora.mimic import tables
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import buckets, conversion, nesting, partition

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
    pytest.mark.usefixtures("forking"),
]
TABLES = "patients admissions diagnoses_icd labevents prescriptions icustays chartevents".split()
WITHOUT_PATIENTS = "d_icd_diagnoses d_labitems provider".split()


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """Some tables of 36 synthetic patients, which are twelve buckets."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("mimic")
    hospital.write(whole, 36, seed=1, progress=False)
    for name in (*TABLES, *WITHOUT_PATIENTS):
        (path,) = whole.glob(f"*/{name}.csv.gz")
        (folder / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


MARKER = "buckets.atomic_write"  # writes the marker of a table or a bucket that is done


@pytest.fixture(scope="module")
def undisturbed(mimic, tmp_path_factory):
    storage = tmp_path_factory.mktemp("undisturbed")
    began = time.time()
    code, errors = Run(mimic, storage / "s").ended()
    assert code == 0, errors
    return folder_bytes(storage / "s/subjects"), time.time() - began


def rerun(mimic, storage):
    """Run step 1 in this process, whose hashes are others than those of the processes before."""
    with pytest.MonkeyPatch.context() as patch:
        small_buckets(patch.setattr)
        command = ("convert_to_jsonl.py", "--mimic-dir", mimic, "--workers", "1")
        return run_here(*command, storage=storage)


@pytest.mark.parametrize(
    ("function", "call"),
    [
        (MARKER, 3),  # between two tables
        ("partition.pa.ipc.new_stream", 30),  # within a table
        ("nesting.parquet_files.write", 12),  # within a bucket
        ("nesting.igzip.compress", 12),  # within a shard
        (MARKER, 13),  # between two buckets
        ("nesting.write_index", 1),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(mimic, undisturbed, tmp_path, function, call):
    pause = Pause(tmp_path, function, call)
    running = Run(mimic, tmp_path / "s", pause=pause)
    pause.wait(running)
    running.killed()
    assert not (tmp_path / "s/subjects").exists()
    done = rerun(mimic, tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert folder_bytes(tmp_path / "s/subjects") == undisturbed[0]


@pytest.mark.soak
@pytest.mark.parametrize("ten", range(5))
def test_fifty_kills_at_random_moments_end_with_the_same_bytes(mimic, undisturbed, tmp_path, ten):
    expected, seconds = undisturbed
    draw = random.Random(ten)
    for n in range(10):
        running = Run(mimic, tmp_path / str(n))
        time.sleep(draw.uniform(0, seconds * 1.1))
        running.killed()
        assert rerun(mimic, tmp_path / str(n)).returncode == 0
        assert folder_bytes(tmp_path / str(n) / "subjects") == expected


def test_what_is_done_is_not_redone(mimic, undisturbed, tmp_path, monkeypatch):
    pause = Pause(tmp_path, MARKER, 15)  # the first call keeps the number of buckets
    running = Run(mimic, tmp_path / "s", pause=pause)
    pause.wait(running)
    running.killed()
    done = {path.name for path in (tmp_path / "s/.subjects.partial/parts").rglob("*.done.json")}
    assert len(done) == 13 and any(name.startswith("bucket-") for name in done)
    whole, redone = buckets.atomic_write, set()

    def telling(path, content):
        redone.add(path.name)
        whole(path, content)

    monkeypatch.setattr(buckets, "atomic_write", telling)
    assert rerun(mimic, tmp_path / "s").returncode == 0
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
    running = Run(mimic, tmp_path / "s", pause=pause)
    pause.wait(running)
    os.killpg(running.process.pid, signal.SIGINT)
    code, errors = running.ended()
    assert code == 130 and "Traceback" not in errors
    assert (
        "5 pieces of tables read and 0 buckets of patients nested; the same command goes" in errors
    )
    done = rerun(mimic, tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert folder_bytes(tmp_path / "s/subjects") == undisturbed[0]


def test_a_run_that_is_stopped_as_it_sums_its_output_reads_no_table_again(
    tiny_mimic, tmp_path, monkeypatch
):
    """At full size that takes minutes, and reading takes hours."""
    command = ("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--workers", "1")
    whole = files.file_sha256

    def stopping(path):
        if path.name == "index.parquet":
            raise KeyboardInterrupt
        return whole(path)

    with monkeypatch.context() as stopped:
        stopped.setattr(files, "file_sha256", stopping)
        assert run_here(*command, storage=tmp_path).returncode == 130
    monkeypatch.setattr(partition, "_read_piece", None)
    done = run_here(*command, storage=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "subjects/parts").exists()


def test_two_runs_at_once_are_refused(mimic, tmp_path):
    pause = Pause(tmp_path, MARKER, 1)
    first = Run(mimic, tmp_path / "s", pause=pause)
    pause.wait(first)
    second = rerun(mimic, tmp_path / "s")
    pause.go()
    code, errors = first.ended()
    assert code == 0, errors
    assert second.returncode == 2 and "another run" in second.stderr
    assert second.stderr.count("\n") == 1


def test_a_full_disk_ends_in_a_sentence_and_leaves_the_previous_output(mimic, tmp_path, tiny_mimic):
    """A real full disk: a small tmpfs, without the estimate that would refuse the run before."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    try:
        code, errors = Run(tiny_mimic, disk / "s", any_space=True).ended()
        assert code == 0, errors
        before = folder_bytes(disk / "s" / "subjects")
        second = Run(mimic, disk / "s", "--replace-patients", any_space=True)
        code, errors = second.ended()
        assert code == 2 and "is full" in errors and "Traceback" not in errors
        assert folder_bytes(disk / "s" / "subjects") == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_too_little_space_is_refused_before_the_start(run, mimic, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    sources = tables.find(mimic)
    with pytest.raises(UserError, match=r"0\.0 GB free"):
        conversion.check_space(sources, 1.0, tmp_path)
    conversion.check_space(sources, 0.0, tmp_path)  # as little as that needs none
    with open(tmp_path / "left by a run that was killed", "wb") as file:
        file.truncate(1 << 40)
    conversion.check_space(sources, 1.0, tmp_path)
