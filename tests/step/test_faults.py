"""The true cause of a fault of the machine: which disk, which limit, which file."""

import errno
import importlib
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import faults, limits, storage
from mimic_qlora.step.errors import UserError

RUN = """
import sys
from pathlib import Path
from mimic_qlora.step import command_line, storage
def main():
    {body}
command_line.run(main)
"""


def leave(body: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | options.pop("env", {})
    command = [sys.executable, "-c", RUN.format(body=body)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600, **options
    )


def one_sentence(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    "said",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer",
        "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 45000ms for recv operation",
        "NCCL error in: ProcessGroupNCCL.cpp:1970, remote process exited or there was a network",
    ],
)
def test_a_process_that_lost_the_others_says_so(said):
    assert "another process of this run has ended" in faults.sentence(RuntimeError(said))
    assert faults.sentence(RuntimeError("shape mismatch")) is None


# ---------------------------------------------------------------- disks


@pytest.fixture(scope="module")
def mounted(tmp_path_factory):
    """A real disk of 64 kB; skipped where none may be mounted."""
    place = tmp_path_factory.mktemp("tiny")
    mount = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "tmpfs", str(place)],
        capture_output=True,
    )
    if not mount or mount.returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def tiny_disk(mounted):
    """The disk, with room for a page or two."""
    yield mounted
    for path in mounted.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


FILL = "(Path({place!r}) / 'a').write_bytes(bytes(1 << 20))"
KEPT_OPEN = "open({place!r} + '/b', 'wb').write(bytes(1 << 20))"


def test_a_full_temporary_folder_is_named_and_not_the_storage(tiny_disk, tmp_path):
    store = str(tmp_path)
    body = f"storage.open_storage({store!r}); {KEPT_OPEN.format(place=str(tiny_disk))}"
    said = one_sentence(leave(body, env={"TMPDIR": str(tiny_disk)}))
    assert f"the disk of {tiny_disk} is full" in said and "TMPDIR" in said
    assert "--storage" not in said


def test_a_full_storage_is_named_though_what_was_begun_is_removed(tiny_disk):
    store = tiny_disk / "storage"
    body = (
        f"s = storage.open_storage({str(store)!r}, create=True)\n"
        "    with storage.step_output(s, 'features', {{}}, {{}}) as out:\n"
        "        (out.path / 'a').write_bytes(bytes(1 << 20))"
    ).replace("{{}}", "{}")
    said = one_sentence(leave(body))
    assert f"the disk of {store} is full" in said and "another --storage" in said
    assert not list(store.glob(".*.partial")) and not (store / "features").exists()


def test_a_disk_without_inodes_is_not_called_full(monkeypatch, tmp_path):
    """As scratch disks of clusters allow so many files: space that is freed would not help."""
    monkeypatch.setattr(faults, "_STORAGES", [tmp_path])
    left = SimpleNamespace(f_bavail=10**9, f_frsize=4096, f_files=9, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: left)
    said = faults.sentence(OSError(errno.ENOSPC, "No space left", str(tmp_path / "a")))
    asked = "remove some files or give another --storage"
    assert said == f"the disk of {tmp_path} has no inode left for a further file (`df -i`): {asked}"


def test_another_full_disk_is_named_by_its_file(tiny_disk, tmp_path):
    body = f"storage.open_storage({str(tmp_path)!r}); {FILL.format(place=str(tiny_disk))}"
    # write() names no file in its error: the folder that the process works in is the full one
    command = f"import os; os.chdir({str(tiny_disk)!r}); {body}"
    said = one_sentence(leave(command))
    assert str(tiny_disk) in said and str(tmp_path) + " is full" not in said


def test_where_several_disks_have_room_the_smallest_is_named_first(tiny_disk, tmp_path):
    """As safetensors asks for the room of a whole file: it gets none, and the disk is empty."""
    body = (
        "import errno; from mimic_qlora.step import faults\n"
        f"    faults.remember_folder(Path({str(tiny_disk)!r}))\n"
        f"    storage.open_storage({str(tmp_path)!r}); faults._LEAST_FREE = 0\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device')"
    )
    said = one_sentence(leave(body, env={"TMPDIR": str(tmp_path)}))
    assert re.search(rf"free some space in {tiny_disk} \(0 MB free\) or {tmp_path} \(", said)


def test_the_disk_of_a_folder_that_was_named_is_looked_at(tiny_disk, tmp_path):
    """SQLite names no file; neither the storage folder nor /tmp is full."""
    body = (
        f"from mimic_qlora.step import faults; p = Path({str(tiny_disk)!r})\n"
        "    faults.remember_folder(p)\n"
        f"    storage.open_storage({str(tmp_path)!r})\n"
        "    import sqlite3; raise sqlite3.OperationalError('database or disk is full')"
    )
    assert f"the disk of {tiny_disk} is full" in one_sentence(leave(body))


