"""Draws by hash: random, but the same for the same key on every machine and in every run."""

import hashlib
from collections.abc import Iterable
from typing import TypeVar

Id = TypeVar("Id", int, str)


def pick(key: str, n: int) -> int:
    """Return a whole number below n, drawn by `key`."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % n


def order(ids: Iterable[Id], purpose: str, seed: int) -> list[Id]:
    """Return the ids in random order. Orders of one seed for two purposes are independent."""
    key = f"{purpose}:{seed}".encode()

    def rank(identifier: Id) -> bytes:
        return hashlib.blake2b(str(identifier).encode(), key=key, digest_size=16).digest()

    return sorted(ids, key=rank)
