"""Edit a YAML content file in place, keeping all that does not change."""

import json
import textwrap

from mimic_qlora.step.errors import UserError


def edit(text: str, reviews: dict) -> str:
    """A YAML file's text with some entries' texts and reviews replaced, and every other character as it was.

    `reviews` maps an id to ({path: text}, reviewed_by or None, reviewed_on or None). Raises UserError when the result
    would not read back as exactly that.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    wanted = yaml.load(text, loader)
    entries = {entry["id"]: entry for entry in wanted}
    nodes = {_value(node, "id").value: node for node in yaml.compose(text, yaml.SafeLoader).value}
    spans = [
        span
        for name, review in reviews.items()
        for span in _spans(text, nodes[name], entries[name], *review)
    ]  # `entries` now hold what shall be read back
    for start, end, new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    try:
        found = yaml.load(text, loader)
    except yaml.YAMLError:  # a character that the file's format has no room for
        found = None
    if json.dumps(found, sort_keys=True) != json.dumps(wanted, sort_keys=True):
        raise UserError(
            f"changing {', '.join(reviews)} would touch more than that: edit the file by hand"
        )
    return text


def _spans(
    text: str, node, entry: dict, texts: dict, reviewed_by: str | None, reviewed_on: str | None
) -> list:
    """What to replace, [(start, end, YAML)], for one entry; `entry` is changed to what it then says."""
    spans = []
    for path, new in texts.items():
        target, old = node, entry
        for step in path:
            target = _value(target, step) if isinstance(step, str) else target.value[step]
            old = old[step]
        if old.strip() != new:
            spans.append(_replacement(text, target, new))
            _set(entry, path, new + old[len(old.rstrip()) :])
    by, on = _value(node, "reviewed_by"), _value(node, "reviewed_on")
    if entry["reviewed_by"] != reviewed_by:
        spans.append((by.start_mark.index, by.end_mark.index, _quoted(reviewed_by)))
    if on is not None and entry["reviewed_on"] != reviewed_on:
        spans.append((on.start_mark.index, on.end_mark.index, _quoted(reviewed_on)))
    elif on is None and reviewed_on:
        indent = next(key.start_mark.column for key, _ in node.value if key.value == "reviewed_by")
        spans.append(
            (
                by.end_mark.index,
                by.end_mark.index,
                f"\n{' ' * indent}reviewed_on: {_quoted(reviewed_on)}",
            )
        )
    entry["reviewed_by"] = reviewed_by
    if on is not None or reviewed_on:
        entry["reviewed_on"] = reviewed_on
    return spans


def _replacement(text: str, node, new: str) -> tuple:
    """(start, end, YAML) that puts `new` in the place of a scalar, in the style that it has."""
    start, end = node.start_mark.index, node.end_mark.index
    if node.style not in ("|", ">"):
        return start, end, _quoted(new)
    old = text[start:end]
    header, first = old.split("\n", 1)
    indent = len(first) - len(first.lstrip(" ")) if first.strip() else 4
    end = start + len(old.rstrip())
    if node.style == ">" and "\n" not in new:
        lines = textwrap.wrap(new, 110 - indent, break_long_words=False, break_on_hyphens=False)
    else:
        header, lines = header.replace(">", "|"), new.split("\n")
    return start, end, "\n".join([header, *(" " * indent + line if line else "" for line in lines)])


def _quoted(value: str | None) -> str:
    """A JSON string is a YAML string too."""
    return "null" if value is None else json.dumps(value, ensure_ascii=False)


def _value(node, name: str):
    return next((value for key, value in node.value if key.value == name), None)


def _set(entry: dict, path: tuple, text: str) -> None:
    for step in path[:-1]:
        entry = entry[step]
    entry[path[-1]] = text
