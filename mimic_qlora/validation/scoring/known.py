"""What a model was shown of the patient of a trial: the text, and the entries that it bears out."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from mimic_qlora.chart.context import Context
from mimic_qlora.clinical import codes, content
from mimic_qlora.clinical.conditions import AllOf, AnyOf, Condition, Facts, NoneOf
from mimic_qlora.clinical.schema import Caution

_ITEM = re.compile(r"[;\n]\s*(?:- )?")


class Known(NamedTuple):
    """The context of a trial as text, and the keys of the entries of the content that hold for it.

    A key names a file and an id: "phenotypes/asthma", "drugs/statin", "procedures/spinal_tap",
    "cautions/inr_high" for a rule that the chart calls for, whatever is asked, and
    "reasons/inr_high" for one whose reason the chart shows, even if another rule takes its place.
    """

    text: str = ""
    holds: frozenset[str] = frozenset()

    @property
    def rules(self) -> list[Caution]:
        """Return the rules that the chart calls for, whatever is asked."""
        return [r for r in content.load().cautions.values() if f"cautions/{r.id}" in self.holds]

    def with_rules(self, rules: Iterable[Caution]) -> "Known":
        """Return the same, with rules that the chart is known to call for."""
        more = {f"{kind}/{rule.id}" for kind in ("cautions", "reasons") for rule in rules}
        return self._replace(holds=self.holds | more)

    @property
    def items(self) -> list[str]:
        """Return the entries of the context, one condition, order or result each."""
        return [item for item in _ITEM.split(self.text) if item.strip()]


NOBODY = Known()


def of_context(shown: Context) -> Known:
    """Return what a model is shown of a patient."""
    facts, rules = shown.facts, content.load().cautions.values()
    groups = {group for done in facts.procedures for group in done.groups}
    keys = {
        *(f"phenotypes/{name}" for name in facts.phenotypes),
        *(f"drugs/{name}" for name in (*facts.drug_classes, *facts.home_drug_classes)),
        *(f"procedures/{name}" for name in groups),
        *(f"cautions/{rule.id}" for rule in rules if rule.when.holds(facts)),
        *(f"reasons/{rule.id}" for rule in rules if _is_shown(rule.when, facts)),
    }
    return Known(shown.text, frozenset(keys))


def of_text(text: str, cautions: tuple[str, ...] = ()) -> Known:
    """Return what can be told from a context's text alone, as in results of earlier versions.

    `cautions` are the ids of the rules that are known to hold.
    """
    found = {f"{kind}/{name}" for kind in ("cautions", "reasons") for name in cautions}
    for name, drug in content.load().drugs.items():
        if any(codes.names_ingredient(drug, item) for item in Known(text).items):
            found.add(f"drugs/{name}")
    return Known(text, frozenset(found))


def _is_shown(condition: Condition, facts: Facts) -> bool:
    """Return whether what a condition asks for is there; what must not be there is passed over."""
    if isinstance(condition, AnyOf):
        return any(_is_shown(part, facts) for part in condition.parts)
    if isinstance(condition, AllOf):
        asked = [part for part in condition.parts if not isinstance(part, NoneOf)]
        return all(_is_shown(part, facts) for part in asked)
    return condition.holds(facts)
