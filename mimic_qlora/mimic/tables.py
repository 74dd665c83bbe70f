"""The tables of MIMIC-IV: their names, columns and types, and the reader of a folder of them."""

import codecs
import contextlib
import csv
import filecmp
import io
import itertools
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import pyarrow as pa
from isal import igzip, igzip_lib
from pyarrow import csv as arrow_csv

from mimic_qlora.mimic import modules, second_reader
from mimic_qlora.mimic.modules import MODULES
from mimic_qlora.mimic.pieces import Piece, Rows
from mimic_qlora.mimic.second_reader import LineCounter, LineCounts, Readable
from mimic_qlora.step import faults
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.plain_text import is_whole

Kind = Literal["id", "int", "num", "time", "code", "text"]
Columns = Mapping[str, Kind]  # name -> type, in the order of the header
Cell = int | float | datetime | str

SUMS = "SHA256SUMS.txt"
PACKED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".parquet")
_HEAD = 1 << 12  # bytes at the beginning of a file that tell it from most others
REQUIRED = ("patients", "admissions")
BLOCK_BYTES = 2 << 20  # more than any row has; the reader runs up to 32 blocks ahead
# what people have typed or dictated, so that a cell may span lines; so it may in all of note/
FREE_TEXT = ("labevents.comments", "microbiologyevents.comments", "triage.chiefcomplaint")
IDS = ("subject_id", "hadm_id", "stay_id")  # columns by which a row finds its patient
LONGEST_NAME = 200  # bytes; files of the table add to its name, and systems allow 255
# what isal raises for damaged data; its stubs declare it as an object and not as a class
GZIP_ERROR: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]
WHOLE = r"^(0|-?[1-9]\d{0,17})$"  # an id: an integer of the JSONL has no leading zero
ABOVE_ZERO = "[1-9][0-9]{0,17}"  # the id of a patient or a stay


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
    that is there twice, for a name that the record cannot take, and for an unreadable header.
    """
    found: dict[str, Source] = {}
    for folder in _parts(mimic_dir):
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


def _parts(mimic_dir: Path) -> list[Path]:
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
    parts = _parts(mimic_dir)
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
    return [path for path in _folders(folder) if path.name in names and csv_files(path)]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def other_folders(mimic_dir: Path, sources: Mapping[str, Source]) -> list[Path]:
    """Return the folders with files beside the tables that are no table themselves."""
    read = {path.parent for source in sources.values() for path in source.files}
    return [
        folder
        for part in _parts(mimic_dir)
        for folder in _folders(part)
        if folder not in read and any(folder.glob("*"))
    ]


def folders_beside(mimic_dir: Path, sources: Mapping[str, Source]) -> dict[str, list[str]]:
    """Return the folders with CSV files beside the modules, such as `notes/`, by their name.

    Each has the tables of MIMIC-IV in it that are found nowhere else.
    """
    if mimic_dir in _parts(mimic_dir):  # there are no modules
        return {}
    absent = schema().keys() - sources.keys()
    found = {
        folder.name: [path.name.split(".csv")[0] for path in sorted(folder.glob("*.csv*"))]
        for folder in _folders(mimic_dir)
        if folder.name not in MODULES and not folder.name.startswith(".")
    }
    return {name: [n for n in names if n in absent] for name, names in found.items() if names}


def other_files(mimic_dir: Path, sources: Mapping[str, Source]) -> list[Path]:
    """Return the files among the tables that are in another form than CSV.

    Beside the modules those that may hold one (`ed.zip`); PhysioNet's texts lie there too. Its
    pages (`index.html?C=M;O=A`) come with a download by wget.
    """
    read = {path for source in sources.values() for path in source.files}
    return [
        path
        for part in dict.fromkeys((*_parts(mimic_dir), mimic_dir))
        for path in sorted(part.iterdir())
        if part != mimic_dir or path.name.endswith(PACKED) and not path.name.endswith(".csv.gz")
        if path not in read and not path.is_dir() and path.name != SUMS
        if not path.name.startswith((".", "index.html"))
    ]


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
                filecmp.cmp(path, twin, shallow=False) and _has_rows(path)
            )
            if twin is not path and is_copy:
                raise UserError(
                    f"{path} and {twin} are one file or copies of one, whose rows would count "
                    "twice: remove one"
                )


def without_rows(sources: Mapping[str, Source]) -> list[str]:
    """Return the tables of which there is the header alone."""
    return [name for name, source in sources.items() if not any(map(_has_rows, source.files))]


def _has_rows(path: Path) -> bool:
    """Tell whether a file has more than a header; one that is damaged is told when it is read."""
    try:
        with open(path, "rb") as stored, _uncompressed(stored, path) as file:
            lines = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
            return any(line.strip() for line in itertools.islice(lines, 1, None))
    except (OSError, EOFError, ValueError, GZIP_ERROR):
        return True


def _same(name: str) -> str:
    """Return what two names share that a file system or a database may take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _alike(name: str, others: Iterable[str]) -> str | None:
    """Return the name among others that is this one but for case, None where there is none."""
    return next((other for other in others if _same(other) == _same(name)), None)


