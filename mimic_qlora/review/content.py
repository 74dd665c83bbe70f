"""The clinical content as clinicians review it: which wording stands, and who has approved it.

Nothing but the reviewed texts, `reviewed_by` and `reviewed_on` is ever changed in a file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from mimic_qlora.clinical import content, phrases, schema
from mimic_qlora.clinical.schema import Caution, Entry, Knowledge, Question, Symptom
from mimic_qlora.display import text as terminal
from mimic_qlora.review import yaml_edit
from mimic_qlora.review.decisions import Decision
from mimic_qlora.review.yaml_edit import Place, Review
from mimic_qlora.step import files

KINDS = {
    "questions": "Ideal responses of the validation",
    "knowledge": "Ideal responses without a patient",
    "cautions": "Caution rules",
    "symptoms": "General advice, from which the ideal answers of the training are made",
}


@dataclass(frozen=True)
class Wording:
    """An entry in the wording that is up for review.

    `entry` is the file's, or with the last edit's texts while that edit was made on the entry as
    the file has it. `texts` are those that may be edited. `fingerprint` is of this wording,
    `in_file` of the file's. `approved` and `rejected` hold each rater's last decision where it is
    about this very wording; `history` holds all decisions.
    """

    kind: str
    id: str
    entry: Entry
    texts: dict[Place, str]
    fingerprint: str
    in_file: str
    history: list[Decision]
    approved: list[Decision]
    rejected: list[Decision]

    @property
    def edited(self) -> bool:
        """Return whether it differs from the file."""
        return self.fingerprint != self.in_file

    @property
    def outdated(self) -> bool:
        """Return whether the file was changed since, so that no decision holds any more."""
        if not self.history or self.edited or self.approved or self.rejected:
            return False
        last = self.history[-1]  # an edit that was exported stands in the file as it is
        return last.verdict != "edit" or list(last.texts) != list(self.texts.values())


class Change(NamedTuple):
    """The text of a file before and after."""

    before: str
    after: str


class InFile(NamedTuple):
    """An entry of a file and its fingerprint."""

    entry: Entry
    fingerprint: str


def folder_of(kind: str, run_files: Path) -> Path:
    """Return the folder of a kind's file."""
    return run_files if kind in ("questions", "knowledge") else content.DATA


def texts_of(entry: Entry) -> dict[Place, str]:
    """Return the texts that a clinician may edit, by their place in the entry."""
    if isinstance(entry, (Question, Knowledge)):
        return {("ideal",): entry.ideal.strip()}
    if isinstance(entry, Caution):
        return {("say",): entry.say.strip()}
    found: dict[Place, str] = {}
    if isinstance(entry, Symptom):
        for field, lines in (("try", entry.self_care), ("track", entry.track)):
            for i, line in enumerate(lines):
                alone = line.model_fields_set == {"say"}  # a plain text in the file
                found[(field, i) if alone else (field, i, "say")] = line.say
        for i, flag in enumerate(entry.urgent):
            found["urgent", i, "say"] = flag.say
    return found


def with_texts(entry: Entry, texts: Sequence[str]) -> Entry:
    """Return a copy of the entry with these texts in the places of its own."""
    values = entry.as_in_file()
    for place, text in zip(texts_of(entry), texts, strict=True):
        yaml_edit.put(values, place, text)
    return type(entry).model_validate(values)


def fingerprint(entry: Entry) -> str:
    """Return a hash of the entry as it reads, without who reviewed it: an approval is of that."""
    values = {
        name: value
        for name, value in entry.as_in_file().items()
        if name not in ("reviewed_by", "reviewed_on")
    }
    return files.digest(json.loads(json.dumps(values), object_hook=_stripped))


def _stripped(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.strip() if isinstance(value, str) else value for name, value in values.items()
    }


def normal(text: str) -> str:
    """Return an edited text as it is kept.

    Line ends that word processors paste become line ends. Other control characters are removed,
    since YAML cannot hold them. Lines end without blanks, and no two lines in a row are empty.
    """
    lines = [
        line.rstrip()
        for line in terminal.printable("\n".join(text.splitlines())).strip().split("\n")
    ]
    return "\n".join(line for i, line in enumerate(lines) if line or lines[i - 1])


def current(run_files: Path, decisions: Sequence[Decision]) -> dict[str, Wording]:
    """Return "kind/id" -> wording, in file order."""
    by_entry: dict[str, list[Decision]] = {}
    for decision in decisions:
        by_entry.setdefault(decision.entry, []).append(decision)
    return {
        f"{kind}/{name}": _wording(kind, in_file, by_entry.get(f"{kind}/{name}", []))
        for kind in KINDS
        for name, in_file in _read(folder_of(kind, run_files), kind).items()
    }


