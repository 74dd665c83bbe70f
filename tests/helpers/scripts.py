"""Run the scripts as a user does, and what a step leaves."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT


def run_script(script: str, *args, storage: Path, **environment):
    """Run a script in its own process, as a user would. Returns the CompletedProcess with its text captured."""
    variables = {k: v for k, v in os.environ.items() if k not in ("MIMIC_DIR", "STORAGE_DIR")}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**variables, "STORAGE_DIR": str(storage), **environment},
        timeout=300,
    )


def folder_bytes(folder: Path) -> dict:
    """Every file of a step's output but the manifest, which holds times."""
    return {
        p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "manifest.json"
    }
