"""The patient's context: the chart at a time in words, within a token budget, for steps 4 to 7."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import facts, sections
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.chart.facts import Facts
from mimic_qlora.chart.rows import Record
from mimic_qlora.chart.sections import Item, Sections
from mimic_qlora.chart.visibility import visible
from mimic_qlora.chart.wording import clean
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader

# The most items that a section may show, before the token budget cuts further, newest or most
# telling first. Sections that are not named here are short and never cut.
QUOTA = {
    "Known conditions": 18,
    "Medicines taken at home": 16,
    "Medicines ordered during the last stay": 16,
    "Medicines ordered during this stay": 16,
    "Latest labs": 12,
    "Latest measurements": 9,
    "Past procedures": 6,
    "Background": 1,
}


class Shortened(NamedTuple):
    """The sections as text within the budget: the items that are shown, and how many were cut."""

    text: str
    cuts: dict[str, int]  # section -> items lost to quota and budget
    shown: Sections


class Context(NamedTuple):
    """The text that a model reads, and the data behind it."""

    text: str
    facts: Facts  # those that a reader of the text can see
    cuts: dict[str, int]  # section -> items lost to quota and budget
    shown: Sections  # the items that are in the text
    chart: Facts  # all facts that were known
    as_of: datetime

    @property
    def is_empty(self) -> bool:
        """Return whether nothing of the chart is told beyond age and sex."""
        told = (items for name, items in self.shown.items() if name not in ("Age", "Sex"))
        return not self.cuts and not any(item.rows for items in told for item in items)


def shorten(parts: Sections, budget: int, count_tokens: Callable[[str], int]) -> Shortened:
    """Return the sections as text of at most `budget` tokens.

    Items are cut from the end of the longest section first, where they tell least; a section's
    first item only when no section has another. Raises UserError when the shortest form is too
    long.
    """
    shown = {name: items[: QUOTA.get(name)] for name, items in parts.items() if items}
    while (tokens := count_tokens(text := text_of(shown, _cuts(parts, shown)))) > budget:
        longest = max(QUOTA, key=lambda name: _lengths(shown.get(name, ())))
        if not any(_lengths(shown.get(longest, ()))):
            raise UserError(
                f"a token budget of {budget} is too small for the context of a patient: "
                f"its shortest form has {tokens} tokens"
            )
        shown[longest] = shown[longest][:-1]
    return Shortened(text, _cuts(parts, shown), shown)


def text_of(shown: Sections, cuts: Mapping[str, int]) -> str:
    """Return sections as the text of a context, with how many items of each were cut."""
    lines = ["Patient context"]
    for name, items in shown.items():
        words = [item.words for item in items]
        if name in cuts:
            words.append(f"and {cuts[name]} more")
        lines.append(f"- {name}: {'; '.join(words)}")
    return "\n".join(lines)


def _cuts(parts: Sections, shown: Sections) -> dict[str, int]:
    """Return how many items of each section are not shown, where there are any."""
    return {
        name: len(parts[name]) - len(items)
        for name, items in shown.items()
        if len(parts[name]) > len(items)
    }


def _lengths(items: Sequence[Item]) -> tuple[int, int]:
    """Return the characters that can be cut: of all items but the first, then of the first.

    An item that says that there is nothing is not cut.
    """
    rest = sum(len(item.words) for item in items[1:])
    return rest, len(items[0].words) if items and items[0].rows else 0


def build(
    record: Record,
    as_of: datetime,
    settings: ContextSettings,
    labels: dict[int, str],
    count_tokens: Callable[[str], int],
) -> Context:
    """Return the context of one patient at one time.

    `labels` maps itemid to the name of the lab; `count_tokens` is the model's.
    """
    view = visible(record, as_of, frozenset(settings.dropped_columns))
    known = facts.facts_of_view(view, as_of)
    parts = sections.sections_of_view(view, as_of, known, labels, QUOTA["Latest labs"])
    text, cuts, shown = shorten(parts, settings.token_budget, count_tokens)
    return Context(text, facts.as_shown(known, shown), cuts, shown, known, as_of)


def lab_labels(storage: Path) -> dict[int, str]:
    """Return itemid -> name of the lab.

    Names have the fluid where it is not blood, and "blood gas" where there is another method. One
    without a character that can be seen is none.
    """
    names, fluids, categories = [
        reader.labels(storage, "d_labitems", value=c) for c in ("label", "fluid", "category")
    ]
    methods: dict[tuple[str, str | None], set[str | None]] = {}
    for item, name in names.items():
        methods.setdefault((name, fluids.get(item)), set()).add(categories.get(item))

    def label(item: int) -> str:
        name, fluid = names[item], fluids.get(item) or "Blood"
        if fluid != "Blood":
            return f"{name} ({fluid.lower()})"
        others = len(methods[name, fluids.get(item)]) > 1
        return f"{name} (blood gas)" if categories.get(item) == "Blood Gas" and others else name

    return {item: label(item) for item, name in names.items() if name and clean(name)}
