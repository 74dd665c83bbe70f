"""The manifest of step 1: which data was converted, as all later steps read it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from mimic_qlora.mimic import lab_bounds, omr_bounds
from mimic_qlora.mimic.tables import Columns, schema
from mimic_qlora.step.files import digest, linked_place, misfits, part_of
from mimic_qlora.step.manifests import NAME, FinishedManifest
from mimic_qlora.step.storage import damaged_manifest, verified_manifest

CHECKS = "quality_checks"  # the key of the hash of the checks by which rows were flagged
FLAGS = "flags of quality"  # in the inputs of step 2: the hash of the flags


class _Data(TypedDict):
    kind: str  # "mimic", or "synthetic" for the built-in data
    version: str  # as published, by the row counts
    folder: str
    patients: int  # that were converted


class Source(_Data, total=False):
    """The MIMIC-IV tables that step 1 read."""

    unexpected: list[str]  # a sentence on each table or file that is not as published


class FlagFound(TypedDict):
    """A quality.Flag as the manifest holds it."""

    check: str
    table: str
    sentence: str
    rows: int
    share: float
    patients: int


class _Counted(FinishedManifest):
    source: Source
    split: dict[str, int]  # patients of train, validation and test
    rows: dict[str, dict[str, int]]  # of each table, by the fields of conversion.RowFlow
    columns: dict[str, Columns]  # of each table
    dictionaries: dict[str, int]  # rows of each table that is not by patient
    cells_not_of_their_type: dict[str, int]  # by "table.column"
    quality: list[FlagFound]  # rows that cannot be right


class SubjectsManifest(_Counted, total=False):
    """The manifest of `subjects/`. Tables are named as in MIMIC-IV, such as "labevents"."""

    cells_mended: dict[str, int]  # by "table.column"
    cells_not_of_their_type_patients: dict[str, int]  # by "table.column"
    quality_checks: str  # hash of the checks by which rows were flagged


def subjects_manifest(storage: Path) -> SubjectsManifest:
    """Return the manifest of step 1. Raises UserError if it is missing or damaged."""
    found = cast(SubjectsManifest, verified_manifest(storage, "subjects", SubjectsManifest))
    if wrong := damaged_parts(found):
        raise damaged_manifest(linked_place(storage / "subjects") / NAME, wrong, "subjects")
    return found


def damaged_parts(found: Mapping[str, Any]) -> list[str]:
    """Return the parts of a manifest of step 1 that are missing, of another kind or do not fit."""
    wrong = misfits(found, SubjectsManifest)
    return wrong or [*_disagreeing(cast(SubjectsManifest, found))]


def _disagreeing(found: SubjectsManifest) -> Iterator[str]:
    """Yield the parts of a manifest that do not fit its columns: readers look one up by another."""
    columns, dictionaries = found["columns"], found["dictionaries"]
    counted = all("columnar" in counts for counts in found["rows"].values())
    read = {"in", "unsampled", "rejected"} <= found["rows"].get("patients", {}).keys()
    if found["rows"].keys() != columns.keys() or not (counted and read):
        yield "rows"
    for name in found["cells_not_of_their_type"]:
        table, _, column = name.partition(".")
        known = columns.get(table) or (_columns_of(table) if table in dictionaries else {})
        if column not in known:
            yield "cells_not_of_their_type"
            return


def _columns_of(table: str) -> Columns:
    """Return the columns that MIMIC-IV has of a table, none of another table; every cell fits a
    text.
    """
    found = schema().get(table)
    return found.columns if found else {}


def checks_text() -> str:
    """Return the checks of quality.sql with the bounds of values filled in."""
    found = Path(__file__).with_name("quality.sql").read_text(encoding="utf-8")
    return omr_bounds.filled_in(found).replace("{lab_bounds}", lab_bounds.as_values())


def checks_sha256() -> str:
    """Return the hash of the checks and bounds by which this software flags rows."""
    return digest(checks_text())


def flags_sha256(found: Mapping[str, Any]) -> str:
    """Return the hash of the flags in a manifest of step 1, of which its id tells nothing."""
    return digest(found.get("quality"))


def outdated(found: Mapping[str, Any]) -> str:
    """Return a sentence on what this software would make otherwise of the same tables, else "".

    Step 1 takes hours, so that it is not done again unasked. Earlier versions did not note their
    checks.
    """
    now, told = checks_sha256(), []
    if others := list(_of_other_types(found)):
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        told.append(f"its columns {others[0]}{more} have another type in this software")
    if found.get(CHECKS, now) != now:
        told.append("its flags of quality are by other checks or bounds than this software's")
    return f"{', and '.join(told)}: --force makes it anew" if told else ""


def _of_other_types(found: Mapping[str, Any]) -> Iterator[str]:
    for table, columns in part_of(found, "columns").items():
        known = _columns_of(table)
        for column, kind in columns.items():
            if known.get(column, kind) != kind:
                yield f"{table}.{column}"


def say_outdated(storage: Path) -> None:
    """Say what this software would make otherwise of the tables that step 1 keeps."""
    if sentence := outdated(subjects_manifest(storage)):
        print(f"note: {sentence}")


def data_line(source: Source, with_folder: bool = True) -> str:
    """Return one sentence that says which data a run works on.

    Without the path of its folder, it may leave the machine.
    """
    trial = ": for trying out, never for results" if source["kind"] == "synthetic" else ""
    return f"Data: {data_name(source, with_folder)}{trial}"


def data_name(source: Source, with_folder: bool = False) -> str:
    """Return the name and the size of the data that a run works on."""
    patients = f"{source['patients']:,} patients"
    if source["kind"] == "synthetic":
        return f"built-in synthetic MIMIC-IV, {patients}"
    folder = source["folder"] if with_folder else Path(source["folder"]).name
    return f"{source['version']} in {folder}, {patients}"
