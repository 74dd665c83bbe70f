"""Step 3's page: skill, importance beside its null, refits, calibration and the lists."""

from pathlib import Path

from mimic_qlora.display import html, plots
from mimic_qlora.features import verdicts


def said_undefined(metrics: list) -> list:
    return [
        {**row, "auroc": "undefined" if row["auroc"] is None else row["auroc"]} for row in metrics
    ]


def write(path: Path, result, odd: list, says: list, manifest: dict) -> None:
    """result: selection.Selection; odd: what giveaways.find gave; says: sentences."""
    lists, metrics = result.lists, result.metrics
    skill = ["label", "train_share", "test_with", "auroc", "auroc_low", "auroc_high", "auroc_rows"]
    held = [
        "target",
        "held_out_auroc",
        "held_out_auroc_rows",
        "beyond_rows_low",
        "beyond_rows_high",
        "skill",
    ]
    precision = [
        "target",
        "average_precision",
        "ap_low",
        "ap_high",
        "test_share",
        "predicted_share",
        "brier",
    ]
    precision += ["calibration_slope"]
    figures = ["column", "reason", "permutation_drop", "drop_high", "selected_share"]
    intervals = [
        "column",
        "permutation_drop",
        "drop_low",
        "drop_high",
        "selected_share",
        "gain_share",
        "best_target",
    ]
    sections = [
        ("What this shows", [html.paragraph(line + ".") for line in says]),
        (
            "Skill on test patients",
            [plot_skill(metrics), html.table(said_undefined(metrics), columns=skill)],
        ),
        (
            "Skill on patients held out in turn, beside the numbers of rows alone",
            [html.table(metrics, columns=held)],
        ),
        ("Precision and calibration on test patients", [html.table(metrics, columns=precision)]),
    ]
    if result.reliability:
        parts = [plot_reliability(result.reliability), html.table(result.reliability)]
        sections.append(("Calibration on patients held out in turn", parts))
    if result.judged is not None:
        weighed = [row for row in result.columns if row["permutation_drop"] is not None]
        used = [row for row in weighed if row["permutation_drop"]]
        plots = [plot_importance(used[:30], result.judged), plot_null(weighed, result.judged)]
        sections.append(("Importance beside its null", plots))
    if result.tried:
        refits = html.table(
            [row for row in result.ablation if row["target"] == "mean of all"], columns=_CHANGE
        )
        sections.append(
            (
                "Refits without what may go, on patients held out",
                [refits, plot_ablation(result.tried[-1])],
            )
        )
    least = html.table(lists["least"][::-1], columns=figures)
    kept = "Kept for safety, though not shown to matter"
    sections += [
        ("Most important columns", [html.table(lists["important"], columns=intervals)]),
        ("Least important columns: proven free to go", [least]),
        (
            "Not shown to matter, not proven free to go",
            [html.table(lists["unproven"], columns=figures)],
        ),
        (kept, [html.table(lists["protected"], columns=figures[:2])]),
        ("Single features that predict a target very well", [html.table(odd)]),
        ("Not judged", [html.table(lists["unjudged"], columns=figures[:2])]),
        (
            "Never features",
            [
                html.table(
                    lists["excluded"], columns=figures[:2], folded="All of them, with the reason"
                )
            ],
        ),
    ]
    lead = [
        html.data_line(manifest),
        "Small counts are not hidden here: treat this page as the data itself.",
    ]
    lead += [
        "Verdicts: "
        + "; ".join(f"{name}: {what}" for name, what in verdicts.VERDICTS.items())
        + "."
    ]
    html.write_page(path, "Which columns matter", lead, sections)


_CHANGE = ["columns", "change", "low", "high"]


def plot_skill(metrics: list) -> str:
    """AUROC of each target with its interval, beside that of the numbers of rows alone."""
    fig, axes = plots.figure(0.9 + 0.24 * len(metrics))
    places = [place for place, row in enumerate(metrics) if row["auroc"] is not None]
    rows = [metrics[place] for place in places]
    bounded = [
        (place, row)
        for place, row in zip(places, rows, strict=True)
        if row["auroc_low"] is not None
    ]
    ends = [[row[end] for _, row in bounded] for end in ("auroc_low", "auroc_high")]
    axes.hlines([place for place, _ in bounded], *ends, color=plots.BLUE, linewidth=2)
    axes.plot(
        [row["auroc"] for row in rows],
        places,
        "o",
        color=plots.BLUE,
        label="all columns, 95% interval",
    )
    axes.plot(
        [row["auroc_rows"] for row in rows],
        places,
        "x",
        color=plots.ORANGE,
        label="numbers of rows alone",
    )
    for place in set(range(len(metrics))) - set(places):
        axes.text(
            0.01, place, "undefined on the test patients", va="center", fontsize=8, color=plots.GREY
        )
    axes.axvline(0.5, color=plots.GREY, linestyle="--", linewidth=1)
    plots.name_lines(axes, [row["label"] for row in metrics])
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("AUROC on test patients (dashed: chance)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return plots.image(
        fig, "AUROC of each target on test patients; the table below has the numbers"
    )


