"""The ledger: which plan was frozen, and when the test patients were opened."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError

Entry = dict[str, Any]  # {"event": "frozen" | "opened", "time", ..., "before"}


def ledger(store: Path) -> list[Entry]:
    """Return the entries, oldest first.

    Each line holds the hash of the one before. Raises UserError at the first line that does not.
    """
    path = store / "validation" / "ledger.jsonl"
    before, entries = "", []
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {}
        if entry.get("before") != before:
            raise UserError(
                f"{path} was edited at line {number}: put the original back, or say so in your "
                "report"
            )
        entries.append(entry)
        before = hashlib.sha256(line).hexdigest()
    return entries


def enter(store: Path, event: str, **facts: object) -> None:
    """Add a line to the ledger. Raises UserError when it was edited."""
    ledger(store)
    path = files.private_folder(store / "validation") / "ledger.jsonl"
    lines = _lines(path)
    before = hashlib.sha256(lines[-1]).hexdigest() if lines else ""
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    entry = {"event": event, "time": now, **facts, "before": before}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def opening(store: Path, sha256: str, adapters: Mapping[str, str]) -> str:
    """Enter that the test patients are opened under this plan, by adapters with these hashes.

    Returns a sentence for the results that says how often they were opened before. The same plan
    with the same adapters, resumed or done again, opens nothing new.
    """
    before = [e for e in ledger(store) if e["event"] == "opened"]
    this: Entry = {"plan_sha256": sha256, "adapters": dict(adapters)}
    if not any(e.items() >= this.items() for e in before):
        enter(store, "opened", **this)
    others = [e for e in before if not e.items() >= this.items()]
    plan = f"Test patients, by the plan {sha256[:12]} frozen before"
    if not others:
        return f"{plan}; they were not opened under another plan or for another adapter."
    return (
        f"{plan}, but they had been opened before under another plan or for another adapter "
        f"({len(others)} in the ledger, first on {others[0]['time'][:10]}): read this as "
        "exploration, not as a test."
    )


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.is_file() else []
