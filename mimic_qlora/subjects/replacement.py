"""The patients whom a run of step 1 would replace: real ones are not replaced unasked."""

import contextlib
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from mimic_qlora.mimic import tables
from mimic_qlora.step import faults, files, manifests, storage
from mimic_qlora.step.errors import GoesOn, UserError
from mimic_qlora.step.files import FileIdentity
from mimic_qlora.subjects import parquet_files, split_file
from mimic_qlora.subjects.manifest import Source

SYNTHETIC = "synthetic"  # folder of the built-in data in the storage folder, and their kind
LEAST_CELLS = 10  # of a column: fewer may be slips, which were corrected
Found = Mapping[str, Any]  # a manifest, as far as it can be read


class _Settings(TypedDict, total=False):
    folder: str
    subjects_file: str | None


_SHAPES = {
    "source": Source,
    "settings": _Settings,
    "inputs": dict[str, FileIdentity],
    "rows": dict[str, dict[str, int]],
    "columns": dict[str, dict[str, str]],
    "dictionaries": dict[str, int],
}


def one_source(arguments: Mapping[str, Any]) -> str | None:
    """Return the folder of the tables that the command line asks for, None for the built-in data.

    Raises UserError where two sources are asked for.
    """
    fetch_demo, mimic_dir = arguments["fetch_demo"], arguments["mimic_dir"]
    if fetch_demo and mimic_dir:
        raise UserError("--fetch-demo and --mimic-dir name two sources of tables: give one of them")
    folder = fetch_demo or mimic_dir or os.environ.get("MIMIC_DIR")
    for name in ("synthetic_patients", "synthetic_emergency"):
        if folder and arguments[name]:
            raise UserError(
                f"--{name.replace('_', '-')} is for the built-in data, and tables are read from "
                f"{folder}: leave it out, or leave out --mimic-dir and --fetch-demo (and `unset "
                "MIMIC_DIR`)"
            )
    return folder


def earlier(store: Path) -> Found:
    """Return the manifest of the patients in the storage folder; empty where there is none.

    Raises UserError while another run of step 1 goes on, and OSError where it cannot be read now.
    """
    place = files.output_place(store, "subjects")
    with storage.locked(place, "subjects"):
        storage.recover(place)
        manifests.check_readable(place)
        return manifests.read_any(place)


def recognised(paths: Mapping[str, Path], settings: Found, found: Found) -> dict[str, FileIdentity]:
    """Return the identity of each input file, compared with an earlier run's.

    `settings` are those of this run as the manifest holds them.
    """
    recorded, before = part(found, "inputs"), part(found, "settings")

    def is_there(name: str) -> bool:
        key = "subjects_file" if name == "subjects_file" else "folder"
        return bool(before.get(key) == settings[key])

    return {
        name: files.recognised(path, recorded.get(name), is_there(name))
        for name, path in paths.items()
    }


def check_synthetic(store: Path) -> None:
    """Raise UserError if the built-in patients would replace real ones, or drop their conversion.

    A folder whose manifest cannot be read counts as real.
    """
    found, place = earlier(store), files.linked_place(store / "subjects")
    source = part(found, "source")
    whose = f"the patients of {source['folder']}" if source.get("folder") else "patients"
    if files.has_entries(place) and source.get("kind") != SYNTHETIC:
        raise _refusal(
            f"{place} holds {whose}, which the built-in synthetic ones ({store / SYNTHETIC}) "
            "would replace",
            _tables_of(source.get("folder")),
        )
    if storage.is_unrecorded(place):
        raise _refusal(
            f"{files.partial_of(place)} holds a conversion that stopped, and whose record is "
            "damaged, which that of the built-in synthetic patients would drop",
            _tables_of(None),
        )
    _check_unfinished(place, store / SYNTHETIC, {})


def check(
    store: Path,
    folder: Path,
    inputs: Mapping[str, FileIdentity],
    sources: Mapping[str, tables.Source],
    empty: Collection[str],
    chosen: Callable[[], Collection[int]],
    found: Found,
) -> None:
    """Raise UserError if a run would replace real patients by those of another MIMIC-IV folder, or
    by only a part of them.

    It reads `inputs` in `folder`, those of the tables `sources`, of which `empty` have no row, and
    keeps the patients `chosen()`; `found` is the manifest of those in the storage folder. Where it
    cannot be read, their split tells who they are, or the index of their records.
    """
    source = part(found, "source")
    whose = check_folder(store, folder, inputs, sources, empty, found)
    if source.get("kind") == SYNTHETIC:
        return
    there = _patients(store, source.get("patients"))
    if len(there) < source.get("patients", 0):
        raise UserError(
            f"{whose}, and nothing tells who they are, as split.csv and index.parquet there are "
            "damaged: give another --storage, or --replace-patients if that is meant"
        )
    if lost := len(there.difference(chosen())):
        as_then = "--sample, --seed and --subjects-file as then (or none, for all)"
        raise _refusal(
            f"{whose}, and this run of {folder} would leave out {lost:,} of them",
            as_then if source else _tables_of(None),
        )


