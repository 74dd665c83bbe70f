"""The buckets of patients in which step 1 works: number, size, and the markers of finished ones.

A bucket holds patients with neighbouring subject_ids. It is the unit of memory, of resuming and of
parallel work. A table is never in memory as a whole, and a bucket's rows only while nesting.py
nests that bucket. Where there are more buckets than files may be open at once, several are one
coarse bucket until the tables are read. What is finished leaves a `.done.json` and is not redone.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from mimic_qlora.mimic.pieces import Piece
from mimic_qlora.mimic.tables import Source
from mimic_qlora.step import limits
from mimic_qlora.step.errors import GoesOn, UserError
from mimic_qlora.step.files import atomic_write, read_json

PATIENTS_PER_BUCKET = 1000
MIB_PER_BUCKET = 128  # of uncompressed CSV
MEMORY_PER_BUCKET = 8  # peak of nesting in sizes of a bucket's CSV; 6.5 measured, as buckets differ
PROCESS_BYTES = 128 << 20  # of a process before it holds a row
HELD_BYTES = 128 << 20  # of rows that wait to be written; sorting them takes about three times that
GZIP_RATIO = 10  # of MIMIC-IV's .csv.gz files, about

MOST_COARSE = 900  # buckets, or coarse ones, whose files a task has open
OTHER_FILES = 100  # open at once: libraries, the table that is read, standard streams


def use_system_allocator() -> None:
    """Let Arrow allocate by malloc in this process.

    Arrow's own pool hands memory back to the system all the time: a sixth of step 1's CPU time went
    into page faults.
    """
    pa.set_memory_pool(pa.system_memory_pool())


def unpacked_bytes(source: Source) -> int:
    """Return the bytes of CSV in a table, those in a .gz estimated."""
    return sum(unpacked_piece(Piece(path)) for path in source.files)


def unpacked_piece(piece: Piece) -> int:
    """Return the bytes of CSV in a piece; of a .gz estimated from its size and its last four bytes.

    These hold the unpacked size modulo 4 GiB, of the last member alone if the file has several.
    """
    packed = piece.stored_bytes()
    if piece.path.suffix != ".gz":
        return packed
    if not piece.is_whole:
        return packed * GZIP_RATIO
    with open(piece.path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        rest = int.from_bytes(file.read(4), "little")
    unpacked = rest + max(0, round((packed * GZIP_RATIO - rest) / (1 << 32))) * (1 << 32)
    return unpacked if unpacked > packed else packed * GZIP_RATIO


def bytes_per_bucket(memory: int) -> int:
    """Return the bytes of CSV that a bucket may have for its nesting to fit in `memory` bytes."""
    return min(MIB_PER_BUCKET << 20, (memory - PROCESS_BYTES) // MEMORY_PER_BUCKET)


def count(sources: Mapping[str, Source], n_patients: int, n_chosen: int, bucket_bytes: int) -> int:
    """Return the number of buckets that keeps each small, for data of any size."""
    by_size = sum(map(unpacked_bytes, sources.values())) * n_chosen / n_patients / bucket_bytes
    by_patients = n_chosen / PATIENTS_PER_BUCKET
    return min(n_chosen, max(1, round(by_size + 0.5), round(by_patients + 0.5)))


def most_open() -> int:
    """Return the number of buckets whose files may be open beside those that step 1 needs."""
    return max(1, min(MOST_COARSE, limits.open_files() - OTHER_FILES))


def width(n_buckets: int) -> int:
    """Return how many buckets a coarse one holds, so that few files are open at once.

    Raises UserError where two levels do not do.
    """
    most, root = most_open(), math.isqrt(max(n_buckets - 1, 0)) + 1
    if n_buckets <= most:
        return 1
    if root > most:
        raise UserError(
            f"for {n_buckets:,} buckets of patients {root + OTHER_FILES:,} "
            f"files must be open at once and {limits.open_files():,} may be: give "
            "`ulimit -n 1024` first, or more --memory"
        )
    return -(-n_buckets // root)


class Levels(NamedTuple):
    """How the patients of a run are divided."""

    buckets: int
    width: int  # buckets in a coarse one


def as_begun(parts: Path, n_buckets: int) -> Levels:
    """Return the levels of the run that was interrupted in `parts`, else those of `n_buckets`.

    Its files hold the rows by these, and the same command may have other limits today. Raises
    GoesOn where so many files may not be open.
    """
    path = parts / "layout.json"
    begun = read_done(path)
    if begun and "width" in begun:
        levels = Levels(begun["buckets"], begun["width"])
    else:
        levels = Levels(n_buckets, width(n_buckets))
    files = max(levels.width if levels.width > 1 else 0, -(-levels.buckets // levels.width))
    if files > most_open():
        raise GoesOn(
            f"the run to go on with has {files:,} files open at once and "
            f"{limits.open_files():,} may be: give `ulimit -n 1024` first, or remove "
            f"{parts.parent} to begin anew"
        )
    write_done(path, levels._asdict())
    return levels


def write_done(path: Path, result: dict[str, Any]) -> None:
    """Mark a table or bucket as finished: the marker appears whole or not at all."""
    atomic_write(path, json.dumps(result))


def read_done(path: Path) -> dict[str, Any] | None:
    """Return what `write_done` has written, None where nothing is.

    Raises UserError when it is damaged.
    """
    if not path.exists():
        return None
    try:
        found = read_json(path)
        if isinstance(found, dict):
            return found
    except ValueError:
        pass
    raise damaged(path)


def damaged(path: Path) -> UserError:
    """Return the error for a file of an interrupted run, as a power cut or a bad disk leaves it."""
    return UserError(
        f"{path.name}, which an interrupted run left, is damaged, and so all that it left was "
        "removed: the same command begins anew"
    )
