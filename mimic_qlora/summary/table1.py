"""Table 1: the patients with a coded stay, whom steps 3 to 7 study, and those without apart, small counts hidden.

The library tableone gives the same figures; it stays out because it has no way to hide a small count, let alone the
one beside it from which the small one could be worked out, and brings three further packages.
"""

from mimic_qlora.subjects import database
from mimic_qlora.summary.disclosure import HIDDEN, hidden_cells, is_small

COLUMNS = ("overall", "train", "validation", "test", "no coded stay")
SPLITS = COLUMNS[:4]  # the first is the sum of the others
_UNKNOWN = ("not recorded", "no hospital stay")  # these stand last

NOTE = (
    "Age, race, insurance and admission type are those of the first stay, of whichever kind; MIMIC-IV gives everybody "
    "above 89 years as 91. Days of each stay are over all stays, days from first to last over patients."
)

_LEVELS = {
    "Sex": "gender",
    "Race": "race",
    "Insurance": "insurance",
    "Admission type": "admission_type",
}
# Race in MIMIC-IV's words, by how they begin, in the groups of a Table 1.
_RACES = {
    "WHITE": "White",
    "PORTUGUESE": "White",
    "BLACK": "Black",
    "ASIAN": "Asian",
    "HISPANIC": "Hispanic",
    "SOUTH AMERICAN": "Hispanic",
    **dict.fromkeys(("UNKNOWN", "UNABLE", "PATIENT DECLINED"), _UNKNOWN[0]),
}


def table1(con, manifest: dict, min_cell: int) -> list:
    """Table 1 of the patients with a coded stay, overall and by split; those without any are in the last column alone.

    Counts above 0 and below `min_cell` are hidden, and so is the next smallest where a sum would give them away.
    """
    people, stays = _people(con), _stays(con)
    of_split = {name: people.coded & (people.split == name) for name in SPLITS[1:]}
    member = {"overall": people.coded, **of_split, "no coded stay": ~people.coded}
    who = {name: people[mask] for name, mask in member.items()}
    sizes = {name: len(part) for name, part in who.items()}
    # the size of each split is told elsewhere: so is, by difference, how many in it have no coded stay
    rest = {
        f"not coded: {name}": int((~people.coded & (people.split == name)).sum())
        for name in of_split
    }
    sums = [list(SPLITS), ["no coded stay", *rest], ["overall", "no coded stay"]]
    sums += [[name, f"not coded: {name}"] for name in of_split]
    hidden = hidden_cells(sizes | rest, sums, min_cell)
    sizes |= {name: text for name, text in hidden.items() if name in sizes}
    blocks = [[{"characteristic": "Patients", **sizes}]]

    def quartiles(title: str, values) -> None:
        blocks.append(
            _quartiles(title, {name: values(part) for name, part in who.items()}, sizes, min_cell)
        )

    quartiles("Age, years", lambda part: part.age)
    for title, column in _LEVELS.items():
        levels = {
            v: {name: int((part[column] == v).sum()) for name, part in who.items()}
            for v in set(people[column])
        }
        order = sorted(
            levels, key=lambda level: (level in _UNKNOWN, -levels[level]["overall"], level)
        )
        blocks.append(_levels(title, {level: levels[level] for level in order}, sizes, min_cell))
    quartiles("Stays per patient", lambda part: part.stays)
    quartiles("Days of each stay", lambda part: stays.days[stays.subject_id.isin(part.subject_id)])
    quartiles("Days from first to last", lambda part: part.days_covered)
    for title, column in (("Any ICU stay", "icu_stays"), ("Died in hospital", "died")):
        yes = {name: int((part[column] > 0).sum()) for name, part in who.items()}
        no = {name: len(part) - yes[name] for name, part in who.items()}
        blocks.append(_levels(title, {"": yes, "no": no}, sizes, min_cell)[:1])
    quartiles("ICU stays if any", lambda part: part.icu_stays[part.icu_stays > 0])
    return [row for block in blocks for row in block]


def _people(con):
    there = database.names(con)
    # a table that is not there has nobody in it
    coded, icu = (
        t if t in there else "(SELECT subject_id FROM patients WHERE false)"
        for t in ("diagnoses_icd", "icustays")
    )
    people = con.execute(f"""
        WITH first AS (SELECT *, row_number() OVER (PARTITION BY subject_id ORDER BY admittime, hadm_id) AS place
                       FROM admissions),
             stays AS (SELECT subject_id, count(*) AS stays, max(hospital_expire_flag) AS died,
                              epoch(max(dischtime) - min(admittime)) / 86400 AS days_covered FROM admissions GROUP BY 1)
        SELECT p.subject_id, s.split, p.gender, c.subject_id IS NOT NULL AS coded,
               p.anchor_age + coalesce(year(a.admittime) - p.anchor_year, 0) AS age,
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
        people[column] = (
            people[column].astype(object).fillna(_UNKNOWN[0]).where(people.admitted, _UNKNOWN[1])
        )
    people["gender"] = people.gender.astype(object).fillna(_UNKNOWN[0])
    return people


def _race(text: str) -> str:
    return next((group for start, group in _RACES.items() if text.startswith(start)), "Other")


def _stays(con):
    days = "epoch(dischtime - admittime) / 86400 AS days"
    return con.execute(
        f"SELECT subject_id, {days} FROM admissions ORDER BY subject_id, hadm_id"
    ).df()


def _levels(title: str, counts: dict, sizes: dict, min_cell: int) -> list:
    """Rows "n (%)" of one characteristic: level -> column -> count. Where a size is hidden, its whole column is."""
    sums = [[(v, c) for v in counts] for c in COLUMNS] + [[(v, c) for c in SPLITS] for v in counts]
    hidden = hidden_cells({(v, c): counts[v][c] for v in counts for c in COLUMNS}, sums, min_cell)
    rows = (
        []
        if list(counts)[:1] == [""]
        else [{"characteristic": title, **dict.fromkeys(COLUMNS, "")}]
    )
    for level, by_column in counts.items():
        row = {"characteristic": f"  {level}" if level else title}
        for column in COLUMNS:
            n, size = by_column[column], sizes[column]
            if isinstance(size, str):
                row[column] = HIDDEN
            else:
                row[column] = hidden.get((level, column)) or (_share(n, size) if size else "")
        rows.append(row)
    return rows


def _share(n: int, size: int) -> str:
    return f"{n:,} (<1%)" if 0 < n / size < 0.005 else f"{n:,} ({n / size:.0%})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 or value == int(value) else f"{value:.1f}"


def _quartiles(title: str, values: dict, sizes: dict, min_cell: int) -> list:
    row = {"characteristic": title}
    for name, column in values.items():
        numbers = column.dropna()
        if isinstance(sizes[name], str) or is_small(len(numbers), min_cell):
            row[name] = HIDDEN
        elif len(numbers):
            low, middle, high = numbers.quantile([0.25, 0.5, 0.75])
            row[name] = f"{_short(middle)} [{_short(low)}-{_short(high)}]"
        else:
            row[name] = ""
    return [row]
