"""Storage folders as steps leave them: written by hand, or changed afterwards."""

import json
from pathlib import Path

SUBJECTS_FACTS = {  # what the manifest of step 1 says of one patient
    "source": {"kind": "synthetic", "version": "v", "folder": "/m", "patients": 1},
    "split": {"train": 1},
    "rows": {"patients": {"in": 1, "unsampled": 0, "rejected": 0, "columnar": 1}},
    "columns": {"patients": {"subject_id": "id"}},
    "dictionaries": {"d_items": 1},
    "cells_not_of_their_type": {"patients.subject_id": 1, "d_items.lownormalvalue": 2},
    "quality": [
        {"check": "c", "table": "t", "sentence": "s", "rows": 1, "share": 1, "patients": 1}
    ],
}
TUNED_IDS = [10000000 + 7 * i for i in range(60)]


def write_bare_manifest(folder: Path, step: str, settings: dict, inputs: dict, **facts) -> None:
    """Write the manifest of a step that records no file, so that a test may change them."""
    from mimic_qlora.step import files, manifests

    bare = {"files": {}, "finished": "2150-01-01T00:00:00+0000", "seconds": 1.0, "versions": {}}
    manifest = manifests.new_manifest(step, settings, inputs)
    files.write_json(folder / manifests.NAME, {**manifest, **bare, **facts})


def step_three_stub(storage: Path, *columns: str) -> None:
    """Write what step 3, which takes a minute, leaves: its least important columns."""
    from mimic_qlora.step import storage as store

    inputs = {"subjects": store.verified_manifest(storage, "subjects")["id"]}
    with store.step_output(storage, "features", {"stub": columns}, inputs) as out:
        lines = ["column,reason", *(f"{column},test" for column in columns)]
        (out.path / "columns_least.csv").write_text("\n".join(lines) + "\n")


def written_otherwise(path, text: str):
    """Replace a file of a step's output and take it off the manifest: it counts as whole."""
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest.get("files", {}).pop(path.name, None)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    path.write_text(text)
