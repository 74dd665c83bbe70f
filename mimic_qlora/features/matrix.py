"""Features of each column of each table from before a landmark, built column-wise in SQL: one row per patient.

An event table is aggregated per item (a mean over all laboratory tests means nothing). What is chosen from the data
(items, values of a category, which texts are numbers, which features vary) is chosen on train patients.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import visibility
from mimic_qlora.features.column_roles import reason_for
from mimic_qlora.step.storage import read_manifest
from mimic_qlora.subjects import database

ROWS = "*"  # stands for a column: how many rows of its table the patient has
STATISTICS = ("mean", "std", "min", "max", "last")
MAX_ITEMS = 150  # per table whose rows are counted, the most frequent by train patients
MAX_MEASURED = 30  # of these, the items whose other columns are aggregated
MAX_VALUES = 25  # per column
MIN_PATIENTS = 5  # train patients that an item, a value or a feature must tell apart from the rest
NUMERIC_SHARE = (
    0.9  # of a text column's filled cells on train patients: from here on it is a column of numbers
)
EMPTY = "nothing of it was known before the landmark"
ALIKE = f"no value of it tells {MIN_PATIENTS} train patients from the rest"
COUNTLESS = f"none of its many values has {MIN_PATIENTS} train patients: too rare to judge it by"

# What a row of an event table is about; its other columns are aggregated for each.
_EVENTS = (
    "labevents",
    "chartevents",
    "datetimeevents",
    "inputevents",
    "ingredientevents",
    "outputevents",
)
_EVENTS += ("procedureevents",)
ITEMS = dict.fromkeys(_EVENTS, "itemid") | {
    "omr": "result_name",
    "prescriptions": "drug",
    "pharmacy": "medication",
}
# "500,000", ".1", "50-100" (its lower end), "120/80" (systolic), ">60"; not "0045", which is a code
_NUMBER = r"[+-]?(\d[\d,]*\.?\d*|\.\d+)"
_IS_NUMBER = rf"^\s*[<>]?=?\s*{_NUMBER}(\s*[-/]\s*{_NUMBER})?\s*$"
_IS_CODE = r"^0\d"


class Feature(NamedTuple):
    column: str  # "table.column"
    item: str  # the item or value that it is about, or ""
    statistic: str


class Features(NamedTuple):
    matrix: object  # float32, patients of the cohort x features
    features: list  # Feature of each column of the matrix
    excluded: dict  # "table.column" -> why it is no feature
    silent: dict  # "table.column" -> why it could be one, but none of its features is left
    rows: (
        dict  # (table, item), and (table, "") for all of its rows -> how many rows each patient has
    )


def build(storage: Path, people, temp: Path) -> Features:
    """The features of the cohort `people` (a data frame as `cohort` gives it), table by table.

    Each table is read on one thread, so that sums of decimals are the same on every run; tables are read side by side.
    """
    import numpy as np
    from tqdm import tqdm

    columns = read_manifest(storage, "subjects")["columns"]
    is_train = (people.split == "train").to_numpy()
    con = database.connect(storage, temp, threads=1)
    con.register("people", people)
    con.execute(
        "CREATE TABLE cohort AS SELECT *, row_number() OVER (ORDER BY subject_id) - 1 AS i FROM people"
    )
    with ThreadPoolExecutor(4) as pool:
        jobs = [(con.cursor(), name, types, is_train) for name, types in sorted(columns.items())]
        parts = list(
            tqdm(
                pool.map(_table, jobs), total=len(jobs), desc="features", unit="table", disable=None
            )
        )
    con.close()
    matrix = np.concatenate([part.matrix for part in parts], axis=1)
    features = [feature for part in parts for feature in part.features]
    kept, repeated = _distinct(matrix[is_train], features)
    excluded, silent, rows = (
        dict(pair for part in parts for pair in part[k].items()) for k in (2, 3, 4)
    )
    heard = {features[i].column for i in kept}
    silent |= {column: reason for column, reason in repeated.items() if column not in heard}
    return Features(
        np.ascontiguousarray(matrix[:, kept]), [features[i] for i in kept], excluded, silent, rows
    )


def _fill(matrix, is_train) -> None:
    """Set what is unknown to the median of the train patients, in place.

    That a patient has rows of a table or an item is told by their numbers alone: left open, every column of a drug's
    order would tell that the drug was ordered, and columns of noise would look important.
    """
    import numpy as np

    train, medians = matrix[is_train], np.zeros(matrix.shape[1], np.float32)
    some = np.isfinite(train).any(axis=0)
    medians[some] = np.nanmedian(train[:, some], axis=0)
    np.copyto(matrix, medians, where=np.isnan(matrix))


def _tells(values) -> bool:
    """Whether a feature's values set at least MIN_PATIENTS patients apart from the rest."""
    import numpy as np

    return len(values) - np.unique(values, return_counts=True)[1].max(initial=0) >= MIN_PATIENTS


