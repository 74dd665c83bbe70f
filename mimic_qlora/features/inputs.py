"""What step 3 depends on beside its settings, as its manifest names it."""

from pathlib import Path

from mimic_qlora.chart import visibility
from mimic_qlora.clinical import content
from mimic_qlora.step import files


def of_step(subjects_id: str) -> dict[str, str]:
    """Return what step 3 depends on: the manifest id of step 1, and hashes of content files."""
    package = Path(__file__).parent
    return {
        "subjects": subjects_id,
        "clinical content": content.content_sha256(),
        "column_roles.csv": files.file_sha256(package / "column_roles.csv"),
        "plausible_features.csv": files.file_sha256(package / "plausible_features.csv"),
        "visibility.csv": files.file_sha256(Path(visibility.__file__).with_name("visibility.csv")),
    }
