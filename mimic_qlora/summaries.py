"""What a summary of the patients says: each table of results is one function of the database, small counts hidden."""

from functools import partial

from mimic_qlora import clinical, database, tables

TOP = 20
COLUMNS = ("overall", "train", "validation", "test", "no coded stay")
SPLITS = COLUMNS[:4]  # the first is the sum of the others
HIDDEN = "hidden"

# Race in MIMIC-IV's words, by how they begin, in the groups of a Table 1.
_RACES = {
    "WHITE": "White", "PORTUGUESE": "White", "BLACK": "Black", "ASIAN": "Asian",
    "HISPANIC": "Hispanic", "SOUTH AMERICAN": "Hispanic",
    "UNKNOWN": "not recorded", "UNABLE": "not recorded", "PATIENT DECLINED": "not recorded",
}  # fmt: skip


def is_small(n, min_cell: int) -> bool:
    """A count that may point at a patient: above 0 and below `min_cell`."""
    return isinstance(n, int) and 0 < n < min_cell


def hide_small(rows: list, counts: tuple, min_cell: int, also: tuple = ()) -> list:
    """The rows with small counts written as "<10"; in such a row the columns of `also` are hidden too."""
    result = []
    for row in rows:
        small = {c: f"<{min_cell}" for c in counts if is_small(row[c], min_cell)}
        result.append({**row, **(dict.fromkeys(also, HIDDEN) if small else {}), **small})
    return result


def overview(con, manifest: dict, min_cell: int) -> list:
    """The size of the data: patients, stays, splits. Split sizes follow from a rule and are never hidden."""
    there = database.names(con)
    patients = manifest["source"]["patients"]
    coded = _count(con, "SELECT count(DISTINCT subject_id) FROM diagnoses_icd") if "diagnoses_icd" in there else 0
    by_coding = {"  with a coded stay": coded, "  without any coded stay": patients - coded}
    lines = [("Patients", patients), *((f"  in the {name} split", n) for name, n in manifest["split"].items())]
    lines += (by_coding | hidden_cells(by_coding, [list(by_coding)], min_cell)).items()
    lines.append(("Hospital stays", _count(con, "SELECT count(*) FROM admissions")))
    if "icustays" in there:
        lines.append(("ICU stays", _count(con, "SELECT count(*) FROM icustays")))
    lines.append(("Tables by patient", len(manifest["rows"])))
    lines.append(("Rows", sum(c["columnar"] for c in manifest["rows"].values())))
    return [{"what": what, "n": n} for what, n in lines]


def _count(con, sql: str) -> int:
    return con.execute(sql).fetchall()[0][0]


def table1(con, manifest: dict, min_cell: int) -> list:
    """Table 1 of the patients: overall, by split, and those without any coded stay apart.

    Stay-level characteristics are of the first stay; lengths of stay are of all stays. Counts above 0 and below
    `min_cell` are hidden, and so is the next smallest where they could be worked out from a sum.
    """
    people, stays = _people(con), _stays(con)
    member = {
        "overall": people.subject_id.notna(),
        **{name: people.split == name for name in SPLITS[1:]},
        "no coded stay": ~people.coded,
    }
    who = {name: people[mask] for name, mask in member.items()}
    sizes = {name: len(part) for name, part in who.items()}
    apart = hidden_cells({name: n for name, n in sizes.items() if name not in SPLITS}, [], min_cell)
    blocks = [
        [{"characteristic": "Patients", **sizes, **apart}],
        _quartiles("Age, years", {name: part.anchor_age for name, part in who.items()}, sizes, min_cell),
    ]
    at_first_stay = {
        "Race, first stay": "race",
        "Insurance, first stay": "insurance",
        "Admission type": "admission_type",
    }
    for title, column in {"Sex": "gender", **at_first_stay}.items():
        order = people[column].value_counts().sort_index().sort_values(ascending=False, kind="stable").index
        counts = {level: {name: int((part[column] == level).sum()) for name, part in who.items()} for level in order}
        blocks.append(_levels(title, counts, sizes, min_cell))
    blocks.append(_quartiles("Stays per patient", {name: part.stays for name, part in who.items()}, sizes, min_cell))
    lengths = {name: stays.days[stays.subject_id.isin(part.subject_id)] for name, part in who.items()}
    blocks.append(_quartiles("Days of each stay", lengths, sizes, min_cell))
    first_to_last = {name: part.days_covered[part.stays > 0] for name, part in who.items()}
    blocks.append(_quartiles("Days from first to last", first_to_last, sizes, min_cell))
    for title, column in (("Any ICU stay", "icu_stays"), ("Died in hospital", "died")):
        yes = {name: int((part[column] > 0).sum()) for name, part in who.items()}
        no = {name: sizes[name] - n for name, n in yes.items()}
        blocks.append(_levels(title, {"": yes, "no": no}, sizes, min_cell)[:1])
    in_icu = {name: part.icu_stays[part.icu_stays > 0] for name, part in who.items()}
    blocks.append(_quartiles("ICU stays if any", in_icu, sizes, min_cell))
    return [row for block in blocks for row in block]


