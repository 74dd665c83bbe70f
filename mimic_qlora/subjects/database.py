"""The columnar tables of step 1 as views of a DuckDB that lives in memory and spills to disk."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from mimic_qlora.clinical.codes import phenotypes_of
from mimic_qlora.mimic import tables
from mimic_qlora.mimic.tables import Kind
from mimic_qlora.step import limits
from mimic_qlora.subjects import reader, split_file
from mimic_qlora.subjects.sql import identifier, literal

MEMORY = 768_000_000  # bytes; less where the job has less than three times that
_TYPES: dict[Kind, str] = {
    "id": "BIGINT",
    "int": "BIGINT",
    "num": "DOUBLE",
    "time": "TIMESTAMP",
    "text": "VARCHAR",
}


def connect(storage: Path, temp: Path, threads: int | None = None) -> DuckDBPyConnection:
    """Return a connection with a view for every table and dictionary, and two tables.

    These are `split` (subject_id, split) and `files` (name, pattern). A view has all columns of
    MIMIC-IV's schema: one that the source did not have is null. Spilled data goes to `temp`.
    `threads=1` makes sums of decimal numbers the same on every run.
    """
    con = duckdb.connect(
        config={
            "threads": threads or min(4, limits.cores()),
            "memory_limit": f"{min(MEMORY, limits.memory() // 3)}B",
            "temp_directory": str(temp / "spill"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
    )
    con.execute("SET enable_progress_bar = false")
    con.execute("CREATE TABLE files (name VARCHAR, pattern VARCHAR)")
    folder = storage / "subjects"
    for place in sorted((folder / "tables").iterdir()):
        if reader.table_files(storage, place.name):
            _view(con, place.name, place / "*.parquet")
    for path in sorted((folder / "dictionaries").glob("*.parquet")):
        _view(con, path.stem, path)
    split = split_file.read(storage)
    columns = [pa.array(list(split), pa.int64()), pa.array(list(split.values()), pa.string())]
    con.register("split_rows", pa.table(columns, names=list(split_file.COLUMNS)))
    con.execute("CREATE TABLE split AS SELECT * FROM split_rows")
    con.unregister("split_rows")
    return con


def _view(con: DuckDBPyConnection, name: str, files: Path) -> None:
    """Make a view of Parquet files, and note their place in `files`."""
    rows = f"read_parquet({literal(files)}, union_by_name = true)"
    there = {column for column, *_ in con.execute(f"DESCRIBE FROM {rows}").fetchall()}
    table = tables.schema().get(name.removesuffix("_labeled"))
    known = table.columns if table else {}
    absent = [
        f", NULL::{_TYPES[kind]} AS {identifier(column)}"
        for column, kind in known.items()
        if column not in there
    ]
    con.execute(f"CREATE VIEW {identifier(name)} AS SELECT *{''.join(absent)} FROM {rows}")
    con.execute("INSERT INTO files VALUES (?, ?)", [name, str(files)])


def names(con: DuckDBPyConnection) -> set[str]:
    """Return the tables and dictionaries that are there."""
    views = con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    return {name for (name,) in views}


def rows(con: DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """Return the result of a query: column -> value for each row."""
    cursor = con.execute(sql)
    columns = [column[0] for column in cursor.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def nulls(con: DuckDBPyConnection, name: str) -> dict[str, int]:
    """Return column -> null cells of a table, from the footers of its files."""
    (pattern,) = con.execute("SELECT pattern FROM files WHERE name = ?", [name]).fetchall()[0]
    return dict(
        con.execute(f"""
        SELECT path_in_schema, sum(stats_null_count)::BIGINT
        FROM parquet_metadata({literal(pattern)})
        GROUP BY path_in_schema""").fetchall()
    )


def add_phenotypes(con: DuckDBPyConnection) -> None:
    """Add a table `code_phenotype` (icd_code, icd_version, phenotype) of the diagnoses' codes."""
    codes = con.execute("""
        SELECT DISTINCT icd_code, icd_version FROM diagnoses_icd
        WHERE icd_code IS NOT NULL AND icd_version IS NOT NULL ORDER BY ALL""").fetchall()
    found = [
        {"icd_code": code, "icd_version": version, "phenotype": name}
        for code, version in codes
        for name in phenotypes_of([(code, version)])
    ]
    types = {"icd_code": pa.string(), "icd_version": pa.int64(), "phenotype": pa.string()}
    con.register("code_phenotype", pa.Table.from_pylist(found, pa.schema(types)))
