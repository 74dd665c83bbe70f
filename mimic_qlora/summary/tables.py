"""What a summary of the patients says: each table of results is one function of the database, small counts hidden."""

from functools import partial

from mimic_qlora.clinical import content
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import database
from mimic_qlora.summary.disclosure import HIDDEN, hidden_cells, hide_small, is_small
from mimic_qlora.summary.table1 import NOTE, table1

TOP = 20


def overview(con, manifest: dict, min_cell: int) -> list:
    """The size of the data: patients, stays, splits. Split sizes follow from a rule and are never hidden."""
    there = database.names(con)
    patients = manifest["source"]["patients"]
    coded = (
        _count(con, "SELECT count(DISTINCT subject_id) FROM diagnoses_icd")
        if "diagnoses_icd" in there
        else 0
    )
    by_coding = {"  with a coded stay": coded, "  without any coded stay": patients - coded}
    lines = [
        ("Patients", patients),
        *((f"  in the {name} split", n) for name, n in manifest["split"].items()),
    ]
    lines += (by_coding | hidden_cells(by_coding, [list(by_coding)], min_cell)).items()
    lines.append(("Hospital stays", _count(con, "SELECT count(*) FROM admissions")))
    if "icustays" in there:
        lines.append(("ICU stays", _count(con, "SELECT count(*) FROM icustays")))
    lines.append(("Tables by patient", len(manifest["rows"])))
    lines.append(("Rows", sum(c["columnar"] for c in manifest["rows"].values())))
    return [{"what": what, "n": n} for what, n in lines]


def _count(con, sql: str) -> int:
    return con.execute(sql).fetchall()[0][0]


def _plain(value):
    """A decimal as a whole number where it is one."""
    return value if value is None else int(value) if value == int(value) else round(float(value), 2)


def rows_per_table(con, manifest: dict, min_cell: int) -> list:
    """Rows and patients of every table, in the order of the schema."""
    order = list(tables.schema())
    total = manifest["source"]["patients"]
    result = []
    for name in sorted(
        manifest["rows"],
        key=lambda name: (order.index(name) if name in order else len(order), name),
    ):
        per_patient = f'SELECT subject_id, count(*) AS n FROM "{name}" GROUP BY 1'
        sql = f"SELECT count(*), sum(n)::BIGINT, median(n), max(n) FROM ({per_patient})"
        is_empty = not manifest["rows"][name]["columnar"]
        n, rows, middle, most = (0, 0, None, None) if is_empty else con.execute(sql).fetchall()[0]
        row = {"table": name, "rows": int(rows), "patients": n, "patients_share": n / total}
        result.append({**row, "median_rows": _plain(middle), "most_rows": most})
    return hide_small(
        result, ("patients",), min_cell, ("rows", "patients_share", "median_rows", "most_rows")
    )


def diagnoses_per_patient(con, manifest: dict, min_cell: int) -> list:
    """Mean, median, quartiles and most coded diagnoses per patient, over all patients and over those with any."""
    import pandas as pd

    counted = "count(*) AS rows, count(DISTINCT (icd_code, icd_version)) AS codes"
    counts = con.execute(
        f"SELECT {counted} FROM diagnoses_icd GROUP BY subject_id ORDER BY subject_id"
    ).df()
    without = manifest["source"]["patients"] - len(counts)
    if is_small(len(counts), min_cell):
        return []
    result = []
    for who, extra in (("all patients", without), ("patients with any", 0)):
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


