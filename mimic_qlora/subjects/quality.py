"""Checks of the data's quality: what cannot be right is counted and reported, never changed."""

import contextlib
import tempfile
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from tqdm import tqdm

from mimic_qlora.display.cells import Row
from mimic_qlora.display.text_tables import text_table
from mimic_qlora.mimic import cells, tables
from mimic_qlora.mimic.words import WORDS
from mimic_qlora.step import limits
from mimic_qlora.subjects import sql
from mimic_qlora.subjects.manifest import checks_text

BYTES_PER_PASS = 64 << 20  # of Parquet
FEW_CELLS = 9  # of a column, of which it tells nothing that they are texts for nothing
MOST_CELLS = 0.75  # half of procedureevents.valueuom as published are "None"

Worst = float | timedelta | None  # the largest fault, None where faults have no size
Files = dict[str, dict[str, Path]]  # table -> name of a part -> its Parquet file


ALL = ["{all}"]
_WORST = ", at worst "  # between a flag's sentence and its worst value
_STAYS = {"admissions": "hadm_id", "icustays": "stay_id", "edstays": "stay_id"}


class Check(NamedTuple):
    """One block of quality.sql."""

    name: str
    tables: list[str]  # the tables that are checked; ALL for every one
    needs: list[str]  # other tables that it compares with
    finds: str  # the sentence on what was found
    worst: str  # its end, with {worst} for the largest fault; "" where faults have no size
    sql: str


class Flag(NamedTuple):
    """One check's result in one table; a check that found nothing has 0 rows."""

    check: str
    table: str
    sentence: str
    rows: int  # that are faulty
    share: float  # of the table's rows, 0 to 1
    patients: int  # to whom they belong


class Faults(NamedTuple):
    """The rows at fault in one pass."""

    rows: int
    patients: int
    worst: Worst


@cache
def checks() -> list[Check]:
    """Return the checks of quality.sql, in its order."""
    found = []
    for block in checks_text().split("\n\n"):
        head = dict(
            line[3:].split(": ", 1)
            for line in block.splitlines()
            if line.startswith("-- ") and ": " in line
        )
        query = "\n".join(line for line in block.splitlines() if not line.startswith("--"))
        if query:
            checked, needs = head["tables"].split(), head.get("with", "").split()
            worst = head.get("worst", "")
            found.append(Check(head["check"], checked, needs, head["finds"], worst, query))
    return found


def without_worst(sentence: str) -> str:
    """Return a flag's sentence without the worst value, which is one patient's."""
    return sentence.partition(_WORST)[0]


def flags(folder: Path, memory: int = 512 << 20, temp: Path | None = None) -> list[Flag]:
    """Make every check whose tables and columns are there; return one flag for each of its tables.

    `folder` is step 1's, with the typed tables. The checks go over a few buckets at a time. DuckDB
    keeps within `memory` bytes, or a third of the job's, by spilling to a private folder in `temp`
    (default: the system's temporary folder).
    """
    files: Files = {}
    for path in sorted((folder / "tables").glob("*/part-*.parquet")):
        if not path.parent.name.endswith("_labeled"):
            files.setdefault(path.parent.name, {})[path.name] = path
    dictionaries = {path.stem: path for path in (folder / "dictionaries").glob("*.parquet")}
    jobs = [
        (check, table)
        for check in checks()
        for table in (sorted(files) if check.tables == ALL else check.tables)
        if table in files and {*check.needs} <= files.keys() | dictionaries.keys()
    ]
    n_rows: dict[str, int] = {}
    about_columns: list[Flag] = []
    with tempfile.TemporaryDirectory(dir=temp) as spill, _connection(spill, memory) as con:
        for name, path in dictionaries.items():
            _view(con, name, [path])
        for table in _STAYS.keys() & files.keys():
            _create_shared(con, table, list(files[table].values()))
        found = _faults(con, files, jobs)
        for table in files:
            n_rows[table], more = _column_flags(con, table, list(files[table].values()))
            about_columns += more
    return [
        _flag(jobs[number], n_rows[jobs[number][1]], counts) for number, counts in found.items()
    ] + about_columns


def _connection(spill: str, memory: int) -> contextlib.closing[DuckDBPyConnection]:
    con = duckdb.connect(
        config={
            "memory_limit": f"{min(memory, limits.memory() // 3) >> 20}MiB",
            "temp_directory": spill,
            "threads": 1,
            "preserve_insertion_order": False,
        }
    )
    con.execute("SET enable_progress_bar = false")
    con.execute("CREATE SCHEMA whole")
    con.execute("CREATE SCHEMA shared")
    return contextlib.closing(con)


