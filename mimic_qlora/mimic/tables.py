"""The tables of MIMIC-IV: their names, columns and types, and how a folder of them is found."""

import codecs
import csv
import filecmp
import io
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, cast

from mimic_qlora.mimic import modules, names
from mimic_qlora.mimic.modules import MODULES
from mimic_qlora.mimic.packed import GZIP_ERROR, has_rows, uncompressed
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.plain_text import is_whole

Kind = Literal["id", "int", "num", "time", "code", "text"]
Columns = Mapping[str, Kind]  # name -> type, in the order of the header
Cell = int | float | datetime | str

SUMS = "SHA256SUMS.txt"
_HEAD = 1 << 12  # bytes at the beginning of a file that tell it from most others
REQUIRED = ("patients", "admissions")
# what people have typed or dictated, so that a cell may span lines; so it may in all of note/
FREE_TEXT = ("labevents.comments", "microbiologyevents.comments", "triage.chiefcomplaint")
IDS = ("subject_id", "hadm_id", "stay_id")  # columns by which a row finds its patient
LONGEST_NAME = 200  # bytes; files of the table add to its name, and systems allow 255


class Table(NamedTuple):
    """One table of the schema."""

    module: str  # the folder of its file, one of MODULES
    columns: Columns


class Source(NamedTuple):
    """One table's file in a MIMIC-IV folder, or its files, in a folder named after it."""

    path: Path  # the first
    module: str
    columns: Columns  # as its own header has them; unknown columns are text
    drift: str  # "" or how the header differs from the schema
    texts: frozenset[str] = frozenset()  # the columns whose cells may span lines
    folder: str = ""  # the name of the table's own folder, if it has one
    more: tuple[Path, ...] = ()  # further files, in order

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, in order."""
        return (self.path, *self.more)

    def key(self, path: Path) -> str:
        """Return the name of one of its files within the MIMIC-IV folder."""
        return "/".join(filter(None, [self.module, self.folder, path.name]))


@cache
def schema() -> dict[str, Table]:
    """Return table name -> Table, read from schema.txt."""
    tables = {}
    for line in (Path(__file__).parent / "schema.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            module, name, *columns = line.split(" ")
            pairs = (column.partition(":") for column in columns)
            kinds = {column: cast(Kind, kind or "text") for column, _, kind in pairs}
            tables[name] = Table(module, kinds)
    return tables


def find(mimic_dir: Path, texts: Collection[str] = ()) -> dict[str, Source]:
    """Return the tables in a MIMIC-IV folder: name -> Source.

    The files lie in hosp/, icu/, ed/ and note/, or all in the folder itself. A table of MIMIC-IV
    may be a folder of files there, named after it. Cells may span lines in the columns
    "table.column" of `texts`, of FREE_TEXT, and of note/.
    Raises UserError when the folder, `patients` or `admissions` is missing. So it does for a table
    that is there twice, for a name that the record cannot take or that may tell of a patient, and
    for an unreadable header.
    """
    found: dict[str, Source] = {}
    for folder in parts_of(mimic_dir):
        own = _table_folders(folder)
        stored = [(path.name, path) for path in csv_files(folder) if path not in own]
        # each where its file would stand
        stored += [(f"{path.name.removesuffix('.csv')}.csv.gz", path) for path in own]
        for _, path in sorted(stored):
            name = _table_name(path)
            if twin := _alike(name, found):
                raise UserError(
                    f"table {name} is there twice, as {found[twin].path} and {path}: "
                    "remove, rename or move one"
                )
            found[name] = (_of_folder if path.is_dir() else _source)(name, path, folder)
    _check_unread(mimic_dir, found)
    _check_renamed(found)
    for name in REQUIRED:
        if name not in found:
            raise UserError(f"{mimic_dir} has no {name}.csv.gz: {_advice(mimic_dir, found)}")
    known = {f"{name}.{column}" for name, source in found.items() for column in source.columns}
    if unknown := sorted({*texts} - known):
        raise UserError(
            f"--multiline must name columns of the tables, such as labevents.comments, and "
            f"{unknown[0]} is none"
        )
    return {
        name: source._replace(texts=_texts(name, source, {*FREE_TEXT, *texts}))
        for name, source in found.items()
    }


def parts_of(mimic_dir: Path) -> list[Path]:
    """Return the folders in which the tables lie. Raises UserError where there can be none."""
    if not is_whole(str(mimic_dir)):
        raise UserError(
            f"the path of the folder {mimic_dir} is not UTF-8: rename it, or give a link to it"
        )
    if not mimic_dir.is_dir():
        raise UserError(
            f"there is no folder {mimic_dir}: "
            "give the one that holds MIMIC-IV's hosp/ and icu/ with --mimic-dir"
        )
    around = mimic_dir.parent
    others = {*MODULES} - {mimic_dir.name}
    if len(others) < len(MODULES) and any((around / part).is_dir() for part in others):
        raise UserError(
            f"{mimic_dir} is only one part of MIMIC-IV: give the folder around it, {around}"
        )
    for folder in sorted(mimic_dir.iterdir()):
        module = folder.name.lower()
        if module in MODULES and folder.is_dir() and not (mimic_dir / module).is_dir():
            raise UserError(f"{folder} must be {module}, in small letters: rename it")
        if module in MODULES and folder.is_symlink() and not folder.is_dir():
            raise UserError(
                f"{folder} is a link to a folder that cannot be reached ({os.readlink(folder)}): "
                "mount or mend it, or remove the link"
            )
    parts = [mimic_dir / module for module in MODULES if (mimic_dir / module).is_dir()]
    return parts or [mimic_dir]


def _advice(mimic_dir: Path, found: Collection[str]) -> str:
    """Word what to do about a folder that lacks what is required, by where that is seen."""
    if hosp := modules.apart(mimic_dir, "hosp"):
        return f"give {hosp.parent}, which holds hosp/, by --mimic-dir"
    held = sorted({schema()[name].module for name in found if name in schema()})
    if held and not {*held} & {"hosp", "icu"}:
        folders = " and ".join(f"{module}/" for module in held)
        return (
            f"put its {folders} beside MIMIC-IV's hosp/ and icu/ (a link does), and give the "
            "folder of these by --mimic-dir"
        )
    return "give the folder with MIMIC-IV's hosp/ and icu/ by --mimic-dir"


def _check_unread(mimic_dir: Path, found: Collection[str]) -> None:
    """Raise UserError for a table that stands there in no form that is read, such as `.csv.zst`.

    So it does for one beside hosp/ and icu/, where only these are read. Without a word it would
    count as absent. `.csv.gz.part` is a download that was not finished.
    """
    parts = parts_of(mimic_dir)
    for path in sorted(path for folder in parts for path in folder.iterdir()):
        name = path.name.split(".")[0]
        if name in schema() and name not in found:
            raise UserError(
                f"{path} is named like the table {name}, and only .csv, .csv.gz and folders of "
                "them are read: unpack it or finish its download, or move it away"
            )
    beside = [] if mimic_dir in parts else sorted(mimic_dir.iterdir())
    for path in beside:
        if (name := path.name.split(".")[0]) in schema():
            raise UserError(
                f"{path} is named like the table {name} and lies beside the folders "
                f"{' and '.join(part.name for part in parts)}, in which tables are read: move it "
                "into one, or away"
            )


def _check_renamed(found: Mapping[str, Source]) -> None:
    """Raise UserError for a table of MIMIC-IV, or a piece of one, under another name.

    `labevents-000000000000.csv.gz`, as BigQuery names pieces, would be a table of the user's own
    that no later step reads. It is told by its columns, where the table itself is absent or the
    name is the table's with a number.
    """
    for name in sorted(found.keys() - schema().keys()):
        source = found[name]
        alike = [
            known
            for known, table in schema().items()
            if len(table.columns) > 3 and table.columns.keys() == source.columns.keys()
        ]
        numbered = [known for known in alike if re.fullmatch(rf"{known}[-_]?(part[-_]?)?\d+", name)]
        if numbered or {*alike} - found.keys():
            table = (numbered or alike)[0]
            raise UserError(
                f"{source.path} has the columns of MIMIC-IV's {table} and another name, by which "
                f"no later step would find it: name it {table}.csv.gz (or .csv), put the pieces "
                f"of a table into a folder {table}, or move it away"
            )


def _texts(name: str, source: Source, texts: Collection[str]) -> frozenset[str]:
    """Return the columns of a table whose cells may span lines."""
    is_note = source.module == "note"
    return frozenset(c for c in source.columns if is_note or f"{name}.{c}" in texts)


def csv_files(folder: Path) -> list[Path]:
    """Return the CSV files in a folder itself, ordered by name, without hidden ones.

    Raises UserError for one that would be passed over because its ending is in capital letters.
    """
    endings = (".csv", ".csv.gz")
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    paths = sorted(path for path in paths if path.name.lower().endswith(endings))
    for path in paths:
        if not path.name.endswith(endings):
            raise UserError(f"{path} must end in .csv or .csv.gz, in small letters: rename it")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is a pipe or device, and no file: save its content as one")
    return paths


def _table_folders(folder: Path) -> list[Path]:
    """Return the folders of a table's files, ordered by name: `labevents/` or `labevents.csv/`.

    `labevents.csv.bak/` was set aside, and `labevents.csv.tmp/` is not finished.
    """
    names = {f"{name}{ending}" for name in schema() for ending in ("", ".csv", ".csv.gz")}
    return [path for path in folders_in(folder) if path.name in names and csv_files(path)]


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, ordered by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _of_folder(name: str, place: Path, folder: Path) -> Source:
    """Return the table in a folder of its own.

    Raises UserError where its files' headers differ, where one of them is there twice, and where
    something else is there: rows in a form that is not read would be missed without a word.
    """
    files = [path for path in csv_files(place) if not path.is_dir()]
    for path in sorted({*place.iterdir()} - {*files}):
        is_empty = path.is_file() and not path.stat().st_size  # Spark leaves an empty _SUCCESS
        if not (path.name.startswith(".") or path.name == SUMS or is_empty):
            raise UserError(
                f"{path} is among the files of the table {name}, and only .csv and .csv.gz are "
                "read: unpack it or finish its download, or move it away"
            )
    if not files:
        raise UserError(f"{place} is a folder without a CSV file: remove or rename it")
    _check_twins(path for path in files if path.exists())
    first, *more = files
    source = _source(name, first, folder)
    for path in more:
        if _header(path) != list(source.columns):
            raise UserError(
                f"{path} has other columns than {first}, or another order: "
                "all files of a table must have the same header"
            )
    return source._replace(folder=place.name, more=tuple(more))


def _check_twins(files: Iterable[Path]) -> None:
    """Raise UserError where a table's file is there twice: by a link, as a copy, or beside its .gz.

    Copies that hold a header alone, as Spark leaves them, do no harm.
    """
    seen: dict[tuple[object, ...], Path] = {}
    for path in files:
        status = path.stat()
        with open(path, "rb") as file:
            alike = (status.st_size, file.read(_HEAD))
        for key in (status.st_dev, status.st_ino), (path.name.removesuffix(".gz"),), alike:
            twin = seen.setdefault(key, path)
            is_copy = key is not alike or (
                filecmp.cmp(path, twin, shallow=False) and has_rows(path)
            )
            if twin is not path and is_copy:
                raise UserError(
                    f"{path} and {twin} are one file or copies of one, whose rows would count "
                    "twice: remove one"
                )


def _same(name: str) -> str:
    """Return what two names share that a file system or a database may take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _alike(name: str, others: Iterable[str]) -> str | None:
    """Return the name among others that is this one but for case, None where there is none."""
    return next((other for other in others if _same(other) == _same(name)), None)


