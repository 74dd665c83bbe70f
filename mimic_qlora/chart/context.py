"""The patient's context: what the chart says at a time, in words, within a token budget. Steps 4, 6 and 7 share it."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import facts, sections
from mimic_qlora.chart.visibility import visible
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.storage import read_manifest
from mimic_qlora.subjects import reader

# The most items that a section may show, before the token budget cuts further, newest or most telling first. The
# sections that are not named here are short and never cut.
QUOTA = {
    "Known conditions": 18,
    "Medicines taken at home": 16,
    "Medicines ordered during the last stay": 16,
    "Medicines ordered during this stay": 16,
    "Recent labs": 12,
    "Recent measurements": 9,
    "Past procedures": 6,
    "Background": 3,
}


class Context(NamedTuple):
    """The text that the model gets, the facts behind it, and how many items each section lost to quota and budget.

    `shown` maps each section to the sections.Items that are in the text; `facts` are those that a reader of the text
    can see, `chart` all that were known.
    """

    text: str
    facts: dict
    cuts: dict
    shown: dict
    chart: dict


def write(parts: dict, budget: int, count_tokens: Callable) -> tuple:
    """The sections as text of at most `budget` tokens, how many items each lost to quota and budget, what is shown.

    Items are cut from the end of the longest section first, where they tell least, and the first item of a section only
    when no section has another; short sections are never cut.
    """
    shown = {name: items[: QUOTA.get(name)] for name, items in parts.items() if items}

    def text():
        lines = []
        for name, items in shown.items():
            more = len(parts[name]) - len(items)
            lines.append(
                f"- {name}: "
                + "; ".join([*(i.text for i in items), *([f"and {more} more"] * bool(more))])
            )
        return "Patient context\n" + "\n".join(lines)

    while (tokens := count_tokens(text())) > budget:
        longest = max(QUOTA, key=lambda name: _lengths(shown.get(name, ())))
        if not any(_lengths(shown.get(longest, ()))):
            raise UserError(
                f"a token budget of {budget} is too small for the context of a patient: "
                f"its shortest form has {tokens} tokens"
            )
        shown[longest] = shown[longest][:-1]
    cuts = {
        name: len(parts[name]) - len(items)
        for name, items in shown.items()
        if len(parts[name]) > len(items)
    }
    return text(), cuts, shown


def _lengths(items: list) -> tuple:
    """How long what could be cut is: all items but the first, then the first, unless it says that there is none."""
    return sum(len(item.text) for item in items[1:]), sum(
        len(item.text) for item in items[:1] if item.rows
    )


def build(
    record: dict, as_of: datetime, settings: dict, labels: dict, count_tokens: Callable
) -> Context:
    """The context of one patient at one time, by the settings that step 4 left in context.json."""
    view = visible(record, as_of, frozenset(settings["dropped_columns"]))
    known = facts.of(view, as_of)
    parts = sections.of(view, as_of, known, labels, QUOTA["Recent labs"])
    text, cuts, shown = write(parts, settings["token_budget"], count_tokens)
    return Context(text, facts.as_shown(known, shown), cuts, shown, known)


def messages(settings: dict, context: str, question: str) -> list:
    """The system and user turn of a prompt."""
    user = f"{context}\n\nQuestion\n{question}"
    return [
        {"role": "system", "content": settings["system_prompt"]},
        {"role": "user", "content": user},
    ]


def load_settings(storage: Path) -> dict:
    """What step 4 left for steps 5 to 7: system prompt, budget, dropped columns, tokenizer. UserError if missing."""
    read_manifest(storage, "prompts")
    return json.loads((storage / "prompts" / "context.json").read_text(encoding="utf-8"))


def lab_labels(storage: Path) -> dict:
    """itemid -> name of the lab, with the fluid where it is not blood, or "blood gas" where there is another method."""
    names, fluids, categories = (
        reader.labels(storage, "d_labitems", value=c) for c in ("label", "fluid", "category")
    )
    methods = {}
    for item, name in names.items():
        methods.setdefault((name, fluids.get(item)), set()).add(categories.get(item))

    def label(item):
        fluid = fluids.get(item) or "Blood"
        gas = (
            categories.get(item) == "Blood Gas" and len(methods[names[item], fluids.get(item)]) > 1
        )
        return names[item] + (
            f" ({fluid.lower()})" if fluid != "Blood" else " (blood gas)" if gas else ""
        )

    return {item: label(item) for item, name in names.items() if name}