def _distinct(train, features: list) -> tuple:
    """The places of the features, of equal ones (on the train patients) but one, and {column: what it repeats}.

    Of equal features one stays: a number of rows before all else, then a protected column's, then the first table's.
    """

    def rank(i: int) -> tuple:
        return features[i].statistic != ROWS, not reason_for("protected", features[i].column), i

    owner, kept, lost = {}, [], {}
    for i in sorted(range(len(features)), key=rank):
        of = owner.setdefault(train[:, i].tobytes(), features[i])
        if of is features[i]:
            kept.append(i)
        elif features[i].statistic != ROWS:
            lost[features[i].column] = f"repeats {of.column}"
    return sorted(kept), lost


def _table(job: tuple) -> Features:
    """The features of one table, through a cursor of its own, whose temporary tables are its own too."""
    import numpy as np

    con, name, types, is_train = job
    reasons = {column: _excluded(name, column, type_) for column, type_ in types.items()}
    excluded = {f"{name}.{column}": reason for column, reason in reasons.items() if reason}
    columns = {column: type_ for column, type_ in types.items() if not reasons[column]}
    silent = {f"{name}.{column}": EMPTY for column in columns}
    if not columns or name not in database.names(con):
        return Features(np.empty((len(is_train), 0), np.float32), [], excluded, silent, {})
    _known_rows(con, name, types, columns)
    item = ITEMS.get(name) if ITEMS.get(name) in columns else None
    numbers, categories = _kinds(con, columns, item)
    blocks = [_counts(con, name, item)]
    n_counts = len(blocks[0][1])
    if numbers:
        blocks.append(_numbers(con, name, numbers, item))
    countless = _count_values(con, categories) if categories else set()
    if categories := [column for column in categories if column not in countless]:
        blocks.append(_categories(con, name, categories))
    con.close()
    features = [feature for _, of_block, _ in blocks for feature in of_block]
    matrix = np.concatenate([_dense(len(is_train), *block) for block in blocks], axis=1)
    rows = {
        (name, feature.item): matrix[:, i].copy() for i, feature in enumerate(features[:n_counts])
    }
    matrix[matrix[:, 0] == 0, n_counts:] = np.nan  # nothing can be said of rows that are not there
    silent |= {
        f.column: ALIKE
        for f, some in zip(features, (matrix[is_train] > 0).any(axis=0), strict=True)
        if some
    }
    silent |= {f"{name}.{column}": COUNTLESS for column in countless}
    _fill(matrix, is_train)
    kept = [i for i, values in enumerate(matrix[is_train].T) if _tells(values)]
    heard = {features[i].column for i in kept} | {f"{name}.{ROWS}"}
    silent = {column: reason for column, reason in silent.items() if column not in heard}
    return Features(matrix[:, kept], [features[i] for i in kept], excluded, silent, rows)


def _excluded(table: str, column: str, type_: str) -> str:
    """Why a column is no feature, or an empty text."""
    rules = visibility.rules().get(table)
    if reason := reason_for("excluded", f"{table}.{column}"):
        return reason
    if rules is None:
        return "no rule says when this table is known"
    if "never" in rules["*"] + rules.get(column, []):
        return "not known at any stated time"
    return "a time: it places the row" if type_ == "time" else ""


def _known_rows(con, name: str, types: dict, columns: dict) -> None:
    """A table `known`: the rows that were known at the landmark, cells that were not known yet set to null."""
    rules = visibility.rules()[name]

    def known(terms: list) -> str:
        return " AND ".join(_came(con, term, types) for term in terms)

    place = next(
        (term.partition("@")[0] for term in rules["*"] if term.partition("@")[0] in types), None
    )
    cells = [
        f'CASE WHEN {known(rules[c])} THEN t."{c}" END AS "{c}"' if c in rules else f't."{c}"'
        for c in columns
    ]
    moment = f't."{place}"' if place else "c.as_of"
    con.execute(f"""
        CREATE TEMP TABLE known AS SELECT c.i, c.split = 'train' AS is_train, {moment} AS moment, {", ".join(cells)}
        FROM "{name}" t JOIN cohort c USING (subject_id) WHERE {known(rules["*"])}""")


