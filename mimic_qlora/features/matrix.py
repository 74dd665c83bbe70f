"""The feature matrix: what was known of each patient at the prediction time, aggregated in SQL.

Event tables are aggregated per item, since a mean over all laboratory tests means nothing.
Items, frequent values, numeric texts and features that vary are chosen on train patients alone.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

import duckdb
import numpy as np
import pandas as pd
from tqdm import tqdm

from mimic_qlora.chart import visibility
from mimic_qlora.features.column_roles import reason_for
from mimic_qlora.mimic import tables
from mimic_qlora.step import limits
from mimic_qlora.subjects import database
from mimic_qlora.subjects.manifest import subjects_manifest
from mimic_qlora.subjects.sql import identifier

# bytes a patient while the matrix is built: three copies of 1,500 numbers of 4 bytes, reckoned
PATIENT_BYTES = 18_000
ROWS = "*"  # stands for a column name: the number of rows of the table
STATISTICS = ("mean", "std", "min", "max", "last")
MAX_ITEMS = 150  # per table whose rows are counted, the most frequent by train patients
MAX_MEASURED = 30  # of these, the items whose other columns are aggregated
MAX_VALUES = 25  # values per categorical column
MIN_PATIENTS = 5  # train patients that an item, value or feature must tell from the rest
NUMERIC_SHARE = 0.9  # of a text column's filled cells (train): from here on it counts as numeric
NO_RULE = "no rule says when this column is known"
EMPTY = "nothing of it was known before the landmark"
ALIKE = f"no value of it tells {MIN_PATIENTS} train patients from the rest"
COUNTLESS = f"none of its many values has {MIN_PATIENTS} train patients: too rare to judge it by"

# The column that names the item of a row; the other columns are aggregated for each item.
ITEMS = {
    "labevents": "itemid",
    "chartevents": "itemid",
    "datetimeevents": "itemid",
    "inputevents": "itemid",
    "ingredientevents": "itemid",
    "outputevents": "itemid",
    "procedureevents": "itemid",
    "omr": "result_name",
    "prescriptions": "drug",
    "pharmacy": "medication",
}
# Texts taken as numbers: "500,000", ".1", "50-100" (the lower end), "120/80" (systolic), ">60".
# A leading zero, as in "0045", marks a code.
_NUMBER = r"[+-]?(\d[\d,]*\.?\d*|\.\d+)"
_IS_NUMBER = rf"^\s*[<>]?=?\s*{_NUMBER}(\s*[-/]\s*{_NUMBER})?\s*$"
_IS_CODE = r"^0\d"


class Feature(NamedTuple):
    """One column of the feature matrix.

    column: "table.column" that it is computed from, or "table.*" for row counts.
    item: the item or value that it is about, or "".
    statistic: one of STATISTICS, "filled", "share", "rows" or ROWS.
    """

    column: str
    item: str
    statistic: str


class Features(NamedTuple):
    """The features of the cohort.

    matrix: float32 [patients, features], without missing values.
    features: the Feature of each column of the matrix.
    excluded: "table.column" -> reason why it is never a feature.
    silent: "table.column" -> reason why none of its features is left.
    rows: (table, item), and (table, "") for the whole table -> float32 [patients] row counts.
    """

    matrix: np.ndarray
    features: list[Feature]
    excluded: dict[str, str]
    silent: dict[str, str]
    rows: dict[tuple[str, str], np.ndarray]


class Cells(NamedTuple):
    """Values of some cells of a block of features: three arrays of equal length."""

    patients: np.ndarray
    features: np.ndarray
    values: np.ndarray


class Block(NamedTuple):
    """Features of one kind of one table, as sparse cells; `empty` stands in all other cells."""

    cells: list[Cells]
    features: list[Feature]
    empty: float


class Job(NamedTuple):
    """One table to aggregate, with a cursor of its own.

    types: column -> type of the schema. is_train: bool [patients].
    """

    con: duckdb.DuckDBPyConnection
    table: str
    types: Mapping[str, str]
    is_train: np.ndarray


def most_patients() -> int:
    """Return how many patients half of this job's memory has room for."""
    return max(1, limits.memory() // 2 // PATIENT_BYTES)


def in_split(people: pd.DataFrame, split: str) -> np.ndarray:
    """Return which patients of the cohort belong to a split: bool [patients]."""
    return (people["split"] == split).to_numpy()


def build(storage: Path, people: pd.DataFrame, temp: Path) -> Features:
    """Return the features of the cohort `people` (see `cohort.gather`).

    Each table is read on one thread, so that sums of decimals are the same on every run. Four
    tables are read at a time. `temp` holds what DuckDB spills to disk.
    """
    columns = subjects_manifest(storage)["columns"]
    is_train = in_split(people, "train")
    con = database.connect(storage, temp, threads=1)
    con.register("people", people)
    con.execute("""
        CREATE TABLE cohort AS
        SELECT *, row_number() OVER (ORDER BY subject_id) - 1 AS i FROM people""")
    jobs = [Job(con.cursor(), name, types, is_train) for name, types in sorted(columns.items())]
    with ThreadPoolExecutor(min(4, limits.cores())) as pool:
        done = pool.map(_of_table, jobs)
        bar = tqdm(done, total=len(jobs), desc="features", unit="table", disable=None)
        parts = list(bar)
    con.close()
    matrix = np.concatenate([part.matrix for part in parts], axis=1)
    features = [feature for part in parts for feature in part.features]
    excluded: dict[str, str] = {}
    silent: dict[str, str] = {}
    rows: dict[tuple[str, str], np.ndarray] = {}
    for part in parts:
        excluded |= part.excluded
        silent |= part.silent
        rows |= part.rows
    kept, repeated = _distinct(matrix[is_train], features)
    used = {features[i].column for i in kept}
    silent |= {column: reason for column, reason in repeated.items() if column not in used}
    chosen = np.ascontiguousarray(matrix[:, kept])
    return Features(chosen, [features[i] for i in kept], excluded, silent, rows)


def _fill(matrix: np.ndarray, is_train: np.ndarray) -> None:
    """Replace missing values by the median of the train patients, in place.

    Only the row-count features then reveal whether a patient has rows at all. Otherwise every
    column of a drug order would encode "this drug was ordered", and noise would look important.
    """
    train, medians = matrix[is_train], np.zeros(matrix.shape[1], np.float32)
    some = np.isfinite(train).any(axis=0)
    medians[some] = np.nanmedian(train[:, some], axis=0)
    np.copyto(matrix, medians, where=np.isnan(matrix))


def _varies(values: np.ndarray) -> bool:
    """Return whether at least MIN_PATIENTS patients differ from the most frequent value."""
    most = np.unique(values, return_counts=True)[1].max(initial=0)
    return bool(len(values) - most >= MIN_PATIENTS)


def _distinct(train: np.ndarray, features: list[Feature]) -> tuple[list[int], dict[str, str]]:
    """Return the positions of distinct features, and column -> "repeats ..." for duplicates.

    train: float32 [train patients, features]. Of equal features one stays: a row count first,
    then one of a protected column, then the first.
    """

    def rank(i: int) -> tuple[bool, bool, int]:
        return features[i].statistic != ROWS, not reason_for("protected", features[i].column), i

    owner: dict[bytes, Feature] = {}
    kept, repeated = [], {}
    for i in sorted(range(len(features)), key=rank):
        first = owner.setdefault(train[:, i].tobytes(), features[i])
        if first is features[i]:
            kept.append(i)
        elif features[i].statistic != ROWS:
            repeated[features[i].column] = f"repeats {first.column}"
    return sorted(kept), repeated


def _of_table(job: Job) -> Features:
    """Return the features of one table; the cursor is closed, and its temporary tables with it."""
    con, name, types, is_train = job
    reasons = {column: _exclusion(name, column, type_) for column, type_ in types.items()}
    excluded = {f"{name}.{column}": reason for column, reason in reasons.items() if reason}
    columns = {column: type_ for column, type_ in types.items() if not reasons[column]}
    silent = {f"{name}.{column}": EMPTY for column in columns}
    if not columns or name not in database.names(con):
        return Features(np.empty((len(is_train), 0), np.float32), [], excluded, silent, {})
    _create_known(con, name, types, columns)
    item = ITEMS.get(name)
    if item not in columns:
        item = None
    own = _own_names(columns)
    numbers, categories = _kinds(con, columns, item)
    by_item = own[item] if item else None
    counts = _count_block(con, name, item, by_item)
    blocks = [counts]
    if numbers:
        blocks.append(_number_block(con, name, numbers, by_item))
    countless = _create_counted(con, categories, own) if categories else set()
    if frequent := [column for column in categories if column not in countless]:
        blocks.append(_category_block(con, name, {own[column]: column for column in frequent}))
    con.close()
    features = [feature for block in blocks for feature in block.features]
    matrix = np.concatenate([_dense(len(is_train), block) for block in blocks], axis=1)
    rows = {(name, f.item): matrix[:, i].copy() for i, f in enumerate(counts.features)}
    # A patient without rows has no values; column 0 counts the rows of the table.
    matrix[matrix[:, 0] == 0, len(counts.features) :] = np.nan
    positive = (matrix[is_train] > 0).any(axis=0)
    silent |= {f.column: ALIKE for f, some in zip(features, positive, strict=True) if some}
    silent |= {f"{name}.{column}": COUNTLESS for column in countless}
    _fill(matrix, is_train)
    kept = [i for i, values in enumerate(matrix[is_train].T) if _varies(values)]
    used = {features[i].column for i in kept} | {f"{name}.{ROWS}"}
    silent = {column: reason for column, reason in silent.items() if column not in used}
    return Features(matrix[:, kept], [features[i] for i in kept], excluded, silent, rows)


def _exclusion(table: str, column: str, type_: str) -> str:
    """Return the reason why a column is never a feature, or ""."""
    rules = visibility.rules().get(table)
    if reason := reason_for("excluded", f"{table}.{column}"):
        return reason
    if rules is None:
        return "no rule says when this table is known"
    if column not in tables.schema()[table].columns:  # a study's own: the outcome, it may be
        return NO_RULE
    if "never" in rules["*"] + rules.get(column, []):
        return "not known at any stated time"
    return "a time: it places the row" if type_ == "time" else ""


def _own_names(columns: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each column that means nothing else in SQL, in the same order by name.

    A file may have columns that are named as those which the queries make.
    """
    return {column: f"c{place:05d}" for place, column in enumerate(sorted(columns))}


def _create_known(
    con: duckdb.DuckDBPyConnection, name: str, types: Mapping[str, str], columns: dict[str, str]
) -> None:
    """Create the table `known`: the rows known at the prediction time.

    Cells that were not known yet are null. `moment` is the time of the row. Columns have the names
    that `_own_names` gives them.
    """
    rules = visibility.rules()[name]

    def known(terms: list[str]) -> str:
        return " AND ".join(_has_come(con, term, types) for term in terms)

    times = [term.partition("@")[0] for term in rules["*"]]
    place = next((column for column in times if column in types), None)
    cells = []
    for column, own in _own_names(columns).items():
        cell = f"t.{identifier(column)}"
        if column in rules:
            cell = f"CASE WHEN {known(rules[column])} THEN {cell} END"
        cells.append(f"{cell} AS {own}")
    moment = f"t.{identifier(place)}" if place else "c.as_of"
    source = database.ONCE.get(name, database.table(name))
    con.execute(f"""
        CREATE TEMP TABLE known AS
        SELECT c.i, c.split = 'train' AS is_train, {moment} AS moment, {", ".join(cells)}
        FROM {source} t JOIN cohort c USING (subject_id) WHERE {known(rules["*"])}""")


def _has_come(con: duckdb.DuckDBPyConnection, term: str, types: Mapping[str, str]) -> str:
    """Return SQL for: this term of visibility.csv lies before the prediction time.

    A null time has not come.
    """
    column, _, day = term.partition("@")
    if term == "always":
        return "true"
    if term == "discharge":
        return f"""EXISTS (
            SELECT 1 FROM {database.STAYS} a
            WHERE a.subject_id = t.subject_id AND a.hadm_id = t.hadm_id
              AND a.admittime <= c.as_of AND a.dischtime <= c.as_of)"""
    if term == "entered":
        entered = """(SELECT max(p.entertime) FROM pharmacy p
            WHERE p.subject_id = t.subject_id AND p.pharmacy_id = t.pharmacy_id)"""
        entered = entered if "pharmacy" in database.names(con) else "NULL"
        return f"coalesce({entered}, t.starttime + INTERVAL 1 DAY) <= c.as_of"
    if column not in types:
        return "false"
    if day:
        return f"date_trunc('day', t.{identifier(column)}) + INTERVAL 1 DAY <= c.as_of"
    return f"t.{identifier(column)} <= c.as_of"


def _kinds(
    con: duckdb.DuckDBPyConnection, columns: Mapping[str, str], item: str | None
) -> tuple[Mapping[str, str], dict[str, str]]:
    """Return the numeric and the categorical columns, each as column -> SQL of its value.

    Text columns whose filled cells are numbers on train patients (NUMERIC_SHARE) are numeric.
    """
    own = _own_names(columns)
    numbers = {c: own[c] for c, type_ in columns.items() if type_ in ("num", "int")}
    texts = [
        c
        for c, type_ in columns.items()
        if type_ in ("text", "code") and c != item and c != "value"
    ]
    if texts:
        fits = "regexp_matches({0}, '{1}') AND NOT regexp_matches({0}, '{2}')"
        judged = ", ".join(
            f"count({own[c]}), count(*) FILTER ({fits.format(own[c], _IS_NUMBER, _IS_CODE)})"
            for c in texts
        )
        counts = con.execute(f"SELECT {judged} FROM known WHERE is_train").fetchall()[0]
        for column, filled, numeric in zip(texts, counts[::2], counts[1::2], strict=True):
            if filled and numeric >= NUMERIC_SHARE * filled:
                first = f"regexp_extract({own[column]}, '{_NUMBER}')"
                numbers[column] = f"TRY_CAST(replace({first}, ',', '') AS DOUBLE)"
    others = [c for c in columns if c not in numbers and c != item and c != "value"]
    categories = {c: f"{own[c]}::VARCHAR" for c in others}
    if columns.get("value") == "text":
        # The numbers of `value` are in `valuenum`; the rest are results in words, per item.
        words = f"{own['valuenum']} IS NULL" if "valuenum" in columns else "true"
        value = own["value"]
        if item:
            value = f"CASE WHEN {words} THEN {own[item]} || ': ' || {value} END"
        categories["value"] = value
    return numbers, categories


def _count_block(
    con: duckdb.DuckDBPyConnection, name: str, item: str | None, by_item: str | None
) -> Block:
    """Return row counts per patient: of the table, and of each frequent item.

    Creates the table `items` of the frequent items, numbered from 1. `by_item` is the own name of
    the column `item`.
    """
    rows = _fetch(con, "SELECT i, count(*) AS n FROM known GROUP BY i ORDER BY i")
    features = [Feature(f"{name}.{ROWS}", "", ROWS)]
    cells = [Cells(rows["i"], np.zeros(len(rows["i"]), int), rows["n"])]
    con.execute("CREATE TEMP TABLE items (item VARCHAR, f BIGINT)")
    if item:
        con.execute(f"""
            INSERT INTO items SELECT item, row_number() OVER (ORDER BY n DESC, item) FROM (
                SELECT {by_item}::VARCHAR AS item, count(DISTINCT i) AS n FROM known
                WHERE is_train AND {by_item} IS NOT NULL GROUP BY 1 HAVING n >= {MIN_PATIENTS})
            ORDER BY n DESC, item LIMIT {MAX_ITEMS}""")
        sql = f"""
            SELECT i, f, count(*) AS n FROM known JOIN items ON item = {by_item}::VARCHAR
            GROUP BY i, f ORDER BY f, i"""
        found = _fetch(con, sql)
        features += [Feature(f"{name}.{item}", label, "rows") for label in _items(con)]
        cells.append(Cells(found["i"], found["f"], found["n"]))
    return Block(cells, features, 0.0)


def _fetch(
    con: duckdb.DuckDBPyConnection, sql: str, parameters: list[list[str]] | None = None
) -> dict[str, np.ndarray]:
    """Return the columns of a query; those with nulls are masked arrays."""
    return cast(dict[str, np.ndarray], con.execute(sql, parameters).fetchnumpy())


def _items(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the frequent items of the table, the most frequent first."""
    return [item for (item,) in con.execute("SELECT item FROM items ORDER BY f").fetchall()]


def _number_block(
    con: duckdb.DuckDBPyConnection, name: str, numbers: Mapping[str, str], by_item: str | None
) -> Block:
    """Return the STATISTICS of each numeric column per item, and the share of filled rows.

    The share replaces the count of filled rows: counts would make every column encode the
    row count, which is a feature of its own.
    """
    aggregates = ", ".join(
        f"count(v{k}) / count(*) AS filled{k}, avg(v{k}) AS mean{k}, stddev_samp(v{k}) AS std{k}, "
        f"min(v{k}) AS min{k}, max(v{k}) AS max{k}, "
        f"last(v{k} ORDER BY moment, v{k}) FILTER (v{k} IS NOT NULL) AS last{k}"
        for k in range(len(numbers))
    )
    values = ", ".join(f"{sql} AS v{k}" for k, sql in enumerate(numbers.values()))
    measured = f"known JOIN items ON item = {by_item}::VARCHAR AND f <= {MAX_MEASURED}"
    source, group = (measured, "f") if by_item else ("known", "1 AS f")
    sql = f"""
        SELECT i, f, {aggregates} FROM (SELECT i, moment, {group}, {values} FROM {source})
        GROUP BY i, f ORDER BY f, i"""
    found = _fetch(con, sql)
    labels = _items(con)[:MAX_MEASURED] if by_item else [""]
    features: list[Feature] = []
    cells = []
    for k, column in enumerate(numbers):
        for statistic in ("filled", *STATISTICS):
            filled = np.ma.filled(found[f"{statistic}{k}"].astype(np.float64), np.nan)
            cells.append(Cells(found["i"], found["f"] - 1 + len(features), filled))
            features += [Feature(f"{name}.{column}", label, statistic) for label in labels]
    return Block(cells, features, float("nan"))


def _create_counted(
    con: duckdb.DuckDBPyConnection, categories: Mapping[str, str], own: Mapping[str, str]
) -> set[str]:
    """Create `counted` (rows by patient and value) and `top` (the frequent values).

    Both name the columns by their own names. Returns the columns that are filled for MIN_PATIENTS
    train patients but have no frequent value, such as free text.
    """
    texts = ", ".join(f"{sql} AS {own[column]}" for column, sql in categories.items())
    names = ", ".join(own[column] for column in categories)
    con.execute(f"""
        CREATE TEMP TABLE counted AS
        WITH cells AS (
            UNPIVOT (SELECT i, is_train, {texts} FROM known) ON {names} INTO NAME name VALUE value)
        SELECT i, is_train, name, value, count(*) AS n FROM cells GROUP BY ALL""")
    con.execute(f"""
        CREATE TEMP TABLE top AS
        SELECT name, value, row_number() OVER (ORDER BY name, place) - 1 AS f FROM (
            SELECT name, value,
                   row_number() OVER (PARTITION BY name ORDER BY count(*) DESC, value) AS place
            FROM counted WHERE is_train GROUP BY name, value HAVING count(*) >= {MIN_PATIENTS})
        WHERE place <= {MAX_VALUES}""")
    countless = con.execute(f"""
        SELECT name FROM counted WHERE is_train AND name NOT IN (SELECT name FROM top)
        GROUP BY name HAVING count(DISTINCT i) >= {MIN_PATIENTS}""").fetchall()
    column_of = {own[column]: column for column in categories}
    return {column_of[name] for (name,) in countless}


def _category_block(
    con: duckdb.DuckDBPyConnection, name: str, categories: Mapping[str, str]
) -> Block:
    """Return for each frequent value its share of a patient's rows, and the filled share.

    categories: own name -> column.
    """
    per_patient = "(SELECT i, count(*) AS total FROM known GROUP BY i)"
    sql = f"""
        SELECT i, f, n / total AS share
        FROM counted JOIN top USING (name, value) JOIN {per_patient} USING (i)
        ORDER BY f, i"""
    shares = _fetch(con, sql)
    values = con.execute("SELECT name, value FROM top ORDER BY f").fetchall()
    features = [Feature(f"{name}.{categories[own]}", value, "share") for own, value in values]
    sql = f"""
        SELECT i, list_position(?, name) - 1 AS f, sum(n) / any_value(total) AS share
        FROM counted JOIN {per_patient} USING (i) WHERE list_contains(?, name)
        GROUP BY i, name ORDER BY f, i"""
    filled = _fetch(con, sql, [list(categories), list(categories)])
    cells = [
        Cells(shares["i"], shares["f"], shares["share"]),
        Cells(filled["i"], filled["f"] + len(features), filled["share"]),
    ]
    features += [Feature(f"{name}.{column}", "", "filled") for column in categories.values()]
    return Block(cells, features, 0.0)


def _dense(n_patients: int, block: Block) -> np.ndarray:
    """Return a block as float32 [patients, features]; values beyond float32 are clipped."""
    dense = np.full((n_patients, len(block.features)), block.empty, np.float32)
    largest = np.finfo(np.float32).max / 2  # a median adds two
    for patients, features, values in block.cells:
        clipped = np.clip(values, -largest, largest)
        dense[np.asarray(patients, int), np.asarray(features, int)] = clipped
    return dense
