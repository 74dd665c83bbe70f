"""The lock of a folder: it keeps a second run out, on file systems without locks too.

The system's lock ends with its process. Lustre mounted without `flock`, and NFS without a lock
daemon, have none; there a file that names host and process takes its place. One whose process is
dead is taken over on its own host; another host cannot tell.
"""

import contextlib
import errno
import functools
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mimic_qlora.step import files, terminal
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

# what a file system without locks answers
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@contextlib.contextmanager
def hold(place: Path, command: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of `place`, which `command` writes: `.<name>.lock` beside it.

    Raises UserError if another run still holds it after `wait` seconds, or if the lock file cannot
    be used.
    """
    path = place.with_name(f".{place.name}.lock")
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        lock = _acquired(path, place, command, wait)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
            raise
        raise UserError(
            f"the lock file {error.filename or path} cannot be used ({error.strerror or error}): "
            "fix that, or remove it if nothing is running"
        ) from None
    try:
        yield
    finally:
        lock.release()


def are_there(path: Path) -> bool:
    """Tell whether the file system of a file has the locks of POSIX, which SQLite needs."""
    try:
        import fcntl
    except ImportError:  # Windows has locks of its own
        return True
    with open(path, "rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_UN)
        except OSError as error:
            return error.errno not in NO_LOCKS
    return True


def _acquired(path: Path, place: Path, command: str, wait: float) -> "BaseFileLock":
    """Return the lock, held: the system's, else a file. Raises UserError if another run holds it.

    Another machine may see no locks where this one has them, so that a file of its counts too.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # 50 ms that `--help` need not wait for

    instead = path.with_name(f"{path.name}.held")
    for file in (path, instead):
        _check(file)
    soft = SoftFileLock(instead, timeout=wait, mode=files.PRIVATE)
    lock: BaseFileLock = FileLock(path, timeout=wait, mode=files.PRIVATE, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        if not path.exists():  # filelock tries again where no file can be made
            raise FileNotFoundError(errno.ENOENT, "no file can be made there", path) from None
        raise UserError(
            f"another run of `{command}` is writing {place}: wait for it or stop it"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock = soft
    try:
        if lock is soft or instead.exists():
            soft.acquire()
    except Timeout:
        lock.release(force=True)
        raise UserError(_busy(instead, place, command)) from None
    except BaseException:
        lock.release(force=True)
        raise
    if lock is soft:
        _say_soft(place.parent)
    else:
        soft.release(force=True)
    return lock


def _check(path: Path) -> None:
    """Raise UserError if something else than a lock was put in its place.

    Earlier releases of filelock empty what a link points to.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    linked = status.st_nlink > 1 and status.st_size > 0
    if not stat.S_ISREG(status.st_mode) or linked:
        raise UserError(
            f"{path} is no lock but a link, a folder or another file: find out who put it there "
            "and remove it"
        )


def _busy(instead: Path, place: Path, command: str) -> str:
    """Word who holds a lock file: the process and host that it names."""
    try:
        process, host, *_ = instead.read_text(encoding="utf-8", errors="replace").split("\n")
    except (OSError, ValueError):
        process, host = "?", "?"
    host = host.split("?pidns-")[0]  # filelock adds the container to the name of its host
    return (
        f"another run of `{command}` is writing {place}, process {process} on the host {host}: "
        f"wait for it or stop it; if it was killed there, remove {instead}"
    )


@functools.cache
def _say_soft(folder: Path) -> None:
    """Say, once for each folder, what stands in for a lock of the file system."""
    terminal.say_aside(
        f"note: the file system of {folder} has no locks (Lustre without `flock`, NFS without a "
        "lock daemon): a file .<step>.lock.held that names host and process stands in for one"
    )