def diagnoses_histogram(con, manifest: dict, min_cell: int) -> list:
    """How many patients have how many coded diagnoses, in bins of 20; those with 200 or more together."""
    per_patient = "SELECT count(*) AS n FROM diagnoses_icd GROUP BY subject_id"
    bins = con.execute(
        f"SELECT least(n // 20, 10), count(*) FROM ({per_patient}) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    counts = {f"{20 * low} to {20 * low + 19}" if low < 10 else "200 or more": n for low, n in bins}
    counts |= hidden_cells(counts, [list(counts)], min_cell)
    return [{"coded_diagnoses": label, "patients": n} for label, n in counts.items()]


def top(con, manifest: dict, min_cell: int, table: str, key: dict, **options) -> list:
    """The most frequent values of `key` (name -> SQL over the table, called t).

    Options, each as SQL: `where`, the rows that count; `order`, "patients" or "rows"; `within`, a column of the key
    each of whose values has a list of its own.
    """
    where, by, within = (
        options.get("where", "true"),
        options.get("order", "patients"),
        options.get("within"),
    )
    order = f"{by} DESC, {', '.join(key)}"
    lists, first = (f"PARTITION BY {within}", f"{within}, ") if within else ("", "")
    columns, exprs = ", ".join(key), ", ".join(f"{sql} AS {name}" for name, sql in key.items())
    found = database.rows(
        con,
        f"""
        SELECT {columns}, count(*) AS patients, sum(n)::BIGINT AS rows
        FROM (SELECT {exprs}, t.subject_id AS who, count(*) AS n FROM {table} WHERE {where} GROUP BY {columns}, who)
        GROUP BY {columns}
        QUALIFY row_number() OVER ({lists} ORDER BY {order}) <= {TOP} ORDER BY {first}{order}""",
    )
    return hide_small(found, ("patients",), min_cell, ("rows",))


def top_phenotypes(con, manifest: dict, min_cell: int) -> list:
    database.add_phenotypes(con)
    names = {name: entry["name"] for name, entry in content.load().phenotypes.items()}
    joined = "diagnoses_icd t JOIN code_phenotype p USING (icd_code, icd_version)"
    found = top(con, manifest, min_cell, joined, {"phenotype": "p.phenotype"})
    return [
        {"phenotype": row["phenotype"], "name": names[row["phenotype"]], **row} for row in found
    ]


def top_labs(con, manifest: dict, min_cell: int) -> list:
    """The most frequent laboratory tests; one that its dictionary does not name is shown by its number."""
    unnamed = "(SELECT NULL::BIGINT AS itemid, NULL AS label, NULL AS fluid)"
    labels = "d_labitems" if "d_labitems" in database.names(con) else unnamed
    key = {"lab": "coalesce(d.label, t.itemid::VARCHAR)", "fluid": "coalesce(d.fluid, '')"}
    joined = f"labevents t LEFT JOIN {labels} d ON d.itemid = t.itemid"
    return top(con, manifest, min_cell, joined, key, where="t.itemid IS NOT NULL")


def missing(con, manifest: dict, min_cell: int) -> list:
    """The empty cells of every column of every table, and their share; few filled cells are a small count too.

    They stand in the footers of the tables' files: no row is read for them.
    """
    result = []
    for name, columns in sorted(manifest["columns"].items()):
        rows = manifest["rows"][name]["columnar"]
        nulls = database.nulls(con, name) if rows else {}
        for column, type_ in columns.items():
            empty = nulls.get(column, rows)
            share = empty / rows if rows else None
            row = {"column": f"{name}.{column}", "type": type_, "rows": rows}
            result.append({**row, "empty": empty, "filled": rows - empty, "empty_share": share})
    return hide_small(result, ("empty", "filled"), min_cell, ("empty", "filled", "empty_share"))


def quality(con, manifest: dict, min_cell: int) -> list:
    """What step 1 flagged and did not change: rows that cannot be right, and whose they are."""
    found = [flag for flag in manifest["quality"] if flag["rows"]]
    rows = [
        {name: flag[name] for name in ("table", "sentence", "rows", "share", "patients")}
        for flag in found
    ]
    for row in rows:
        if is_small(row["patients"], min_cell) or is_small(row["rows"], min_cell):
            row["sentence"] = row["sentence"].split(", at worst")[
                0
            ]  # the worst value is one patient's
    return hide_small(rows, ("rows", "patients"), min_cell, ("rows", "share", "patients"))


def misfits(con, manifest: dict, min_cell: int) -> list:
    """Cells that are not of their column's type, as step 1 found them; the JSONL keeps them as they are."""
    rows = []
    for column, n in sorted(manifest["cells_not_of_their_type"].items()):
        table, _, name = column.partition(".")
        if table in manifest["columns"]:
            kind, of = manifest["columns"][table][name], manifest["rows"][table]["columnar"]
        else:  # a dictionary: what the schema does not know in it is text, which every cell fits
            kind, of = tables.schema()[table].columns[name], manifest["dictionaries"][table]
        rows.append({"column": column, "type": kind, "cells": n, "rows": of})
    return hide_small(rows, ("cells",), min_cell)


_CODE = {
    "icd_version": "t.icd_version",
    "icd_code": "t.icd_code",
    "title": "coalesce(t.long_title, '')",
}
_coded = partial(top, key=_CODE, where="t.icd_code IS NOT NULL", within="icd_version")
_diagnoses, _procedures = (
    partial(_coded, table=f"{kind}_icd_labeled t") for kind in ("diagnoses", "procedures")
)
_drugs = partial(top, table="prescriptions t", key={"drug": "t.drug"}, where="t.drug <> ''")

# name of the file: (heading, the table of MIMIC-IV that it needs, function of (con, manifest, min_cell))
SUMMARIES = {
    "overview": ("Size of the data", "patients", overview),
    "table1": (
        "Table 1: patients with a coded stay, those without apart; n (%) or median [quartiles]",
        "admissions",
        table1,
    ),
    "rows_per_table": ("Rows and patients per table", "patients", rows_per_table),
    "diagnoses_per_patient": (
        "Coded diagnoses per patient",
        "diagnoses_icd",
        diagnoses_per_patient,
    ),
    "diagnoses_histogram": (
        "Patients by number of coded diagnoses",
        "diagnoses_icd",
        diagnoses_histogram,
    ),
    "top_diagnoses_by_patients": (
        f"Top {TOP} diagnoses of each ICD version by patients",
        "diagnoses_icd",
        _diagnoses,
    ),
    "top_diagnoses_by_rows": (
        f"Top {TOP} diagnoses of each ICD version by rows",
        "diagnoses_icd",
        partial(_diagnoses, order="rows"),
    ),
    "top_phenotypes": (
        f"Top {TOP} phenotypes: ICD-9 and ICD-10 joined",
        "diagnoses_icd",
        top_phenotypes,
    ),
    "top_procedures": (f"Top {TOP} procedures of each ICD version", "procedures_icd", _procedures),
    "top_drugs": (f"Top {TOP} drugs ordered", "prescriptions", _drugs),
    "top_labs": (f"Top {TOP} laboratory tests", "labevents", top_labs),
    "quality": ("What cannot be right (step 1 flags it, nothing is changed)", "patients", quality),
    "missing": ("Empty cells per column", "patients", missing),
    "misfits": ("Cells that are not of their column's type", "patients", misfits),
}
NOTES = {"table1": NOTE}  # what stands under a table
