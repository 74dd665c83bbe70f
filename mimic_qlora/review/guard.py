"""The guard of the review page: its own browser tab gets in, over loopback or a private socket.

Every response says what the browser may do with it.
"""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mimic_qlora.step.errors import UserError

LARGEST = 200_000  # bytes of a request; the longest comment or edited text is well below it
HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # with no-referrer a form's Origin would be "null"
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",  # no patient text in the laptop's cache
}


class Guard:
    """ASGI middleware that refuses requests for another host (DNS rebinding) or from another origin
    (forged forms), and adds HEADERS to every response.

    It is for HTTP alone: review.py turns websockets off. `port` is the one in the rater's browser,
    where the SSH tunnel begins.
    """

    def __init__(self, app: ASGIApp, port: int):
        self.app = app
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        refusal = self.refusal(scope["method"], scope["headers"])
        answer: ASGIApp = PlainTextResponse(refusal, 403) if refusal else self.app
        await answer(scope, receive, send_with_headers)

    def refusal(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return why a request is refused, or None."""
        given: dict[str, list[str]] = {}
        for name, value in headers:
            given.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        host, origin = given.get("host", []), given.get("origin", [])
        if len(host) != 1 or host[0] not in self.hosts:
            return "This page answers only to the address that review.py printed.\n"
        if (
            given.get("sec-fetch-site", ["same-origin"])[0] not in ("same-origin", "none")
            and method != "GET"
        ):
            return "A request from another page was refused.\n"
        if (origin or method not in ("GET", "HEAD")) and origin != [f"http://{host[0]}"]:
            return "A request from another page was refused.\n"
        return None


def listen(port: int, path: Path | None) -> socket.socket:
    """Return a socket that listens on 127.0.0.1, or at `path` a Unix socket for its owner alone.

    Raises UserError when it is taken.
    """
    address: tuple[str, int] | str
    if path is None:
        # asyncio turns Nagle's delay (40 ms a page) off only for sockets with a named protocol
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name != "nt":  # on Windows this would let a second server share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = ("127.0.0.1", port)
    else:
        if not hasattr(socket, "AF_UNIX"):
            raise UserError("this system has no Unix sockets: leave --socket out")
        listener, address = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), str(path)
        _remove_dead(path)
    before = os.umask(0o177)
    try:
        listener.bind(address)
        listener.listen(64)
    except OSError as error:
        listener.close()
        where = f"port {port}" if path is None else str(path)
        other = "--port" if path is None else "--socket"
        raise UserError(
            f"{where} cannot be used ({error.strerror or error}): give another one with {other}"
        ) from None
    finally:
        os.umask(before)
    return listener


def _remove_dead(path: Path) -> None:
    """Remove the socket that a killed server left. One that answers, and any other file, stays."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink()
