"""Read the documents of a task; lm-evaluation-harness calls this beside the JSONL files.

They are read into memory, since its own way would leave a copy of patients' data in a cache.
"""

import json
from pathlib import Path
from typing import Any


def read(file: str, **_: Any) -> dict[str, Any]:
    """Return the documents of a file in this folder, as a split of a dataset."""
    from datasets import Dataset

    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").split("\n")
    return {"held_out": Dataset.from_list([json.loads(line) for line in lines if line])}