def _table_name(path: Path) -> str:
    """Return the table that a file is named after. Raises UserError for an impossible name."""
    name = path.name.split(".csv")[0]
    if names.tells(name):
        raise UserError(
            f"{path.parent} has a table whose name holds a number like an id of MIMIC-IV's, or a "
            "date, which step 2's tables would tell: rename it, or put such files' rows into one "
            "table"
        )
    taken = (
        _same(name) == "subject_id"
        or _same(name).endswith("_labeled")
        or bool(re.fullmatch(r"bucket-\d+", name))  # the names of step 1's own markers
    )
    too_long = len(name.encode(errors="replace")) > LONGEST_NAME
    if taken or too_long or not re.fullmatch(r"\w[\w-]*", name):
        raise UserError(
            f"{path} has a name that no table of the record can have: rename or remove it"
        )
    known = _alike(name, schema())
    if known not in (None, name):
        raise UserError(
            f"{path} is named like MIMIC-IV's {known} but for capital letters: rename or remove it"
        )
    return name


def _source(name: str, path: Path, folder: Path) -> Source:
    """Compare a file's header with the schema. Raises UserError when a needed column is missing."""
    header = _header(path)
    known = schema().get(name, Table(folder.name if folder.name in MODULES else "hosp", {}))
    missing = [column for column in known.columns if column not in header]
    unknown = [column for column in header if column not in known.columns]
    # without subject_id its rows would reach no record; a dictionary may have lost its header
    is_none = len(missing) == len(known.columns)
    if missing and (name in REQUIRED or "subject_id" in missing or is_none):
        raise UserError(
            f"{path} is not MIMIC-IV's {name}: expected column {missing[0]}, found "
            f"{', '.join(shown(header, header))}"
        )
    for column in unknown:
        expected = _alike(column, [*missing, *IDS])
        if expected not in (None, column):
            raise UserError(
                f"{path} has a column {column}, which is {expected} but for capital letters: "
                f"name it {expected}, or otherwise"
            )
    found = [name for name in shown(header, header) if name not in known.columns]
    drift = (
        f"expected {', '.join(missing) or 'no other columns'}, "
        f"found {', '.join(found) or 'no such column'}"
    )
    if not known.columns:
        drift = "not a table of MIMIC-IV v3.1"
    types = {column: known.columns.get(column, _kind_by_name(column)) for column in header}
    return Source(path, known.module, types, drift if missing or unknown else "")


