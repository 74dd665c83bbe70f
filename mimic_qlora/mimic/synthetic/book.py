"""The tables of the synthetic data while they are written: vocabularies, rows, ids, staff and columns of noise."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace

from mimic_qlora.mimic.tables import schema

DATA = Path(__file__).parent / "data"
CHUNK = (
    7  # rows that stay together when a table is scattered, as patients' rows are in the real files
)
STRIDE = 7_368_787  # a prime, so that walking round the ids in such strides meets each of them once


def vocabulary() -> SimpleNamespace:
    """All files of synthetic_data."""
    import yaml

    load = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    words = SimpleNamespace(
        **{
            path.stem: yaml.load(path.read_text("utf-8"), load)
            for path in sorted(DATA.glob("*.yaml"))
        }
    )
    words.drugs = {row["key"]: row for row in _rows("drugs")}
    words.labs = {row["key"]: _lab(row) for row in _rows("labs")}
    words.panels = {}
    for one in words.labs.values():
        words.panels.setdefault(one.panel, []).append(one)
    words.dictionaries = {
        table: _rows(table)
        for table in ("d_icd_diagnoses", "d_icd_procedures", "d_hcpcs", "d_items")
    }
    labitems = _rows("labs") + _rows("d_labitems_more")
    words.dictionaries["d_labitems"] = [
        {key: row[key] for key in ("itemid", "label", "fluid", "category")} for row in labitems
    ]
    words.hcpcs = {row["code"]: row["short_description"] for row in words.dictionaries["d_hcpcs"]}
    return words


def _rows(name: str) -> list:
    with open(DATA / f"{name}.csv", encoding="utf-8", newline="") as file:
        return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]


def _lab(row: dict) -> SimpleNamespace:
    numbers = ("center", "spread", "low_f", "high_f", "low_m", "high_m")
    lab = SimpleNamespace(**row | {key: float(row[key]) if row[key] else None for key in numbers})
    lab.decimals = int(row["decimals"] or 0)
    lab.ranges = {"F": (lab.low_f, lab.high_f), "M": (lab.low_m, lab.high_m)}
    return lab


class Book:
    """Rows of all tables as CSV lines, with the hospital's id counters, its staff and the noise streams."""

    def __init__(self, words: SimpleNamespace, seed: int):
        self.words, self.seed, self.counters = words, seed, {}
        self.tables = {
            name: table for name, table in schema().items() if table.module in ("hosp", "icu")
        }
        self.position = {
            name: {column: i for i, column in enumerate(self.tables[name].columns)}
            for name in self.tables
        }
        self.lines = {name: [] for name in self.tables}
        rng = Random(f"{seed}:staff")
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        providers = sorted(
            {f"P{rng.randrange(100):02d}" + "".join(rng.choices(letters, k=3)) for _ in range(400)}
        )
        self.staff = {
            "provider": providers,
            "caregiver": sorted(rng.sample(range(1000, 100_000), 250)),
        }
        self.noise = {name: [] for name in self.tables}
        for one in words.noise:
            self.noise[one["table"]].append(self.noise_stream(one, self.position[one["table"]]))

    def next_id(self, kind: str, first: int, size: int) -> int:
        """Ids that look random and never repeat: a walk round `size` numbers."""
        self.counters[kind] = (
            self.counters.get(kind, self.seed * 131 + len(kind) * 977) + STRIDE
        ) % size
        return first + self.counters[kind]

    def add(self, table: str, **row) -> None:
        position, cells = self.position[table], [None] * len(self.position[table])
        for column, value in row.items():
            cells[position[column]] = value
        for where, draw_cell in self.noise[table]:
            cells[where] = draw_cell(cells)
        self.lines[table].append(",".join([_cell(value) for value in cells]))

    def noise_stream(self, one: dict, position: dict) -> tuple[int, Callable]:
        """Position of a noise column, and the function that draws its next cell."""
        rng, known = Random(f"{self.seed}:noise:{one['table']}.{one['column']}"), {}
        beside, subject, share = (
            position.get(one.get("where")),
            position["subject_id"],
            one.get("share", 1.0),
        )

        def value():
            if rng.random() >= share:
                return None
            if one["kind"] == "uniform":
                return round(rng.uniform(one["low"], one["high"]), 2)
            if one["kind"] == "category":
                return rng.choices(list(one["values"]), one["values"].values())[0]
            staff = self.staff[one["kind"]]
            return staff[
                int(len(staff) * rng.random() ** 2)
            ]  # some of the staff are busier than others

        def draw_cell(cells):
            if one.get("per") == "subject":
                return (
                    known[cells[subject]]
                    if cells[subject] in known
                    else known.setdefault(cells[subject], value())
                )
            drawn = value()
            return drawn if beside is None or cells[beside] is not None else None

        return position[one["column"]], draw_cell

    def save(self, folder: Path) -> None:
        for name, table in self.tables.items():
            lines = self.lines[name]
            chunks = [lines[i : i + CHUNK] for i in range(0, len(lines), CHUNK)]
            Random(f"{self.seed}:{name}").shuffle(chunks)
            text = "\n".join(
                [",".join(table.columns), *(line for chunk in chunks for line in chunk), ""]
            )
            path = folder / table.module / f"{name}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=4, mtime=0))


def _cell(value) -> str:
    """One CSV cell: null is nothing, the empty string is \"\"."""
    if value is None:
        return ""
    text = str(value)
    if text == "" or "," in text or '"' in text or "\n" in text:
        return '"' + text.replace('"', '""') + '"'
    return text


def weighted(rng: Random, rows: list) -> list:
    """One of the rows, whose last item is its weight."""
    return rng.choices(rows, [row[-1] for row in rows])[0]