def plot_importance(rows: list, judged) -> str:
    """The largest permutation drops, each with its 95% interval, and the limit that the shadows set."""
    fig, axes = plots.figure(0.9 + 0.21 * len(rows))
    places = range(len(rows))
    drops = [row["permutation_drop"] for row in rows]
    reach = [
        [abs(row["permutation_drop"] - row[end]) for row in rows]
        for end in ("drop_low", "drop_high")
    ]
    drawn = axes.barh(places, drops, xerr=reach, height=0.7, color=plots.BLUE, ecolor=plots.INK)
    for bar, row in zip(drawn, rows, strict=True):
        if row["verdict"] != "important":
            bar.set(facecolor="white", edgecolor=plots.BLUE, hatch="////")
    axes.axvline(
        judged.limit, color=plots.ORANGE, linestyle="--", label="95% of the shadows are below"
    )
    plots.name_lines(axes, [row["column"] for row in rows])
    axes.set_xscale("symlog", linthresh=0.002)
    axes.set_xlabel("fall of AUROC when permuted, with 95% interval (hatched: not shown to matter)")
    axes.legend(loc="lower right", frameon=False)
    return plots.image(
        fig, "Permutation importance of the first columns beside the limit of their shadows"
    )


def plot_null(rows: list, judged) -> str:
    """How many columns, and how many of their shadows, have which permutation drop."""
    import numpy as np

    fig, axes = plots.figure(2.6)
    real = np.array([row["permutation_drop"] for row in rows])
    span = max(abs(judged.limit) * 6, 1e-3)
    edges = np.linspace(-span / 2, span, 37)
    inside = [np.clip(values, edges[0], edges[-1]) for values in (real, judged.null)]
    axes.hist(inside[0], edges, color=plots.BLUE, label="columns")
    axes.hist(
        inside[1],
        edges,
        facecolor="none",
        edgecolor=plots.ORANGE,
        hatch="////",
        label="their shadows",
    )
    axes.axvline(judged.limit, color=plots.INK, linestyle="--", linewidth=1)
    axes.set_xlabel("mean fall of AUROC; what lies beyond the ends is put into the last bars")
    axes.set_ylabel("columns")
    axes.set_yscale("symlog")
    axes.legend(frameon=False)
    return plots.image(
        fig, "Distribution of the permutation drops of the columns and of their shadows"
    )


def plot_ablation(step) -> str:
    """What models without the columns lose, target by target, with intervals."""
    rows = [
        {"label": "mean of all", "change": step.mean, "low": step.low, "high": step.high},
        *step.targets,
    ]
    fig, axes = plots.figure(0.9 + 0.24 * len(rows))
    places = range(len(rows))
    axes.hlines(
        places,
        [row["low"] for row in rows],
        [row["high"] for row in rows],
        color=plots.BLUE,
        linewidth=2,
    )
    axes.plot([row["change"] for row in rows], places, "o", color=plots.BLUE)
    axes.axvline(0, color=plots.GREY, linestyle="--", linewidth=1)
    plots.name_lines(axes, [row["label"] for row in rows])
    axes.set_xlabel(
        f"change of AUROC without {step.columns} columns, with 95% interval (left of 0: a loss)"
    )
    return plots.image(
        fig, "Change of AUROC without the columns, by target; ablation.csv has the numbers"
    )


def plot_reliability(rows: list) -> str:
    """Risk as found over risk as told; on the dashed line the models are calibrated."""
    fig, axes = plots.figure(3.4, 4.2)
    told, found = ([row[name] for row in rows] for name in ("told_share", "found_share"))
    axes.plot([0, 1], [0, 1], linestyle="--", color=plots.GREY, linewidth=1)
    axes.plot(told, found, "o-", color=plots.BLUE)
    axes.set_xlabel("risk as the models tell it")
    axes.set_ylabel("share of patients with the target")
    return plots.image(
        fig, "Calibration: share of patients with the target by tenth of the risk told"
    )
