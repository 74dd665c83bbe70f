"""The tables that name no patient (d_icd_diagnoses, provider ...): kept whole and typed."""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from mimic_qlora.mimic import cells, tables
from mimic_qlora.mimic.cells import CellCounts
from mimic_qlora.mimic.second_reader import LineCounts
from mimic_qlora.subjects import parquet_files
from mimic_qlora.subjects.partition import Rejects


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


def write(source: tables.Source, folder: Path) -> DictionaryRows:
    """Write a table that names no patient into `folder`/dictionaries, whole and typed."""
    name = source.path.name.split(".csv")[0]
    n_kept, counts = 0, dict[str, CellCounts]()
    counted: list[LineCounts] = []
    types = cells.arrow_types()
    schema = pa.schema([(column, types[kind]) for column, kind in source.columns.items()])
    place = folder / "dictionaries" / f"{name}.parquet"
    with (
        Rejects(folder / "parts" / f"{name}.rejects.csv", source.path.name) as rejects,
        parquet_files.writer(place, schema, compression="zstd") as file,
    ):

        def reject_ragged(row: int, text: str) -> None:
            rejects.add(row, "wrong number of fields", text)

        for batch in tables.read(source, reject_ragged, on_end=counted.append):
            typed = cells.typed(source.columns, batch)
            file.write_table(typed.rows)
            n_kept += typed.rows.num_rows
            for column, found in typed.counts.items():
                key = f"{name}.{column}"
                counts[key] = counts.get(key, CellCounts()).plus(found)
    (lines,) = counted
    n_read = n_kept + rejects.count
    return DictionaryRows(n_read, rejects.count, lines.lines, lines.spanning, counts)