def _create_shared(con: DuckDBPyConnection, table: str, paths: Sequence[Path]) -> None:
    """Make the table `shared.<table>` of the ids of stays that stand with two patients."""
    if (column := _STAYS[table]) in columns_of(paths[0]):
        con.execute(f"""
            CREATE TABLE shared.{table} AS SELECT {column} AS id FROM {sql.parquet(paths)}
            WHERE {column} IS NOT NULL GROUP BY ALL HAVING min(subject_id) < max(subject_id)""")


def _faults(
    con: DuckDBPyConnection, files: Files, jobs: Iterable[tuple[Check, str]]
) -> dict[int, list[Faults]]:
    """Return the faults of each pass by the number of the job, a check of a table.

    A check is left out where the table lacks a column that it needs.
    """
    found: dict[int, list[Faults]] = {}
    for group in tqdm(_groups(files), desc="checking quality", unit="pass", disable=None):
        for table, by_part in files.items():
            if paths := [by_part[part] for part in group if part in by_part]:
                _view(con, table, paths)
            else:  # without rows of these buckets, but there for others to compare with
                _view(con, table, [next(iter(by_part.values()))], "LIMIT 0")
        for number, (check, table) in enumerate(jobs):
            with contextlib.suppress(duckdb.BinderException):
                place = sql.identifier(table)
                if check.tables == ALL:
                    place = f"whole.{place}"
                columns = columns_of(next(iter(files[table].values())))
                query = check.sql.replace("{table}", place)
                query = query.replace("{columns}", ", ".join(map(sql.identifier, columns)))
                faults = _faulty_rows(con, query)
                found.setdefault(number, []).append(faults)
    return found


def _groups(files: Files) -> list[list[str]]:
    """Divide the parts into passes: small neighbours together, as each pass has a cost."""
    sizes: dict[str, int] = {}
    for by_part in files.values():
        for part, path in by_part.items():
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
    groups: list[list[str]] = []
    room = 0
    for part, size in sorted(sizes.items()):
        if size > room:
            groups.append([])
            room = BYTES_PER_PASS
        groups[-1].append(part)
        room -= size
    return groups


def _view(con: DuckDBPyConnection, name: str, paths: Sequence[Path], limit: str = "") -> None:
    """Make a view `whole.<name>` of Parquet files, and `<name>` of a table of MIMIC-IV.

    The second has MIMIC-IV's own columns alone, so that no further column of the user's is taken
    for one of another table; texts that a check reads are as later steps read them, or it would
    flag what they take as it should be.
    """
    rows = f"read_parquet({sql.files(paths)}, hive_partitioning = false) {limit}"
    table = sql.identifier(name)
    con.execute(f"CREATE OR REPLACE VIEW whole.{table} AS FROM {rows}")
    if known := tables.schema().get(name):
        # few rows are read sooner than all texts are planned for each query
        there, queries = columns_of(paths[0]), " ".join(check.sql for check in checks())
        own = ", ".join(
            f"{_as_read(name, column)} AS {place}"
            if kind == "text" and column in queries
            else place
            for column, kind in known.columns.items()
            if column in there and (place := sql.identifier(column))
        )
        con.execute(f"CREATE OR REPLACE VIEW {table} AS SELECT {own} FROM {rows}")
    if name == "admissions":  # a stay that stands twice makes no fault two
        con.execute("""
            CREATE OR REPLACE VIEW stays AS
            SELECT DISTINCT ON (subject_id, hadm_id) * FROM admissions ORDER BY ALL""")


def _as_read(table: str, column: str) -> str:
    """Return SQL for a text of a table of MIMIC-IV as later steps read it."""
    place, words = sql.identifier(column), WORDS.get(table, {}).get(column)
    return sql.word(place, words, sql.said(place)) if words else sql.said(place)