WRAPPED = {
    "Arrow": ("pyarrow.lib", "ArrowInvalid", "IOError: No space left on device"),
    "DuckDB": ("_duckdb", "IOException", "IO Error: could not write: No space left on device"),
    "SQLite": ("sqlite3", "OperationalError", "database or disk is full"),
}


def error_of(library: str, name: str, message: str) -> Exception:
    """An error as a library raises it, whose cause cannot be made here."""
    return type(name, (Exception,), {"__module__": library})(message)


@pytest.mark.parametrize("library", WRAPPED)
def test_a_full_disk_is_seen_through_a_library(library):
    assert "disk" in faults.sentence(error_of(*WRAPPED[library]))


def test_a_full_disk_is_seen_through_safetensors(tiny_disk):
    """As export_adapter.py writes the weights of a merged model."""
    body = (
        f"s = storage.open_storage({str(tiny_disk / 'storage')!r}, create=True)\n"
        "    import numpy; from safetensors.numpy import save_file\n"
        "    save_file({'a': numpy.zeros(1 << 20)}, s / 'model.safetensors')"
    )
    assert f"the disk of {tiny_disk / 'storage'} is full" in one_sentence(leave(body))


def test_what_cannot_be_made_is_not_said_to_be_there(tmp_path):
    for number in (errno.EACCES, errno.EROFS):
        new = PermissionError(number, "no", str(tmp_path / "storage"))
        assert "storage cannot be made (" in faults.sentence(new)
        there = PermissionError(number, "no", str(tmp_path))
        assert "cannot be used (" in faults.sentence(there)
    unseen = PermissionError(errno.EACCES, "no", str(tmp_path / "closed" / "storage"))
    assert "cannot be used (" in faults.sentence(unseen)


@pytest.mark.parametrize(
    ("lacking", "mode", "says"),
    [
        ("", os.X_OK, "looked into (Permission denied): `chmod u+x` it"),
        ("ids.txt", os.R_OK, "read (Permission denied): `chmod u+r` it"),
        ("ids.txt", os.W_OK, "written (Permission denied): `chmod u+w` it"),
    ],
)
def test_a_permission_that_is_lacking_is_named(tmp_path, monkeypatch, lacking, mode, says):
    """As of --subjects-file, labels or a plan, which no step wrote; root may all."""
    (tmp_path / "ids.txt").touch()
    denied = (tmp_path / lacking, mode)
    monkeypatch.setattr(os, "access", lambda path, asked: (path, asked) != denied)
    error = PermissionError(errno.EACCES, "no", str(tmp_path / "ids.txt"))
    said = f"{denied[0]} may not be {says}, or ask its owner to"
    assert faults.sentence(error) == said


def test_a_name_in_a_message_is_no_sign():
    assert faults.sentence(ValueError("No space left on device")) is None
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "Too many open files.csv")
    assert "cannot be used (No such file" in faults.sentence(error)
    unnamed = FileNotFoundError(errno.ENOENT, "Failed to open local file '/s/a.parquet'")  # pyarrow
    assert "cannot be used (No such file" in faults.sentence(unnamed)


# ---------------------------------------------------------------- limits of the shell


def limited(body: str, **soft: int) -> subprocess.CompletedProcess:
    import resource

    def apply():
        for name, value in soft.items():
            which = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(which, (value, value))

    return leave(body, preexec_fn=apply)


posix = pytest.mark.skipif(os.name == "nt", reason="the limits of POSIX")


@posix
def test_too_little_address_space_names_its_limit():
    said = one_sentence(limited("bytearray(2 << 30)", AS=1 << 30))
    assert "memory has run out, `ulimit -v` allows 1.1 GB" in said


@posix
def test_an_address_space_in_which_libraries_hang_or_crash_is_refused_at_once():
    """OpenBLAS asks for its memory again and again, and hears no signal."""
    said = one_sentence(limited("import scipy.linalg", AS=400_000_000))
    assert "`ulimit -v` allows 0.4 GB of addresses, and the steps need 3," in said


