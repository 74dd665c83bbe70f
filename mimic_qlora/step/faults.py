"""Faults of the machine in one sentence each: full disks, limits of a job, unusable files.

Libraries wrap the system's errors in errors of their own; what the system said is looked for in
the chain of causes and in the messages. The sentence names the disk, file or limit that it was.
"""

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mimic_qlora.step import limits, streams

_LEAST_FREE = 1 << 20  # bytes; a disk with less is full
_STORAGES: list[Path] = []  # storage folders that this process opened
_FOLDERS: list[Path] = []  # other folders into which it writes

# by kind: the system's numbers, and words of libraries that hide them
_SIGNS: dict[str, tuple[set[int], str]] = {
    "full": (
        {errno.ENOSPC, errno.EDQUOT},
        "No space left|os error 28\\b|Disk quota exceeded|disk is full|max_temp_directory_size|"
        "Not enough disk space",
    ),
    "files": ({errno.EMFILE, errno.ENFILE}, "Too many open files|os error 24\\b"),
    "large": ({errno.EFBIG}, "File too large"),
    "started": (
        {errno.EAGAIN},
        "can't start new thread|pthread_create|thread constructor failed|"
        "Resource temporarily unavailable",
    ),
    "memory": (
        {errno.ENOMEM},
        "Cannot allocate memory|can't allocate memory|bad_alloc|bad allocation|"
        "failed to map segment|[Oo]ut of [Mm]emory|unable to mmap|Unable to allocate|"
        "realloc of size|malloc of size",
    ),
}
_UNUSABLE = {  # of a file's disk, network or owner
    errno.EACCES,
    errno.EIO,
    errno.ENODEV,
    errno.ENXIO,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# what torch.distributed says when another process of a run is gone or too slow
_PEER = r"\bgloo\b|\bNCCL\b|Timed out waiting \d+ms|Connection closed by peer|TCPStore"
# what torch.save says when the system refused to write on; it hides the system's number
_TORCH_WRITES = r"unexpected pos \d+ vs \d+|PytorchStreamWriter"
_DUCKDB_OF_A_FILE = ("InvalidInputException", "IOException", "Error", "SerializationException")


def remember_storage(path: Path) -> None:
    """Note the storage folder of this process, whose disk may be the one that is full."""
    if path not in _STORAGES:
        _STORAGES.append(path)


def remember_folder(path: Path) -> None:
    """Note a folder that was named to this process, whose disk may be the one that is full."""
    if path not in _FOLDERS:
        _FOLDERS.append(path)


def sentence(error: BaseException) -> str | None:
    """Return a sentence for a fault that the user can remove, None for a fault of the software."""
    kind = _kind(error)
    if kind == "full":
        return full_disk(error)
    if isinstance(error, OSError) and error.filename == streams.STDOUT:
        return f"standard output cannot be written ({error.strerror}): send it to a file"
    if kind == "files":
        return (
            f"too many files are open: this shell allows {limits.open_files():,}; "
            "give `ulimit -n 1024` (or more) first"
        )
    if kind == "large":
        return (
            "a file would be larger than this shell or file system allows: "
            "give `ulimit -f unlimited` first, or ask for a larger limit"
        )
    if kind == "started":
        return f"no further process or thread can be started: {_limit_on_threads()}"
    if kind == "memory":
        return _too_little_memory(error)
    if type(error).__name__ == "BrokenProcessPool":
        return "a worker process was killed, most likely for lack of memory: try fewer --workers"
    if isinstance(error, RuntimeError) and re.search(_PEER, str(error)):
        return (
            "another process of this run has ended, or did not answer in time: see the error of "
            "the first that ended, then run the same command again"
        )
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("mimic_qlora"):
        return (
            f"{sys.executable} lacks the package {error.name}: activate the environment that has "
            "it (`source .venv/bin/activate`), or `pip install -r requirements.txt`"
        )
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return "no folder for temporary files can be written: give one with TMPDIR"
    if isinstance(error, OSError) and (
        error.filename or error.errno == errno.ENOENT or of_the_machine(error)
    ):
        name = next(iter(_paths_in(error)), None) or error.filename or "a file or disk"
        reason = os.strerror(error.errno) if error.errno else error.strerror or error
        if error.errno in (errno.EACCES, errno.EROFS) and _is_to_be_made(str(name)):
            return (
                f"{name} cannot be made ({reason}): make its folder writable, or give another place"
            )
        if error.errno == errno.EACCES and (forbidden := _forbidden(Path(name), reason)):
            return forbidden
        then = "or redo the step that wrote it"
        if of_the_machine(error):
            then = "and run the same command again"
        return f"{name} cannot be used ({reason}): fix that, {then}"
    return _unreadable_parquet(error)


def _is_to_be_made(path: str) -> bool:
    """Tell whether a path is not there, and not merely in a folder that nobody may look into."""
    return not os.path.lexists(path) and os.access(os.path.dirname(path) or ".", os.X_OK)


def _forbidden(path: Path, reason: object) -> str | None:
    """Return a sentence on the permission that a path lacks, None where that is not seen."""
    above = reversed(path.absolute().parents)
    asked = [(folder, os.X_OK, "looked into", "u+x") for folder in above]
    asked += [(path, os.R_OK, "read", "u+r"), (path, os.W_OK, "written", "u+w")]
    for one, mode, verb, change in asked:
        if os.path.lexists(one) and not os.access(one, mode):
            return f"{one} may not be {verb} ({reason}): `chmod {change}` it, or ask its owner to"
    return None


def of_the_machine(error: BaseException) -> bool:
    """Tell whether an error is the machine's, so that the file that was read may be whole."""
    numbers = [getattr(one, "errno", None) for one in _chain(error)]
    return _kind(error) is not None or not _UNUSABLE.isdisjoint(numbers)


def is_full(error: BaseException) -> bool:
    """Tell whether an error says that a disk is full, or a quota used up."""
    return _kind(error) == "full"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those that caused it."""
    one: BaseException | None = error
    for _ in range(5):
        if one is None:
            return
        yield one
        one = one.__cause__


def _kind(error: BaseException) -> str | None:
    """Return which of `_SIGNS` an error or one of its causes shows."""
    for one in _chain(error):
        if isinstance(one, MemoryError) or type(one).__name__ == "OutOfMemoryError":
            return "memory"
        if isinstance(one, RuntimeError) and re.search(_TORCH_WRITES, str(one)):
            at_a_limit = limits.has_file_limit() and not any(map(has_no_room, _STORAGES))
            return "large" if at_a_limit else "full"
        number = getattr(one, "errno", None)
        said = isinstance(one, (OSError, ImportError, RuntimeError)) or _library(one) in (
            "_duckdb",
            "pyarrow",
            "sqlite3",
            "safetensors",
            "safetensors_rust",
            "xgboost",
        )
        for kind, (numbers, words) in _SIGNS.items():
            # where the system gave a number it is not looked for in a message, which holds names
            if number in numbers or (number is None and said and re.search(words, str(one))):
                return kind
    return None


def _library(error: BaseException) -> str:
    return type(error).__module__.split(".")[0]


# ---------------------------------------------------------------- disks


def full_disk(error: BaseException) -> str:
    """Return a sentence that names the disk that is full.

    Call it before anything is tidied up, which would make room again.
    """
    if getattr(error, "filename", None) == streams.STDOUT:
        return "standard output cannot be written: its disk is full, or its quota used up"
    temporary = _temporary()
    named = [path for path in _paths_in(error) if path.is_absolute()]
    places = [*named, *_STORAGES, *_FOLDERS, temporary, Path.cwd()]
    # a quota leaves a disk with room, so that a file that the error names counts at once
    place = next(iter(named or filter(has_no_room, places)), None)
    if place is None:
        # a library may have asked for more than there is, and given back what it got
        least = sorted({path: _free(path) for path in places}.items(), key=lambda pair: pair[1])
        listed = " or ".join(f"{path} ({free / 1e6:,.0f} MB free)" for path, free in least)
        return f"a disk is full, or a quota used up: free some space in {listed}"
    owners = [*_STORAGES, temporary]
    same = [folder for folder in owners if _disk(place) == _disk(folder)]
    inside = [folder for folder in same if place.is_relative_to(folder)]
    owner = next(iter(inside or same), place)
    full = f"the disk of {owner} {': '.join(shortage(owner))}"
    if owner in _STORAGES:
        return f"{full} or give another --storage"
    if owner == temporary:
        return f"{full} there, or name another folder for temporary files with TMPDIR"
    return f"{full} there"


def _temporary() -> Path:
    """Return the folder for temporary files, also where it has no room for the trial of tempfile.

    Raises nothing.
    """
    given = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    fallback = next((path for path in given if path and os.path.isdir(path)), "/tmp")
    return Path(tempfile.tempdir or fallback)


def _paths_in(error: BaseException) -> Iterator[Path]:
    """Yield the files that an error or its causes name."""
    for one in _chain(error):
        for name in (getattr(one, "filename2", None), getattr(one, "filename", None)):
            if isinstance(name, (str, bytes)):
                yield Path(os.fsdecode(name))
        for name in re.findall(r"""['"](/[^'"\n]+)['"]""", str(one)):
            yield Path(name)


def has_no_room(path: Path) -> bool:
    """Tell whether the disk of a path has no room for a file."""
    return _lacks_bytes(path) or _lacks_inodes(path)


def shortage(path: Path) -> tuple[str, str]:
    """Word what a disk that takes no more is short of, and what to do."""
    if _lacks_inodes(path) and not _lacks_bytes(path):
        return "has no inode left for a further file (`df -i`)", "remove some files"
    return "is full, or its quota used up", "free some space"


def _lacks_bytes(path: Path) -> bool:
    found = _statvfs(path)
    return found is not None and found.f_bavail * found.f_frsize < _LEAST_FREE


def _lacks_inodes(path: Path) -> bool:
    found = _statvfs(path)
    # some file systems count none
    return found is not None and found.f_files > 0 and found.f_favail == 0


def _statvfs(path: Path) -> "os.statvfs_result | None":
    """Return what the system tells of a path's disk, None where it tells nothing."""
    try:
        return os.statvfs(_there(path))
    except (OSError, AttributeError):  # Windows has no statvfs
        return None


def _free(path: Path) -> int:
    """Return the bytes that a user may still write to the disk of a path."""
    try:
        return shutil.disk_usage(_there(path)).free
    except OSError:
        return 0


def _disk(path: Path) -> int | None:
    """Return the number of a path's disk."""
    try:
        return _there(path).stat().st_dev
    except OSError:
        return None


def _there(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next((one for one in (path, *path.parents) if one.exists()), path)


# ---------------------------------------------------------------- memory, Parquet


def _too_little_memory(error: BaseException) -> str:
    """Word that memory has run out, and by which limit."""
    if any("CUDA" in str(one) for one in _chain(error)):
        return "the GPU has too little free memory: free some, lower the batch, or use another"
    limit = limits.address_limit()
    allowed = (
        limits.addresses_in_words(limit)
        if limit
        else f"this process may use {limits.memory() / 1e9:.1f} GB"
    )
    return (
        f"memory has run out, {allowed}: ask for more, or give --memory or --workers less where "
        "the step has them"
    )


def _limit_on_threads() -> str:
    """Word which limit a thread ran into: each takes addresses too."""
    allowed = limits.address_limit()
    if allowed is not None and allowed < limits.ENOUGH_ADDRESSES:
        return f"{limits.addresses_in_words(allowed)}: raise it, or ask the scheduler for memory"
    return "raise the job's limit on processes (`ulimit -u`), or give fewer workers"


def _unreadable_parquet(error: BaseException) -> str | None:
    """Return what DuckDB could not do with a file of step 1, None for another error.

    DuckDB is not imported by every script; its bare Error means an unreadable page or footer.
    """
    if _library(error) != "_duckdb" or type(error).__name__ not in _DUCKDB_OF_A_FILE:
        return None
    from mimic_qlora.step.step_commands import command_for

    named = re.search(r"""['"]([^'"]+\.parquet)['"]""", str(error))
    kept_out = re.search("Permission denied|Input/output error|Stale file handle", str(error))
    if named and kept_out:
        return f"{named[1]} cannot be used ({kept_out[0]}): fix that and run the same command again"
    if not named and type(error).__name__ != "Error":
        return None
    what = named[1] if named else "a Parquet file of step 1"
    return f"{what} is damaged: run `{command_for('subjects')} --force` to write it again"
