"""The web server of the review page."""

import contextlib
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from mimic_qlora.review import site
from mimic_qlora.review.items import Item
from mimic_qlora.review.store import Store
from mimic_qlora.step import ssh

LAST = 1  # seconds that requests have left to be answered in, once the page is to end


def way_in(store: Store, raters: Sequence[str], port: int, path: Path | None) -> list[str]:
    """Return the lines that tell raters how to get in: the SSH tunnel and a link each.

    The page listens on `port` of 127.0.0.1, or on the Unix socket at `path`.
    """
    here = f"127.0.0.1:{port}"
    return [
        "On the rater's own computer, leave this running:",
        f"  {ssh.route().tunnel(here, str(path or here))}",
        "and open the link there; it works once, in one browser, which then stays signed in:",
        *(f"  {rater}: http://{here}/#{store.sessions.new_token(rater)}" for rater in raters),
    ]


def run(
    store: Store, items: Mapping[int, Item], run_files: Path, port: int, listener: socket.socket
) -> None:
    """Answer requests on a listening socket until Ctrl-C. `port` is the one in the browser."""
    config = uvicorn.Config(
        site.build(store, items, run_files, port),
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        lifespan="off",
        # a tunnel that dropped amid a request would hold the page for ever
        timeout_graceful_shutdown=LAST,
    )
    server = uvicorn.Server(config)
    try:
        with _hangup_ends(server):
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        print("\nStopped. All marks are kept; the same command goes on with them.")


@contextlib.contextmanager
def _hangup_ends(server: uvicorn.Server) -> Iterator[None]:
    """Let a lost connection end the server in order, as it does by itself on SIGINT and SIGTERM.

    An exception in the midst of its loop may leave a thread for which the process waits for ever.
    The signal is raised again at the end of the block. An ignored one, as under nohup, stays so.
    """
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    before = hangup and signal.getsignal(hangup)
    if hangup is None or not callable(before):
        yield
        return
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        server.should_exit = True

    signal.signal(hangup, end)
    try:
        yield
    finally:
        signal.signal(hangup, before)
    if came:
        signal.raise_signal(hangup)