def _came(con, term: str, types: dict) -> str:
    """SQL for: this term of visibility.csv had come by the landmark. A null time has not come."""
    column, _, day = term.partition("@")
    if term == "always":
        return "true"
    if term == "discharge":
        return "EXISTS (SELECT 1 FROM admissions a WHERE a.hadm_id = t.hadm_id AND a.dischtime <= c.as_of)"
    if term == "entered":
        entered = "(SELECT min(p.entertime) FROM pharmacy p WHERE p.pharmacy_id = t.pharmacy_id)"
        entered = entered if "pharmacy" in database.names(con) else "NULL"
        return f"coalesce({entered}, t.starttime + INTERVAL 1 DAY) <= c.as_of"
    if column not in types:
        return "false"
    return (
        f"date_trunc('day', t.\"{column}\") + INTERVAL 1 DAY <= c.as_of"
        if day
        else f't."{column}" <= c.as_of'
    )


def _kinds(con, columns: dict, item: str | None) -> tuple:
    """The columns as numbers {column: SQL} and as categories {column: SQL}; texts are judged on train patients."""
    numbers = {c: f'"{c}"' for c, type_ in columns.items() if type_ in ("num", "int")}
    texts = [c for c, type_ in columns.items() if type_ == "text" and c != item and c != "value"]
    if texts:
        fits = "regexp_matches(\"{0}\", '{1}') AND NOT regexp_matches(\"{0}\", '{2}')"
        judged = ", ".join(
            f'count("{c}"), count(*) FILTER ({fits.format(c, _IS_NUMBER, _IS_CODE)})' for c in texts
        )
        found = iter(con.execute(f"SELECT {judged} FROM known WHERE is_train").fetchall()[0])
        for column, filled, numeric in zip(texts, found, found, strict=True):
            if filled and numeric >= NUMERIC_SHARE * filled:
                first = f"regexp_extract(\"{column}\", '{_NUMBER}')"
                numbers[column] = f"TRY_CAST(replace({first}, ',', '') AS DOUBLE)"
    categories = {
        c: f'"{c}"::VARCHAR' for c in columns if c not in numbers and c != item and c != "value"
    }
    if (
        columns.get("value") == "text"
    ):  # its numbers are in valuenum: what is left are results in words, per item
        words = '"valuenum" IS NULL' if "valuenum" in columns else "true"
        categories["value"] = (
            f'CASE WHEN {words} THEN "{item}" || \': \' || "value" END' if item else '"value"'
        )
    return numbers, categories


def _counts(con, name: str, item: str | None) -> tuple:
    """How many rows the patient has: of the table, and of each frequent item."""
    rows = con.execute("SELECT i, count(*) AS n FROM known GROUP BY i ORDER BY i").fetchnumpy()
    features = [Feature(f"{name}.{ROWS}", "", ROWS)]
    cells = [(rows["i"], 0, rows["n"])]
    con.execute("CREATE TEMP TABLE items (item VARCHAR, f BIGINT)")
    if item:
        con.execute(f"""
            INSERT INTO items SELECT item, row_number() OVER (ORDER BY n DESC, item) FROM (
                SELECT "{item}"::VARCHAR AS item, count(DISTINCT i) AS n FROM known
                WHERE is_train AND "{item}" IS NOT NULL GROUP BY 1 HAVING n >= {MIN_PATIENTS})
            ORDER BY n DESC, item LIMIT {MAX_ITEMS}""")
        counted = con.execute(f"""
            SELECT i, f, count(*) AS n FROM known JOIN items ON item = "{item}"::VARCHAR GROUP BY i, f ORDER BY f, i""")
        found = counted.fetchnumpy()
        features += [Feature(f"{name}.{item}", label, "rows") for label in _items(con)]
        cells.append((found["i"], found["f"], found["n"]))
    return cells, features, 0.0


def _items(con) -> list:
    return [item for (item,) in con.execute("SELECT item FROM items ORDER BY f").fetchall()]


