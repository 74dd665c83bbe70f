"""The web server of the review page."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvicorn

from mimic_qlora.review import site
from mimic_qlora.review.items import Item
from mimic_qlora.review.store import Store
from mimic_qlora.step import ssh


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
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("\nStopped. All marks are kept; the same command goes on with them.")
