"""The clinical content as a clinician reviews it: which wording stands, who has approved it, and the change to the YAML
files that says so. Nothing but the reviewed texts, `reviewed_by` and `reviewed_on` is ever changed in a file.
"""

import json
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

from pydantic import TypeAdapter

from mimic_qlora.clinical import conditions, content, phrases, schema
from mimic_qlora.display import text as terminal
from mimic_qlora.review.yaml_edit import _set, edit
from mimic_qlora.step import files

KINDS = {
    "questions": "Ideal responses of the validation",
    "knowledge": "Ideal responses without a patient",
    "cautions": "Caution rules",
    "symptoms": "General advice, from which the ideal answers of the training are made",
}


def folder_of(kind: str, run_files: Path) -> Path:
    return run_files if kind in ("questions", "knowledge") else content.DATA


def texts_of(kind: str, entry: dict) -> dict:
    """The texts that a clinician may edit: {path in the entry: text}."""
    if kind != "symptoms":
        name = "say" if kind == "cautions" else "ideal"
        return {(name,): entry[name].strip()}
    return {
        (name, i, *(["say"] if isinstance(item, dict) else [])): (
            item["say"] if isinstance(item, dict) else item
        )
        for name in ("try", "urgent", "track")
        for i, item in enumerate(entry[name])
    }


def with_texts(kind: str, entry: dict, texts: list) -> dict:
    """A copy of the entry with these texts in the places of its own."""
    entry = json.loads(json.dumps(entry))
    for path, text in zip(texts_of(kind, entry), texts, strict=True):
        _set(entry, path, text)
    return entry


def in_words(when: dict) -> str:
    """Which charts a caution is for, as a clinician reads it."""
    return TypeAdapter(conditions.Condition).validate_python(when).in_words(content.names())


def fingerprint(entry: dict) -> str:
    """What an approval is of: the whole entry as it reads, without who reviewed it."""
    entry = {
        name: value for name, value in entry.items() if name not in ("reviewed_by", "reviewed_on")
    }
    return files.digest(json.loads(json.dumps(entry), object_hook=_stripped))


def normal(text: str) -> str:
    """An edited text as it is kept: what word processors paste as line ends are line ends, other control characters,
    which YAML cannot hold, are gone, lines end without blanks, and no two lines are empty."""
    lines = [
        line.rstrip()
        for line in terminal.printable("\n".join(text.splitlines())).strip().split("\n")
    ]
    return "\n".join(line for i, line in enumerate(lines) if line or lines[i - 1])


def current(run_files: Path, decisions: list) -> dict:
    """{"kind/id": namespace(kind, entry, texts, fingerprint, edited, approved, rejected, history)}, in file order.

    `entry` is the file's, or with the last edit's texts while that edit was made on the entry as the file has it.
    `approved` and `rejected` hold the last decision of each rater where it is about this very wording.
    """
    by_entry = {}
    for decision in decisions:
        by_entry.setdefault(decision["entry"], []).append(decision)
    found = {}
    for kind in KINDS:
        for name, (entry, in_file) in _read(folder_of(kind, run_files), kind).items():
            history = by_entry.get(f"{kind}/{name}", [])
            edits = [d for d in history if d["verdict"] == "edit"]
            now = in_file
            if edits and edits[-1]["fingerprint"] == in_file:
                entry = with_texts(kind, entry, edits[-1]["texts"])
                now = fingerprint(entry)
            last = {d["rater"]: d for d in history if d["verdict"] != "edit"}
            held = [d for d in last.values() if d["fingerprint"] == now]
            found[f"{kind}/{name}"] = SimpleNamespace(
                kind=kind,
                id=name,
                entry=entry,
                texts=texts_of(kind, entry),
                fingerprint=now,
                in_file=in_file,
                edited=now != in_file,
                history=history,
                approved=[d for d in held if d["verdict"] == "approve"],
                rejected=[d for d in held if d["verdict"] == "reject"],
            )
    return found


def lost(kind: str, entry: dict) -> list:
    """What the validation looks for and the edited text no longer says: names of red flags, key points, the caution."""
    text = "\n".join(texts_of(kind, entry).values())
    if kind == "cautions":
        return (
            []
            if phrases.said(schema.Caution.model_validate(entry), text)
            else ["the caution itself (its patterns do not match)"]
        )
    if kind == "symptoms":
        return [u["say"] for u in entry["urgent"] if not phrases.names(u["pattern"], u["say"])]
    named = {"questions": ("red_flags", "name"), "knowledge": ("key_points", "point")}[kind]
    return [item[named[1]] for item in entry[named[0]] if not phrases.names(item["pattern"], text)]


def export(run_files: Path, decisions: list) -> dict:
    """What the files shall read: {path: (text now, text to be)} for each that changes.

    An entry that someone approved and nobody rejected gets its edited texts, who approved and when; a rejected one says
    `reviewed_by: null`. Entries without a verdict on their present wording stay as they are.
    """
    reviews = {}
    for item in current(run_files, decisions).values():
        path = folder_of(item.kind, run_files) / f"{item.kind}.yaml"
        if item.rejected:
            reviews.setdefault(path, {})[item.id] = ({}, None, None)
        elif item.approved:
            by = "; ".join(d["signs_as"] for d in item.approved)
            on = max(d["at"] for d in item.approved)[:10]
            reviews.setdefault(path, {})[item.id] = (item.texts, by, on)
    changes = {path: (path.read_text(encoding="utf-8"),) for path in reviews}
    changes = {path: (before, edit(before, reviews[path])) for path, (before,) in changes.items()}
    return {path: (before, after) for path, (before, after) in changes.items() if after != before}


def left_to_settle(run_files: Path, decisions: list) -> list:
    """A line for each entry that was rejected, edited without approval, or whose text lost what is searched for."""
    lines = []
    for key, item in current(run_files, decisions).items():
        for d in item.rejected:
            others = (
                f", but approved by {', '.join(a['rater'] for a in item.approved)}"
                if item.approved
                else ""
            )
            lines.append(
                f"{key}: rejected by {d['rater']}{others}"
                + (f": {terminal.folded(d['comment'])}" if d["comment"] else "")
            )
        if item.edited and not item.approved and not item.rejected:
            lines.append(f"{key}: changed by {item.history[-1]['rater']}, and not approved yet")
        if item.history and (gone := lost(item.kind, item.entry)):
            lines.append(
                f"{key}: the text no longer says what the validation looks for: {'; '.join(gone)}"
            )
    return lines


def _read(folder: Path, kind: str) -> dict:
    return _read_at(folder, kind, (folder / f"{kind}.yaml").stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read_at(folder: Path, kind: str, _changed: int) -> dict:
    """id -> (entry, fingerprint). It takes 0.2 s for all, so a page does it only when a file has changed."""
    entries = schema.read(folder, kind, schema.MODELS[kind])
    return {
        name: (entry.as_in_file(), fingerprint(entry.as_in_file()))
        for name, entry in entries.items()
    }


def _stripped(entry: dict) -> dict:
    return {
        name: value.strip() if isinstance(value, str) else value for name, value in entry.items()
    }
