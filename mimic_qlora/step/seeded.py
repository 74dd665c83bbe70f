"""Draws by hash: random, but the same for the same key on every machine and in every run."""

import hashlib


def pick(key: str, n: int) -> int:
    """A number below n, drawn by `key`."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % n


def order(ids, purpose: str, seed: int) -> list:
    """The ids in random order, another one for each purpose: two draws by one seed have nothing in common."""
    key = f"{purpose}:{seed}".encode()
    return sorted(
        ids, key=lambda i: hashlib.blake2b(str(i).encode(), key=key, digest_size=16).digest()
    )