def _people(con):
    there = database.names(con)
    # a table that is not there has nobody in it
    coded, icu = (
        t if t in there else "(SELECT subject_id FROM patients WHERE false)" for t in ("diagnoses_icd", "icustays")
    )
    people = con.execute(f"""
        WITH first AS (SELECT *, row_number() OVER (PARTITION BY subject_id ORDER BY admittime, hadm_id) AS place
                       FROM admissions),
             stays AS (SELECT subject_id, count(*) AS stays, max(hospital_expire_flag) AS died,
                              epoch(max(dischtime) - min(admittime)) / 86400 AS days_covered FROM admissions GROUP BY 1)
        SELECT p.subject_id, s.split, p.gender, p.anchor_age, c.subject_id IS NOT NULL AS coded,
               a.race, a.insurance, a.admission_type, a.subject_id IS NOT NULL AS admitted,
               coalesce(t.stays, 0) AS stays, coalesce(t.died, 0) AS died, t.days_covered, coalesce(i.n, 0) AS icu_stays
        FROM patients p JOIN split s USING (subject_id)
        LEFT JOIN first a ON a.subject_id = p.subject_id AND a.place = 1
        LEFT JOIN stays t ON t.subject_id = p.subject_id
        LEFT JOIN (SELECT DISTINCT subject_id FROM {coded}) c ON c.subject_id = p.subject_id
        LEFT JOIN (SELECT subject_id, count(*) AS n FROM {icu} GROUP BY 1) i ON i.subject_id = p.subject_id
        ORDER BY p.subject_id""").df()
    people["race"] = people.race.map(_race, na_action="ignore")
    for column in ("race", "insurance", "admission_type"):
        people[column] = people[column].astype(object).fillna("not recorded").where(people.admitted, "no hospital stay")
    people["gender"] = people.gender.astype(object).fillna("not recorded")
    return people


def _race(text: str) -> str:
    return next((group for start, group in _RACES.items() if text.startswith(start)), "Other")


def _stays(con):
    days = "epoch(dischtime - admittime) / 86400 AS days"
    return con.execute(f"SELECT subject_id, {days} FROM admissions ORDER BY subject_id, hadm_id").df()


def _levels(title: str, counts: dict, sizes: dict, min_cell: int) -> list:
    """Rows "n (%)" of one characteristic: level -> column -> count."""
    sums = [[(v, c) for v in counts] for c in COLUMNS] + [[(v, c) for c in SPLITS] for v in counts]
    hidden = hidden_cells({(v, c): counts[v][c] for v in counts for c in COLUMNS}, sums, min_cell)
    rows = [] if list(counts)[:1] == [""] else [{"characteristic": title, **dict.fromkeys(COLUMNS, "")}]
    for level, by_column in counts.items():
        row = {"characteristic": f"  {level}" if level else title}
        for column in COLUMNS:
            n, size = by_column[column], sizes[column]
            share = f" ({n / size:.0%})" if size else ""
            row[column] = hidden.get((level, column)) or f"{n:,}{share}"
        rows.append(row)
    return rows


def hidden_cells(counts: dict, sums: list, min_cell: int) -> dict:
    """Which of the counts (key -> n) may not be shown: {key: "<10" or "hidden"}.

    A small count is hidden. Where only one term of a sum (`sums`: lists of keys) is hidden, it could be worked out, so
    the next smallest goes too.
    """
    hidden = {key: f"<{min_cell}" for key, n in counts.items() if is_small(n, min_cell)}
    changed = bool(hidden)
    while changed:
        changed = False
        for keys in sums:
            others = [key for key in keys if key not in hidden and counts[key] > 0]
            if others and sum(key in hidden for key in keys) == 1:
                hidden[min(others, key=counts.get)] = HIDDEN
                changed = True
    return hidden


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 or value == int(value) else f"{value:.1f}"


