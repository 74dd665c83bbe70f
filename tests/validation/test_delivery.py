"""Results reach their user: private folders on a shared host, and the command to fetch them."""

import contextlib
import errno
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import errors, ssh
from mimic_qlora.validation import delivery, results

SCRIPTS = ROOT / "run_files"


OF_ROOT = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away"
)


@OF_ROOT
@pytest.mark.parametrize("place", ["validation", "validation/answers"])
def test_a_link_planted_where_answers_go_is_refused(run_validate, tmp_path, place):
    target, link = tmp_path / "of_the_attacker", run_validate.store / place
    target.mkdir()
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    os.chown(link, 12345, -1, follow_symlinks=False)
    code, out, err = run_validate("2", "--no-knowledge")
    assert code == 2 and f"{link} is another user's link" in err and not list(target.iterdir())


@OF_ROOT
def test_a_folder_of_another_user_is_refused(run_validate):
    place = run_validate.store / "validation"
    place.mkdir(mode=0o777)
    os.chown(place, 12345, -1)
    code, out, err = run_validate("2", "--no-knowledge")
    assert code == 2 and "another user's link or folder" in err and not list(place.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_a_tmp_in_which_others_can_swap_folders_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "TEMPORARY", tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(errors.UserError, match="chmod 1777"):
        delivery.fresh_folder()
    tmp_path.chmod(0o1777)
    assert len({delivery.fresh_folder() for _ in range(3)}) == 3
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("environment", "jump", "option"),
    [
        ({}, None, ""),
        ({}, "me@login.example", "-J me@login.example "),
        ({"SLURM_SUBMIT_HOST": "login1"}, None, "-J {user}@login1 "),
        ({"SLURM_SUBMIT_HOST": "node7.cluster"}, None, ""),
        (
            {"SLURM_SUBMIT_HOST": "login1", "SSH_CONNECTION": "1.2.3.4 5 6.7.8.9 2222"},
            "gate",
            "-J gate -P 2222 ",
        ),
    ],
)
def test_the_scp_line_goes_by_way_of_the_login_host(
    monkeypatch, tmp_path, environment, jump, option
):
    for name in ("SLURM_SUBMIT_HOST", "PBS_O_HOST", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "gethostname", lambda: "node7.cluster")
    (tmp_path / "output.csv").touch()
    option = option.format(user=ssh.user())
    assert (
        f"  mkdir -p results && scp {option}{ssh.user()}@node7.cluster:{tmp_path}/output.csv "
        "results/\n" in delivery.farewell(tmp_path, tmp_path, ssh.route(jump), SCRIPTS)
    )