def _wording(kind: str, in_file: InFile, history: list[Decision]) -> Wording:
    """Return the wording of one entry after the decisions on it."""
    entry, now = in_file
    edits = [d for d in history if d.verdict == "edit"]
    if edits and edits[-1].fingerprint == in_file.fingerprint:
        entry = with_texts(entry, edits[-1].texts)
        now = fingerprint(entry)
    last = {d.rater: d for d in history if d.verdict != "edit"}
    held = [d for d in last.values() if d.fingerprint == now]
    return Wording(
        kind,
        entry.id,
        entry,
        texts_of(entry),
        now,
        in_file.fingerprint,
        history,
        approved=[d for d in held if d.verdict == "approve"],
        rejected=[d for d in held if d.verdict == "reject"],
    )


def lost(entry: Entry) -> list[str]:
    """Return what the validation looks for and the text no longer says.

    These are names of red flags and key points, or the caution.
    """
    text = "\n".join(texts_of(entry).values())
    if isinstance(entry, Caution) and not phrases.said(entry, text):
        return ["the caution itself (its patterns do not match)"]
    if isinstance(entry, Symptom):
        return [flag.say for flag in entry.urgent if not phrases.names(flag.pattern, flag.say)]
    if isinstance(entry, Question):
        return [flag.name for flag in entry.red_flags if not phrases.names(flag.pattern, text)]
    if isinstance(entry, Knowledge):
        return [p.point for p in entry.key_points if not phrases.names(p.pattern, text)]
    return []


def export(run_files: Path, decisions: Sequence[Decision]) -> dict[Path, Change]:
    """Return the files that change, with their texts before and after.

    An entry that someone approved and nobody rejected gets its edited texts, who approved and when;
    a rejected one says `reviewed_by: null`. Entries without a verdict on their present wording stay
    as they are.
    """
    reviews: dict[Path, dict[str, Review]] = {}
    for item in current(run_files, decisions).values():
        path = folder_of(item.kind, run_files) / f"{item.kind}.yaml"
        if item.rejected:
            reviews.setdefault(path, {})[item.id] = Review({}, None, None)
        elif item.approved:
            by = "; ".join(d.signs_as for d in item.approved)
            on = max(d.at for d in item.approved)[:10]
            reviews.setdefault(path, {})[item.id] = Review(item.texts, by, on)
    changes = {path: _change(path, reviewed) for path, reviewed in reviews.items()}
    return {path: change for path, change in changes.items() if change.before != change.after}


def _change(path: Path, reviews: Mapping[str, Review]) -> Change:
    before = files.read_text(path)
    return Change(before, yaml_edit.edit(before, reviews))


def left_to_settle(run_files: Path, decisions: Sequence[Decision]) -> list[str]:
    """Return a line for each entry that somebody still has to look at.

    It was rejected, edited without approval, changed in its file or taken out of it since it was
    decided about, or its text lost what is searched for.
    """
    there = current(run_files, decisions)
    gone_from_files = {d.entry: d for d in decisions if d.entry not in there}  # the last of each
    lines = [
        f"{key}: {last.rater} {_did(last)} it, and no file has an entry of that id any more: give "
        "it its id back, or decide about the new one on the page"
        for key, last in gone_from_files.items()
    ]
    for key, item in there.items():
        approved = ", ".join(d.rater for d in item.approved)
        for d in item.rejected:
            others = f", but approved by {approved}" if approved else ""
            comment = f": {terminal.folded(d.comment)}" if d.comment else ""
            lines.append(f"{key}: rejected by {d.rater}{others}{comment}")
        if item.edited and not item.approved and not item.rejected:
            lines.append(f"{key}: changed by {item.history[-1].rater}, and not approved yet")
        if item.outdated:
            last = item.history[-1]
            lines.append(
                f"{key}: its file was changed since {last.rater} {_did(last)} it, which holds no "
                "more: decide about it on the page again"
            )
        if item.history and (gone := lost(item.entry)):
            said = "; ".join(gone)
            lines.append(f"{key}: the text no longer says what the validation looks for: {said}")
    return lines


def _did(decision: Decision) -> str:
    return {"approve": "approved", "reject": "rejected"}.get(decision.verdict, "changed")


def _read(folder: Path, kind: str) -> dict[str, InFile]:
    return _read_at(folder, kind, (folder / f"{kind}.yaml").stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read_at(folder: Path, kind: str, _changed: int) -> dict[str, InFile]:
    """Return id -> entry. All files take 0.2 s, so they are read only when one has changed."""
    model = cast(type[Entry], schema.MODELS[kind])  # the others are not reviewed
    entries = schema.read(folder, kind, model)
    return {name: InFile(entry, fingerprint(entry)) for name, entry in entries.items()}
