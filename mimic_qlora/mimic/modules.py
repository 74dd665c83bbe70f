"""The folders of MIMIC-IV's modules, hosp/, icu/, ed/ and note/, and where downloads leave them."""

from collections.abc import Iterator
from pathlib import Path

MODULES = ("hosp", "icu", "ed", "note")


def apart(mimic_dir: Path, module: str) -> Path | None:
    """Return the folder of a module that lies where no table is read, None where none is found.

    PhysioNet's downloads leave `mimic-iv-ed/2.2/ed` in the folder or beside it, and copies `ed/ed`.
    """
    return next((path for path in _apart(mimic_dir, module) if any(path.glob("*.csv*"))), None)


def _apart(mimic_dir: Path, module: str) -> Iterator[Path]:
    for deeper in ("*", "*/*"):
        yield from sorted(mimic_dir.glob(f"{deeper}/{module}"))
    for around in mimic_dir.parents[:2]:
        yield from sorted(around.glob(f"mimic-iv-{module}/*/{module}"))
