"""The buckets of patients in which step 1 works: number, size, and the markers of finished ones.

A bucket holds patients with neighbouring subject_ids. It is the unit of memory, of resuming and of
parallel work. A table is never in memory as a whole, and a bucket's rows only while nesting.py
nests that bucket. A finished table or bucket leaves a `.done.json` and is not redone.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

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

MOST_BUCKETS = 900
OTHER_FILES = 100  # open at once: libraries, the table that is read, standard streams

NOT_CHOSEN, NO_PATIENT = -1, -2  # stand for the bucket of a row that belongs to none


class Layout(NamedTuple):
    """The patients who are converted, and the bucket to which each belongs."""

    patients: np.ndarray  # int64 [patients]: all subject_ids, sorted
    buckets: np.ndarray  # int64 [patients]: the bucket of each, or NOT_CHOSEN
    n_buckets: int

    def bucket_of(self, subject_ids: np.ndarray) -> np.ndarray:
        """Return the bucket of each subject_id, NO_PATIENT for one who is not in `patients`."""
        place = np.minimum(np.searchsorted(self.patients, subject_ids), len(self.patients) - 1)
        return np.where(self.patients[place] == subject_ids, self.buckets[place], NO_PATIENT)

    def subject_ids(self, bucket: int) -> list[int]:
        """Return the patients of a bucket, in order."""
        return self.patients[self.buckets == bucket].tolist()


def use_system_allocator() -> None:
    """Let Arrow allocate by malloc in this process.

    Arrow's own pool hands memory back to the system all the time: a sixth of step 1's CPU time went
    into page faults.
    """
    pa.set_memory_pool(pa.system_memory_pool())


def unpacked_bytes(source: Source) -> int:
    """Return the bytes of CSV in a table, in a .gz estimated from its size and its last four bytes.

    These hold the unpacked size modulo 4 GiB, of the last member alone if the file has several.
    """
    packed = source.path.stat().st_size
    if source.path.suffix != ".gz":
        return packed
    with open(source.path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        rest = int.from_bytes(file.read(4), "little")
    unpacked = rest + max(0, round((packed * GZIP_RATIO - rest) / (1 << 32))) * (1 << 32)
    return unpacked if unpacked > packed else packed * GZIP_RATIO


def bytes_per_bucket(memory: int) -> int:
    """Return the bytes of CSV that a bucket may have for its nesting to fit in `memory` bytes."""
    return min(MIB_PER_BUCKET << 20, (memory - PROCESS_BYTES) // MEMORY_PER_BUCKET)


def count(sources: Mapping[str, Source], n_patients: int, n_chosen: int, bucket_bytes: int) -> int:
    """Return the number of buckets that keeps each small, for data of any size.

    Each has a file open while a table is read. Where fewer may be open, buckets hold more patients.
    Raises UserError when their rows would not fit into memory.
    """
    by_size = sum(map(unpacked_bytes, sources.values())) * n_chosen / n_patients / bucket_bytes
    by_patients = n_chosen / PATIENTS_PER_BUCKET
    wanted = min(n_chosen, MOST_BUCKETS, max(1, round(by_size + 0.5), round(by_patients + 0.5)))
    if wanted > most_open() and by_size > most_open():
        raise UserError(
            f"{wanted + OTHER_FILES:,} files must be open at once and {limits.open_files():,} may "
            "be: give `ulimit -n 1024` first, or more --memory"
        )
    return min(wanted, most_open())


def most_open() -> int:
    """Return the number of buckets whose files may be open beside those that step 1 needs."""
    return max(1, limits.open_files() - OTHER_FILES)


def as_begun(parts: Path, n_buckets: int) -> int:
    """Return the number of buckets of the run that was interrupted in `parts`, else `n_buckets`.

    Its files hold the rows by that number, and the same command may have other limits today. Raises
    GoesOn where so many files may not be open.
    """
    path = parts / "layout.json"
    begun: dict[str, int] = read_done(path) or {"buckets": n_buckets}
    if begun["buckets"] > most_open():
        raise GoesOn(
            f"the run to go on with has {begun['buckets']:,} files open at once and "
            f"{limits.open_files():,} may be: give `ulimit -n 1024` first, or remove "
            f"{parts.parent} to begin anew"
        )
    write_done(path, begun)
    return begun["buckets"]


def layout(patients: Collection[int], chosen: Collection[int], n_buckets: int) -> Layout:
    """Divide the chosen patients into buckets of neighbours, equally many in each."""
    ids = np.array(sorted(patients), np.int64)
    buckets = np.full(len(ids), NOT_CHOSEN)
    kept = np.flatnonzero(np.isin(ids, np.fromiter(chosen, np.int64)))
    for bucket, places in enumerate(np.array_split(kept, n_buckets)):
        buckets[places] = bucket
    return Layout(ids, buckets, n_buckets)


def is_bucket_marker(path: Path) -> bool:
    """Tell whether a marker is that of a bucket. No table has such a name, but perhaps bucket-x."""
    return re.fullmatch(r"bucket-\d+\.done\.json", path.name) is not None


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
