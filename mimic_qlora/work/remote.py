"""What runs on a worker of a cluster: a task with its errors caught, and what a worker is.

An error is a result here: a worker writes the arguments of a task that fails into its log.
"""

import functools
import hashlib
import ipaddress
import os
import platform
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from mimic_qlora.step import limits

PACKAGE = Path(__file__).parent.parent
LIBRARIES = ("isal", "numpy", "orjson", "pyarrow")  # those that shape the bytes of an output


class Outcome(NamedTuple):
    """The result of a task, or its error."""

    value: Any
    error: Exception | None
    worker: str  # its address
    differing: str = ""  # how its versions differ from the command's; then it did nothing


class About(NamedTuple):
    """A worker, as it describes itself."""

    versions: dict[str, str]
    missing: list[str]  # folders that it does not see
    dashboard: str  # the address of its pages, "" where there are none


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of libraries, and a hash of this software's files."""
    total = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    found = {name: version(name) for name in LIBRARIES}
    return {"mimic_qlora": total.hexdigest()[:12], "python": platform.python_version(), **found}


def difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """Return which versions differ, "" where none does."""
    names = [name for name in expected if found.get(name) != expected[name]]
    return ", ".join(f"{name} {found.get(name)} and not {expected[name]}" for name in names)


def call(
    expected: dict[str, str],
    prepare: Callable[[], None],
    task: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Outcome:
    """Do a task, if this worker has the versions of the command that gives it."""
    import distributed

    worker = str(distributed.get_worker().address)
    if differing := difference(expected, versions()):
        return Outcome(None, None, worker, differing)
    os.umask(0o077)
    limits.raise_open_files()
    prepare()
    try:
        return Outcome(task(*arguments), None, worker)
    except Exception as error:
        return Outcome(None, error, worker)


def about(folders: Collection[str], dask_worker: Any = None) -> About:
    """Describe this worker, and which of the folders it does not see."""
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    return About(versions(), missing, _dashboard(dask_worker))


def dashboard(dask_scheduler: Any = None) -> str:
    """Return the address of the scheduler's pages."""
    return _dashboard(dask_scheduler)


def _dashboard(server: Any) -> str:
    return str(getattr(getattr(server, "http_server", None), "address", ""))


def is_here(host: str) -> bool:
    """Tell whether a host is this one alone, as others cannot reach it."""
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
