"""Step 3's page: skill, importance beside its null, ablations, calibration and the lists."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.display import html
from mimic_qlora.display.html import Section
from mimic_qlora.features import plots, verdicts
from mimic_qlora.features.ablation import ALL_TARGETS
from mimic_qlora.features.files import ablation_rows, as_dicts, carried, targets_table
from mimic_qlora.features.leakage import StrongFeature
from mimic_qlora.features.selection import Selection
from mimic_qlora.subjects.manifest import Source, data_line

PLOTTED = 30  # columns with the largest drops

NAMED = 3  # items that are named of a column

# The columns of each table.
ON_TEST = ["label", "train_share", "test_with", "auroc", "auroc_low", "auroc_high", "auroc_rows"]
OUT_OF_FOLD = [
    "label",
    "held_out_auroc",
    "held_out_auroc_rows",
    "beyond_rows_low",
    "beyond_rows_high",
    "skill",
]
PRECISION = ["label", "average_precision", "ap_low", "ap_high", "test_share"]
CALIBRATION = ["label", "test_share", "predicted_share", "brier", "calibration_slope"]
CHANGE = ["columns", "change", "low", "high"]
IMPORTANCE = [
    "column",
    "above all",
    "permutation_drop",
    "drop_low",
    "drop_high",
    "selected_share",
    "gain_share",
    "best_target",
    "reason",
]
FIGURES = ["column", "reason", "permutation_drop", "drop_high", "selected_share"]
REASON = ["column", "reason"]


class Named(NamedTuple):
    """A result with the names that people know: of items, by their number, and of targets."""

    result: Selection
    items: Mapping[str, str]

    def of_column(self, column: str) -> str:
        """Return what the models used most of a column, such as "Creatinine, Glucose"."""
        found = [one for one in self.result.items if one.column == column][:NAMED]
        return ", ".join(self.of_item(one.item) for one in found)

    def of_item(self, item: str) -> str:
        """Return the name of an item, with the value behind its number where there is one."""
        number, separator, value = item.partition(": ")
        return self.items.get(number, number) + separator + value


def write(
    path: Path,
    named: Named,
    odd: list[StrongFeature],
    says: list[str],
    source: Source,
) -> None:
    """Write the page. odd: of `leakage.find`; says: sentences; source: the data of step 1."""
    result = named.result
    meant = "; ".join(f"{name}: {what}" for name, what in verdicts.VERDICTS.items())
    lead = [
        data_line(source, with_folder=False),
        "Small counts are not hidden here: treat this page as the data itself.",
    ]
    told = [*says, f"Verdicts: {meant}"]
    shown = Section("What this shows", [html.listed([f"{line}." for line in told], "In sentences")])
    first, *rest = [*_on_importance(named), *_on_skill(result)]
    sections = [first, shown, *rest, *_lists(named, odd)]
    html.write_page(path, "Which columns matter", lead, sections, headline(result))


def headline(result: Selection) -> str:
    """Return the result in one sentence."""
    n, skilled = len(result.metrics), sum(row.skill for row in result.metrics)
    matter, free = (len(result.with_verdict(verdict)) for verdict in ("important", "least"))
    if result.judged is None:
        return "No diagnosis is predicted well enough to say which columns matter."
    return (
        f"{matter} of the columns matter for the diagnoses and {free} may go, judged by the "
        f"{skilled} of {n} diagnoses that can be predicted."
    )


def _on_skill(result: Selection) -> Iterator[Section]:
    """Yield the sections on skill and calibration."""
    metrics = as_dicts(result.metrics)
    yield Section(
        "Skill on patients held out in turn, beside row counts alone",
        [html.table(metrics, columns=OUT_OF_FOLD)],
    )
    on_test = html.table(targets_table(result.metrics), columns=ON_TEST)
    carried_by = [row for row in result.metrics if carried(row)]
    plot = [plots.plot_skill(result.metrics)] if carried_by else []
    yield Section("Skill on test patients", [*plot, on_test])
    if carried_by:
        told = as_dicts(carried_by)
        precision = html.table(told, columns=PRECISION)
        calibration = html.table(told, columns=CALIBRATION)
        yield Section("Average precision on test patients", [precision])
        yield Section("Calibration on test patients", [calibration])
    if result.reliability:
        tenths = html.table(as_dicts(result.reliability))
        plot = [plots.plot_reliability(result.reliability)]
        yield Section("Calibration on patients held out in turn", [*plot, tenths])


def _on_importance(named: Named) -> Iterator[Section]:
    """Yield the sections on permutation importance and on the ablations."""
    result = named.result
    if result.judged is not None:
        permuted = [row for row in result.columns if row.permutation_drop is not None]
        used = [row for row in permuted if row.permutation_drop]
        lines = [": ".join(filter(None, (r.column, named.of_column(r.column)))) for r in used]
        importance = plots.plot_importance(used[:PLOTTED], result.judged, lines[:PLOTTED])
        null = plots.plot_null(permuted, result.judged)
        yield Section("Importance: what is lost when a column is shuffled", [importance])
        yield Section("Importance beside its null", [null])
    if result.tried:
        means = [row for row in ablation_rows(result) if row.target == ALL_TARGETS]
        table = html.table(as_dicts(means), columns=CHANGE)
        plot = plots.plot_ablation(result.tried[-1])
        yield Section("Refits without what may go, on patients held out", [table, plot])


def _lists(named: Named, odd: list[StrongFeature]) -> Iterator[Section]:
    """Yield the sections that list the columns by verdict, and the strong features."""
    result = named.result

    def listed(verdict: str, columns: list[str]) -> Section:
        rows = [
            row._asdict()
            | {
                "above all": named.of_column(row.column),
                "best_target": result.label(row.best_target),
            }
            for row in result.with_verdict(verdict)
        ]
        return Section(_HEADINGS[verdict], [html.table(rows, columns=columns)])

    yield listed("important", IMPORTANCE)
    least = html.table(as_dicts(result.least_first()), columns=FIGURES)
    yield Section("Least important columns: proven free to go", [least])
    yield listed("unproven", FIGURES)
    yield listed("protected", REASON)
    strong = html.table(
        [
            row._asdict() | {"target": result.label(row.target), "item": named.of_item(row.item)}
            for row in odd
        ]
    )
    yield Section("Single features that predict a target very well", [strong])
    yield listed("unjudged", REASON)
    excluded = as_dicts(result.with_verdict("excluded"))
    folded = html.table(excluded, columns=REASON, folded="All of them, with the reason")
    yield Section("Never features", [folded])


_HEADINGS = {
    "important": "Most important columns",
    "unproven": "Not shown to matter, not proven free to go",
    "protected": "Kept for safety, though not shown to matter",
    "unjudged": "Not judged",
}
