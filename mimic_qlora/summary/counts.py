"""The tables of the summary but Table 1, each a function of the database.

Each returns rows as they go into the CSV files, counts of fewer than `min_cell` patients hidden.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
from duckdb import DuckDBPyConnection

from mimic_qlora.clinical import content
from mimic_qlora.display.cells import Cell
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import database, sql
from mimic_qlora.subjects.manifest import SubjectsManifest
from mimic_qlora.subjects.quality import without_worst
from mimic_qlora.summary.disclosure import HIDDEN, Rows, hidden_cells, hide, hide_small, is_small

TOP = 20  # rows of each list of the most frequent
_BIN = 20  # coded diagnoses of a bin of the histogram
_BINS = 10  # all patients beyond are in one more
_ROWS = "rows_of_patients"  # a table of the connection: name, subject_id, n
Patients = npt.NDArray[np.int64]  # their numbers


def overview(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Count patients, stays and rows. Sizes of splits follow from a rule and are never hidden."""
    there = database.names(con)
    patients = manifest["source"]["patients"]
    coded = _coded(con)
    by_coding = {"  with a coded stay": coded, "  without any coded stay": patients - coded}
    lines: dict[str, Cell] = {"Patients": patients}
    lines |= {f"  in the {name} split": n for name, n in manifest["split"].items()}
    lines |= by_coding
    lines |= hidden_cells(by_coding, [list(by_coding)], min_cell)
    unseen = _hidden_tables(con, manifest, min_cell)  # whose rows no other line may tell
    stays = {"Hospital stays": ("admissions", database.STAYS)}
    if "icustays" in there:
        stays["ICU stays"] = ("icustays", database.ICU_STAYS)
    for name, (table, rows) in stays.items():
        lines[name] = n = _count(con, f"SELECT count(*) FROM {rows}")
        if table in unseen or is_small(n, min_cell):
            hide(lines, [name], min_cell)
    lines["Tables by patient"] = len(manifest["rows"])
    # their sum, less the other tables' rows, would tell those of a hidden table
    total = sum(counts["columnar"] for counts in manifest["rows"].values())
    lines["Rows"] = HIDDEN if unseen else total
    return [{"what": what, "n": n} for what, n in lines.items()]


