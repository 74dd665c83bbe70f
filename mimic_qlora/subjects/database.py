"""The columnar tables of step 1 as views of a DuckDB that lives in memory and spills to disk.

MIMIC-IV's tables and those that steps make for themselves have names that are known, and stand in
SQL by these. A further table of the user's may have any name; it lives in a schema of its own,
where `table` finds it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from mimic_qlora.clinical.codes import phenotypes_of
from mimic_qlora.mimic import tables
from mimic_qlora.mimic.tables import Kind
from mimic_qlora.mimic.words import WORDS
from mimic_qlora.step import limits
from mimic_qlora.subjects import parquet_files, reader, split_file
from mimic_qlora.subjects.manifest import subjects_manifest
from mimic_qlora.subjects.sql import files, identifier, parquet, word

MEMORY = 768_000_000  # bytes; less where the job has less than three times that
_FURTHER = "further"  # the schema of tables that MIMIC-IV does not have
_FILES = '" files"'  # no table of the record has a blank in its name
# SQL for the rows that `reader.record` gives too: the stays, each once,
STAYS = """(SELECT DISTINCT ON (subject_id, hadm_id) * FROM admissions
    WHERE hadm_id IS NOT NULL AND admittime IS NOT NULL
    ORDER BY subject_id, hadm_id, admittime, dischtime NULLS LAST)"""
ICU_STAYS = """(SELECT DISTINCT ON (subject_id, stay_id) * FROM icustays
    WHERE stay_id IS NOT NULL AND intime IS NOT NULL
    ORDER BY subject_id, stay_id, intime, outtime NULLS LAST)"""
ED_STAYS = ICU_STAYS.replace("icustays", "edstays")
ONCE = {"admissions": STAYS, "icustays": ICU_STAYS, "edstays": ED_STAYS}
# and which rows of diagnoses_icd say what a stay was coded with
_CODE = ("hadm_id", "icd_code", "icd_version")
CODED = " AND ".join(f"{column} IS NOT NULL" for column in _CODE)
CODED_PATIENTS = f"""(SELECT DISTINCT subject_id
    FROM diagnoses_icd SEMI JOIN {STAYS} USING (subject_id, hadm_id) WHERE {CODED})"""
_TYPES: dict[Kind, str] = {
    "id": "BIGINT",
    "int": "BIGINT",
    "num": "DOUBLE",
    "time": "TIMESTAMP",
    "code": "VARCHAR",
    "text": "VARCHAR",
}


def connect(storage: Path, temp: Path, threads: int | None = None) -> DuckDBPyConnection:
    """Return a connection with a view for every table and dictionary, and the table `split`.

    This has subject_id and split. A view of a table of MIMIC-IV has all columns of its schema: one
    that the source did not have is null. Words of `mimic.words` stand as MIMIC-IV writes them.
    Spilled data goes to `temp`. `threads=1` makes sums of decimal numbers the same on every run.
    Files that step 1 did not write, such as a copy beside one, are no part of a table. Raises
    UserError when a file was changed since.
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
    con.execute(f"CREATE SCHEMA {_FURTHER}")
    folder = storage / "subjects"
    places = {
        place.name: reader.table_files(storage, place.name)
        for place in sorted((folder / "tables").iterdir())
    }
    places |= {
        path.stem: [path] for path in sorted((folder / "dictionaries").glob("[!.]*.parquet"))
    }
    written = {folder / name for name in subjects_manifest(storage)["files"]}
    places = {name: [path for path in paths if path in written] for name, paths in places.items()}
    parquet_files.checked(storage, (path for paths in places.values() for path in paths))
    listed = [(name, str(path)) for name, paths in places.items() for path in paths]
    names_and_paths = [pa.array(values, pa.string()) for values in zip(*listed, strict=True)]
    _create(con, f"{_FURTHER}.{_FILES}", pa.table(names_and_paths, names=["name", "path"]))
    for name in names(con):
        _view(con, name, places[name])
    for name in {*tables.REQUIRED} - names(con):  # a sample may have no stay: then none, no error
        columns = ", ".join(_nulls(tables.schema()[name].columns))
        con.execute(f"CREATE VIEW {table(name)} AS SELECT {columns} WHERE false")
    split = split_file.read(storage)
    rows = [pa.array(list(split), pa.int64()), pa.array(list(split.values()), pa.string())]
    _create(con, "split", pa.table(rows, names=list(split_file.COLUMNS)))
    return con


def _create(con: DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Make a table of rows in memory."""
    con.register("in_memory", rows)
    con.execute(f"CREATE TABLE {name} AS SELECT * FROM in_memory")
    con.unregister("in_memory")


def _view(con: DuckDBPyConnection, name: str, paths: Sequence[Path]) -> None:
    """Make a view of Parquet files."""
    rows = parquet(paths)
    there = {column for column, *_ in con.execute(f"DESCRIBE FROM {rows}").fetchall()}
    of_mimic = tables.schema().get(name.removesuffix("_labeled"))
    known = of_mimic.columns if of_mimic else {}
    absent = _nulls({column: kind for column, kind in known.items() if column not in there})
    words = [
        f"{word(place, words, place)} AS {place}"
        for column, words in WORDS.get(name, {}).items()
        if column in there and (place := identifier(column))
    ]
    own = f"* REPLACE ({', '.join(words)})" if words else "*"
    columns = ", ".join([own, *absent])
    con.execute(f"CREATE VIEW {table(name)} AS SELECT {columns} FROM {rows}")


def table(name: str) -> str:
    """Return the name of a table or dictionary as SQL finds it, whatever its name is."""
    if name.removesuffix("_labeled") in tables.schema():
        return identifier(name)
    return f"{_FURTHER}.{identifier(name)}"


def _nulls(columns: tables.Columns) -> list[str]:
    """Return SQL for columns that hold nothing."""
    return [f"NULL::{_TYPES[kind]} AS {identifier(column)}" for column, kind in columns.items()]


def names(con: DuckDBPyConnection) -> set[str]:
    """Return the tables and dictionaries that are there."""
    found = con.execute(f"SELECT DISTINCT name FROM {_FURTHER}.{_FILES}").fetchall()
    return {name for (name,) in found}


def rows(con: DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """Return the result of a query: column -> value for each row."""
    cursor = con.execute(sql)
    columns = [column[0] for column in cursor.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def nulls(con: DuckDBPyConnection, name: str) -> dict[str, int]:
    """Return column -> null cells of a table, from the footers of its files."""
    paths = con.execute(
        f"SELECT path FROM {_FURTHER}.{_FILES} WHERE name = ? ORDER BY path", [name]
    ).fetchall()
    return dict(
        con.execute(f"""
        SELECT path_in_schema, sum(stats_null_count)::BIGINT
        FROM parquet_metadata({files(Path(path) for (path,) in paths)})
        GROUP BY path_in_schema""").fetchall()
    )


def uncoded(con: DuckDBPyConnection) -> str:
    """Return why no stay at all is coded where a column of diagnoses_icd is to blame, or ""."""
    if "diagnoses_icd" not in names(con):
        return ""
    counts = ", ".join(f"count({column}) AS {column}" for column in _CODE)
    (filled,) = rows(con, f"SELECT {counts} FROM diagnoses_icd")
    empty = " and ".join(column for column, n in filled.items() if not n)
    return f"diagnoses_icd has no {empty}, without which no stay counts as coded" if empty else ""


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
