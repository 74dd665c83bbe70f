"""The columnar tables of step 1 as views of a DuckDB that lives in memory and spills to a temporary folder."""

import os
from pathlib import Path

from mimic_qlora.clinical.codes import phenotypes_of
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import reader

MEMORY = "768MB"
_TYPES = {"id": "BIGINT", "int": "BIGINT", "num": "DOUBLE", "time": "TIMESTAMP", "text": "VARCHAR"}


def connect(storage: Path, temp: Path, threads: int | None = None):
    """A DuckDB connection with a view for every table and dictionary that is there, and tables `split` and `files`.

    A view has all columns of MIMIC-IV's schema: one that the source did not have is null.
    Spilled data goes to `temp`. `threads=1` makes sums of decimal numbers the same on every run.
    """
    import duckdb

    config = {
        "threads": threads or min(4, os.cpu_count() or 1),
        "memory_limit": MEMORY,
        "temp_directory": str(temp / "spill"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    con = duckdb.connect(config=config)
    con.execute("SET enable_progress_bar = false")
    con.execute("CREATE TABLE files (name VARCHAR, pattern VARCHAR)")
    folder = storage / "subjects"
    for place in sorted((folder / "tables").iterdir()):
        if reader.table_files(storage, place.name):
            _view(con, place.name, place / "*.parquet")
    for path in sorted((folder / "dictionaries").glob("*.parquet")):
        _view(con, path.stem, path)
    con.execute(
        f"CREATE TABLE split AS SELECT * FROM read_csv({_text(folder / 'split.csv')}, header = true)"
    )
    return con


def _text(value) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _view(con, name: str, files: Path) -> None:
    rows = f"read_parquet({_text(files)}, union_by_name = true)"
    there = {column for column, *_ in con.execute(f"DESCRIBE FROM {rows}").fetchall()}
    table = tables.schema().get(name.removesuffix("_labeled"))
    known = table.columns.items() if table else ()
    absent = [
        f', NULL::{_TYPES[kind]} AS "{column}"' for column, kind in known if column not in there
    ]
    con.execute(f'CREATE VIEW "{name}" AS SELECT *{"".join(absent)} FROM {rows}')
    con.execute("INSERT INTO files VALUES (?, ?)", [name, str(files)])


def names(con) -> set:
    """The tables and dictionaries that are there."""
    return {
        name
        for (name,) in con.execute(
            "SELECT view_name FROM duckdb_views() WHERE NOT internal"
        ).fetchall()
    }


def rows(con, sql: str) -> list:
    """The result of a query as a list of dicts."""
    cursor = con.execute(sql)
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def nulls(con, name: str) -> dict:
    """How many cells of each column of a table are null, from the footers of its files."""
    (pattern,) = con.execute("SELECT pattern FROM files WHERE name = ?", [name]).fetchall()[0]
    return dict(
        con.execute(f"""
        SELECT path_in_schema, sum(stats_null_count)::BIGINT FROM parquet_metadata({_text(pattern)})
        GROUP BY path_in_schema""").fetchall()
    )


def add_phenotypes(con) -> None:
    """A table `code_phenotype` (icd_code, icd_version, phenotype) over the diagnosis codes that are there."""
    import pyarrow as pa

    codes = con.execute("""
        SELECT DISTINCT icd_code, icd_version FROM diagnoses_icd
        WHERE icd_code IS NOT NULL AND icd_version IS NOT NULL ORDER BY ALL""").fetchall()
    pairs = [
        (code, version, name)
        for code, version in codes
        for name in phenotypes_of([(code, version)])
    ]
    columns = zip(*pairs, strict=True) if pairs else ((), (), ())
    types = (pa.string(), pa.int64(), pa.string())
    arrays = [pa.array(list(column), type_) for column, type_ in zip(columns, types, strict=True)]
    con.register("code_phenotype", pa.table(arrays, names=["icd_code", "icd_version", "phenotype"]))