@posix
@pytest.mark.parametrize("library", ["pyarrow", "numpy", "duckdb"])
def test_a_library_without_memory_is_no_fault_of_the_software(library):
    bodies = {
        "pyarrow": "import pyarrow as pa; pa.allocate_buffer(8 << 30)",
        "numpy": "import numpy; numpy.ones(1 << 30)",
        "duckdb": "import duckdb; duckdb.connect(config={'memory_limit': '20MB', "
        "'temp_directory': ''}).execute('SELECT list(range) FROM range(20000000)')",
    }
    soft = {} if library == "duckdb" else {"AS": 4 << 30}
    assert "memory has run out" in one_sentence(limited(bodies[library], **soft))


@posix
def test_a_file_that_may_not_grow_names_its_limit(tmp_path):
    body = f"open({str(tmp_path / 'a')!r}, 'wb').write(bytes(1 << 20))"
    assert "`ulimit -f unlimited`" in one_sentence(limited(body, FSIZE=4096))


@posix
def test_a_file_of_weights_that_may_not_grow_names_its_limit(tmp_path):
    """A real error of safetensors, which has no number of the system and another module by now."""
    weights = f"{{'a': numpy.zeros(9999)}}, {str(tmp_path / 'a')!r}"
    body = f"import numpy, safetensors.numpy; safetensors.numpy.save_file({weights})"
    assert "`ulimit -f unlimited`" in one_sentence(limited(body, FSIZE=4096))


TORCH_SAYS = "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"


def test_a_checkpoint_that_does_not_fit_on_the_disk_names_the_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(faults, "_STORAGES", [tmp_path])
    monkeypatch.setattr(faults, "has_no_room", lambda path: path == tmp_path)
    assert f"the disk of {tmp_path} is full" in faults.sentence(RuntimeError(TORCH_SAYS))


@posix
def test_a_checkpoint_that_may_not_grow_names_its_limit(tmp_path):
    """A real error of torch.save, which hides the system's number."""
    body = f"import torch; torch.save(torch.zeros(99999), {str(tmp_path / 'a')!r})"
    assert "`ulimit -f unlimited`" in one_sentence(limited(body, FSIZE=4096))


@posix
def test_too_many_open_files_name_their_limit(tmp_path):
    body = f"files = [open({str(tmp_path)!r} + f'/{{i}}', 'w') for i in range(300)]"
    assert "`ulimit -n 1024`" in one_sentence(limited(body, NOFILE=256))


@posix
def test_a_temporary_folder_that_nobody_can_write_is_named(tmp_path):
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert "TMPDIR" in faults.sentence(error)


# ---------------------------------------------------------------- Parquet


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ('IO Error: Cannot open file "/s/a.parquet": Permission denied', "Permission denied"),
        ('IO Error: Cannot open file "/s/a.parquet": Too many open files', "ulimit -n"),
        ('IO Error: Could not read "/s/a.parquet": Input/output error', "Input/output error"),
        ("Invalid Input Error: No magic bytes found at end of file '/s/a.parquet'", "is damaged"),
    ],
)
def test_only_a_damaged_parquet_file_is_called_damaged(message, says):
    kind = "InvalidInputException" if "magic" in message else "IOException"
    said = faults.sentence(error_of("_duckdb", kind, message))
    assert says in said and ("damaged" in said) == (says == "is damaged")


def test_a_python_without_the_packages_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # as where it is not installed
    with pytest.raises(ModuleNotFoundError) as raised:
        importlib.import_module("tqdm")
    said = faults.sentence(raised.value)
    assert said.startswith(f"{sys.executable} lacks the package tqdm: activate")


def test_an_error_of_a_cause_counts():
    try:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as cause:
            raise RuntimeError("a library failed") from cause
    except RuntimeError as error:
        assert "ulimit -n" in faults.sentence(error)


def test_a_step_raises_the_disk_of_its_fault_as_an_error_of_the_user(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a"))
    storage.open_storage(str(tmp_path))
    with (
        pytest.raises(UserError, match="is full"),
        storage.step_output(tmp_path, "features", {}, {}),
    ):
        raise full


@posix
@pytest.mark.parametrize(
    ("addresses", "named"), [(None, "-u"), (limits.ENOUGH_ADDRESSES, "-u"), (1_200_000_000, "-v")]
)
def test_a_process_that_cannot_be_started_names_the_limit(monkeypatch, addresses, named):
    """As fork() fails under `ulimit -u`, which does not bind root, or under a low `ulimit -v`."""
    monkeypatch.setattr(limits, "address_limit", lambda: addresses)
    of_fork = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    for error in (of_fork, RuntimeError("can't start new thread")):
        assert re.findall("`ulimit (.+?)`", faults.sentence(error)) == [named]


def test_a_terminal_that_went_away_is_named():
    error = OSError(errno.EIO, "Input/output error", "standard output")
    assert faults.sentence(error).startswith("standard output cannot be written (Input/output")
