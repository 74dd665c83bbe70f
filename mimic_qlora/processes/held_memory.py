"""The most memory that this process has held, without the pages of files that it mapped.

A model's file is mapped while it is loaded. Its pages are the system's, which drops them when
others need the room, but the peak that the system keeps (`ru_maxrss`) counts them: 14.1 GiB where a
run held 7.9.
"""

import sys
import threading
from pathlib import Path

STATUS = Path("/proc/self/status")
INTERVAL = 0.05  # seconds between two looks


class Watch:
    """Looks at this process's memory again and again, from `start` on; on Linux alone."""

    def __init__(self) -> None:
        """Begin without a thread."""
        self.most = 0  # bytes
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """Look from now on, and forget what was held before. A forked process has to start anew."""
        self.most = 0
        if held() is not None and (self.thread is None or not self.thread.is_alive()):
            self.thread = threading.Thread(target=self._look, name="held memory", daemon=True)
            self.thread.start()

    def _look(self) -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL):
            now = held() or 0  # first, so that no peak from before `start` is written after it
            self.most = max(self.most, now)


watch = Watch()


def held() -> int | None:
    """Return the bytes that this process holds now and no file backs; None but on Linux."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        sizes = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssShm")))
        return 1024 * sum(int(size.split()[0]) for size in sizes.values()) if sizes else None
    except (OSError, ValueError):
        return None


def peak() -> int:
    """Return the most bytes held since `watch` was started, or ever where that is not known."""
    now = held()
    if now is not None and watch.thread is not None:
        watch.most = max(watch.most, now)
        return watch.most
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset")  # noqa: B009  Windows alone
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
