"""Locks on file systems that have none, and who is named where one is held.

No such file system can be mounted here: `flock` fails as the kernel lets it fail there.
"""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import locks
from mimic_qlora.step.errors import UserError

fcntl = pytest.importorskip("fcntl", reason="Windows locks otherwise")

HOLD = """
import errno, fcntl, sys
from pathlib import Path
from mimic_qlora.step import locks
def fails(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = fails
with locks.hold(Path(sys.argv[1]) / "features", "python x.py"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=os.strerror)
def no_flock(request, monkeypatch):
    def flock(fd, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    locks._say_soft.cache_clear()


def try_lock(folder):
    with locks.hold(folder / "features", "python x.py"):
        pass


def test_a_file_stands_in_and_that_is_said_once(tmp_path, no_flock, capsys):
    for _ in range(3):
        with locks.hold(tmp_path / "features", "python x.py"):
            held = (tmp_path / ".features.lock.held").read_text().split("\n")
            assert held[0] == str(os.getpid()) and held[1].startswith(socket.gethostname())
            assert (tmp_path / ".features.lock.held").stat().st_mode & 0o777 == 0o600
        assert not (tmp_path / ".features.lock.held").exists()
    said = capsys.readouterr().err
    assert said.count("has no locks") == 1 and said.count("\n") == 1


def test_a_second_run_is_kept_out_and_a_dead_one_is_not_in_the_way(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        said = f"another run of `python x.py` .* process {holder.pid} on the host"
        with pytest.raises(UserError, match=said):  # also where this process has locks
            try_lock(tmp_path)
        second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, input="")
        assert second.returncode == 1 and "another run of `python x.py`" in second.stderr
        holder.kill()
    assert (tmp_path / ".features.lock.held").exists()
    third = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, input="")
    assert third.stdout == "held\n" and third.returncode == 0
    try_lock(tmp_path)


@pytest.mark.parametrize("here", ["with locks", "without"])
def test_a_lock_of_another_host_names_host_process_and_file(tmp_path, here, request):
    if here == "without":
        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(38, "no")))
    held = tmp_path / ".features.lock.held"
    held.write_text("4711\nnode12.cluster\n")
    with pytest.raises(UserError) as error:
        try_lock(tmp_path)
    said = str(error.value)
    assert "process 4711 on the host node12.cluster" in said and f"remove {held}" in said
    held.unlink()
    try_lock(tmp_path)


def test_a_file_of_a_dead_process_of_this_host_is_taken_over(tmp_path, no_flock):
    from filelock import SoftFileLock

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with SoftFileLock(tmp_path / ".features.lock.held"):
        record = (tmp_path / ".features.lock.held").read_text().split("\n")
    (tmp_path / ".features.lock.held").write_text(f"{ended.pid}\n{record[1]}\n")
    try_lock(tmp_path)
    assert not (tmp_path / ".features.lock.held").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EROFS])
def test_another_error_of_a_lock_is_not_taken_for_another_run(tmp_path, monkeypatch, number):
    def flock(fd, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError) as error:
        try_lock(tmp_path)
    assert os.strerror(number) in str(error.value) and ".features.lock" in str(error.value)
    assert "another run" not in str(error.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system without files here")
def test_a_folder_that_takes_no_file_is_not_taken_for_another_run():
    with pytest.raises(UserError, match=r"lock file /proc/.features.lock cannot be used"):
        try_lock(Path("/proc"))


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / ".features.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=".features.lock is no lock but a link"):
        try_lock(tmp_path)
    assert not (tmp_path / "elsewhere").exists()
