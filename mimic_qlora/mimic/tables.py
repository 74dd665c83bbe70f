"""The tables of MIMIC-IV: their names, their columns and types, and how a folder of them is read."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.step.errors import UserError

MODULES = ("hosp", "icu", "ed", "note")
REQUIRED = ("patients", "admissions")
BLOCK_BYTES = (
    2 << 20
)  # more than any row has; the reader runs up to 32 blocks ahead of what is done
WHOLE = (
    r"^(0|-?[1-9]\d{0,17})$"  # how an id is written: an integer of the JSONL has no leading zero
)


class Table(NamedTuple):
    module: str
    columns: dict  # name -> "id", "int", "num", "time" or "text", in the order of the header


class Source(NamedTuple):
    """One table's file in a MIMIC-IV folder."""

    path: Path
    module: str
    columns: dict  # as its own header has them: name -> type; unknown columns are text
    drift: str  # "" or how the header differs from the schema


@cache
def schema() -> dict:
    """Table name -> Table, read from schema.txt."""
    tables = {}
    for line in (Path(__file__).parent / "schema.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            module, name, *columns = line.split(" ")
            pairs = (column.partition(":") for column in columns)
            tables[name] = Table(module, {column: type_ or "text" for column, _, type_ in pairs})
    return tables


def find(mimic_dir: Path) -> dict:
    """The tables in a MIMIC-IV folder (with hosp/, icu/, ... in it, or all files in one place): name -> Source.

    Raises UserError when the folder, `patients` or `admissions` is missing, when a table is there twice or has a name
    that the record cannot take, or when a file has no readable header.
    """
    if not mimic_dir.is_dir():
        raise UserError(
            f"there is no folder {mimic_dir}: give the one that holds MIMIC-IV's hosp/ and icu/ with --mimic-dir"
        )
    if mimic_dir.name in MODULES and all(
        (mimic_dir.parent / module).is_dir() for module in ("hosp", "icu")
    ):
        raise UserError(
            f"{mimic_dir} is only one part of MIMIC-IV: give the folder around it, {mimic_dir.parent}"
        )
    folders = [mimic_dir / module for module in MODULES if (mimic_dir / module).is_dir()] or [
        mimic_dir
    ]
    found = {}
    for folder in folders:
        for path in csv_files(folder):
            name = path.name.split(".csv")[0]
            if (
                not re.fullmatch(r"\w[\w-]*", name)
                or name == "subject_id"
                or name.endswith("_labeled")
            ):
                raise UserError(
                    f"{path} has a name that no table of the record can have: rename or remove it"
                )
            if name in found:
                raise UserError(
                    f"table {name} is there twice, as {found[name].path} and {path}: remove or move one"
                )
            found[name] = _source(name, path, folder)
    for name in REQUIRED:
        if name not in found:
            raise UserError(
                f"{mimic_dir} has no {name}.csv.gz: give the folder with MIMIC-IV's hosp/ and icu/ by --mimic-dir"
            )
    return found


def csv_files(folder: Path) -> list:
    """The CSV files that lie in a folder itself, in the order of their names, without hidden ones."""
    return sorted(
        p for p in [*folder.glob("*.csv"), *folder.glob("*.csv.gz")] if not p.name.startswith(".")
    )


def _source(name: str, path: Path, folder: Path) -> Source:
    header = _header(path)
    known = schema().get(name, Table(folder.name if folder.name in MODULES else "hosp", {}))
    missing = [column for column in known.columns if column not in header]
    unknown = [column for column in header if column not in known.columns]
    if missing and (
        name in REQUIRED or "subject_id" in missing
    ):  # else its rows would reach no record
        raise UserError(
            f"{path} is not MIMIC-IV's {name}: expected column {missing[0]}, found {', '.join(header)}"
        )
    drift = f"expected {', '.join(missing) or 'no other columns'}, found {', '.join(unknown) or 'no such column'}"
    types = {
        column: known.columns.get(
            column, "id" if column in ("subject_id", "hadm_id", "stay_id") else "text"
        )
        for column in header
    }
    if not known.columns:
        drift = "not a table of MIMIC-IV v3.1"
    return Source(path, known.module, types, drift if missing or unknown else "")


def _header(path: Path) -> list:
    import csv
    import io
    import zlib

    try:
        with open(path, "rb") as stored, _uncompressed(stored, path) as file:
            header = next(csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")), [])
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): check the download") from None
    if not header:
        raise UserError(f"{path} is empty: check the download")
    if len(set(header)) < len(header):
        raise UserError(f"{path} has two columns of one name in its header: {', '.join(header)}")
    return header


def _uncompressed(stored, path: Path):
    if path.suffix != ".gz":
        return stored
    from isal import igzip

    return igzip.open(stored, "rb")


def read(source: Source, on_ragged=None, on_bytes=None) -> Iterator:
    """Yield the rows of a table as Arrow record batches of strings, in file order, each string as the file has it.

    Nothing between two commas is null; a quoted empty string stays an empty string. A row with too few or too many
    fields is left out and told to `on_ragged(row number, text)`; without it such a row is an error. After each batch
    `on_bytes` is told how much of the file has been read. Raises UserError when the file breaks off or is damaged.
    """
    import zlib

    import pyarrow as pa
    from pyarrow import csv

    def skip(row):
        on_ragged(row.number, row.text)
        return "skip"

    try:
        with open(source.path, "rb") as stored, _uncompressed(stored, source.path) as file:
            batches = csv.open_csv(
                file,
                # one thread: the rows that are told to on_ragged then carry their number
                read_options=csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=on_ragged is None),
                parse_options=csv.ParseOptions(
                    newlines_in_values=True, invalid_row_handler=skip if on_ragged else None
                ),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(source.columns, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            for batch in batches:
                yield batch
                if on_bytes:
                    on_bytes(stored.tell())
    except EOFError:
        raise UserError(f"{source.path} breaks off before its end: download it again") from None
    except (pa.ArrowInvalid, OSError, zlib.error) as error:
        if "No space left" in str(error):
            raise
        # the reader's message may quote a row; patient data stays out of logs
        reason = "has rows of different lengths" if "Expected" in str(error) else "is damaged"
        raise UserError(f"{source.path} cannot be read, it {reason}: check the download") from None


@cache
def arrow_types() -> dict:
    """The Arrow type of each kind of column in the typed view."""
    import pyarrow as pa

    return {
        "id": pa.int64(),
        "int": pa.int64(),
        "num": pa.float64(),
        "time": pa.timestamp("us"),
        "text": pa.large_string(),
    }


def typed(columns: dict, table):
    """The typed columns of a table of strings, and how many cells of each column did not fit its type.

    A cell that does not fit (such as `___` in a number) becomes null here; the JSONL keeps it as it was.
    Returns (pyarrow Table, {column: number of cells}).
    """
    import pyarrow as pa

    arrays, misfits = [], {}
    for column, kind in columns.items():
        array, lost = _cast(table[column], arrow_types()[kind], kind)
        arrays.append(array)
        if lost:
            misfits[column] = lost
    return pa.table(arrays, names=list(columns)), misfits


# What Arrow's cast accepts; anything else in a typed column is null in the typed view.
_FITS = {
    "id": r"^-?\d{1,18}$",
    "int": r"^-?\d{1,18}$",
    "num": r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$",
    "time": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([ T]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?)?$",
}


def _cast(array, type_, kind: str):
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.cast(array, type_), 0
    except pa.ArrowInvalid:
        fits = pc.match_substring_regex(array, _FITS[kind])
        kept = pc.if_else(fits, array, None)
        return pc.cast(kept, type_), kept.null_count - array.null_count


def parse(value: str, kind: str):
    """One cell of the JSONL in the type that the typed columns give it; None where it does not fit."""
    from datetime import datetime

    convert = {"id": int, "int": int, "num": float, "time": datetime.fromisoformat, "text": str}[
        kind
    ]
    try:
        return convert(value)
    except ValueError:
        return None
