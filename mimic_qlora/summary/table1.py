"""Table 1: the cohort of steps 3 to 7, the patients with a coded stay, and all others apart.

The library tableone gives the same figures, but of quartiles between two values, and brings three
further packages. It cannot hide a small count, nor the count beside it from which the small one
could be worked out.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd
from duckdb import DuckDBPyConnection

from mimic_qlora.display.cells import Cell
from mimic_qlora.mimic import ages, races
from mimic_qlora.mimic.words import WORDS
from mimic_qlora.subjects import database, sql
from mimic_qlora.summary.data import Data
from mimic_qlora.summary.disclosure import (
    HIDDEN,
    Rows,
    Spread,
    Told,
    hidden_cells,
    hidden_last,
    is_small,
    spread,
    spread_of_counts,
)

COLUMNS = ("overall", "train", "validation", "test", "no coded stay")
SPLITS = COLUMNS[:4]  # the first is the sum of the others
NO_STAY = "no hospital stay"
_UNKNOWN = (races.NOT_RECORDED, NO_STAY)  # the last rows of a characteristic
OTHER_TEXT = "another text"
PUBLISHED = {  # levels that MIMIC-IV's pages name; any other may be one patient's
    "gender": WORDS["patients"]["gender"],
    "insurance": WORDS["admissions"]["insurance"],
    "admission_type": WORDS["admissions"]["admission_type"],
}

NOTE = (
    "Age, race, insurance and admission type are those of the first stay, of whichever kind; "
    "everybody above 89 years counts as 91, as in MIMIC-IV. Days of each stay are over all stays, "
    "days from first to last over patients."
)

_LEVELS = {
    "Sex": "gender",
    "Race": "race",
    "Insurance": "insurance",
    "Admission type": "admission_type",
}


class Groups(NamedTuple):
    """The patients of each column of Table 1."""

    people: dict[str, pd.DataFrame]  # a row for each patient
    sizes: dict[str, int | str]  # patients, or what is shown where they are hidden
    min_cell: int


def table1(data: Data) -> Rows:
    """Return Table 1, overall and by split; patients without a coded stay have their own column.

    Counts above 0 and below `min_cell` are hidden, and the next smallest where a sum would reveal
    them. A level that MIMIC-IV does not publish, of fewer patients, is not named.
    """
    people, stays = _people(data.con), _stays(data.con)
    for column, published in PUBLISHED.items():
        n = people[column].map(people[column].value_counts())
        named = people[column].isin({*published, *_UNKNOWN}) | (n >= data.min_cell)
        people[column] = people[column].where(named, OTHER_TEXT)
    groups = _groups(people, data.min_cell)
    everybody = groups.people

    def yes_no(title: str, column: str, known: bool) -> Rows:
        if not known:  # without the table, or with nothing in the column, 0 would be said of all
            return [{"characteristic": title, **dict.fromkeys(COLUMNS, races.NOT_RECORDED)}]
        yes = {name: int((part[column] > 0).sum()) for name, part in everybody.items()}
        no = {name: len(part) - yes[name] for name, part in everybody.items()}
        return _levels(title, {"": yes, "no": no}, groups)[:1]

    rows: Rows = [{"characteristic": "Patients", **groups.sizes}]
    rows += _quartiles("Age, years", lambda part: part.age, groups)
    for title, column in _LEVELS.items():
        heading, *levels = _levels(title, _counts(people, column, everybody), groups)
        last = [row for row in levels if str(row["characteristic"]).strip() in _UNKNOWN]
        levels = [row for row in levels if row not in last]
        rows += [heading, *hidden_last(levels, COLUMNS[0], ["characteristic"]), *last]
    rows += _quartiles("Stays per patient", lambda part: part.stays, groups, spread_of_counts)
    rows += _quartiles(
        "Days of each stay",
        lambda part: stays[stays.index.isin(part.subject_id)],
        groups,
    )
    rows += _quartiles("Days from first to last", lambda part: part.days_covered, groups)
    n_flags = data.count("SELECT count(hospital_expire_flag) FROM admissions")
    rows += yes_no("Any ICU stay", "icu_stays", "icustays" in data.manifest["rows"])
    rows += yes_no("Died in hospital", "died", n_flags > 0)
    rows += _quartiles(
        "ICU stays if any",
        lambda part: part.icu_stays[part.icu_stays > 0],
        groups,
        spread_of_counts,
    )
    return rows


def _groups(people: pd.DataFrame, min_cell: int) -> Groups:
    """Return the patients of each column and its size, hidden where it must be."""
    of_split = {name: people.coded & (people.split == name) for name in SPLITS[1:]}
    member = {"overall": people.coded, **of_split, "no coded stay": ~people.coded}
    parts = {name: people[mask] for name, mask in member.items()}
    sizes = {name: len(part) for name, part in parts.items()}
    # The overview tells the size of each split, and so, by difference, its patients without a
    # coded stay.
    rest = {
        f"not coded: {name}": int((~people.coded & (people.split == name)).sum())
        for name in of_split
    }
    sums = [["overall", "no coded stay"], *([name, f"not coded: {name}"] for name in of_split)]
    totals = [SPLITS, ["no coded stay", *rest]]
    hidden = hidden_cells(sizes | rest, sums, min_cell, totals, unseen=rest)
    if any(is_small(sizes[name] + rest[f"not coded: {name}"], min_cell) for name in of_split):
        # a 0, or a bound, would tell how many of a small split have a coded stay
        hidden |= dict.fromkeys(of_split, HIDDEN)
    return Groups(parts, {name: hidden.get(name, n) for name, n in sizes.items()}, min_cell)


def _counts(
    people: pd.DataFrame, column: str, parts: Mapping[str, pd.DataFrame]
) -> dict[str, dict[str, int]]:
    """Count the patients of each level of a column in each group, the most frequent level first."""
    levels = {
        level: {name: int((part[column] == level).sum()) for name, part in parts.items()}
        for level in set(people[column])
    }
    order = sorted(levels, key=lambda level: (level in _UNKNOWN, -levels[level]["overall"], level))
    return {level: levels[level] for level in order}


def _people(con: DuckDBPyConnection) -> pd.DataFrame:
    """Return a row for each patient: split, whether coded, first stay, numbers of stays."""
    there = database.names(con)

    nobody = "(SELECT subject_id FROM patients WHERE false)"
    coded = icu_stays = nobody
    if "diagnoses_icd" in there:
        coded = database.CODED_PATIENTS
    if "icustays" in there:
        icu_stays = database.ICU_STAYS

    people = con.execute(f"""
        WITH first AS (
            SELECT subject_id, admittime, race, insurance, admission_type,
                   row_number() OVER (PARTITION BY subject_id ORDER BY admittime, hadm_id)
                   AS place
            FROM {database.STAYS}),
        stays AS (
            SELECT subject_id, count(*) AS stays, max(hospital_expire_flag) AS died,
                   epoch(max(dischtime) FILTER (coalesce(admittime <= dischtime, true))
                         - min(admittime)) / 86400 AS days_covered
            FROM {database.STAYS} GROUP BY 1),
        aged AS (
            SELECT p.*, p.anchor_age::HUGEINT + CASE WHEN a.admittime IS NULL THEN 0
                ELSE year(a.admittime) - p.anchor_year::HUGEINT END AS years
            FROM patients p LEFT JOIN first a ON a.subject_id = p.subject_id AND a.place = 1)
        SELECT p.subject_id, s.split, {sql.said("p.gender")} AS gender,
               c.subject_id IS NOT NULL AS coded,
               CASE WHEN p.anchor_age BETWEEN 0 AND {ages.MOST_YEARS}
                    AND p.years BETWEEN 0 AND {ages.MOST_YEARS}
                    THEN if(p.years > 89, {ages.ABOVE_89}, p.years::BIGINT) END AS age,
               {sql.said("a.race")} AS race, {sql.said("a.insurance")} AS insurance,
               {sql.said("a.admission_type")} AS admission_type,
               a.subject_id IS NOT NULL AS admitted,
               coalesce(t.stays, 0) AS stays, coalesce(t.died, 0) AS died, t.days_covered,
               coalesce(i.n, 0) AS icu_stays
        FROM aged p JOIN split s USING (subject_id)
        LEFT JOIN first a ON a.subject_id = p.subject_id AND a.place = 1
        LEFT JOIN stays t ON t.subject_id = p.subject_id
        LEFT JOIN {coded} c ON c.subject_id = p.subject_id
        LEFT JOIN (SELECT subject_id, count(*) AS n FROM {icu_stays} GROUP BY 1) i
               ON i.subject_id = p.subject_id
        ORDER BY p.subject_id""").df()
    people["race"] = people.race.map(races.group, na_action="ignore")
    for column in ("race", "insurance", "admission_type"):
        known = people[column].astype(object).fillna(_UNKNOWN[0])
        people[column] = known.where(people.admitted, _UNKNOWN[1])
    people["gender"] = people.gender.astype(object).fillna(_UNKNOWN[0])
    return people


def _stays(con: DuckDBPyConnection) -> pd.Series:
    """Return subject_id -> length in days of each hospital stay."""
    found = con.execute(f"""
        SELECT subject_id, epoch(dischtime - admittime) / 86400 AS days
        FROM {database.STAYS} WHERE coalesce(admittime <= dischtime, true)
        ORDER BY subject_id, hadm_id""").df()
    return found.set_index("subject_id").days


def _levels(title: str, counts: Mapping[str, Mapping[str, int]], groups: Groups) -> Rows:
    """Return rows "n (%)" of one characteristic; `counts` are level -> column -> patients.

    A level "" stands for the characteristic itself. Where a size is hidden, its column is too.
    """
    cells = {(level, column): counts[level][column] for level in counts for column in COLUMNS}
    sums = [[(level, column) for level in counts] for column in COLUMNS]
    if NO_STAY in counts:  # how many these are, other tables tell where it may be told
        sums.insert(0, [(level, COLUMNS[-1]) for level in counts if level != NO_STAY])
    # How many of all patients these are, other tables tell: those with rows of icustays, the cells
    # of deathtime and the empty ones.
    everybody = [level for level in ("", _UNKNOWN[0]) if level in counts]
    sums += [[(level, COLUMNS[0]), (level, COLUMNS[-1])] for level in everybody]
    totals = [[(level, column) for column in SPLITS] for level in counts]
    unseen = {key for key in cells if isinstance(groups.sizes[key[1]], str)}
    hidden = hidden_cells(cells, sums, groups.min_cell, totals, unseen)
    rows: Rows = []
    if "" not in counts:
        rows.append({"characteristic": title, **dict.fromkeys(COLUMNS, "")})
    for level, by_column in counts.items():
        row: dict[str, Cell] = {"characteristic": f"  {level}" if level else title}
        for column in COLUMNS:
            n, size = by_column[column], groups.sizes[column]
            if isinstance(size, str):
                row[column] = HIDDEN
            else:
                row[column] = hidden.get((level, column)) or (_share(n, size) if size else "")
        rows.append(row)
    return rows


def _share(n: int, size: int) -> str:
    return f"{n:,} (<1%)" if 0 < n / size < 0.005 else f"{n:,} ({n / size:.0%})"


def _short(value: Told) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 20 or value == int(value) else f"{value:.1f}"


def _quartiles(
    title: str,
    values: Callable[[pd.DataFrame], pd.Series],
    groups: Groups,
    overall: Callable[[pd.Series, int], Spread] = spread,
) -> Rows:
    """Return one row "median [quartiles]" of the values that are known in each group.

    The index of `values` tells whose each is: many may be of few patients. `overall` finds the
    quartiles of all groups together, whose sum other tables may tell.
    """
    row: dict[str, Cell] = {"characteristic": title}
    for name, part in groups.people.items():
        numbers = values(part).dropna()
        if isinstance(groups.sizes[name], str):
            row[name] = HIDDEN
        elif numbers.empty:
            row[name] = ""
        else:
            find = overall if name == COLUMNS[0] else spread
            low, middle, high = map(_short, find(numbers, groups.min_cell)[:3])
            ends = HIDDEN if low == HIDDEN else f"{low}-{high}"
            row[name] = HIDDEN if middle == HIDDEN else f"{middle} [{ends}]"
    return [row]
