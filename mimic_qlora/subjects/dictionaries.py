"""The tables that name no patient (d_icd_diagnoses, provider ...): kept whole and typed."""

import functools
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from mimic_qlora.mimic import cells, reading, tables
from mimic_qlora.mimic.cells import CellCounts
from mimic_qlora.mimic.pieces import Piece
from mimic_qlora.mimic.reading import PieceCounts
from mimic_qlora.subjects import parquet_files, rejects
from mimic_qlora.subjects.rejects import Rejects


class DictionaryRows(NamedTuple):
    """The rows of a dictionary, and how its cells fit the types of their columns."""

    read: int
    rejected: int
    lines: int  # of the file, with its header, by the second reader
    spanning: int  # cells that go on in further lines, by the second reader
    cells: dict[str, CellCounts]  # by "<table>.<column>"

    def in_manifest(self) -> dict[str, int]:
        """Return the numbers of rows by the names of the manifest, as other tables have them."""
        return {
            "in": self.read,
            "rejected": self.rejected,
            "lines": self.lines,
            "spanning": self.spanning,
            "columnar": self.read - self.rejected,
        }


def write(name: str, source: tables.Source, folder: Path) -> DictionaryRows:
    """Write a table that names no patient into `folder`/dictionaries, whole and typed."""
    n_kept, n_rejected, counts = 0, 0, dict[str, CellCounts]()
    counted: list[PieceCounts] = []
    types = cells.arrow_types()
    schema = pa.schema([(column, types[kind]) for column, kind in source.columns.items()])
    place = folder / "dictionaries" / f"{name}.parquet"
    lists = [folder / "parts" / f"{name}-{n}.{rejects.NAME}" for n in range(len(source.files))]
    with parquet_files.writer(place, schema, compression="zstd") as file:
        for path, listed in zip(source.files, lists, strict=True):
            listed.unlink(missing_ok=True)
            with Rejects(listed, path.name) as rejected:
                reject = functools.partial(_reject_ragged, rejected)
                for batch in reading.read(source, reject, None, counted.append, Piece(path)):
                    typed = cells.typed(source.columns, batch)
                    file.write_table(typed.rows)
                    n_kept += typed.rows.num_rows
                    for column, found in typed.counts.items():
                        key = f"{name}.{column}"
                        counts[key] = counts.get(key, CellCounts()).plus(found)
            n_rejected += rejected.count
    parts = [rejects.PartOfFile(listed, 0) for listed in lists]
    rejects.join(parts, folder / "parts" / f"{name}.{rejects.NAME}")
    lines = sum(one.lines.lines for one in counted)
    spanning = sum(one.lines.spanning for one in counted)
    return DictionaryRows(n_kept + n_rejected, n_rejected, lines, spanning, counts)


def _reject_ragged(rejected: Rejects, row: int, text: str) -> None:
    rejected.add(row, "wrong number of fields", text)
