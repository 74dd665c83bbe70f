"""The plots of step 3's page."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from mimic_qlora.display import plots
from mimic_qlora.features.ablation import Ablation
from mimic_qlora.features.columns_file import ColumnVerdict
from mimic_qlora.features.permutation import Judged
from mimic_qlora.features.skill import RiskTenth, TargetMetrics


def plot_skill(metrics: list[TargetMetrics]) -> Markup:
    """Plot the AUROC of each target with its interval, beside that of row counts alone."""
    fig, axes = plots.figure(0.9 + 0.24 * len(metrics))
    defined = [(place, row) for place, row in enumerate(metrics) if row.auroc_low is not None]
    places = [place for place, _ in defined]
    # NumPy turns None into nan, of which nothing is drawn.
    low = np.array([row.auroc_low for _, row in defined], float)
    high = np.array([row.auroc_high for _, row in defined], float)
    axes.hlines(places, low, high, color=plots.BLUE, linewidth=2)
    full = np.array([row.auroc for _, row in defined], float)
    rows = np.array([row.auroc_rows for _, row in defined], float)
    axes.plot(full, places, "o", color=plots.BLUE, label="all columns, 95% interval")
    axes.plot(rows, places, "x", color=plots.ORANGE, label="row counts alone")
    for place in set(range(len(metrics))) - set(places):
        few = "too few test patients with it, or without"
        axes.text(0.01, place, few, va="center", fontsize=8, color=plots.GREY)
    axes.axvline(0.5, color=plots.GREY, linestyle="--", linewidth=1)
    plots.name_lines(axes, [row.label for row in metrics])
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("AUROC on test patients (dashed: chance)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    alt = "AUROC of each target on test patients; the table below has the numbers"
    return plots.image(fig, alt)


def plot_importance(rows: list[ColumnVerdict], judged: Judged, names: Sequence[str]) -> Markup:
    """Plot permutation drops with their 95% intervals, and the limit that the shadows set.

    rows: columns with figures, the most important first. names: of the lines.
    """
    fig, axes = plots.figure(0.9 + 0.21 * len(rows))
    drops = np.array([row.permutation_drop for row in rows])
    low, high = np.array([row.drop_low for row in rows]), np.array([row.drop_high for row in rows])
    reach = [abs(drops - low), abs(drops - high)]
    places = range(len(rows))
    drawn = axes.barh(places, drops, xerr=reach, height=0.7, color=plots.BLUE, ecolor=plots.INK)
    for bar, row in zip(drawn, rows, strict=True):
        if row.verdict != "important":
            bar.set(facecolor="white", edgecolor=plots.BLUE, hatch="////")
    limit = "95% of the shadows are below"
    axes.axvline(judged.limit, color=plots.ORANGE, linestyle="--", label=limit)
    plots.name_lines(axes, names)
    axes.set_xscale("symlog", linthresh=0.002)
    axes.set_xlabel("fall of AUROC when permuted, 95% interval\n(hatched: not shown to matter)")
    axes.legend(loc="lower right", frameon=False)
    alt = "Permutation importance of the first columns beside the limit of their shadows"
    return plots.image(fig, alt)


def plot_null(rows: list[ColumnVerdict], judged: Judged) -> Markup:
    """Plot histograms of the permutation drops of columns and of their shadows."""
    fig, axes = plots.figure(2.6)
    drops = np.array([row.permutation_drop for row in rows])
    span = max(abs(judged.limit) * 6, 1e-3)
    edges = np.linspace(-span / 2, span, 37).tolist()
    columns = np.clip(drops, edges[0], edges[-1])
    shadows = np.clip(judged.null, edges[0], edges[-1])
    axes.hist(columns, edges, color=plots.BLUE, label="columns")
    axes.hist(
        shadows,
        edges,
        facecolor="none",
        edgecolor=plots.ORANGE,
        hatch="////",
        label="their shadows",
    )
    axes.axvline(judged.limit, color=plots.INK, linestyle="--", linewidth=1)
    axes.set_xlabel("mean fall of AUROC; drops beyond the ends are in the last bars")
    axes.set_ylabel("columns")
    axes.set_yscale("symlog")
    axes.legend(frameon=False)
    alt = "Distribution of the permutation drops of the columns and of their shadows"
    return plots.image(fig, alt)


def plot_ablation(step: Ablation) -> Markup:
    """Plot the change of AUROC without the columns, target by target, with intervals."""
    rows = step.rows()
    fig, axes = plots.figure(0.9 + 0.24 * len(rows))
    places = range(len(rows))
    low, high = [row.low for row in rows], [row.high for row in rows]
    axes.hlines(places, low, high, color=plots.BLUE, linewidth=2)
    axes.plot([row.change for row in rows], places, "o", color=plots.BLUE)
    axes.axvline(0, color=plots.GREY, linestyle="--", linewidth=1)
    plots.name_lines(axes, [row.label for row in rows])
    without = f"change of AUROC without {step.columns} columns"
    axes.set_xlabel(f"{without}, with 95% interval (left of 0: a loss)")
    alt = "Change of AUROC without the columns, by target; ablation.csv has the numbers"
    return plots.image(fig, alt)


def plot_reliability(rows: list[RiskTenth]) -> Markup:
    """Plot observed over predicted risk; calibrated models lie on the dashed line."""
    fig, axes = plots.figure(3.4, 4.2)
    predicted, observed = (
        [row.predicted_share for row in rows],
        [row.observed_share for row in rows],
    )
    axes.plot([0, 1], [0, 1], linestyle="--", color=plots.GREY, linewidth=1)
    axes.plot(predicted, observed, "o-", color=plots.BLUE)
    axes.set_xlabel("predicted risk")
    axes.set_ylabel("share of patients with the target")
    alt = "Calibration: share of patients with the target by tenth of the predicted risk"
    return plots.image(fig, alt)
