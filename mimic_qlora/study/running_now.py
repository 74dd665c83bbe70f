"""Who holds the lock of a step's folder now, told without taking it."""

import os
from pathlib import Path

_LOCKS = Path("/proc/locks")  # Linux: the locks of all processes that can be seen from here


def holder(place: Path) -> str:
    """Return who writes a folder: "process 71" or "process 71 on the host a"; "" if nobody does.

    Where the system does not list its locks (macOS), and for locks of other machines, nobody can
    be told, unless a file stands in for the lock.
    """
    path = place.with_name(f".{place.name}.lock")
    instead = path.with_name(f"{path.name}.held")
    try:
        process, host, *_ = instead.read_text(encoding="utf-8", errors="replace").split("\n")
        return f"process {process} on the host {host.split('?pidns-')[0]}"
    except (OSError, ValueError):
        pass
    try:
        status = path.stat()
        lines = _LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        words = line.split()
        if "->" not in words and device in words:
            return f"process {words[words.index(device) - 1]}"
    return ""
