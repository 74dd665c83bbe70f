"""What a run says of itself while it trains, and leaves as CSV, JSON and curves."""

import csv
import json
import math
from pathlib import Path

COLUMNS = [
    "step",
    "epoch",
    "loss",
    "eval_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "supervised_per_second",
    "padding",
    "shared",
    "mfu",
    "peak_memory_gib",
    "seconds_left",
]


def write_log(history: list[dict], about: dict, folder: Path) -> None:
    """`log.csv`, a row for each log step and each validation; `log.json`, the same with what the columns rest on."""
    rows = [row for row in history if "loss" in row or "eval_loss" in row]
    with open(folder / "log.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps({**about, "log": rows}, indent=1)
    (folder / "log.json").write_text(text + "\n", encoding="utf-8")


def plot_curves(history: list[dict], path: Path) -> None:
    """Loss, learning rate and gradient norm, and speed over the steps, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4))
    for axes, label, curves in zip(
        panels,
        (
            "loss (nats per supervised token)",
            "gradient norm before clipping",
            "supervised tokens a second",
        ),
        (
            (("loss", "training", "-"), ("eval_loss", "validation", "o-")),
            (("grad_norm", None, "-"),),
            (("supervised_per_second", None, "-"),),
        ),
        strict=True,
    ):
        for key, name, style in curves:
            points = [
                (row["step"], row[key]) for row in history if math.isfinite(row.get(key, math.nan))
            ]
            axes.plot(*zip(*points, strict=True), style, label=name)
        axes.set(xlabel="optimizer step", ylabel=label)
    panels[0].legend()
    panels[2].set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
