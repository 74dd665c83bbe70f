"""How step 7's results reach their user: a copy that outlives /tmp, and the line that fetches them."""

import getpass
import os
import shutil
import socket
import time
from pathlib import Path

from mimic_qlora.storage import file_sha256


def copy_to(place: Path, folder: Path) -> Path:
    """A copy in the storage folder: /tmp is wiped when a cluster job ends."""
    kept = place / f"{time.strftime('%Y%m%d-%H%M%S')}-{folder.name.removeprefix('mimic_qlora_')}"
    place.mkdir(mode=0o700, exist_ok=True)
    shutil.copytree(folder, kept.with_name(f".{kept.name}.partial"))
    return kept.with_name(f".{kept.name}.partial").rename(kept)


def farewell(folder: Path, kept: Path) -> str:
    """Where the results are, what identifies them, and the line that fetches them."""
    output = folder / "output.csv"
    port = os.environ.get("SSH_CONNECTION", "").split()[3:4]
    option = f"-P {port[0]} " if port and port[0] != "22" else ""
    return "\n".join([
        f"Results: {folder} (copy: {kept})",
        f"sha256 of output.csv: {file_sha256(output)}",
        "Fetch it, on your own machine, with:",
        f"  scp {option}{user()}@{host()}:{output} ./results/",
        "What comes from MIMIC-IV stays under its data use agreement: no third-party services.",
    ])  # fmt: skip


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return os.environ.get("LOGNAME", "user")


def host() -> str:
    """What another machine may reach this one by: its name, or the SSH session's address if the name has no domain."""
    name, address = socket.getfqdn(), os.environ.get("SSH_CONNECTION", "").split()[2:3]
    if "." in name and not name.startswith("localhost"):
        return name
    if address:
        return f"[{address[0]}]" if ":" in address[0] else address[0]
    return socket.gethostname()
