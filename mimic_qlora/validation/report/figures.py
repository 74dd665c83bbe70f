"""The comparison on the report's page, and the page made again by people's labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.display import html
from mimic_qlora.step.files import read_kept, rewrite
from mimic_qlora.validation import findings
from mimic_qlora.validation.findings import Comparison
from mimic_qlora.validation.report import forest
from mimic_qlora.validation.report.verdict import Verdict

PAGES = Path(__file__).parent / "pages"


class ComparisonRow(NamedTuple):
    """A row of the table; without `cells`, no trial has the metric."""

    label: str
    claimed: bool
    cells: Sequence[str] = ()


def comparison_rows(comparison: Comparison) -> list[ComparisonRow]:
    """Return the comparison as rows of a table."""
    differences, adjusted, metrics = comparison
    rows = []
    for name, (label, up) in metrics.items():
        d = differences.get(name)
        if d is None:
            rows.append(ComparisonRow(label, claimed=False))
            continue
        base, adapter = findings.mean(d.base), findings.mean(d.adapter)
        effect = "" if d.effect is None else f"{d.effect:.1f}"
        figures = (effect, findings.p_value(adjusted.get(name)), str(d.trials))
        told = label if up else f"{label} (less is better)"
        cells = (base, adapter, findings.signed(d.mean), findings.interval(d), *figures)
        rows.append(ComparisonRow(told, name in adjusted, cells))
    return rows


def remake(path: Path, verdict: Verdict, comparison: Comparison, notes: Sequence[str]) -> bool:
    """Put what labels show into the page: the verdict at its top, and a part for the comparison.

    Return False, and leave the page as it is, where it is gone or of an earlier version.
    """
    page = read_kept(path)
    parts = {
        "verdict": html.render("verdict.html", PAGES, verdict=verdict),
        "labelled": html.render(
            "labelled.html",
            PAGES,
            forest=forest.of(comparison),
            comparison=comparison_rows(comparison),
            notes=notes,
        ),
    }
    for name, part in parts.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end.lstrip("\n"))
        if not (found and closed):
            return False
        page = f"{before}{start}{part}{end}{after}"
    rewrite(path, page)
    return True