def _patients(store: Path, n: int | None) -> set[int]:
    """Return the `n` patients in the storage folder, by their split and the index of their records.

    They are fewer where both are damaged: a split that is cut has other patients than its number.
    """
    there: set[int] = set()
    with contextlib.suppress(UserError, FileNotFoundError):
        there |= split_file.read(store).keys()
    if len(there) != n:
        with contextlib.suppress(UserError):
            index = parquet_files.read(store / "subjects" / "index.parquet")
            there |= {*index["subject_id"].to_pylist()}
    return there


def check_folder(
    store: Path,
    folder: Path,
    inputs: Mapping[str, FileIdentity],
    sources: Mapping[str, tables.Source],
    empty: Collection[str],
    found: Found,
) -> str:
    """Raise UserError if a run would replace real patients by those of another MIMIC-IV folder, or
    would leave out tables of theirs that are no longer there, files or columns of these, or all
    their rows.

    The arguments are those of `check`. Returns in words whose patients there are.
    """
    source, whose = part(found, "source"), _whose(store, found)
    _check_unfinished(files.linked_place(store / "subjects"), folder, inputs)
    if not source or source.get("kind") == SYNTHETIC:
        return whose
    before = part(found, "inputs")
    if source.get("folder") != str(folder) and not _same_tables(before, inputs):
        tables = _tables_of(source.get("folder"))
        raise _refusal(f"{whose}, which those of {folder} would replace", tables)
    losses = {
        "their tables {}, which are no longer there": _table_names(before) - _table_names(inputs),
        "their files {}, which are no longer there": _lost_pieces(before, inputs),
        "the columns {}, which are no longer there": {*_lost_columns(store, found, sources)},
        "the rows of {}, of which only the header is left": {*filter(_rows_of(found).get, empty)},
    }
    for words, names in losses.items():
        if names:
            raise _refusal(
                f"{whose}, and this run would leave out {words.format(', '.join(sorted(names)))}",
                "a --mimic-dir that has them",
            )
    return whose


def check_written(store: Path, found: Found, folder: Path) -> None:
    """Raise GoesOn if a run that wrote the typed tables in `folder` would leave out a real patient
    of a table, or most cells of a column.

    `found` is the manifest of the real patients. Fewer than LEAST_CELLS are not compared.
    """
    if part(found, "source").get("kind") == SYNTHETIC:
        return
    patients, cells = [], []
    for name in _rows_of(found):
        before, now = (_typed(place, name) for place in (store / "subjects", folder))
        with contextlib.suppress(UserError):  # an earlier file is damaged
            if name in part(found, "rows"):
                were = parquet_files.patients(before)
                if lost := were - parquet_files.patients(now):
                    patients.append(f"{name} ({len(were):,} then, {len(were - lost):,} now)")
            there = parquet_files.said(now)
            for column, n in parquet_files.said(before).items():
                if n >= LEAST_CELLS and 2 * there[column] < n:
                    cells.append(f"{name}.{column} ({n:,} then, {there[column]:,} now)")
    _refuse_fewer(store, found, "patients", patients)
    _refuse_fewer(store, found, "cells", cells)


def _typed(folder: Path, name: str) -> list[Path]:
    """Return the files of a typed table in a folder of step 1, by patient or not."""
    parts = (folder / "tables" / name).glob("part-*.parquet")
    return [*parts, *(folder / "dictionaries").glob(f"{name}.parquet")]


def check_rows(store: Path, found: Found, rows: Mapping[str, int]) -> None:
    """Raise GoesOn if a run would replace tables of real patients by some with fewer rows.

    `rows` are those of each table that this run can use; `found` is the manifest of the patients in
    the storage folder.
    """
    if part(found, "source").get("kind") == SYNTHETIC:
        return
    fewer = [
        f"{name} ({n:,} then, {rows[name]:,} now)"
        for name, n in _rows_of(found).items()
        if rows.get(name, n) < n
    ]
    _refuse_fewer(store, found, "rows", fewer)


