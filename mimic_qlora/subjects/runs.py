"""One run of step 1: where its files are, and to which bucket each patient belongs.

Each task gets a `Run` and finds all else in the folder that it names, which all hosts share.
Nothing of a patient is an argument or a result of a task.

In `parts/`: `read/<table>-<piece>/` and `split/<coarse bucket>/` with files by bucket, and the
markers of nested buckets. A task writes into a folder of its own in `work-<token>/` and renames it
when it is whole. So a task that is given twice, or that lives on after its run, harms nothing: the
first to end counts, and a later run has another token and removes that folder.
"""

import contextlib
import errno
import functools
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mimic_qlora.step import faults
from mimic_qlora.subjects.buckets import damaged

NOT_CHOSEN, NO_PATIENT = -1, -2  # stand for the bucket of a row that belongs to none
TELL_SECONDS = 1.0  # between two notes of how far a piece was read
_PROGRESS = "progress"


class Owners(NamedTuple):
    """The patients to whom the ids of stays lead."""

    ids: np.ndarray  # int64 [stays], sorted
    subject_ids: np.ndarray  # int64 [stays]


class Layout(NamedTuple):
    """The patients who are converted, and the bucket to which each belongs."""

    patients: np.ndarray  # int64 [patients]: all subject_ids, sorted
    buckets: np.ndarray  # int32 [patients]: the bucket of each, or NOT_CHOSEN
    owners: Mapping[str, Owners]  # by the column of their ids, for tables without subject_id

    def bucket_of(self, subject_ids: np.ndarray) -> np.ndarray:
        """Return the bucket of each subject_id, NO_PATIENT for one who is not in `patients`."""
        place = np.minimum(np.searchsorted(self.patients, subject_ids), len(self.patients) - 1)
        return np.where(self.patients[place] == subject_ids, self.buckets[place], NO_PATIENT)

    def subject_ids(self, bucket: int) -> list[int]:
        """Return the patients of a bucket, in order."""
        return self.patients[self.buckets == bucket].tolist()


def layout(
    patients: Collection[int],
    chosen: Collection[int],
    n_buckets: int,
    owners: Mapping[str, Owners] | None = None,
) -> Layout:
    """Divide the chosen patients into buckets of neighbours, equally many in each."""
    ids = np.array(sorted(patients), np.int64)
    buckets = np.full(len(ids), NOT_CHOSEN, np.int32)
    kept = np.flatnonzero(np.isin(ids, np.fromiter(chosen, np.int64)))
    for bucket, places in enumerate(np.array_split(kept, n_buckets)):
        buckets[places] = bucket
    return Layout(ids, buckets, owners or {})