def _table_name(path: Path) -> str:
    """Return the table that a file is named after. Raises UserError for an impossible name."""
    name = path.name.split(".csv")[0]
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
            f"{', '.join(_shown(header, header))}"
        )
    for column in unknown:
        expected = _alike(column, [*missing, *IDS])
        if expected not in (None, column):
            raise UserError(
                f"{path} has a column {column}, which is {expected} but for capital letters: "
                f"name it {expected}, or otherwise"
            )
    found = [name for name in _shown(header, header) if name not in known.columns]
    drift = (
        f"expected {', '.join(missing) or 'no other columns'}, "
        f"found {', '.join(found) or 'no such column'}"
    )
    if not known.columns:
        drift = "not a table of MIMIC-IV v3.1"
    types = {column: known.columns.get(column, _kind_by_name(column)) for column in header}
    return Source(path, known.module, types, drift if missing or unknown else "")


def _shown(names: list[str], header: list[str]) -> list[str]:
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
        with open(path, "rb") as stored, _uncompressed(stored, path) as file:
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
                f"{', '.join(_shown([twin, name], header))}: rename or remove one"
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


def _uncompressed(stored: IO[bytes], path: Path) -> IO[bytes]:
    """Return the bytes of an open CSV file, unpacked if it is compressed."""
    if path.suffix != ".gz":
        return stored
    return cast(IO[bytes], igzip.open(stored, "rb"))


class Seams(NamedTuple):
    """The unpacked bytes by which a piece of a file overlaps its neighbours: see `pieces.Rows`."""

    skipped: int = 0
    beyond: int = 0


class PieceCounts(NamedTuple):
    """What a second reader has counted in a piece, and the seams of the piece."""

    lines: LineCounts
    seams: Seams


