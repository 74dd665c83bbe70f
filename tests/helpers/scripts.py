"""Run the scripts as a user does, and what a step leaves."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT


def run_script(
    script: str, *args: object, storage: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in its own process, as a user would, and capture its text."""
    variables = {k: v for k, v in os.environ.items() if k not in ("MIMIC_DIR", "STORAGE_DIR")}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**variables, "STORAGE_DIR": str(storage), **environment},
        timeout=1200,  # for a busy machine; a run that hangs is found all the same
    )


def folder_bytes(folder: Path) -> dict[Path, bytes]:
    """Return every file of a step's output but the manifest, which holds times."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
