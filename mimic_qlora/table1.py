"""Table 1: the patients overall and by split, those without any coded stay apart, small counts hidden.

The library tableone gives the same figures; it stays out because it has no way to hide a small count, let alone the
one beside it from which the small one could be worked out, and brings three further packages.
"""

from mimic_qlora import database
from mimic_qlora.small_cells import HIDDEN, hidden_cells

COLUMNS = ("overall", "train", "validation", "test", "no coded stay")
SPLITS = COLUMNS[:4]  # the first is the sum of the others

# Race in MIMIC-IV's words, by how they begin, in the groups of a Table 1.
_RACES = {
    "WHITE": "White", "PORTUGUESE": "White", "BLACK": "Black", "ASIAN": "Asian",
    "HISPANIC": "Hispanic", "SOUTH AMERICAN": "Hispanic",
    "UNKNOWN": "not recorded", "UNABLE": "not recorded", "PATIENT DECLINED": "not recorded",
}  # fmt: skip


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
