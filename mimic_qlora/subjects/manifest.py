"""The manifest of step 1: which data was converted, as all later steps read it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from mimic_qlora.mimic.tables import Columns
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.manifests import NAME, FinishedManifest
from mimic_qlora.step.storage import command_for, verified_manifest


class Source(TypedDict):
    """The MIMIC-IV tables that step 1 read."""

    kind: str  # "mimic", or "synthetic" for the built-in data
    version: str  # as published, by the row counts
    folder: str
    patients: int  # that were converted
    unexpected: list[str]  # a sentence on each table with other row counts than published


class SubjectsManifest(FinishedManifest):
    """The manifest of `subjects/`. Tables are named as in MIMIC-IV, such as "labevents"."""

    source: Source
    split: dict[str, int]  # patients of train, validation and test
    rows: dict[str, dict[str, int]]  # of each table, by the fields of conversion.RowFlow
    columns: dict[str, Columns]  # of each table
    dictionaries: dict[str, int]  # rows of each table that is not by patient
    cells_mended: dict[str, int]  # by "table.column"
    cells_not_of_their_type: dict[str, int]  # by "table.column"
    quality: list[dict[str, Any]]  # quality.Flag: rows that cannot be right


def subjects_manifest(storage: Path) -> SubjectsManifest:
    """Return the manifest of step 1. Raises UserError if it is missing or damaged."""
    found: Mapping[str, Any] = verified_manifest(storage, "subjects")
    if not isinstance(found.get("source"), dict):
        raise UserError(
            f"{storage / 'subjects' / NAME} does not say which data was converted: run "
            f"`{command_for('subjects')} --force` to write it again"
        )
    return cast(SubjectsManifest, found)


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
