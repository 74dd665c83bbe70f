"""The ledger: which plan was frozen and when test patients were opened."""

import hashlib
import json
import time
from pathlib import Path

from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError


def ledger(store: Path) -> list:
    """What was frozen and opened when, oldest first. Each line holds the hash of the one before, so edits show."""
    path, before, entries = store / "validation" / "ledger.jsonl", "", []
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {}
        if entry.get("before") != before:
            raise UserError(
                f"{path} was edited at line {number}: put the original back, or say so in your report"
            )
        entries.append(entry)
        before = hashlib.sha256(line).hexdigest()
    return entries


def enter(store: Path, event: str, **facts) -> None:
    """Add a line to the ledger."""
    ledger(store)
    path = files.private_folder(store / "validation") / "ledger.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    before = hashlib.sha256(lines[-1]).hexdigest() if lines else ""
    entry = {
        "event": event,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **facts,
        "before": before,
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def opening(store: Path, sha256: str, adapters: list) -> str:
    """Enter that the test patients are opened under this plan; a sentence for the results that says how often before.

    The same plan with the same adapters, gone on with or done again, opens nothing new.
    """
    before = [e for e in ledger(store) if e["event"] == "opened"]
    this = {"plan_sha256": sha256, "adapters": adapters}
    if not any(e.items() >= this.items() for e in before):
        enter(store, "opened", **this)
    others = [e for e in before if not e.items() >= this.items()]
    plan = f"Test patients, by the plan {sha256[:12]} frozen before"
    if not others:
        return f"{plan}; they were not opened under another plan or for another adapter."
    return (
        f"{plan}, but they had been opened before under another plan or for another adapter ({len(others)} in the "
        f"ledger, first on {others[0]['time'][:10]}): read this as exploration, not as a test."
    )
