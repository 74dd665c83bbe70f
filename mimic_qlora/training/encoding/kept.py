"""Encoded prompts as a file beside the prompts, found again by their content.

It lies in `prompts/.encoded/`: patient data like the prompts, private, and gone with them when step
4 writes anew. Several processes share it: the first one encodes, the others wait for the file, and
for as long as it shows signs of life. No time-out of a collective operation runs meanwhile.
"""

import contextlib
import hashlib
import itertools
import os
import time
from array import array
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from mimic_qlora.llm import chat
from mimic_qlora.prompts import record_files
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.version import VERSION
from mimic_qlora.training.packing import Sample, Split

FOLDER = ".encoded"
SUM = "sha256"  # of the other arrays in a file
MOST = 4  # files that are kept: models and --limit change
STALLED = 600.0  # seconds without a sign of life until the first process is given up
POLL, HOUR = 0.2, 3600  # seconds
FORMAT = 2  # raised when samples are encoded otherwise
# what a tokenizer is made of, as any of its kinds is published
TOKENIZER_FILES = (
    "config.json",
    "*token*.json",
    "chat_template*",
    "additional_chat_templates/*",
    "vocab.*",
    "merges.txt",
    "tokenizer.model",
)
LIBRARIES = ("transformers", "tokenizers", "jinja2")


def place(store: Path, model: Path, splits: Sequence[str], limit: int | None) -> Path:
    """Return the file of the first `limit` prompts of each split, encoded for a model's folder.

    Its name is a hash of prompts, tokenizer and software.
    """
    tokenizer = sorted({path for name in TOKENIZER_FILES for path in model.glob(name)})
    content: dict[str, Any] = {
        "prompts": {name: _sha256(record_files.path_of(store, name)) for name in splits},
        "tokenizer": {path.name: _sha256(path) for path in tokenizer if path.is_file()},
        "limit": limit,
        "date": chat.TEMPLATE_DATE,
        "software": [VERSION, FORMAT, *(version(name) for name in LIBRARIES)],
    }
    return store / "prompts" / FOLDER / f"{files.digest(content)}.npz"


def _sha256(path: Path) -> str:
    try:
        return files.file_sha256(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def write(path: Path, encoded: Split) -> None:
    """Keep encoded prompts, beside the newest few that are there."""
    arrays: dict[str, Any] = {}
    for split, samples in encoded.items():
        ids = array("i", itertools.chain.from_iterable(sample.ids for sample in samples))
        numbers = [(len(s.ids), s.n_prompt, s.patient, s.n_bytes) for s in samples]
        arrays[f"{split}.ids"] = np.frombuffer(ids, np.int32) if ids else np.empty(0, np.int32)
        arrays[f"{split}.numbers"] = np.array(numbers, np.int64).reshape(-1, 4)
    arrays[SUM] = np.array(_sum_of(arrays))
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.parent.chmod(0o700)
    own = path.with_suffix(f".{os.getpid()}.tmp")  # another run may write the same at this moment
    files.atomic_write(own, lambda file: np.savez(file, **arrays))
    own.replace(path)
    _sign(path).unlink(missing_ok=True)
    _tidy_up(path)


def _tidy_up(path: Path) -> None:
    """Remove all but the newest few, and what killed runs left an hour ago."""
    ages = {}
    for other in path.parent.iterdir():
        with contextlib.suppress(OSError):  # another run was quicker
            ages[other] = time.time() - other.stat().st_mtime
    whole = [other for other in sorted(ages, key=lambda o: ages[o]) if other.suffix == ".npz"]
    older = [other for other in whole if other != path][MOST - 1 :]
    halves = [other for other, age in ages.items() if other.suffix != ".npz" and age > HOUR]
    for other in (*older, *halves):
        other.unlink(missing_ok=True)


def read(path: Path) -> Split | None:
    """Read what `write` kept; None when it is not there or no longer what was written."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if str(arrays.pop(SUM)) != _sum_of(arrays):
            return None
        splits = [name.removesuffix(".ids") for name in arrays if name.endswith(".ids")]
        return {
            split: _samples(arrays[f"{split}.ids"], arrays[f"{split}.numbers"]) for split in splits
        }
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _sum_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 sum of arrays and their names."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(f"{name} {arrays[name].shape} {arrays[name].dtype}\n".encode())
        whole.update(np.ascontiguousarray(arrays[name]).ravel().data)
    return whole.hexdigest()


def _samples(ids: np.ndarray, numbers: np.ndarray) -> list[Sample]:
    samples = []
    start = 0
    for length, n_prompt, patient, n_bytes in numbers.tolist():
        own = array("i", ids[start : start + length].tobytes())
        samples.append(Sample(own, n_prompt, patient, n_bytes))
        start += length
    return samples


def _sign(path: Path) -> Path:
    return path.with_suffix(".running")


def sign_of_life(path: Path) -> None:
    """Tell the processes that wait for a file that it is still being made."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    _sign(path).touch(mode=files.PRIVATE)


def wait_for(path: Path) -> Split:
    """Return encoded prompts once another process has kept them.

    Raises UserError when it has shown no sign of life for `STALLED` seconds.
    """
    last, since = -1.0, time.monotonic()
    while (encoded := read(path)) is None:
        sign = -1.0
        with contextlib.suppress(OSError):
            sign = _sign(path).stat().st_mtime
        if sign != last:
            last, since = sign, time.monotonic()
        if time.monotonic() - since > STALLED:
            raise UserError(
                f"the first process has not encoded the prompts: see what it said, or whether "
                f"all processes see the same {path.parent.parent}"
            )
        time.sleep(POLL)
    return encoded
