"""The tables of the synthetic data while they are written: rows, ids, staff and noise."""

import gzip
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from mimic_qlora.mimic.synthetic.vocabulary import Entry, Vocabulary
from mimic_qlora.mimic.tables import schema

CHUNK = 7  # rows that stay together when a table is scattered, as patients' rows are in real files
STRIDE = 7_368_787  # a prime: walking round the ids in such strides meets each of them once


class NoiseColumn(NamedTuple):
    """One column of noise: its place in the row, and the function that draws its next cell."""

    place: int
    draw: Callable[[list[Any]], Any]  # takes the row's cells


class Book:
    """Rows of all tables as CSV lines, with the hospital's id counters, staff and noise streams."""

    def __init__(self, words: Vocabulary, seed: int, emergency: bool = False) -> None:
        """Open the tables of hosp/ and icu/, and employ the staff.

        With `emergency` also those of ed/ and radiology. `watched` then holds the rows of one
        patient, by table.
        """
        self.words, self.seed = words, seed
        self.counters: dict[str, int] = {}
        self.tables = {
            name: table
            for name, table in schema().items()
            if table.module in ("hosp", "icu")
            or (emergency and (table.module == "ed" or name == "radiology"))
        }
        self.position = {
            name: {column: i for i, column in enumerate(table.columns)}
            for name, table in self.tables.items()
        }
        self.lines: dict[str, list[str]] = {name: [] for name in self.tables}
        self.watched: dict[str, list[dict[str, Any]]] | None = {} if emergency else None
        rng = Random(f"{seed}:staff")
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        providers = {
            f"P{rng.randrange(100):02d}" + "".join(rng.choices(letters, k=3)) for _ in range(400)
        }
        self.staff: dict[str, list[str] | list[int]] = {
            "provider": sorted(providers),
            "caregiver": sorted(rng.sample(range(1000, 100_000), 250)),
        }
        self.noise: dict[str, list[NoiseColumn]] = {name: [] for name in self.tables}
        for one in words.noise:
            self.noise[one["table"]].append(self._noise_column(one))

    def next_id(self, kind: str, first: int, size: int) -> int:
        """Return an id that looks random and never repeats: a walk round `size` numbers."""
        last = self.counters.get(kind, self.seed * 131 + len(kind) * 977)
        self.counters[kind] = (last + STRIDE) % size
        return first + self.counters[kind]

    def add(self, table: str, **row: Any) -> None:
        """Add a row; columns that are not given are noise or null."""
        position = self.position[table]
        cells: list[Any] = [None] * len(position)
        for column, value in row.items():
            cells[position[column]] = value
        for place, draw in self.noise[table]:
            cells[place] = draw(cells)
        if self.watched is not None:
            self.watched.setdefault(table, []).append(row)
        self.lines[table].append(",".join([_cell(value) for value in cells]))

    def _noise_column(self, one: Entry) -> NoiseColumn:
        """Return the column of an entry of noise.yaml, with a random stream of its own."""
        position = self.position[one["table"]]
        rng = Random(f"{self.seed}:noise:{one['table']}.{one['column']}")
        known: dict[Any, Any] = {}
        beside, share = position.get(one.get("where", "")), one.get("share", 1.0)
        by_subject, subject = one.get("per") == "subject", position["subject_id"]

        def value() -> Any:
            if rng.random() >= share:
                return None
            if one["kind"] == "uniform":
                return round(rng.uniform(one["low"], one["high"]), 2)
            if one["kind"] == "category":
                return rng.choices(list(one["values"]), one["values"].values())[0]
            staff = self.staff[one["kind"]]
            # squared: some of the staff are busier than others
            return staff[int(len(staff) * rng.random() ** 2)]

        def draw(cells: list[Any]) -> Any:
            if by_subject:
                if cells[subject] not in known:
                    known[cells[subject]] = value()
                return known[cells[subject]]
            drawn = value()
            return drawn if beside is None or cells[beside] is not None else None

        return NoiseColumn(position[one["column"]], draw)

    def save(self, folder: Path) -> None:
        """Write every table as .csv.gz, its rows scattered in chunks."""
        for name, table in self.tables.items():
            lines = self.lines[name]
            chunks = [lines[i : i + CHUNK] for i in range(0, len(lines), CHUNK)]
            Random(f"{self.seed}:{name}").shuffle(chunks)
            scattered = [line for chunk in chunks for line in chunk]
            text = "\n".join([",".join(table.columns), *scattered, ""])
            path = folder / table.module / f"{name}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=4, mtime=0))


def _cell(value: Any) -> str:
    """Return one CSV cell: null is nothing, the empty string is \"\"."""
    if value is None:
        return ""
    text = str(value)
    if text == "" or "," in text or '"' in text or "\n" in text:
        return '"' + text.replace('"', '""') + '"'
    return text


def weighted(rng: Random, rows: list[Any]) -> Any:
    """Draw one of the rows, whose last item is its weight."""
    return rng.choices(rows, [row[-1] for row in rows])[0]