def read(
    source: Source,
    on_ragged: Callable[[int, str], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
    on_end: Callable[[PieceCounts], None] | None = None,
    piece: Piece | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table, or of one piece, as batches of strings, as the files have them.

    They come in file order. Nothing between two commas is null; a quoted empty string stays an
    empty string. A row with too few or too many fields is left out and passed to `on_ragged(row
    number, text)`, numbered within its piece or file, behind a header; without it such a row is an
    error. After each batch `on_bytes` gets the number of bytes of the file that have been read. At
    the end of each piece or file `on_end` gets what a second reader has counted meanwhile. Raises
    UserError when the file breaks off or is damaged, when a cell spans lines that must not
    (`Source.texts`), and when the two readers found other numbers of rows.
    """
    for one in [piece] if piece else map(Piece, source.files):
        try:
            yield from _read(source._replace(path=one.path), one, on_ragged, on_bytes, on_end)
        except UserError:
            if one.is_whole:
                raise
            # the numbers of its lines count from the cut
            second_reader.count(one.path, source.columns, source.texts)
            raise


def _read(
    source: Source,
    piece: Piece,
    on_ragged: Callable[[int, str], None] | None,
    on_bytes: Callable[[int], None] | None,
    on_end: Callable[[PieceCounts], None] | None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one piece: see `read`."""
    n_rows, seams = 0, Seams()

    def skip(row: arrow_csv.InvalidRow) -> str:
        nonlocal n_rows
        if on_ragged:
            on_ragged(row.number, row.text)
        n_rows += 1
        return "skip"

    counter = LineCounter(source.path, source.columns, source.texts)
    try:
        with open(source.path, "rb") as stored, contextlib.ExitStack() as opened:
            if piece.is_whole:
                file: Readable = opened.enter_context(_uncompressed(stored, source.path))
            else:
                file = Rows(stored, piece, source.columns)
            watched = second_reader.Watched(file, counter)
            for batch in _batches(source, watched, skip if on_ragged else None):
                counter.check()
                if batch.schema.names != list(source.columns):
                    raise UserError(
                        f"{source.path} changed while it was read: run the same command again"
                    )
                n_rows += batch.num_rows
                yield batch
                if on_bytes:
                    on_bytes(stored.tell() - piece.start)
            if isinstance(file, Rows):
                seams = Seams(file.skipped, file.beyond)
    except EOFError:
        raise UserError(f"{source.path} breaks off before its end: download it again") from None
    except (pa.ArrowInvalid, OSError, GZIP_ERROR) as error:
        if faults.of_the_machine(error):
            raise
        raise _unreadable(source, error) from None
    counted = counter.finish()
    if counted.rows != n_rows:
        raise UserError(
            f"{source.path} has {n_rows:,} rows to one reader and {counted.rows:,} to another: "
            "check the download, and report this if it is as published"
        )
    if on_end:
        on_end(PieceCounts(counted, seams))


def _batches(
    source: Source,
    file: second_reader.Watched,
    skip: Callable[[arrow_csv.InvalidRow], str] | None,
) -> Iterator[pa.RecordBatch]:
    """Return Arrow's reader of an open CSV file; `skip` gets the rows of another length."""
    return arrow_csv.open_csv(
        file,
        # one thread: only then do the rows that are skipped carry their number
        read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=skip is None),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(source.columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _unreadable(source: Source, error: Exception) -> UserError:
    """Return what is wrong with a file, as the second reader tells it, else as Arrow does."""
    try:
        second_reader.count(source.path, source.columns, source.texts)
    except UserError as fault:
        return fault
    except (OSError, EOFError, zlib.error):
        pass
    # the reader's message may quote a row; patient data stays out of logs
    reason = "is damaged"
    if "Expected" in str(error):
        reason = "has rows of different lengths"
    elif "UTF8" in str(error):
        reason = "is not UTF-8"
    elif "straddling" in str(error):
        reason = f"has a row of more than {BLOCK_BYTES >> 20} MiB"
    return UserError(f"{source.path} cannot be read, it {reason}: check the download")


def id_fault(cell: str | None) -> str:
    """Return why a cell is no id above 0, as the end of a sentence that its column begins."""
    if not (cell or "").strip():
        return "is empty"
    for form, reason in _ID_FAULTS.items():
        if re.fullmatch(form, cell or ""):
            return reason
    return "is not a whole number"


_ID_FAULTS = {
    r"(?i:\.|nan|null|none|na|<na>|n/a|\\n)": "is a word for nothing, which must be an empty cell",
    r"[-+]?[0-9]*\.[0-9]*": "has a decimal point",
    r"[-+]?0[0-9]+": "begins with 0",
    r"[-+]?[0-9]{19,}": "has more than 18 digits",
    r"\+[0-9]+": "has a sign in front",
    r"-?[0-9]+": "is not above 0",
}
