"""Deliver step 7's results: a copy that outlives /tmp, and the command that fetches them."""

import getpass
import os
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path

from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import file_sha256, private_folder

TEMPORARY = None if os.name == "nt" else Path("/tmp")


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


def copy_to(place: Path, folder: Path) -> Path:
    """Copy the results into the storage folder: /tmp is wiped when a cluster job ends."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{folder.name.removeprefix('mimic_qlora_')}"
    kept = private_folder(place) / name
    partial = kept.with_name(f".{name}.partial")
    shutil.copytree(folder, partial)
    return partial.rename(kept)


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
            f"Results: {folder} (copy: {kept})",
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
