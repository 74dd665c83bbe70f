"""The tables that name no patient (d_icd_diagnoses, provider ...): kept whole and typed, beside the records."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mimic_qlora.mimic import tables
from mimic_qlora.subjects import buckets


def write(source, folder: Path) -> dict:
    """Keep a table that names no patient whole and typed. Returns its rows in and rejected, and the misfits."""
    name = source.path.name.split(".csv")[0]
    counts = {"in": 0, "rejected": 0, "misfits": Counter()}
    schema = pa.schema(
        [(column, tables.arrow_types()[kind]) for column, kind in source.columns.items()]
    )
    with (
        buckets.rejects(
            folder / "parts" / f"{name}.rejects.csv", source.path.name, counts
        ) as reject,
        pq.ParquetWriter(
            folder / "dictionaries" / f"{name}.parquet", schema, compression="zstd"
        ) as file,
    ):
        for batch in tables.read(
            source, lambda place, text: reject(place, "wrong number of fields", text)
        ):
            typed, misfits = tables.typed(source.columns, batch)
            file.write_table(typed)
            counts["in"] += typed.num_rows
            counts["misfits"] += {f"{name}.{column}": cells for column, cells in misfits.items()}
    counts["in"] += counts["rejected"]
    return counts
