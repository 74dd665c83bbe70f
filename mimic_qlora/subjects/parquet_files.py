"""The Parquet files of step 1: written with checksums, and never read when a bit has changed.

Each page has a CRC-32, which pyarrow compares when it is told to. DuckDB does not, so a file that
it reads is compared with the SHA-256 sum that the manifest has of it.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimic_qlora.mimic.cells import NOTHING
from mimic_qlora.step import faults
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import unchanged_sha256
from mimic_qlora.step.step_commands import command_for
from mimic_qlora.subjects.manifest import subjects_manifest


def write(rows: pa.Table, path: Path, **options: Any) -> None:
    """Write rows as a Parquet file."""
    pq.write_table(rows, path, write_page_checksum=True, **options)


def writer(path: Path, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """Return an open Parquet file that takes rows piece by piece."""
    return pq.ParquetWriter(path, schema, write_page_checksum=True, **options)


def read(path: Path, **options: Any) -> pa.Table:
    """Read a Parquet file, whose path tells nothing of it. Raises UserError when it is damaged."""
    try:
        return pq.read_table(path, page_checksum_verification=True, partitioning=None, **options)
    except (pa.ArrowException, OSError) as error:
        if faults.of_the_machine(error):
            raise
        raise damaged(path) from None


def said(paths: Iterable[Path]) -> Counter[str]:
    """Count the cells of each column of a table's files that are not null, nor texts for nothing.

    The footers tell it, but of texts. Raises UserError when a file is damaged.
    """
    found = Counter[str]()
    for path in paths:
        try:
            footer = pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            if faults.of_the_machine(error):
                raise
            raise damaged(path) from None
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for column in map(group.column, range(footer.num_columns)):
                nulls = column.statistics.null_count if column.statistics else 0
                found[column.path_in_schema] += column.num_values - nulls
        for field in footer.schema.to_arrow_schema():
            if pa.types.is_large_string(field.type):
                found[field.name] -= _texts_for_nothing(path, field.name)
    return found


def _texts_for_nothing(path: Path, column: str) -> int:
    """Count the texts for nothing in a column; each text of its dictionary is looked at once."""
    total = 0
    for chunk in read(path, columns=[column], read_dictionary=[column])[column].chunks:
        texts = pc.utf8_trim_whitespace(chunk.dictionary)
        is_nothing = pc.is_in(texts, pa.array(NOTHING, texts.type))
        total += pc.sum(is_nothing.take(chunk.indices)).as_py() or 0
    return total


def patients(paths: Iterable[Path]) -> set[int]:
    """Return the patients of a table's files. Raises UserError when one is damaged."""
    columns = (read(path, columns=["subject_id"])["subject_id"] for path in paths)
    return {subject_id for ids in columns for subject_id in ids.unique().to_pylist()}


def damaged(path: Path) -> UserError:
    """Return the error for a file of step 1 that cannot be read."""
    return UserError(
        f"{path} is damaged: run `{command_for('subjects')} --force` to write it again"
    )


def checked(storage: Path, paths: Iterable[Path]) -> list[Path]:
    """Return files of step 1 after comparing each with its sum in the manifest, where it has one.

    Raises UserError when one was changed. A file is read once in a process.
    """
    paths = list(paths)
    recorded = _sums(storage)
    known = [path for path in paths if path in recorded]
    with ThreadPoolExecutor(4) as pool:
        for path, sha256 in zip(known, pool.map(_sum_of, known), strict=True):
            if recorded[path] != sha256:
                raise damaged(path)
    return paths


@functools.cache
def _sums(storage: Path) -> dict[Path, str]:
    """Return the SHA-256 sum of each file of step 1 that has one in the manifest."""
    files = subjects_manifest(storage).get("files", {})
    folder = storage / "subjects"
    return {folder / name: file["sha256"] for name, file in files.items() if "sha256" in file}


def _sum_of(path: Path) -> str:
    try:
        return unchanged_sha256(path)
    except OSError as error:
        if faults.of_the_machine(error):
            raise
        raise damaged(path) from None


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file in pieces. Raises UserError when it is damaged."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield from file.iter_batches(1 << 16)
    except (pa.ArrowException, OSError) as error:
        if faults.of_the_machine(error):
            raise
        raise damaged(path) from None