@cache
def columns_of(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file."""
    return pq.read_schema(path).names


def _faulty_rows(con: DuckDBPyConnection, query: str) -> Faults:
    """Count the rows that a check's query finds."""
    query = f"SELECT count(*), count(DISTINCT subject_id), max(worst) FROM ({query})"
    return Faults(*con.execute(query).fetchall()[0])


def _flag(job: tuple[Check, str], n_rows: int, passes: Sequence[Faults]) -> Flag:
    """Add up the faults of all passes; a patient is in one pass, so that patients add up too."""
    rows = sum(faults.rows for faults in passes)
    sizes = [faults.worst for faults in passes if faults.worst is not None]
    check, table = job
    words = check.finds
    if sizes and check.worst:
        words += f"{_WORST}{check.worst.format(worst=_readable(max(sizes)))}"
    share = round(rows / n_rows, 6) if n_rows else 0.0
    return Flag(check.name, table, words, rows, share, sum(faults.patients for faults in passes))


def _readable(worst: float | timedelta) -> str:
    """Word the size of a fault, a time in its largest unit of which there are two or more."""
    if isinstance(worst, timedelta):
        seconds = worst.total_seconds()
        for length, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
            if seconds >= 2 * length:
                return f"{_readable(seconds / length)} {unit}"
        return f"{_readable(seconds)} seconds"
    return f"{worst:,.3g}" if worst < 100 else f"{worst:,.0f}"


def _column_flags(
    con: DuckDBPyConnection, table: str, paths: Sequence[Path]
) -> tuple[int, list[Flag]]:
    """Return a table's number of rows, and flags about whole columns.

    From its files' footers, but for words: of these the first one that is known ends the search.
    """
    columns = con.execute(f"""
        SELECT path_in_schema, sum(num_values), sum(stats_null_count)
        FROM parquet_metadata({sql.files(paths)})
        GROUP BY path_in_schema, column_id ORDER BY column_id""").fetchall()
    n_rows = int(columns[0][1])
    query = f"SELECT count(DISTINCT subject_id) FROM {sql.parquet(paths)}"
    ((patients,),) = con.execute(query).fetchall()
    kinds = {
        "empty columns": (
            "holds nothing in",
            [name for name, values, nulls in columns if values and values == nulls],
        ),
        "no known word": (
            "has no word of MIMIC-IV (later steps look for these) in",
            [name for name, _, _ in columns if _has_unknown_words_alone(con, table, name, paths)],
        ),
        "upper-case columns": (
            "writes in upper case",
            [name for name, _, _ in columns if name != name.lower()],
        ),
    }
    share = 1.0 if n_rows else 0.0
    return n_rows, [
        Flag(check, table, f"{words} {', '.join(names)}", n_rows, share, patients)
        for check, (words, names) in kinds.items()
        if names
    ] + _texts_for_nothing(con, table, paths)


def _texts_for_nothing(con: DuckDBPyConnection, table: str, paths: Sequence[Path]) -> list[Flag]:
    """Return a flag where most cells of columns are texts for nothing, such as NULL.

    Quoted empty texts are not meant: prescriptions.form_rx as published has hardly any other.
    """
    place, nothing = sql.parquet(paths), ", ".join(map(sql.literal, filter(None, cells.NOTHING)))
    kinds = con.execute(f"DESCRIBE FROM {place}").fetchall()
    texts = {name: sql.identifier(name) for name, kind, *_ in kinds if kind == "VARCHAR"}
    counts = [
        f"count_if({text} IN ({nothing})) > greatest({FEW_CELLS}, {MOST_CELLS} * count({text}))"
        for text in texts.values()
    ]
    (are_most,) = con.execute(f"SELECT {', '.join(counts) or 'count(*)'} FROM {place}").fetchall()
    names = [name for name, is_most in zip(texts, are_most, strict=False) if is_most]
    if not names:
        return []
    faulty = " OR ".join(f"{texts[name]} IN ({nothing})" for name in names)
    ((rows, share, patients),) = con.execute(f"""
        SELECT count_if(faulty), count_if(faulty) / count(*),
               count(DISTINCT subject_id) FILTER (faulty)
        FROM (SELECT subject_id, {faulty} AS faulty FROM {place})""").fetchall()
    words = f"says nothing (NULL, ___ and the like) in most cells of {', '.join(names)}"
    return [Flag("texts for nothing", table, words, rows, round(share, 6), patients)]


def _has_unknown_words_alone(
    con: DuckDBPyConnection, table: str, column: str, paths: Sequence[Path]
) -> bool:
    """Return whether a column of words has texts, none of which is one of its words."""
    words = WORDS.get(table, {}).get(column)
    if not words:
        return False
    text, known = _as_read(table, column), ", ".join(map(sql.literal, words))

    def has(condition: str) -> bool:
        query = f"SELECT EXISTS (FROM {sql.parquet(paths)} WHERE {condition})"
        return bool(con.execute(query).fetchall()[0][0])

    # most have a word as MIMIC-IV writes it, and to plan the others takes ten times as long
    if has(f"{sql.identifier(column)} IN ({known})"):
        return False
    return not has(f"{text} IN ({known})") and has(f"{text} IS NOT NULL")


def print_flags(flags: Sequence[Flag]) -> None:
    """Print the checks that found something as a table of at most 100 columns."""
    found: list[Row] = [
        {
            "table": flag.table,
            "what does not fit (flagged, not changed)": flag.sentence,
            "rows": flag.rows,
            "share": "<0.01%" if flag.share < 0.0001 else f"{flag.share:.2%}",
            "patients": flag.patients,
        }
        for flag in flags
        if flag.rows
    ]
    if found:
        print(text_table(found))
    print(f"{len(flags) - len(found)} other checks found nothing")