@dataclass(frozen=True)
class Run:
    """What every task of a run knows."""

    folder: Path  # of the step's output, while it is written
    token: str  # of this run alone
    n_buckets: int
    width: int  # buckets in a coarse one: 1 where each bucket has a file while a table is read
    held_bytes: int  # of rows that a task holds back

    @property
    def parts(self) -> Path:
        """The folder of what is removed in the end."""
        return self.folder / "parts"

    @property
    def work(self) -> Path:
        """The folder of what is not whole."""
        return self.parts / f"work-{self.token}"

    @property
    def n_coarse(self) -> int:
        """The number of coarse buckets."""
        return -(-self.n_buckets // self.width)

    def layout(self) -> Layout:
        """Return the patients and their buckets, as `begin` has kept them."""
        return _layout(self.work)

    def coarse_of(self, buckets: np.ndarray) -> np.ndarray:
        """Return the coarse bucket of each bucket; what stands for none stays."""
        return np.where(buckets >= 0, buckets // self.width, buckets)

    @contextlib.contextmanager
    def new_folder(self) -> Iterator[Path]:
        """Yield an empty folder for what is not whole, and remove what is left of it."""
        place = self.work / secrets.token_hex(8)
        place.mkdir(mode=0o700)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def read_folder(self, table: str, number: int) -> Path:
        """Return the place of a piece of a table that was read."""
        return self.parts / "read" / f"{table}-{number:05d}"

    def split_folder(self, coarse: int) -> Path:
        """Return the place of a coarse bucket that was split."""
        return self.parts / "split" / f"{coarse:05d}"

    def files_of(self, coarse: int, table: str = "") -> list[Path]:
        """Return the files of a coarse bucket, or of its rows of one table, in their order."""
        folders = sorted((self.parts / "read").iterdir())
        mine = [f for f in folders if not table or f.name[:-NUMBER] == table]
        return [path for f in mine if (path := bucket_file(f, coarse)).exists()]

    def files_of_bucket(self, bucket: int, table: str = "") -> list[Path]:
        """Return the files of a bucket, or of its rows of one table, in their order."""
        if self.width == 1:
            return self.files_of(bucket, table)
        place = self.split_folder(bucket // self.width)
        folders = [place / table] if table else sorted(place.glob("*/"))
        return [path for f in folders if (path := bucket_file(f, bucket)).exists()]

    def bytes_read(self) -> int:
        """Return how far the pieces were read that are not whole yet, as they say."""
        total = 0
        for path in self.work.glob(f"*/{_PROGRESS}"):
            with contextlib.suppress(OSError, ValueError):  # it was just renamed, or is written
                total += int(path.read_text())
        return total


NUMBER = len("-00000")  # what stands behind a table's name


def bucket_file(folder: Path, bucket: int) -> Path:
    """Return the file of a bucket's rows in a folder."""
    return folder / f"{bucket:05d}.arrow"


def begin(parts: Path, run: Run, plan: Layout) -> None:
    """Make the folders of a run, and keep the buckets of the patients where all tasks find them.

    What earlier runs have left half done goes.
    """
    for old in parts.glob("work-*"):
        shutil.rmtree(old, ignore_errors=True)
    for place in ("read", "split"):
        (parts / place).mkdir(exist_ok=True)
        for folder in (parts / place).iterdir():
            if not (folder / f"{folder.name}.done.json").exists():  # its removal was cut off
                shutil.rmtree(folder)
    run.work.mkdir(mode=0o700)
    arrays = {"patients": plan.patients, "buckets": plan.buckets}
    for column, found in plan.owners.items():
        arrays[f"{column}.ids"], arrays[f"{column}.owners"] = found
    for name, array in arrays.items():
        np.save(run.work / f"{name}.npy", array)


@functools.lru_cache(maxsize=1)
def _layout(work: Path) -> Layout:
    """Return the buckets of the patients in a folder; the system shares them between processes."""
    arrays = {p.name.removesuffix(".npy"): np.load(p, mmap_mode="r") for p in work.glob("*.npy")}
    columns = [name.removesuffix(".ids") for name in sorted(arrays) if name.endswith(".ids")]
    owners = {c: Owners(arrays[f"{c}.ids"], arrays[f"{c}.owners"]) for c in columns}
    return Layout(arrays["patients"], arrays["buckets"], owners)


def publish(made: Path, place: Path) -> None:
    """Put a folder that is whole in its place, unless another task was quicker."""
    (made / _PROGRESS).unlink(missing_ok=True)
    try:
        made.rename(place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


class Teller:
    """A note of how far a piece was read, renewed about once a second."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of a piece that is not whole."""
        self._path, self._last = folder / _PROGRESS, time.monotonic()

    def __call__(self, n_bytes: int, n_rows: int) -> None:
        """Note the bytes that were read."""
        now = time.monotonic()
        if now - self._last > TELL_SECONDS:
            self._last = now
            with contextlib.suppress(OSError):  # a full disk is told by what must be written
                self._path.write_text(str(n_bytes))


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a bucket's file. Raises UserError when it is damaged."""
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            yield from stream
    except (pa.ArrowInvalid, OSError) as error:
        if faults.of_the_machine(error):
            raise
        raise damaged(path) from None
