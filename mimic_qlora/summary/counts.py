"""The tables of the summary but Table 1, each a function of the data.

Each returns rows as they go into the CSV files, small counts hidden.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pandas as pd

from mimic_qlora.clinical import content
from mimic_qlora.display.cells import Cell
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import database, sql
from mimic_qlora.subjects.quality import without_worst
from mimic_qlora.summary.data import Data
from mimic_qlora.summary.disclosure import (
    HIDDEN,
    Rows,
    hidden_cells,
    hidden_last,
    hide,
    hide_repeats,
    hide_small,
    is_small,
    rounded,
    spread_of_counts,
    told_places,
)

TOP = 20  # rows of each list of the most frequent
_BIN = 20  # coded diagnoses of a bin of the histogram
_BINS = 10  # all patients beyond are in one more


def overview(data: Data) -> Rows:
    """Count patients, stays and rows. Sizes of splits follow from their number: never hidden."""
    there = database.names(data.con)
    coded, without = data.coded, data.patients - data.coded
    by_coding = {"  with a coded stay": coded, "  without any coded stay": without}
    lines: dict[str, Cell] = {"Patients": data.patients}
    lines |= {f"  in the {name} split": n for name, n in data.manifest["split"].items()}
    lines |= by_coding
    lines |= hidden_cells(by_coding, [list(by_coding)], data.min_cell)
    unseen = data.hidden_tables  # whose rows no other line may tell
    stays = {"Hospital stays": ("admissions", database.STAYS)}
    if "icustays" in there:
        stays["ICU stays"] = ("icustays", database.ICU_STAYS)
    for name, (table, rows) in stays.items():
        lines[name] = n = data.count(f"SELECT count(*) FROM {rows}")
        # the rows of the table less its stays tell how many stand twice, its stays less their
        # patients how many have several
        twice = data.manifest["rows"][table]["columnar"] - n
        several = n - data.count(f"SELECT count(DISTINCT subject_id) FROM {rows}")
        if table in unseen or any(is_small(few, data.min_cell) for few in (n, twice, several)):
            hide(lines, [name], data.min_cell)
    lines["Tables by patient"] = len(data.manifest["rows"])
    # their sum, less the other tables' rows, would tell those of a hidden table
    total = sum(counts["columnar"] for counts in data.manifest["rows"].values())
    lines["Rows"] = HIDDEN if unseen else total
    return [{"what": what, "n": n} for what, n in lines.items()]


def flow(data: Data) -> Rows:
    """Return who was left out on the way to the cohort of later steps, and why.

    A row is a stage: its patients, how many of them do not reach the next one, and the reason. That
    patients are not sampled or unreadable is said of a file and never hidden.
    """
    read, cells = data.manifest["rows"]["patients"], data.stages
    stages: list[tuple[str, Cell, Cell, str]] = [
        ("in the tables", read["in"], read["unsampled"], "not in the sample"),
        ("taken", read["in"] - read["unsampled"], read["rejected"], "a row that cannot be read"),
        ("converted", data.patients, cells["none"], "no hospital stay"),
        ("with a hospital stay", cells["stay"], cells["uncoded"], "no coded diagnosis"),
        ("with a coded stay", cells["coded"], None, ""),
    ]
    return [
        {"patients": name, "n": count, "left_out": out, "because": why}
        for name, count, out, why in stages
        if name != "taken" or out
    ]


def diagnoses_per_patient(data: Data) -> Rows:
    """Describe coded diagnoses per patient, over those with any."""
    counts = data.con.execute(f"""
        SELECT count(*) AS rows, count(DISTINCT (icd_code, icd_version)) AS codes
        FROM diagnoses_icd WHERE {database.CODED} GROUP BY subject_id ORDER BY subject_id""").df()
    without = data.patients - len(counts)
    if counts.empty or is_small(len(counts), data.min_cell):
        return []
    # less the mean of all patients, the rows of the table would tell of how many that say no code
    saying_none = data.manifest["rows"]["diagnoses_icd"]["columnar"] - int(counts.rows.sum())
    result: Rows = []
    for what, values in (("coded diagnoses", counts.rows), ("different codes", counts.codes)):
        # of the rows, which are known, the mean tells how many patients have any, or a code twice
        few = [int(values.sum()) - len(counts), without, int((counts.rows - counts.codes).sum())]
        few += [saying_none] if what == "coded diagnoses" else []
        tells = any(is_small(n, data.min_cell) for n in few)
        low, median, high, most = spread_of_counts(values, data.min_cell)
        result.append(
            {
                "what": what,
                "mean": HIDDEN if tells else round(float(values.mean()), 2),
                "lower_quartile": low,
                "median": median,
                "upper_quartile": high,
                "most": most,
                "none_share": HIDDEN
                if is_small(without, data.min_cell)
                else without / data.patients,
            }
        )
    return result


def diagnoses_histogram(data: Data) -> Rows:
    """Count patients by number of coded diagnoses: none, bins of 20, 200 or more.

    Bins are one where either has few patients, or few lie between their bound and a quartile, or
    the most, that is told: no `<10` would hide these.
    """
    bins = data.con.execute(f"""
        SELECT least(n // {_BIN}, {_BINS}), count(*)
        FROM (SELECT count(*) AS n FROM diagnoses_icd WHERE {database.CODED} GROUP BY subject_id)
        GROUP BY 1 ORDER BY 1""").fetchall()
    found = [(_BIN * low or 1, _BIN * low + _BIN - 1, n) for low, n in bins]
    coded = sum(n for _, _, n in found)
    if without := data.patients - coded:
        found.insert(0, (0, 0, without))
    told = told_places(pd.RangeIndex(coded), data.min_cell).values()
    cuts = [without + place + side for place in told for side in (0, 1)]
    merged, first, before, up_to = [], 0, 0, 0
    for low, high, n in found:
        first, up_to = (low if up_to == before else first), up_to + n
        others = (before, data.patients, *(cuts if high else ()))  # all of bin 0 have one value
        is_end = up_to == data.patients
        if is_end or min(abs(up_to - other) for other in others) >= data.min_cell:
            merged.append((first, high, up_to - before))
            before = up_to
    return [{"coded_diagnoses": _of_bin(low, high), "patients": n} for low, high, n in merged]


def _of_bin(low: int, high: int) -> str:
    """Return the numbers of coded diagnoses of a bin in words."""
    if high >= _BIN * _BINS:
        return f"{low} or more"
    return f"{low} to {high}" if high else "0"


@dataclass(frozen=True)
class Ranking:
    """A list of the most frequent values of a key in a table. All fields are SQL."""

    table: str  # which the other fields may call t
    key: dict[str, str] = field(hash=False)  # column of the list -> expression
    where: str = "true"  # the rows that count
    order: str = "patients"  # or "rows"
    within: str | None = None  # a column of the key: each of its values has a list of its own
    typed: bool = False  # the key is text that people type: what few patients have tells of them


def top(data: Data, ranking: Ranking) -> Rows:
    """Return the most frequent values of the ranking's key with their patients and rows.

    A typed value of fewer than `min_cell` patients is not listed.
    """
    order = f"{ranking.order} DESC, {', '.join(ranking.key)}"
    lists, first = "", ""
    if ranking.within:
        lists, first = f"PARTITION BY {ranking.within}", f"{ranking.within}, "
    columns = ", ".join(ranking.key)
    least = data.min_cell if ranking.typed else 0
    expressions = ", ".join(f"{sql} AS {name}" for name, sql in ranking.key.items())
    found = database.rows(
        data.con,
        f"""
        SELECT {columns}, count(*) AS patients, sum(n)::BIGINT AS rows
        FROM (SELECT {expressions}, t.subject_id AS who, count(*) AS n
              FROM {ranking.table} WHERE {ranking.where} GROUP BY ALL)
        GROUP BY {columns} HAVING count(*) >= {least}
        QUALIFY row_number() OVER ({lists} ORDER BY {order}) <= {TOP} ORDER BY {first}{order}""",
    )
    place = ranking.table.split()[0]
    groups = [data.count(f"SELECT count(DISTINCT subject_id) FROM {of}") for of in ("split", place)]
    if place.startswith("diagnoses_icd"):
        groups.append(data.coded)
    rows = hide_small(found, ("patients",), data.min_cell, ("rows",), groups)
    rows = hide_repeats(rows, data.min_cell)
    return hidden_last(rows, ranking.order, list(ranking.key), ranking.within)


def top_phenotypes(data: Data) -> Rows:
    """Return the most frequent phenotypes, which join codes of ICD-9 and ICD-10."""
    database.add_phenotypes(data.con)
    names = {name: entry.name for name, entry in content.load().phenotypes.items()}
    joined = "diagnoses_icd t JOIN code_phenotype p USING (icd_code, icd_version)"
    ranking = Ranking(joined, {"phenotype": "p.phenotype"}, where=database.CODED)
    found = top(data, ranking)
    by_code: dict[Cell, list[int]] = {}
    for phenotype, n in data.con.execute(f"""
        SELECT p.phenotype, count(DISTINCT t.subject_id) FROM {joined} WHERE {database.CODED}
        GROUP BY p.phenotype, t.icd_code, t.icd_version""").fetchall():
        by_code.setdefault(phenotype, []).append(n)
    rows: Rows = []
    for row in found:
        one = {"phenotype": row["phenotype"], "name": names[str(row["phenotype"])], **row}
        n = row["patients"]
        # less those of a code, which the other lists tell, it would tell few of its other codes
        if isinstance(n, int) and any(
            is_small(n - of, data.min_cell) for of in by_code[row["phenotype"]]
        ):
            one.update(patients=HIDDEN, rows=HIDDEN)
        rows.append(one)
    return hidden_last(rows, "patients", ["phenotype"])


def top_labs(data: Data) -> Rows:
    """Return the most frequent laboratory tests, by number if their dictionary lacks a name.

    Of an item that stands twice in the dictionary the first row counts, as in a chart.
    """
    labels = """(FROM (SELECT *, row_number() OVER () AS "row of the file" FROM d_labitems)
        QUALIFY row_number() OVER (PARTITION BY itemid ORDER BY "row of the file") = 1)"""
    if "d_labitems" not in database.names(data.con):
        labels = "(SELECT NULL::BIGINT AS itemid, NULL AS label, NULL AS fluid)"
    key = {
        "lab": f"coalesce({sql.said('d.label')}, t.itemid::VARCHAR)",
        "fluid": f"coalesce({sql.said('d.fluid')}, '')",
    }
    joined = f"labevents t LEFT JOIN {labels} d ON d.itemid = t.itemid"
    return top(data, Ranking(joined, key, where="t.itemid IS NOT NULL"))


def missing(data: Data) -> Rows:
    """Count the empty and the filled cells of every column, to multiples of `min_cell`.

    Exact ones of two columns, of which one is filled where the other is, would tell of few: those
    with a date of death less those who died in hospital. Both are hidden where few patients, or all
    but few, have such a cell. The numbers of cells are in the footers of the tables' files; columns
    that are filled in part are read for the patients.
    """
    result: Rows = []
    unseen = data.hidden_tables
    for name, columns in sorted(data.manifest["columns"].items()):
        rows = data.manifest["rows"][name]["columnar"]
        nulls = database.nulls(data.con, name) if rows else {}
        empty = {column: nulls.get(column, rows) for column in columns}
        partly = [column for column, n in empty.items() if 0 < n < rows]
        few = {*partly} if name in unseen else _of_few(data, name, partly)
        for column, type_ in columns.items():
            n = rounded(empty[column], rows, data.min_cell)
            row: dict[str, Cell] = {
                "column": f"{name}.{column}",
                "type": type_,
                "rows": rows,
                "empty": n,
                "filled": rows - n,
                "empty_share": n / rows if rows else None,
            }
            if name in unseen:  # where one of both is 0, the share tells no number of rows
                hide(row, ("rows", "empty", "filled"), data.min_cell)
            if column in few:
                hide(row, ("empty", "filled", "empty_share"), data.min_cell)
            result.append(row)
    return result


def _of_few(data: Data, name: str, columns: Sequence[str]) -> Collection[str]:
    """Return the columns of which few patients, or all but few, have a filled or an empty cell."""
    if not columns or not data.min_cell:
        return set()
    cells = ", ".join(f"count({sql.identifier(c)}) AS f{i}" for i, c in enumerate(columns))
    patients = ", ".join(f"count_if(f{i} > 0), count_if(f{i} < n)" for i in range(len(columns)))
    per_patient = f"SELECT count(*) AS n, {cells} FROM {database.table(name)} GROUP BY subject_id"
    counted = data.con.execute(f"SELECT count(*), {patients} FROM ({per_patient})").fetchall()
    total, *found = counted[0]
    pairs = zip(found[::2], found[1::2], strict=True)
    return {
        column
        for column, pair in zip(columns, pairs, strict=True)
        if any(is_small(n, data.min_cell) or is_small(total - n, data.min_cell) for n in pair)
    }


def quality(data: Data) -> Rows:
    """Return the flags of step 1: rows that cannot be right, and the patients who have them."""
    rows: Rows = []
    for flag in data.manifest["quality"]:
        if not flag["rows"]:
            continue
        sentence = without_worst(flag["sentence"]) if data.min_cell else flag["sentence"]
        told = {name: flag[name] for name in ("table", "sentence", "rows", "share", "patients")}
        rows.append({**told, "sentence": sentence})
    also = ("rows", "share", "patients")
    data.hide_stays(rows, also)
    unseen = data.hidden_tables
    result: Rows = []
    for row in rows:
        table = str(row["table"])
        groups = [data.patients, data.patients_in(table)]
        shown = hide_small([row], ("rows", "patients"), data.min_cell, also, groups)
        result += hide_repeats(shown, data.min_cell)
        if table in unseen:  # its rows are those at fault, divided by their share
            result[-1] |= {"share": HIDDEN} if row["share"] != 1 else dict.fromkeys(also, HIDDEN)
    return result


def misfits(data: Data) -> Rows:
    """Count cells that are not of their column's type; the JSONL keeps them as they are.

    They are hidden where few patients, or all but few of the table's, have them, or where a
    manifest of an older version does not say how many do.
    """
    rows: Rows = []
    unseen = data.hidden_tables
    patients_of = data.manifest.get("cells_not_of_their_type_patients", {})
    for column, n in sorted(data.manifest["cells_not_of_their_type"].items()):
        table, _, name = column.partition(".")
        if table not in data.manifest["columns"]:
            # a dictionary: its columns outside the schema are text, which every cell fits
            kind, of = tables.schema()[table].columns[name], data.manifest["dictionaries"][table]
            row: dict[str, Cell] = {"column": column, "type": kind, "cells": n, "rows": of}
            rows.append(row)
            continue
        kind, of = data.manifest["columns"][table][name], data.manifest["rows"][table]["columnar"]
        row = {"column": column, "type": kind, "cells": n, "rows": of}
        who = patients_of.get(column, 0)
        others = data.patients_in(table) - who
        few = any(is_small(n_patients, data.min_cell) for n_patients in (who or 1, others))
        if few or (table in unseen and n == of):
            hide(row, ["cells"], data.min_cell)
        if table in unseen:
            hide(row, ["rows"], data.min_cell)
        rows.append(row)
    return hide_small(rows, ("cells", "rows"), data.min_cell)
