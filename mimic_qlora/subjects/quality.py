"""Step 1's look at the quality of the data: what cannot be right is counted and said, never mended."""

import contextlib
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple

BYTES_PER_PASS = 64 << 20  # of Parquet


class Check(NamedTuple):
    """One block of quality.sql."""

    name: str
    tables: list  # where it is made; ["{all}"] for every table
    needs: list  # other tables that it compares with
    sentence: str
    sql: str


@cache
def checks() -> list:
    """The checks of quality.sql, in its order."""
    found = []
    for block in (Path(__file__).parent / "quality.sql").read_text(encoding="utf-8").split("\n\n"):
        head = dict(
            line[3:].split(": ", 1)
            for line in block.splitlines()
            if line.startswith("-- ") and ": " in line
        )
        sql = "\n".join(line for line in block.splitlines() if not line.startswith("--"))
        if sql:
            found.append(
                Check(
                    head["check"],
                    head["tables"].split(),
                    head.get("with", "").split(),
                    head["finds"],
                    sql,
                )
            )
    return found


def flags(folder: Path, memory: int = 512 << 20, temp: Path | None = None) -> list:
    """Make every check whose tables and columns are there, over the typed tables in `folder` (step 1's `subjects`).

    Returns a list of {"check", "table", "sentence", "rows", "share", "patients"}: how many rows of the table are
    faulty, what share of its rows that is (0 to 1), how many patients they belong to. A check that found nothing has
    rows 0. It goes a few buckets at a time, and DuckDB keeps within `memory` (bytes) by spilling to a private folder in
    `temp` (default: the system's temporary folder).
    """
    import duckdb
    from tqdm import tqdm

    files = {}  # table -> its parts by name
    for path in sorted((folder / "tables").glob("*/*.parquet")):
        if not path.parent.name.endswith("_labeled"):
            files.setdefault(path.parent.name, {})[path.name] = path
    dictionaries = {path.stem: path for path in (folder / "dictionaries").glob("*.parquet")}
    jobs = [
        (check, table)
        for check in checks()
        for table in (sorted(files) if check.tables == ["{all}"] else check.tables)
        if table in files and {*check.needs} <= files.keys() | dictionaries.keys()
    ]
    found = {}  # (check, table) -> (rows, patients, worst) of each bucket
    with tempfile.TemporaryDirectory(dir=temp) as spill:
        config = {"memory_limit": f"{memory >> 20}MiB", "temp_directory": spill, "threads": 1}
        with contextlib.closing(
            duckdb.connect(config={**config, "preserve_insertion_order": False})
        ) as con:
            con.execute("SET enable_progress_bar = false")
            for name, path in dictionaries.items():
                _view(con, name, [path])
            for group in tqdm(_groups(files), desc="checking quality", unit="pass", disable=None):
                for table, by_part in files.items():
                    paths = [by_part[part] for part in group if part in by_part]
                    # a table that has no rows of these buckets is there all the same, to compare with
                    _view(con, table, paths or [next(iter(by_part.values()))], empty=not paths)
                for check, table in jobs:
                    with contextlib.suppress(
                        duckdb.BinderException
                    ):  # the table lacks a column that is asked for
                        counts = _faulty_rows(con, check.sql.replace("{table}", f'"{table}"'))
                        found.setdefault((check.name, table, check.sentence), []).append(counts)
            n_rows, about_columns = {}, []
            for table in files:
                n_rows[table], more = _column_flags(
                    con, table, folder / "tables" / table / "*.parquet"
                )
                about_columns += more
    return [_flag(*key, n_rows[key[1]], counts) for key, counts in found.items()] + about_columns


def _groups(files: dict) -> list:
    """The names of the parts, neighbours together as long as they are small: each pass has a cost of its own."""
    sizes = {}
    for by_part in files.values():
        for part, path in by_part.items():
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
    groups, room = [], 0
    for part, size in sorted(sizes.items()):
        if size > room:
            groups.append([])
            room = BYTES_PER_PASS
        groups[-1].append(part)
        room -= size
    return groups


def _view(con, name: str, paths: list, empty: bool = False) -> None:
    listed = ", ".join(map(_text, paths))
    con.execute(
        f'CREATE OR REPLACE VIEW "{name}" AS FROM read_parquet([{listed}])' + " LIMIT 0" * empty
    )


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _faulty_rows(con, sql: str) -> tuple:
    return con.execute(
        f"SELECT count(*), count(DISTINCT subject_id), max(worst) FROM ({sql})"
    ).fetchall()[0]


def _flag(check: str, table: str, sentence: str, n_rows: int, counts: list) -> dict:
    """One flag from what each bucket counted; a patient is in one bucket, so that patients add up too."""
    rows, patients, worst = zip(*counts, strict=True)
    worst = max((value for value in worst if value is not None), default=None)
    return {
        "check": check,
        "table": table,
        "sentence": sentence.format(worst=_readable(worst))
        if worst is not None
        else sentence.split(", at worst")[0],
        "rows": sum(rows),
        "share": round(sum(rows) / n_rows, 6) if n_rows else 0.0,
        "patients": sum(patients),
    }


def _readable(worst) -> str:
    if isinstance(worst, timedelta):
        seconds = worst.total_seconds()
        length, unit = next(
            (n, u)
            for n, u in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
            if seconds >= 2 * n or n == 1
        )
        return f"{_readable(seconds / length)} {unit}"
    return f"{worst:,.3g}" if worst < 100 else f"{worst:,.0f}"


def _column_flags(con, table: str, files: Path) -> tuple:
    """The number of rows of a table, and flags about whole columns, both from the footers of its files."""
    columns = con.execute(f"""
        SELECT path_in_schema, sum(num_values), sum(stats_null_count) FROM parquet_metadata({_text(files)})
        GROUP BY path_in_schema, column_id ORDER BY column_id""").fetchall()
    n_rows = int(columns[0][1])
    kinds = {
        "empty columns": (
            "holds nothing in",
            [name for name, values, nulls in columns if values and values == nulls],
        ),
        "upper-case columns": (
            "writes in upper case",
            [name for name, _, _ in columns if name != name.lower()],
        ),
    }
    patients = con.execute(
        f"SELECT count(DISTINCT subject_id) FROM read_parquet({_text(files)})"
    ).fetchall()[0][0]
    return n_rows, [
        _flag(check, table, f"{words} {', '.join(names)}", n_rows, [(n_rows, patients, None)])
        for check, (words, names) in kinds.items()
        if names
    ]


def print_flags(flags: list) -> None:
    """The checks that found something, as a table of at most 100 columns."""
    import textwrap

    found = [flag for flag in flags if flag["rows"]]
    if found:
        print(
            f"{'what does not fit (flagged, not changed)':<66}{'rows':>12}{'share':>10}{'patients':>12}"
        )
    for flag in found:
        lines = textwrap.wrap(f"{flag['table']}: {flag['sentence']}", 64, subsequent_indent="  ")
        share = "<0.01%" if flag["share"] < 0.0001 else f"{flag['share']:.2%}"
        print(
            f"{lines[0]:<66}{flag['rows']:>12,}{share:>10}{flag['patients']:>12,}",
            *lines[1:],
            sep="\n",
        )
    print(f"{len(flags) - len(found)} other checks found nothing")
