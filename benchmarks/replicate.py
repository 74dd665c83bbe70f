"""Make the open MIMIC-IV demo larger: n copies of its patients with new ids and a stand-in
chartevents.

python benchmarks/replicate.py ../mimic-iv-demo-2.2 /tmp/demo_x10 10
"""

import shutil
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from isal import igzip
from tqdm import tqdm

from mimic_qlora.mimic import reading, tables  # noqa: E402

SLICE = 20_000  # rows whose copies stand together
STEP = 10_000_000  # between the ids of one copy and the next: the demo's own have 8 digits
CHARTEVENTS_PER_COPY = 668_862  # rows of the demo's chartevents, as PhysioNet counts them
SHIFTED = ("subject_id", "hadm_id", "stay_id")
PREFIXED = (
    "poe_id",
    "emar_id",
    "discontinue_of_poe_id",
    "discontinued_by_poe_id",
)  # "<subject_id>-<number>"


def replicate(demo: Path, folder: Path, copies: int) -> None:
    sources = tables.find(demo)
    for name, source in tqdm(sources.items(), desc=f"demo x{copies}"):
        rows = pa.Table.from_batches(reading.read(source))
        write(
            folder / source.module / f"{name}.csv.gz",
            rows,
            copies if "subject_id" in source.columns else 1,
        )
        if name == "icustays":
            write(folder / "icu" / "chartevents.csv.gz", chartevents(rows), copies)


def write(path: Path, rows, copies: int) -> None:
    """The rows once for each copy, with that copy's ids, quoted only where needed as PhysioNet's
    files are.

    A slice of the rows at a time, so that each patient's rows are scattered over the file as they
    are in the demo.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ", ".join(f"{shifted(column)} as {column}" for column in rows.column_names)
    plain = path.with_suffix(".slice")
    with duckdb.connect() as con, igzip.open(path, "wb", compresslevel=3) as packed:
        for start in range(0, max(len(rows), 1), SLICE):
            con.register("rows", rows.slice(start, SLICE))
            con.execute(
                f"copy (select {columns} from range({copies}) t(copy), rows order by copy) "
                f"to '{plain}' (format csv, header {start == 0})"
            )
            with open(plain, "rb") as file:
                shutil.copyfileobj(file, packed, 1 << 20)
    plain.unlink()


def shifted(column: str) -> str:
    """The SQL for a column in another copy."""
    if column in SHIFTED:
        return f"cast({column} as bigint) + copy * {STEP}"
    if column in PREFIXED:
        owner, number = (f"split_part({column}, '-', {part})" for part in (1, 2))
        return f"cast(cast({owner} as bigint) + copy * {STEP} as varchar) || '-' || {number}"
    return column


def chartevents(stays):
    """Charted values for each ICU stay: as many rows as the demo's table has, of its shape, in
    random order.
    """
    random = np.random.default_rng(0)
    stay = random.integers(0, len(stays), CHARTEVENTS_PER_COPY)
    start = pc.cast(stays["intime"].combine_chunks(), pa.timestamp("s")).to_numpy()[stay]
    when = start + random.integers(0, 96 * 60, len(stay)).astype("timedelta64[m]").astype(
        "timedelta64[s]"
    )
    value = np.round(random.normal(80, 20, len(stay)), 1)
    text = pc.cast(pa.array(value), pa.string())
    number = pc.if_else(
        pa.array(random.random(len(stay)) < 0.4), text, None
    )  # most charted values are words

    def time(values):
        return pc.strftime(pa.array(values, pa.timestamp("s")), "%Y-%m-%d %H:%M:%S")

    columns = {
        **{column: stays[column].combine_chunks().take(pa.array(stay)) for column in SHIFTED},
        "caregiver_id": pc.cast(pa.array(random.integers(1000, 99_999, len(stay))), pa.string()),
        "charttime": time(when),
        "storetime": time(when + np.timedelta64(700, "s")),
        "itemid": pc.cast(pa.array(random.integers(220_000, 229_000, len(stay))), pa.string()),
        "value": text,
        "valuenum": number,
        "valueuom": pc.if_else(pc.is_valid(number), "bpm", None),
        "warning": pc.cast(pa.array(random.integers(0, 2, len(stay))), pa.string()),
    }
    return pa.table(columns)


if __name__ == "__main__":
    replicate(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