def flow(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Return who was left out on the way to the cohort of later steps, and why.

    A row is a stage: its patients, how many of them do not reach the next one, and the reason. That
    patients are not sampled or unreadable is said of a file and never hidden.
    """
    read, n = manifest["rows"]["patients"], manifest["source"]["patients"]
    cells = _stages(con, manifest, min_cell)
    stages: list[tuple[str, Cell, Cell, str]] = [
        ("in the tables", read["in"], read["unsampled"], "not in the sample"),
        ("taken", read["in"] - read["unsampled"], read["rejected"], "a row that cannot be read"),
        ("converted", n, cells["none"], "no hospital stay"),
        ("with a hospital stay", cells["stay"], cells["uncoded"], "no coded diagnosis"),
        ("with a coded stay", cells["coded"], None, ""),
    ]
    return [
        {"patients": name, "n": count, "left_out": out, "because": why}
        for name, count, out, why in stages
        if name != "taken" or out
    ]


def _stages(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> dict[str, Cell]:
    """Count the patients without a stay ("none"), with one ("stay"), and of these without a code
    ("uncoded") and with one ("coded"); what would tell of few is hidden."""
    n, coded = manifest["source"]["patients"], _coded(con)
    stay = _count(con, f"SELECT count(DISTINCT subject_id) FROM {database.STAYS}")
    counts = {"none": n - stay, "uncoded": stay - coded, "coded": coded, "without": n - coded}
    sums = [["none", "uncoded", "coded"], ["none", "uncoded"], ["without", "coded"]]
    cells: dict[str, Cell] = {**counts, **hidden_cells(counts, sums, min_cell)}
    cells["stay"] = stay if cells["none"] == counts["none"] else HIDDEN
    return cells


def _coded(con: DuckDBPyConnection) -> int:
    """Count the patients with a coded stay."""
    if "diagnoses_icd" not in database.names(con):
        return 0
    return _count(con, f"SELECT count(*) FROM {database.CODED_PATIENTS}")


def _count(con: DuckDBPyConnection, sql: str) -> int:
    return con.execute(sql).fetchall()[0][0]


def _plain(value: float | None) -> Cell:
    """Return a number as an int where it is whole, else with two decimals."""
    if value is None:
        return None
    return int(value) if value == int(value) else round(float(value), 2)


def rows_per_table(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Count rows and patients of every table, in the order of the schema."""
    order = list(tables.schema())
    total = manifest["source"]["patients"]
    patients_of: dict[str, Patients] = {}
    _add_rows_of_patients(con, manifest)
    names = sorted(
        manifest["rows"],
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
    result: Rows = []
    for name in names:
        n, rows, middle, most = 0, 0, None, None
        if manifest["rows"][name]["columnar"]:
            per_patient = f"SELECT subject_id, n FROM {_ROWS} WHERE name = ?"
            found = con.execute(per_patient, [name]).df()
            patients_of[name] = found.subject_id.to_numpy()
            n, rows = len(found), int(found.n.sum())
            middle, most = float(found.n.median()), int(found.n.max())
        result.append(
            {
                "table": name,
                "rows": rows,
                "patients": n,
                "patients_share": n / total,
                "median_rows": _plain(middle),
                "most_rows": most,
            }
        )
    also = ("rows", "patients_share", "median_rows", "most_rows")
    for row in result:
        if _leave_few(patients_of.get(str(row["table"])), patients_of.values(), min_cell):
            row.update(dict.fromkeys(("patients", *also), HIDDEN))
    _hide_stays(con, manifest, min_cell, result, ("patients", *also))
    return hide_small(result, ("patients",), min_cell, also, [total])


def _add_rows_of_patients(con: DuckDBPyConnection, manifest: SubjectsManifest) -> None:
    """Add the rows of each patient in each table (name, subject_id, n), unless they are there."""
    con.execute(f"CREATE TEMP TABLE IF NOT EXISTS {_ROWS} (name TEXT, subject_id BIGINT, n BIGINT)")
    done = {name for (name,) in con.execute(f"SELECT DISTINCT name FROM {_ROWS}").fetchall()}
    for name, counts in manifest["rows"].items():
        if counts["columnar"] and name not in done:
            per_patient = f"SELECT ?, subject_id, count(*) FROM {database.table(name)} GROUP BY ALL"
            con.execute(f"INSERT INTO {_ROWS} {per_patient}", [name])


def _hidden_tables(
    con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int
) -> Collection[str]:
    """Return the tables whose rows are hidden: no other table may tell them."""
    rows = rows_per_table(con, manifest, min_cell)
    return {str(row["table"]) for row in rows if row["rows"] == HIDDEN}


def _patients_in(con: DuckDBPyConnection, name: str) -> int:
    """Count the patients of a table; `_hidden_tables` has counted their rows."""
    return con.execute(f"SELECT count(*) FROM {_ROWS} WHERE name = ?", [name]).fetchall()[0][0]


def _leave_few(some: Patients | None, others: Iterable[Patients], min_cell: int) -> bool:
    """Tell whether a table has the patients of another one but for few, whom two counts would tell.

    So may a table be that details another, as emar_detail does emar.
    """
    if some is None or is_small(len(some), min_cell):  # a small one is hidden as that
        return False
    return any(
        is_small(len(more) - len(some), min_cell) and np.isin(some, more).all() for more in others
    )


def _hide_stays(
    con: DuckDBPyConnection,
    manifest: SubjectsManifest,
    min_cell: int,
    rows: Rows,
    columns: Sequence[str],
) -> None:
    """Hide columns of rows that count the patients with a stay, where the flow must not.

    All rows of admissions do, and tables that have a row of every stay, such as services.
    """
    if _stages(con, manifest, min_cell)["stay"] != HIDDEN:
        return
    n = _count(con, f"SELECT count(DISTINCT subject_id) FROM {database.STAYS}")
    for row in rows:
        if row["patients"] == n or (row["table"] == "admissions" and row.get("share", 1) == 1):
            row.update(dict.fromkeys(columns, HIDDEN))


def diagnoses_per_patient(
    con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int
) -> Rows:
    """Describe coded diagnoses per patient, over all patients and over those with any.

    The second rows would tell how many these are, and are left out where few others are.
    """
    counts = con.execute(f"""
        SELECT count(*) AS rows, count(DISTINCT (icd_code, icd_version)) AS codes
        FROM diagnoses_icd WHERE {database.CODED} GROUP BY subject_id ORDER BY subject_id""").df()
    without = manifest["source"]["patients"] - len(counts)
    if is_small(len(counts), min_cell):
        return []
    result: Rows = []
    groups = {"all patients": without, "patients with any": 0}
    if is_small(without, min_cell):
        del groups["patients with any"]
    for who, extra in groups.items():
        for what, column in (("coded diagnoses", "rows"), ("different codes", "codes")):
            values = pd.concat([counts[column], pd.Series([0] * extra, dtype="int64")])
            if values.empty:
                continue
            low, middle, high = (_plain(q) for q in values.quantile([0.25, 0.5, 0.75]))
            result.append(
                {
                    "of": who,
                    "what": what,
                    "mean": round(float(values.mean()), 2),
                    "lower_quartile": low,
                    "median": middle,
                    "upper_quartile": high,
                    "most": int(values.max()),
                    "none_share": HIDDEN if is_small(extra, min_cell) else extra / len(values),
                }
            )
    return result


def diagnoses_histogram(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Count patients by number of coded diagnoses: none, bins of 20, 200 or more."""
    bins = con.execute(f"""
        SELECT least(n // {_BIN}, {_BINS}), count(*)
        FROM (SELECT count(*) AS n FROM diagnoses_icd WHERE {database.CODED} GROUP BY subject_id)
        GROUP BY 1 ORDER BY 1""").fetchall()
    last = f"{_BIN * _BINS} or more"
    counts: dict[str, int] = {
        f"{_BIN * low or 1} to {_BIN * low + _BIN - 1}" if low < _BINS else last: n
        for low, n in bins
    }
    if without := manifest["source"]["patients"] - sum(counts.values()):
        counts = {"0": without, **counts}
    sums = [[label for label in counts if label != "0"], list(counts)]  # the overview may tell 0
    shown: dict[str, Cell] = {**counts, **hidden_cells(counts, sums, min_cell)}
    return [{"coded_diagnoses": label, "patients": n} for label, n in shown.items()]


@dataclass(frozen=True)
class Ranking:
    """A list of the most frequent values of a key in a table. All fields are SQL."""

    table: str  # which the other fields may call t
    key: dict[str, str] = field(hash=False)  # column of the list -> expression
    where: str = "true"  # the rows that count
    order: str = "patients"  # or "rows"
    within: str | None = None  # a column of the key: each of its values has a list of its own
    typed: bool = False  # the key is text that people type: what few patients have tells of them


def top(
    con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int, ranking: Ranking
) -> Rows:
    """Return the most frequent values of the ranking's key with their patients and rows.

    A typed value of fewer than `min_cell` patients is not listed.
    """
    order = f"{ranking.order} DESC, {', '.join(ranking.key)}"
    lists, first = "", ""
    if ranking.within:
        lists, first = f"PARTITION BY {ranking.within}", f"{ranking.within}, "
    columns = ", ".join(ranking.key)
    least = min_cell if ranking.typed else 0
    expressions = ", ".join(f"{sql} AS {name}" for name, sql in ranking.key.items())
    found = database.rows(
        con,
        f"""
        SELECT {columns}, count(*) AS patients, sum(n)::BIGINT AS rows
        FROM (SELECT {expressions}, t.subject_id AS who, count(*) AS n
              FROM {ranking.table} WHERE {ranking.where} GROUP BY ALL)
        GROUP BY {columns} HAVING count(*) >= {least}
        QUALIFY row_number() OVER ({lists} ORDER BY {order}) <= {TOP} ORDER BY {first}{order}""",
    )
    place = ranking.table.split()[0]
    groups = [
        _count(con, f"SELECT count(DISTINCT subject_id) FROM {of}") for of in ("split", place)
    ]
    if place.startswith("diagnoses_icd"):
        groups.append(_coded(con))
    return hide_small(found, ("patients",), min_cell, ("rows",), groups)


def top_phenotypes(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Return the most frequent phenotypes, which join codes of ICD-9 and ICD-10."""
    database.add_phenotypes(con)
    names = {name: entry.name for name, entry in content.load().phenotypes.items()}
    joined = "diagnoses_icd t JOIN code_phenotype p USING (icd_code, icd_version)"
    ranking = Ranking(joined, {"phenotype": "p.phenotype"}, where=database.CODED)
    found = top(con, manifest, min_cell, ranking)
    by_code: dict[Cell, list[int]] = {}
    for phenotype, n in con.execute(f"""
        SELECT p.phenotype, count(DISTINCT t.subject_id) FROM {joined} WHERE {database.CODED}
        GROUP BY p.phenotype, t.icd_code, t.icd_version""").fetchall():
        by_code.setdefault(phenotype, []).append(n)
    rows: Rows = []
    for row in found:
        one = {"phenotype": row["phenotype"], "name": names[str(row["phenotype"])], **row}
        n = row["patients"]
        # less those of a code, which the other lists tell, it would tell few of its other codes
        if isinstance(n, int) and any(
            is_small(n - of, min_cell) for of in by_code[row["phenotype"]]
        ):
            one.update(patients=HIDDEN, rows=HIDDEN)
        rows.append(one)
    return rows


def top_labs(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Return the most frequent laboratory tests, by number if their dictionary lacks a name.

    Of an item that stands twice in the dictionary the first row counts, as in a chart.
    """
    labels = """(FROM (SELECT *, row_number() OVER () AS "row of the file" FROM d_labitems)
        QUALIFY row_number() OVER (PARTITION BY itemid ORDER BY "row of the file") = 1)"""
    if "d_labitems" not in database.names(con):
        labels = "(SELECT NULL::BIGINT AS itemid, NULL AS label, NULL AS fluid)"
    key = {
        "lab": f"coalesce({sql.said('d.label')}, t.itemid::VARCHAR)",
        "fluid": f"coalesce({sql.said('d.fluid')}, '')",
    }
    joined = f"labevents t LEFT JOIN {labels} d ON d.itemid = t.itemid"
    return top(con, manifest, min_cell, Ranking(joined, key, where="t.itemid IS NOT NULL"))


def missing(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Count the empty and the filled cells of every column.

    Both are hidden where few patients, or all but few, have such a cell. The numbers of cells are
    in the footers of the tables' files; columns that are filled in part are read for the patients.
    """
    result: Rows = []
    unseen = _hidden_tables(con, manifest, min_cell)
    for name, columns in sorted(manifest["columns"].items()):
        rows = manifest["rows"][name]["columnar"]
        nulls = database.nulls(con, name) if rows else {}
        empty = {column: nulls.get(column, rows) for column in columns}
        partly = [column for column, n in empty.items() if 0 < n < rows]
        few = {*partly} if name in unseen else _of_few(con, name, partly, min_cell)
        for column, type_ in columns.items():
            row: dict[str, Cell] = {
                "column": f"{name}.{column}",
                "type": type_,
                "rows": rows,
                "empty": empty[column],
                "filled": rows - empty[column],
                "empty_share": empty[column] / rows if rows else None,
            }
            if name in unseen:  # where one of both is 0, the share tells no number of rows
                hide(row, ("rows", "empty", "filled"), min_cell)
            if column in few:
                hide(row, ("empty", "filled", "empty_share"), min_cell)
            result.append(row)
    return result


def _of_few(
    con: DuckDBPyConnection, name: str, columns: Sequence[str], min_cell: int
) -> Collection[str]:
    """Return the columns of which few patients, or all but few, have a filled or an empty cell."""
    if not columns or not min_cell:
        return set()
    cells = ", ".join(f"count({sql.identifier(c)}) AS f{i}" for i, c in enumerate(columns))
    patients = ", ".join(f"count_if(f{i} > 0), count_if(f{i} < n)" for i in range(len(columns)))
    per_patient = f"SELECT count(*) AS n, {cells} FROM {database.table(name)} GROUP BY subject_id"
    total, *found = con.execute(f"SELECT count(*), {patients} FROM ({per_patient})").fetchall()[0]
    pairs = zip(found[::2], found[1::2], strict=True)
    return {
        column
        for column, pair in zip(columns, pairs, strict=True)
        if any(is_small(n, min_cell) or is_small(total - n, min_cell) for n in pair)
    }


def quality(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Return the flags of step 1: rows that cannot be right, and the patients who have them."""
    rows: Rows = []
    for flag in manifest["quality"]:
        if not flag["rows"]:
            continue
        sentence = flag["sentence"]
        if is_small(flag["patients"], min_cell) or is_small(flag["rows"], min_cell):
            sentence = without_worst(flag["check"], sentence)
        told = {name: flag[name] for name in ("table", "sentence", "rows", "share", "patients")}
        rows.append({**told, "sentence": sentence})
    also = ("rows", "share", "patients")
    _hide_stays(con, manifest, min_cell, rows, also)
    unseen = _hidden_tables(con, manifest, min_cell)
    result: Rows = []
    for row in rows:
        table = str(row["table"])
        groups = [manifest["source"]["patients"], _patients_in(con, table)]
        result += hide_small([row], ("rows", "patients"), min_cell, also, groups)
        if table in unseen:  # its rows are those at fault, divided by their share
            result[-1] |= {"share": HIDDEN} if row["share"] != 1 else dict.fromkeys(also, HIDDEN)
    return result


def misfits(con: DuckDBPyConnection, manifest: SubjectsManifest, min_cell: int) -> Rows:
    """Count cells that are not of their column's type; the JSONL keeps them as they are.

    They are hidden where few patients, or all but few of the table's, have them, or where a
    manifest of an older version does not say how many do.
    """
    rows: Rows = []
    unseen = _hidden_tables(con, manifest, min_cell)
    patients_of = manifest.get("cells_not_of_their_type_patients", {})
    for column, n in sorted(manifest["cells_not_of_their_type"].items()):
        table, _, name = column.partition(".")
        if table not in manifest["columns"]:
            # a dictionary: its columns outside the schema are text, which every cell fits
            kind, of = tables.schema()[table].columns[name], manifest["dictionaries"][table]
            row: dict[str, Cell] = {"column": column, "type": kind, "cells": n, "rows": of}
            rows.append(row)
            continue
        kind, of = manifest["columns"][table][name], manifest["rows"][table]["columnar"]
        row = {"column": column, "type": kind, "cells": n, "rows": of}
        who = patients_of.get(column, 0)
        few = is_small(who or 1, min_cell) or is_small(_patients_in(con, table) - who, min_cell)
        if few or (table in unseen and n == of):
            hide(row, ["cells"], min_cell)
        if table in unseen:
            hide(row, ["rows"], min_cell)
        rows.append(row)
    return hide_small(rows, ("cells", "rows"), min_cell)
