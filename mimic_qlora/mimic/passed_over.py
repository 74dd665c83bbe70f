"""What a folder of MIMIC-IV has that step 1 passes over: other files and folders, and tables
without a row.
"""

from collections.abc import Mapping
from pathlib import Path

from mimic_qlora.mimic import tables
from mimic_qlora.mimic.modules import MODULES
from mimic_qlora.mimic.packed import has_rows
from mimic_qlora.mimic.tables import Source

_PACKED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".parquet")


def not_read(mimic_dir: Path, sources: Mapping[str, Source]) -> dict[str, list[str]]:
    """Return the names of what is not read among the tables or beside them, by the reason."""
    read = {path for source in sources.values() for path in source.files}
    outside = [path.name for path in tables.csv_files(mimic_dir) if path not in read]
    for beside, lacking in _folders_beside(mimic_dir, sources).items():
        named = f" (with {', '.join(lacking)})" if lacking else ""
        outside.append(f"{beside}/{named}")
    found = {
        "they do not lie in hosp/, icu/, ed/ or note/": outside,
        "they are not named after a table of MIMIC-IV": _other_folders(mimic_dir, sources),
        "only .csv and .csv.gz are": _other_files(mimic_dir, sources),
    }
    return {why: names for why, names in found.items() if names}


def _other_folders(mimic_dir: Path, sources: Mapping[str, Source]) -> list[str]:
    """Return the folders with files beside the tables that are no table themselves."""
    read = {path.parent for source in sources.values() for path in source.files}
    return [
        f"{folder.name}/"
        for part in tables.parts_of(mimic_dir)
        for folder in tables.folders_in(part)
        if folder not in read and any(folder.glob("*"))
    ]


def _folders_beside(mimic_dir: Path, sources: Mapping[str, Source]) -> dict[str, list[str]]:
    """Return the folders with CSV files beside the modules, such as `notes/`, by their name.

    Each has the tables of MIMIC-IV in it that are found nowhere else.
    """
    if mimic_dir in tables.parts_of(mimic_dir):  # there are no modules
        return {}
    absent = tables.schema().keys() - sources.keys()
    found = {
        folder.name: [path.name.split(".csv")[0] for path in sorted(folder.glob("*.csv*"))]
        for folder in tables.folders_in(mimic_dir)
        if folder.name not in MODULES and not folder.name.startswith(".")
    }
    return {name: [n for n in names if n in absent] for name, names in found.items() if names}


def _other_files(mimic_dir: Path, sources: Mapping[str, Source]) -> list[str]:
    """Return the files among the tables that are in another form than CSV.

    Beside the modules those that may hold one (`ed.zip`); PhysioNet's texts lie there too. Its
    pages (`index.html?C=M;O=A`) come with a download by wget.
    """
    read = {path for source in sources.values() for path in source.files}
    return [
        path.name
        for part in dict.fromkeys((*tables.parts_of(mimic_dir), mimic_dir))
        for path in sorted(part.iterdir())
        if part != mimic_dir or path.name.endswith(_PACKED) and not path.name.endswith(".csv.gz")
        if path not in read and not path.is_dir() and path.name != tables.SUMS
        if not path.name.startswith((".", "index.html"))
    ]


def without_rows(sources: Mapping[str, Source]) -> list[str]:
    """Return the tables of which there is the header alone."""
    return [name for name, source in sources.items() if not any(map(has_rows, source.files))]