def _numbers(con, name: str, numbers: dict, item: str | None) -> tuple:
    """Per number and item: mean, standard deviation, least, most, last, and the share of the rows where it is filled.

    The share stands for the count: the number of rows is a feature of its own, and would else speak for every column.
    """
    import numpy as np

    aggregates = ", ".join(
        f"count(v{k}) / count(*) AS filled{k}, avg(v{k}) AS mean{k}, stddev_samp(v{k}) AS std{k}, min(v{k}) AS min{k}, "
        f"max(v{k}) AS max{k}, last(v{k} ORDER BY moment, v{k}) FILTER (v{k} IS NOT NULL) AS last{k}"
        for k in range(len(numbers))
    )
    values = ", ".join(f"{sql} AS v{k}" for k, sql in enumerate(numbers.values()))
    measured = f'known JOIN items ON item = "{item}"::VARCHAR AND f <= {MAX_MEASURED}'
    source = measured if item else "known"
    found = con.execute(f"""
        SELECT i, f, {aggregates} FROM (SELECT i, moment, {"f" if item else "1 AS f"}, {values} FROM {source})
        GROUP BY i, f ORDER BY f, i""").fetchnumpy()
    labels = _items(con)[:MAX_MEASURED] if item else [""]
    features, cells = [], []
    for k, column in enumerate(numbers):
        for statistic in ("filled", *STATISTICS):
            values = np.ma.filled(found[f"{statistic}{k}"].astype(np.float64), np.nan)
            cells.append((found["i"], found["f"] - 1 + len(features), values))
            features += [Feature(f"{name}.{column}", label, statistic) for label in labels]
    return cells, features, float("nan")


def _count_values(con, categories: dict) -> set:
    """Make the tables `counted` (rows by patient and value) and `top` (frequent values); the columns without any top.

    Such a column is filled for MIN_PATIENTS train patients or more: a free text, or names of what is met once.
    """
    texts = ", ".join(f'{sql} AS "{column}"' for column, sql in categories.items())
    names = ", ".join(f'"{column}"' for column in categories)
    con.execute(f"""
        CREATE TEMP TABLE counted AS
        WITH cells AS (UNPIVOT (SELECT i, is_train, {texts} FROM known) ON {names} INTO NAME name VALUE value)
        SELECT i, is_train, name, value, count(*) AS n FROM cells GROUP BY ALL""")
    con.execute(f"""
        CREATE TEMP TABLE top AS SELECT name, value, row_number() OVER (ORDER BY name, place) - 1 AS f FROM (
            SELECT name, value, row_number() OVER (PARTITION BY name ORDER BY count(*) DESC, value) AS place
            FROM counted WHERE is_train GROUP BY name, value HAVING count(*) >= {MIN_PATIENTS})
        WHERE place <= {MAX_VALUES}""")
    countless = con.execute(f"""
        SELECT name FROM counted WHERE is_train AND name NOT IN (SELECT name FROM top)
        GROUP BY name HAVING count(DISTINCT i) >= {MIN_PATIENTS}""").fetchall()
    return {name for (name,) in countless}


def _categories(con, name: str, categories: list) -> tuple:
    """Per frequent value of a category: the share of the patient's rows that have it; and the share that is filled."""
    per_patient = "(SELECT i, count(*) AS total FROM known GROUP BY i)"
    shares = con.execute(f"""
        SELECT i, f, n / total AS share FROM counted JOIN top USING (name, value) JOIN {per_patient} USING (i)
        ORDER BY f, i""").fetchnumpy()
    features = [
        Feature(f"{name}.{column}", value, "share")
        for column, value in con.execute("SELECT name, value FROM top ORDER BY f").fetchall()
    ]
    filled = con.execute(
        f"""
        SELECT i, list_position(?, name) - 1 AS f, sum(n) / any_value(total) AS share
        FROM counted JOIN {per_patient} USING (i) WHERE list_contains(?, name) GROUP BY i, name ORDER BY f, i""",
        [categories, categories],
    ).fetchnumpy()
    cells = [
        (shares["i"], shares["f"], shares["share"]),
        (filled["i"], filled["f"] + len(features), filled["share"]),
    ]
    return (
        cells,
        features + [Feature(f"{name}.{column}", "", "filled") for column in categories],
        0.0,
    )


def _dense(n_patients: int, cells: list, features: list, empty: float):
    """The cells (patient, feature, value) of one block as a float32 array; what is too large for it is its largest."""
    import numpy as np

    block, largest = (
        np.full((n_patients, len(features)), empty, np.float32),
        np.finfo(np.float32).max,
    )
    for i, f, values in cells:
        block[np.asarray(i, int), np.asarray(f, int)] = np.clip(values, -largest, largest)
    return block
