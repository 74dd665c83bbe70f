"""Edit a YAML content file in place, keeping every character that does not change.

The texts are replaced at the places where PyYAML's scanner found them. The round trip of
ruamel.yaml 0.19 was tried instead; it writes the whole file anew, in its own style. Unchanged, it
rewrote each `reviewed_by: null`, 38 of the `when` lines of cautions.yaml (the braces of mappings
in a list are lost), and the lists of drugs.yaml that go over several lines, at any line width.
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from mimic_qlora.step import yaml_files
from mimic_qlora.step.errors import UserError

Place = tuple[str | int, ...]  # keys of mappings and places in lists that lead to a text
_FOLDED = 110  # columns of a folded text


class Review(NamedTuple):
    """The new state of an entry: texts by their place, the reviewer, and the day."""

    texts: Mapping[Place, str]
    reviewed_by: str | None
    reviewed_on: str | None


class Span(NamedTuple):
    """A piece of a file, [start, end) in characters, and the YAML that takes its place."""

    start: int
    end: int
    new: str


def edit(text: str, reviews: Mapping[str, Review]) -> str:
    """Return a file's text with some entries (id -> review) changed.

    Raises UserError when the result would not read back as exactly that.
    """
    wanted = yaml_files.loads(text, "the file")
    entries = {entry["id"]: entry for entry in wanted}
    root = yaml_files.compose(text, "the file")
    assert root is not None, "the file holds entries"
    nodes = {_scalar(node, "id").value: node for node in root.value}
    spans = []
    for name, review in reviews.items():
        spans += _spans(text, nodes[name], entries[name], review)
        _apply(entries[name], review)  # so `wanted` holds what must be read back
    for start, end, new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    try:
        found = yaml_files.loads(text, "the changed file")
    # a character that the file's format has no room for, a key that stands there already
    except (yaml.YAMLError, UserError):
        found = None
    if json.dumps(found, sort_keys=True) != json.dumps(wanted, sort_keys=True):
        raise UserError(
            f"changing {', '.join(reviews)} would touch more than that: edit the file by hand"
        )
    return text


def put(entry: Any, place: Place, text: str) -> None:
    """Put a text into an entry as YAML reads it: mappings and lists."""
    for step in place[:-1]:
        entry = entry[step]
    entry[place[-1]] = text


def _get(entry: Any, place: Place) -> str:
    for step in place:
        entry = entry[step]
    return str(entry)


def _apply(entry: dict[str, Any], review: Review) -> None:
    """Change an entry as the review says. White space at the end of a text stays."""
    for place, new in review.texts.items():
        old = _get(entry, place)
        if old.strip() != new:
            put(entry, place, new + old[len(old.rstrip()) :])
    entry["reviewed_by"] = review.reviewed_by
    if "reviewed_on" in entry or review.reviewed_on:
        entry["reviewed_on"] = review.reviewed_on


def _spans(
    text: str, node: yaml.MappingNode, entry: Mapping[str, Any], review: Review
) -> list[Span]:
    """Return what to replace for one entry, which stands at `node` and reads `entry`."""
    spans = [
        _replacement(text, _at(node, place), new)
        for place, new in review.texts.items()
        if _get(entry, place).strip() != new
    ]
    by, on = _scalar(node, "reviewed_by"), _value(node, "reviewed_on")
    if entry["reviewed_by"] != review.reviewed_by:
        spans.append(Span(by.start_mark.index, by.end_mark.index, _quoted(review.reviewed_by)))
    if on is not None and entry["reviewed_on"] != review.reviewed_on:
        spans.append(Span(on.start_mark.index, on.end_mark.index, _quoted(review.reviewed_on)))
    elif on is None and review.reviewed_on:
        indent = next(key.start_mark.column for key, _ in node.value if key.value == "reviewed_by")
        new = f"\n{' ' * indent}reviewed_on: {_quoted(review.reviewed_on)}"
        spans.append(Span(by.end_mark.index, by.end_mark.index, new))
    return spans


def _replacement(text: str, node: yaml.Node, new: str) -> Span:
    """Return the YAML that puts `new` in the place of a scalar, in the style that it has."""
    start, end = node.start_mark.index, node.end_mark.index
    if not isinstance(node, yaml.ScalarNode) or node.style not in ("|", ">"):
        return Span(start, end, _quoted(new))
    old = text[start:end]
    header, first = old.split("\n", 1)
    indent = len(first) - len(first.lstrip(" ")) if first.strip() else 4
    end = start + len(old.rstrip())
    lines: Sequence[str]
    if node.style == ">" and "\n" not in new:
        width = _FOLDED - indent
        lines = textwrap.wrap(new, width, break_long_words=False, break_on_hyphens=False)
    else:
        header, lines = header.replace(">", "|"), new.split("\n")
    body = [" " * indent + line if line else "" for line in lines]
    return Span(start, end, "\n".join([header, *body]))


def _quoted(value: str | None) -> str:
    """Return the value as YAML; a JSON string is a YAML string too."""
    return "null" if value is None else json.dumps(value, ensure_ascii=False)


def _at(node: yaml.Node, place: Place) -> yaml.Node:
    """Return the node at a place below this one."""
    for step in place:
        found = _value(node, step) if isinstance(step, str) else node.value[step]
        assert found is not None, "the entry was read from this file"
        node = found
    return node


def _value(node: yaml.Node, name: str) -> yaml.Node | None:
    """Return the value of a key of a mapping."""
    return next((value for key, value in node.value if key.value == name), None)


def _scalar(node: yaml.Node, name: str) -> yaml.Node:
    found = _value(node, name)
    assert found is not None, f"every entry has the field {name}"
    return found
