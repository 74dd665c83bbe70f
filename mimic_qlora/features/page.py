"""Step 3's page: skill, importance beside its null, ablations, calibration and the lists."""

from collections.abc import Iterator
from pathlib import Path

from mimic_qlora.display import html
from mimic_qlora.display.html import Section
from mimic_qlora.features import plots, verdicts
from mimic_qlora.features.ablation import ALL_TARGETS
from mimic_qlora.features.files import ablation_rows, as_dicts, targets_table
from mimic_qlora.features.leakage import StrongFeature
from mimic_qlora.features.selection import Selection
from mimic_qlora.subjects.manifest import Source, data_line

PLOTTED = 30  # columns with the largest drops

# The columns of each table.
ON_TEST = ["label", "train_share", "test_with", "auroc", "auroc_low", "auroc_high", "auroc_rows"]
OUT_OF_FOLD = [
    "target",
    "held_out_auroc",
    "held_out_auroc_rows",
    "beyond_rows_low",
    "beyond_rows_high",
    "skill",
]
PRECISION = ["target", "average_precision", "ap_low", "ap_high", "test_share"]
CALIBRATION = ["target", "test_share", "predicted_share", "brier", "calibration_slope"]
CHANGE = ["columns", "change", "low", "high"]
IMPORTANCE = [
    "column",
    "permutation_drop",
    "drop_low",
    "drop_high",
    "selected_share",
    "gain_share",
    "best_target",
]
FIGURES = ["column", "reason", "permutation_drop", "drop_high", "selected_share"]
REASON = ["column", "reason"]


def write(
    path: Path,
    result: Selection,
    odd: list[StrongFeature],
    says: list[str],
    source: Source,
) -> None:
    """Write the page. odd: of `leakage.find`; says: sentences; source: the data of step 1."""
    named = "; ".join(f"{name}: {what}" for name, what in verdicts.VERDICTS.items())
    lead = [
        data_line(source, with_folder=False),
        "Small counts are not hidden here: treat this page as the data itself.",
        f"Verdicts: {named}.",
    ]
    shown = Section("What this shows", [html.paragraph(line + ".") for line in says])
    sections = [shown, *_on_skill(result), *_on_importance(result), *_lists(result, odd)]
    html.write_page(path, "Which columns matter", lead, sections)


def _on_skill(result: Selection) -> Iterator[Section]:
    """Yield the sections on skill and calibration."""
    metrics = as_dicts(result.metrics)
    on_test = html.table(targets_table(result.metrics), columns=ON_TEST)
    yield Section("Skill on test patients", [plots.plot_skill(result.metrics), on_test])
    yield Section(
        "Skill on patients held out in turn, beside row counts alone",
        [html.table(metrics, columns=OUT_OF_FOLD)],
    )
    precision = html.table(metrics, columns=PRECISION)
    calibration = html.table(metrics, columns=CALIBRATION)
    yield Section("Average precision on test patients", [precision])
    yield Section("Calibration on test patients", [calibration])
    if result.reliability:
        tenths = html.table(as_dicts(result.reliability))
        plot = plots.plot_reliability(result.reliability)
        yield Section("Calibration on patients held out in turn", [plot, tenths])


def _on_importance(result: Selection) -> Iterator[Section]:
    """Yield the sections on permutation importance and on the ablations."""
    if result.judged is not None:
        permuted = [row for row in result.columns if row.permutation_drop is not None]
        used = [row for row in permuted if row.permutation_drop]
        importance = plots.plot_importance(used[:PLOTTED], result.judged)
        null = plots.plot_null(permuted, result.judged)
        yield Section("Importance beside its null", [importance, null])
    if result.tried:
        means = [row for row in ablation_rows(result) if row.target == ALL_TARGETS]
        table = html.table(as_dicts(means), columns=CHANGE)
        plot = plots.plot_ablation(result.tried[-1])
        yield Section("Refits without what may go, on patients held out", [table, plot])


def _lists(result: Selection, odd: list[StrongFeature]) -> Iterator[Section]:
    """Yield the sections that list the columns by verdict, and the strong features."""

    def listed(verdict: str, columns: list[str]) -> Section:
        rows = as_dicts(result.with_verdict(verdict))
        return Section(_HEADINGS[verdict], [html.table(rows, columns=columns)])

    yield listed("important", IMPORTANCE)
    least = html.table(as_dicts(result.least_first()), columns=FIGURES)
    yield Section("Least important columns: proven free to go", [least])
    yield listed("unproven", FIGURES)
    yield listed("protected", REASON)
    strong = html.table(as_dicts(odd))
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
