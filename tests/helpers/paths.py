"""Where the project and the open MIMIC-IV demo lie."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path(os.environ.get("MIMIC_DEMO_DIR", ROOT.parent / "shared/data/mimic-iv-demo-2.2"))