def shown(names: list[str], header: list[str]) -> list[str]:
    """Return names of a header as messages may hold them, without what may be a cell's value.

    A file may have lost its header, or the line break after it: then these are cells of a patient,
    and a number is among them, or no name of MIMIC-IV.
    """
    known = [name for name in header if name.lower() in _names()]
    plain = all(re.fullmatch(r"[^\W\d][\w -]*", name) for name in header)
    if plain and known and not any(re.search(r"\d{3}", name) for name in header):
        return names
    return [*(name for name in names if name in known), "what may be a row and no header"]


@cache
def _names() -> frozenset[str]:
    """Return the names of all columns of MIMIC-IV."""
    return frozenset(column.lower() for table in schema().values() for column in table.columns)


def _kind_by_name(column: str) -> Kind:
    """Return the type of a column that the schema does not know."""
    return "id" if column in IDS else "text"


def _header(path: Path) -> list[str]:
    """Return the names of a file's columns. Raises UserError when they cannot be read or used."""
    header: list[str] = []
    try:
        with open(path, "rb") as stored, uncompressed(stored, path) as file:
            rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
            header = next(rows, [])
            if any("\0" in name for name in header):
                raise ValueError("it has bytes of zero, as a tar archive or UTF-16 has")
    except (OSError, EOFError, ValueError, GZIP_ERROR, csv.Error) as error:
        if system := getattr(error, "strerror", None):  # it may not be read, or its disk is away
            raise UserError(f"{path} cannot be read ({system})") from None
        reason = _form(getattr(error, "object", b""), path) or error
        raise UserError(f"{path} cannot be read ({reason}): check the download") from None
    if not header:
        raise UserError(f"{path} is empty, or its first line is: check the download")
    for sign, word in {";": "semicolons", "\t": "tabs", "|": "bars"}.items():
        if len(header) == 1 and not _names().isdisjoint(header[0].lower().split(sign)[:-1]):
            raise UserError(
                f"{path} has {word} between its columns: save it as CSV with commas, in UTF-8"
            )
    if told := sum(map(names.tells, header)):
        raise UserError(
            f"{path} has names like an id of MIMIC-IV's or a date for {told} of its columns, which "
            "step 2's tables would tell: turn these columns into rows, rename them, or put the "
            "header above its first row"
        )
    for place, name in enumerate(header):
        if not name or name != name.strip() or not name.isprintable():
            raise UserError(
                f"{path} has a name for its column {place + 1} that is empty, or that has blanks "
                "around it or characters that cannot be seen: name that column, or remove it"
            )
        if twin := _alike(name, header[:place]):
            but = "" if twin == name else ", but for capital letters"
            raise UserError(
                f"{path} has two columns of one name in its header{but}, "
                f"{', '.join(shown([twin, name], header))}: rename or remove one"
            )
    return header


def _form(data: bytes, path: Path) -> str | None:
    """Return what bytes are that are no UTF-8 text, by how they begin; None where that is open."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is UTF-16, not UTF-8"
    if not data.startswith(b"\x1f\x8b"):
        return None
    twice = path.suffix == ".gz"
    return "it is compressed twice" if twice else "it is compressed, and its name lacks .gz"
