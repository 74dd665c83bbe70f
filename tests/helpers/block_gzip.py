"""Files as bgzip writes them: blocks of gzip, each with its own size in its head."""

import struct
import zlib

EMPTY = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def packed(data: bytes, block: int) -> bytes:
    """Pack data in blocks of `block` unpacked bytes, and the empty one at the end."""
    parts = (data[at : at + block] for at in range(0, len(data), block))
    return b"".join(map(_block, parts)) + EMPTY


def _block(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    head = bytes.fromhex("1f8b08040000000000ff060042430200") + struct.pack("<H", len(body) + 25)
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))
