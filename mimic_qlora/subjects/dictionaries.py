"""The tables that name no patient (d_icd_diagnoses, provider ...): kept whole and typed."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mimic_qlora.mimic import tables
from mimic_qlora.subjects.partition import Rejects


class DictionaryRows(NamedTuple):
    """The rows of a dictionary, and its cells that do not fit the type of their column."""

    read: int
    rejected: int
    misfits: Counter[str]  # "<table>.<column>" -> cells


def write(source: tables.Source, folder: Path) -> DictionaryRows:
    """Write a table that names no patient into `folder`/dictionaries, whole and typed."""
    name = source.path.name.split(".csv")[0]
    n_kept, misfits = 0, Counter[str]()
    types = tables.arrow_types()
    schema = pa.schema([(column, types[kind]) for column, kind in source.columns.items()])
    place = folder / "dictionaries" / f"{name}.parquet"
    with (
        Rejects(folder / "parts" / f"{name}.rejects.csv", source.path.name) as rejects,
        pq.ParquetWriter(place, schema, compression="zstd") as file,
    ):

        def reject_ragged(row: int, text: str) -> None:
            rejects.add(row, "wrong number of fields", text)

        for batch in tables.read(source, reject_ragged):
            typed = tables.typed(source.columns, batch)
            file.write_table(typed.rows)
            n_kept += typed.rows.num_rows
            misfits += Counter({f"{name}.{c}": cells for c, cells in typed.misfits.items()})
    return DictionaryRows(n_kept + rejects.count, rejects.count, misfits)