def _refuse_fewer(store: Path, found: Found, what: str, fewer: Sequence[str]) -> None:
    """Raise GoesOn where a run would leave out rows or cells, which `fewer` names."""
    if fewer:
        refusal = _refusal(
            f"{_whose(store, found)}, and this run would leave out {what} of {', '.join(fewer)}",
            "a --mimic-dir that has them",
        )
        raise GoesOn(f"{refusal}, which goes on from what is done")


def _whose(store: Path, found: Found) -> str:
    """Word whose patients the storage folder holds, by their manifest."""
    place, source = files.linked_place(store / "subjects"), part(found, "source")
    if not source:
        return f"{place} holds patients, though its manifest cannot be read"
    return f"{place} holds {source.get('patients', 0):,} patients of {source.get('folder')}"


def _check_unfinished(place: Path, folder: Path, inputs: Mapping[str, FileIdentity]) -> None:
    """Raise UserError if a run would drop an unfinished conversion of another real folder."""
    unfinished = storage.interrupted_run(place) or {}
    before = part(unfinished, "settings").get("folder")
    if not before or before == str(folder) or Path(before).name == SYNTHETIC:
        return
    if not _same_tables(part(unfinished, "inputs"), inputs):
        raise _refusal(
            f"{files.partial_of(place)} holds an unfinished conversion of {before}, which this "
            f"run of {folder} would drop",
            _tables_of(before),
        )


def _same_tables(before: Mapping[str, Any], now: Mapping[str, FileIdentity]) -> bool:
    """Tell whether all tables that were read are there as they were.

    Those without a recorded sum are told by their size.
    """

    def is_same(name: str) -> bool:
        one, other = before[name], now.get(name, {})
        key = "sha256" if "sha256" in one and "sha256" in other else "bytes"
        return bool(one.get(key) == other.get(key))

    return bool(before) and all(is_same(name) for name in before if name != "subjects_file")


def _table_names(inputs: Iterable[str]) -> set[str]:
    """Return the tables of `hosp/labevents.csv.gz` and `hosp/labevents/part-1.csv`: labevents."""
    return {name.split("/")[1].split(".csv")[0] for name in inputs if "/" in name}


def _lost_pieces(before: Iterable[str], now: Iterable[str]) -> set[str]:
    """Return the files of tables in several that are gone while others of the table are there.

    Where none of them is there, the table was cut into other files, or made one.
    """
    was, there = _pieces(before), _pieces(now)
    still = {table for table, file in was.keys() & there.keys()}
    return {was[piece] for piece in was.keys() - there.keys() if piece[0] in still}


def _pieces(inputs: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return the files of tables in several, by their table and their name, packed or not."""
    parts = ((name, name.split("/")) for name in inputs if name.count("/") == 2)
    return {(of.split(".csv")[0], file.removesuffix(".gz")): name for name, (_, of, file) in parts}


def _rows_of(found: Found) -> dict[str, int]:
    """Return the rows of each table that could be used when it was converted."""
    rows = {n: c.get("in", 0) - c.get("rejected", 0) for n, c in part(found, "rows").items()}
    return rows | part(found, "dictionaries")


def _lost_columns(store: Path, found: Found, sources: Mapping[str, tables.Source]) -> Iterator[str]:
    """Yield the columns of the earlier tables that those of this run lack."""
    before = part(found, "columns") | _dictionary_columns(store, found)
    for name in before.keys() & sources.keys():
        now = {*sources[name].columns}
        if not now.isdisjoint(tables.IDS):
            now.add("subject_id")  # step 1 adds it, by the stay
        lost = [column for column in before[name] if column not in now]
        yield from (f"{name}.{column}" for column in tables.shown(lost, [*before[name]]))


def _dictionary_columns(store: Path, found: Found) -> dict[str, list[str]]:
    """Return the columns of each dictionary that was converted and is whole."""
    from pyarrow import ArrowException, parquet

    columns = {}
    for name in part(found, "dictionaries"):
        path = store / "subjects" / "dictionaries" / f"{name}.parquet"
        try:
            columns[name] = parquet.read_schema(path).names
        except (ArrowException, OSError) as error:
            if faults.of_the_machine(error):
                raise
    return columns


def _tables_of(folder: str | None) -> str:
    """Word how the tables of a folder are given, where it is known."""
    place = f" {shlex.quote(folder)}" if folder else ""
    return f"--mimic-dir{place} (or set MIMIC_DIR to it)"


def _refusal(what: str, give: str) -> UserError:
    return UserError(
        f"{what}: give {give}, another --storage, or --replace-patients if that is meant"
    )


def part(found: Found, key: str) -> dict[str, Any]:
    """Return a part of a manifest, empty where it has none or is damaged."""
    value: dict[str, Any] = found.get(key, {})
    return value if files.has_shape(value, _SHAPES[key]) else {}