def _quartiles(title: str, values: dict, sizes: dict, min_cell: int) -> list:
    row = {"characteristic": title}
    for name, column in values.items():
        numbers = column.dropna()
        if 0 < sizes[name] < min_cell or 0 < len(numbers) < min_cell:
            row[name] = HIDDEN
        elif len(numbers):
            low, middle, high = numbers.quantile([0.25, 0.5, 0.75])
            row[name] = f"{_short(middle)} [{_short(low)}-{_short(high)}]"
        else:
            row[name] = ""
    return [row]


def _plain(value):
    """A decimal as a whole number where it is one."""
    return value if value is None else int(value) if value == int(value) else round(float(value), 2)


def rows_per_table(con, manifest: dict, min_cell: int) -> list:
    """Rows and patients of every table, in the order of the schema."""
    order = list(tables.schema())
    total = manifest["source"]["patients"]
    result = []
    for name in sorted(manifest["rows"], key=lambda name: (order.index(name) if name in order else len(order), name)):
        per_patient = f'SELECT subject_id, count(*) AS n FROM "{name}" GROUP BY 1'
        sql = f"SELECT count(*), sum(n)::BIGINT, median(n), max(n) FROM ({per_patient})"
        is_empty = not manifest["rows"][name]["columnar"]
        n, rows, middle, most = (0, 0, None, None) if is_empty else con.execute(sql).fetchall()[0]
        row = {"table": name, "rows": int(rows), "patients": n, "patients_share": n / total}
        result.append({**row, "median_rows": _plain(middle), "most_rows": most})
    return hide_small(result, ("patients",), min_cell, ("rows", "patients_share", "median_rows", "most_rows"))


def diagnoses_per_patient(con, manifest: dict, min_cell: int) -> list:
    """Mean, median, quartiles and most coded diagnoses per patient, over all patients and over those with any."""
    import pandas as pd

    counted = "count(*) AS rows, count(DISTINCT (icd_code, icd_version)) AS codes"
    counts = con.execute(f"SELECT {counted} FROM diagnoses_icd GROUP BY subject_id ORDER BY subject_id").df()
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
            result.append({
                "of": who, "what": what, "mean": round(float(values.mean()), 2),
                "lower_quartile": low, "median": middle, "upper_quartile": high, "most": int(values.max()),
                "none_share": HIDDEN if is_small(extra, min_cell) else extra / len(values),
            })  # fmt: skip
    return result


def diagnoses_histogram(con, manifest: dict, min_cell: int) -> list:
    """How many patients have how many coded diagnoses, in bins of 20; those with 200 or more together."""
    per_patient = "SELECT count(*) AS n FROM diagnoses_icd GROUP BY subject_id"
    bins = con.execute(f"SELECT least(n // 20, 10), count(*) FROM ({per_patient}) GROUP BY 1 ORDER BY 1").fetchall()
    counts = {f"{20 * low} to {20 * low + 19}" if low < 10 else "200 or more": n for low, n in bins}
    counts |= hidden_cells(counts, [list(counts)], min_cell)
    return [{"coded_diagnoses": label, "patients": n} for label, n in counts.items()]


def top(
    con, manifest: dict, min_cell: int, table: str, key: dict, where: str = "true", order: str = "patients"
) -> list:
    """The most frequent values of `key` (name -> SQL over the table, called t), by patients or by rows."""
    columns, exprs = ", ".join(key), ", ".join(f"{sql} AS {name}" for name, sql in key.items())
    found = database.rows(con, f"""
        SELECT {columns}, count(*) AS patients, sum(n)::BIGINT AS rows
        FROM (SELECT {exprs}, t.subject_id AS who, count(*) AS n FROM {table} WHERE {where} GROUP BY {columns}, who)
        GROUP BY {columns} ORDER BY {order} DESC, {columns} LIMIT {TOP}""")  # fmt: skip
    return hide_small(found, ("patients",), min_cell, ("rows",))


