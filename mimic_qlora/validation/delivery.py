"""Deliver step 7's results: a copy that outlives /tmp, and the command that fetches them."""

import contextlib
import getpass
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.step import faults
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import file_sha256, private_folder

TEMPORARY = None if os.name == "nt" else Path("/tmp")


class Kept(NamedTuple):
    """The results in the storage folder: the folder that is being written, and its place."""

    partial: Path
    place: Path


def fresh_folder() -> Path:
    """Make a folder under /tmp whose name nobody can guess and that only its owner can read.

    Raises UserError where other users could replace it: all may write to /tmp and it is not sticky.
    """
    if TEMPORARY:
        mode = TEMPORARY.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UserError(
                f"{TEMPORARY} lets every user replace the files of others: "
                f"ask for `chmod 1777 {TEMPORARY}`"
            )
    return Path(tempfile.mkdtemp(prefix="mimic_qlora_", dir=TEMPORARY))


@contextlib.contextmanager
def kept_results(place: Path) -> Iterator[Kept]:
    """Yield a new folder among the results in the storage folder, whole when the block ends well.

    They are written here first, since /tmp may be full, and is wiped when a cluster job ends.
    """
    partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=private_folder(place)))
    secret = partial.name.removeprefix(".").removesuffix(".partial")
    kept = Kept(partial, place / f"{time.strftime('%Y%m%d-%H%M%S')}-{secret}")
    try:
        yield kept
        partial.rename(kept.place)
    except BaseException as error:
        full = faults.full_disk(error) if faults.is_full(error) else ""
        shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise UserError(full) from error
        raise


def copy_to_temporary(kept: Path) -> Path:
    """Copy the results to a new folder under /tmp and return it.

    Where /tmp has no room or cannot be used, nothing of them stays there; the user is told, and
    `kept` is returned.
    """
    folder = None
    try:
        folder = fresh_folder()
        for path in kept.iterdir():
            shutil.copyfile(path, folder / path.name)
        return folder
    except BaseException as error:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, (OSError, UserError)):
            raise
        reason = getattr(error, "strerror", None) or str(error)
    where = TEMPORARY or tempfile.gettempdir()
    print(
        f"warning: {where} cannot take a copy of the results ({reason}): "
        f"they are in {kept}, and nothing of them is in {where}",
        file=sys.stderr,
    )
    return kept


def farewell(folder: Path, kept: Path, jump: str | None) -> str:
    """Return where the results are, their hash, and the command that fetches them.

    It goes by way of the host `jump` where one is given; a job on a cluster's node is reached
    through the host that it was submitted from.
    """
    output = folder / "output.csv"
    port = os.environ.get("SSH_CONNECTION", "").split()[3:4]
    login = os.environ.get("SLURM_SUBMIT_HOST") or os.environ.get("PBS_O_HOST")
    if not jump and login and login.split(".")[0] != host().split(".")[0]:
        jump = f"{user()}@{login}"
    options = (f"-J {jump} " if jump else "") + (
        f"-P {port[0]} " if port and port[0] != "22" else ""
    )
    return "\n".join(
        [
            f"Results: {folder} (copy: {kept})" if folder != kept else f"Results: {kept}",
            f"sha256 of output.csv: {file_sha256(output)}",
            "Fetch it, on your own machine, with one of:",
            f"  scp {options}{user()}@{host()}:{output} ./results/",
            f"  scp -r {options}{user()}@{host()}:{folder} ./results/    "
            "(all of it, report.html too)",
            "What comes from MIMIC-IV stays under its data use agreement: no third-party services.",
        ]
    )


def user() -> str:
    """Return the name of the user who runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return os.environ.get("LOGNAME", "user")


def host() -> str:
    """Return what another machine may reach this one by.

    That is its name, or the SSH session's address if the name has no domain.
    """
    name, address = socket.getfqdn(), os.environ.get("SSH_CONNECTION", "").split()[2:3]
    if "." in name and not name.startswith("localhost"):
        return name
    if address:
        return f"[{address[0]}]" if ":" in address[0] else address[0]
    return socket.gethostname()
