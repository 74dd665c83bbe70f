"""A port for a server of a test."""

import contextlib
import random
import socket


def free_port() -> int:
    """Return a port that nobody listens on.

    It lies below those that systems give to outgoing connections, which might take it meanwhile.
    """
    draw = random.SystemRandom()  # tests may seed the other
    while True:
        port = draw.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