def top_phenotypes(con, manifest: dict, min_cell: int) -> list:
    database.add_phenotypes(con)
    names = {name: entry["name"] for name, entry in clinical.load().phenotypes.items()}
    joined = "diagnoses_icd t JOIN code_phenotype p USING (icd_code, icd_version)"
    found = top(con, manifest, min_cell, joined, {"phenotype": "p.phenotype"})
    return [{"phenotype": row["phenotype"], "name": names[row["phenotype"]], **row} for row in found]


def top_labs(con, manifest: dict, min_cell: int) -> list:
    """The most frequent laboratory tests; one that its dictionary does not name is shown by its number."""
    unnamed = "(SELECT NULL::BIGINT AS itemid, NULL AS label, NULL AS fluid)"
    labels = "d_labitems" if "d_labitems" in database.names(con) else unnamed
    key = {"lab": "coalesce(d.label, t.itemid::VARCHAR)", "fluid": "coalesce(d.fluid, '')"}
    return top(con, manifest, min_cell, f"labevents t LEFT JOIN {labels} d ON d.itemid = t.itemid", key)


def missing(con, manifest: dict, min_cell: int) -> list:
    """The empty cells of every column of every table, and their share; few filled cells are a small count too."""
    result = []
    for name, columns in sorted(manifest["columns"].items()):
        rows = manifest["rows"][name]["columnar"]
        counted = ", ".join(f'count("{column}")' for column in columns)
        filled = con.execute(f'SELECT {counted} FROM "{name}"').fetchall()[0] if rows else [0] * len(columns)
        for (column, type_), n in zip(columns.items(), filled, strict=True):
            share = (rows - n) / rows if rows else None
            row = {"column": f"{name}.{column}", "type": type_, "rows": rows}
            result.append({**row, "empty": rows - n, "filled": n, "empty_share": share})
    return hide_small(result, ("empty", "filled"), min_cell, ("empty", "filled", "empty_share"))


def misfits(con, manifest: dict, min_cell: int) -> list:
    """Cells that are not of their column's type, as step 1 found them; the JSONL keeps them as they are."""
    rows = []
    for column, n in sorted(manifest["cells_not_of_their_type"].items()):
        table, _, name = column.partition(".")
        row = {"column": column, "type": manifest["columns"][table][name], "cells": n}
        rows.append({**row, "rows": manifest["rows"][table]["columnar"]})
    return hide_small(rows, ("cells",), min_cell)


_CODE = {"icd_version": "t.icd_version", "icd_code": "t.icd_code", "title": "coalesce(t.long_title, '')"}
_diagnoses = partial(top, table="diagnoses_icd_labeled t", key=_CODE, where="t.icd_code IS NOT NULL")
_procedures = partial(top, table="procedures_icd_labeled t", key=_CODE, where="t.icd_code IS NOT NULL")
_drugs = partial(top, table="prescriptions t", key={"drug": "t.drug"}, where="t.drug <> ''")

# name of the file: (heading, the table of MIMIC-IV that it needs, function of (con, manifest, min_cell))
SUMMARIES = {
    "overview": ("Size of the data", "patients", overview),
    "table1": ("Table 1: n (%) or median [quartiles], those without any coded stay apart", "admissions", table1),
    "rows_per_table": ("Rows and patients per table", "patients", rows_per_table),
    "diagnoses_per_patient": ("Coded diagnoses per patient", "diagnoses_icd", diagnoses_per_patient),
    "diagnoses_histogram": ("Patients by number of coded diagnoses", "diagnoses_icd", diagnoses_histogram),
    "top_diagnoses_by_patients": (f"Top {TOP} diagnoses by patients", "diagnoses_icd", _diagnoses),
    "top_diagnoses_by_rows": (f"Top {TOP} diagnoses by rows", "diagnoses_icd", partial(_diagnoses, order="rows")),
    "top_phenotypes": (f"Top {TOP} phenotypes: ICD-9 and ICD-10 joined", "diagnoses_icd", top_phenotypes),
    "top_procedures": (f"Top {TOP} procedures", "procedures_icd", _procedures),
    "top_drugs": (f"Top {TOP} drugs ordered", "prescriptions", _drugs),
    "top_labs": (f"Top {TOP} laboratory tests", "labevents", top_labs),
    "missing": ("Empty cells per column", "patients", missing),
    "misfits": ("Cells that are not of their column's type", "patients", misfits),
}