@pytest.fixture
def tiny_tmp(tmp_path, monkeypatch):
    """A real /tmp of 16 kB; skipped where none may be mounted."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k,mode=1777", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    monkeypatch.setattr(delivery, "TEMPORARY", place)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def kept_in(store):
    return [path for path in (store / "validation").iterdir() if (path / "output.csv").exists()]


def test_a_full_tmp_is_named_and_the_results_are_in_the_storage_folder(run_validate, tiny_tmp):
    code, out, err = run_validate("8")
    assert code == 0 and f"warning: {tiny_tmp} cannot take a copy" in err
    assert "No space left" in err and "--storage" not in err
    (kept,) = kept_in(run_validate.store)
    assert f"Results: {kept}\n" in out and f":{kept}/output.csv" in out
    assert (kept / "report.html").exists() and not list(tiny_tmp.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_a_tmp_that_cannot_be_used_costs_no_results(run_validate, tmp_path, monkeypatch):
    place = tmp_path / "open_to_all"
    place.mkdir()
    place.chmod(0o777)
    monkeypatch.setattr(delivery, "TEMPORARY", place)
    code, out, err = run_validate("2", "--no-knowledge")
    assert code == 0 and "chmod 1777" in err and len(kept_in(run_validate.store)) == 1


@pytest.mark.parametrize("what", [KeyboardInterrupt, OSError])
def test_what_stops_the_copy_leaves_nothing_under_tmp(tmp_path, monkeypatch, what):
    kept, place = tmp_path / "kept", tmp_path / "tmp"
    kept.mkdir()
    place.mkdir(mode=0o700)
    for name in ("output.csv", "report.html"):
        (kept / name).write_text("patient data")
    monkeypatch.setattr(delivery, "TEMPORARY", place)
    copy, copied = shutil.copyfile, []

    def stop(source, target):
        if copied:
            raise what
        copied.append(copy(source, target))

    monkeypatch.setattr(shutil, "copyfile", stop)
    if what is OSError:
        assert delivery.copy_to_temporary(kept) == kept
    else:
        with pytest.raises(KeyboardInterrupt):
            delivery.copy_to_temporary(kept)
    assert copied and not list(place.iterdir()) and len(list(kept.iterdir())) == 2


def test_results_that_cannot_be_written_leave_nothing_half_written(tmp_path):
    (tmp_path / "storage").mkdir()
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(errors.UserError, match="disk"),
        delivery.kept_results(tmp_path / "storage" / "validation") as kept,
    ):
        (kept.partial / "output.csv").write_text("half")
        raise full
    assert not list((tmp_path / "storage" / "validation").iterdir())


def test_the_lines_of_the_end_are_commands_and_nothing_else(tmp_path):
    """A remark after a command would be run with it."""
    (tmp_path / "output.csv").touch()
    kept = tmp_path / "store" / "validation" / "1"
    told = delivery.farewell(tmp_path, kept, ssh.route(), SCRIPTS)
    commands = [line.strip() for line in told.splitlines() if line.startswith("  ")]
    assert [line.endswith(" results/") for line in commands] == [True, True, False, False, False]
    assert commands[2:] == [
        f"python {SCRIPTS / 'review.py'} --raters NAME --storage {tmp_path / 'store'}",
        f"python {SCRIPTS / 'label.py'} --results {kept}",
        f"rm -r {tmp_path}",
    ]
    assert f"Report: {tmp_path / 'report.html'}" in told


def test_a_jump_that_is_no_host_is_refused_before_anything_is_asked(run_validate):
    code, out, err = run_validate("2", "--jump", "x; rm -rf /")
    assert code == 2 and "--jump must be a host" in err and not out


def results_in(place, *names):
    for name in names:
        (place / name).mkdir(parents=True, exist_ok=True)
        (place / name / "results.jsonl").touch()
        (place / name / "output.csv").touch()


def test_the_newest_results_are_those_that_were_made_last_whatever_the_clock_says(
    tmp_path, monkeypatch
):
    store, made = tmp_path / "store", []
    results_in(store / "validation", "20990101-000000-of_an_earlier_version")
    for clock in ("20261128-113616", "20010909-014640", "20010909-014640"):
        monkeypatch.setattr(time, "strftime", lambda _, clock=clock: clock)
        with delivery.kept_results(store / "validation") as kept:
            results_in(kept.partial.parent, kept.partial.name)
        made.append(kept.place)
        assert results.newest(store) == made[-1]
    assert results.in_order(store)[1:] == made
    (made[-1] / results.NUMBER).write_text("no number")
    assert results.newest(store) == made[1]


def test_two_runs_that_end_at_once_get_two_numbers(tmp_path, monkeypatch):
    """The one that began later was taken for the newest."""
    real, both = results.number, threading.Barrier(2)

    def number(folder):
        found = real(folder)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        return found

    def deliver(name):
        with delivery.kept_results(tmp_path / "validation") as kept:
            results_in(kept.partial.parent, kept.partial.name)

    monkeypatch.setattr(results, "number", number)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(deliver, "ab"))
    assert sorted(map(real, results.in_order(tmp_path))) == [1, 2]


def test_a_copy_of_results_is_not_the_newest(tmp_path):
    names = "20250101-000000-a", "20250102-000000-b", "20250102-000000-b-backup", "copy of b"
    results_in(tmp_path / "validation", *names)
    for name, number in zip(names, "1222", strict=True):
        (tmp_path / "validation" / name / results.NUMBER).write_text(number)
    assert results.newest(tmp_path).name == "20250102-000000-b"
    assert results.in_order(tmp_path)[0].name == "20250101-000000-a"


@pytest.mark.parametrize("number", ["1", ""])
@pytest.mark.parametrize("copy", ["2025-01-02 before labels", "1-b", "zz", "20250102-000000-b x"])
def test_a_copy_is_not_the_newest_wherever_its_name_sorts(tmp_path, number, copy):
    """Labels and marks went into it, and with it when it was removed."""
    results_in(tmp_path / "validation", "20250102-000000-b", copy)
    for name in ("20250102-000000-b", copy):
        (tmp_path / "validation" / name / results.NUMBER).write_text(number)
    assert results.newest(tmp_path).name == "20250102-000000-b"


def test_of_results_without_numbers_the_last_by_name_is_the_newest(tmp_path):
    assert results.newest(tmp_path) is None
    results_in(tmp_path / "validation", "20250102-000000-b", "20250101-000000-c", ".x.partial")
    assert results.newest(tmp_path).name == "20250102-000000-b"
