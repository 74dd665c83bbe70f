"""The log of a run: its rows, its setup, and the CSV, JSON and curves that it leaves."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict


class LogRow(TypedDict, total=False):
    """A row of the Trainer's log: one of training has `loss`, one of validation `eval_loss`."""

    step: int  # optimizer steps done
    epoch: float
    loss: float  # nats per supervised token, mean since the row before
    eval_loss: float  # nats per supervised token of the validation patients
    eval_selection_loss: float  # of the half of them that chooses the checkpoint
    learning_rate: float
    grad_norm: float  # before clipping
    tokens_per_second: float  # of all samples in full
    supervised_per_second: float
    padding: float  # share of the tokens that only fill up
    shared: float  # share of the tokens that stand in a row of another sample, and cost nothing
    flops_per_second: float  # that the model needs, recomputation not counted
    mfu: float  # model flop utilisation, a share
    peak_memory_gib: float
    seconds_left: int


COLUMNS = tuple(LogRow.__annotations__)  # of log.csv


@dataclass(frozen=True)
class Setup:
    """The number type, device and peak of a run, on which the columns of its log rest."""

    compute: str  # bf16, fp16 or fp32
    device: str
    checkpointing: str  # "none", "all layers" or "one of N layers"
    mfu: str  # the formula of that column
    flops_per_token: float  # of the whole run on average
    peak_flops: float  # operations a second that `mfu` is a share of
    peak_flops_from: str
    computed_memory_floor_gib: float
    tensorboard: bool  # whether its events are written too


def with_fastest(setup: Setup, history: Sequence[LogRow]) -> Setup:
    """Return the setup with a peak that no row of the log is faster than."""
    fastest = max((row.get("flops_per_second", 0.0) for row in history), default=0.0)
    if fastest <= setup.peak_flops:
        return setup
    source = f"{setup.peak_flops_from}; raised to the fastest step"
    return replace(setup, peak_flops=fastest, peak_flops_from=source)


def _of_peak(row: LogRow, setup: Setup) -> LogRow:
    """Return a row whose MFU is a share of the setup's peak."""
    settled = row.copy()
    if "flops_per_second" in row:
        settled["mfu"] = row["flops_per_second"] / setup.peak_flops
    return settled


def write_log(history: Sequence[LogRow], setup: Setup, folder: Path) -> None:
    """Write log.csv, a row for each log step and validation, and log.json, with the setup too."""
    rows = [_of_peak(row, setup) for row in history if "loss" in row or "eval_loss" in row]
    with open(folder / "log.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps({**asdict(setup), "log": rows}, indent=1)
    (folder / "log.json").write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Curve:
    """One line of a plot: a column of the log, its name in the legend, matplotlib's line style."""

    column: str
    name: str | None
    style: str


PANELS = {  # label of the y axis -> curves
    "loss (nats per supervised token)": [
        Curve("loss", "training", "-"),
        Curve("eval_loss", "validation", "o-"),
    ],
    "learning rate": [Curve("learning_rate", None, "-")],
    "gradient norm before clipping": [Curve("grad_norm", None, "-")],
    "supervised tokens a second": [Curve("supervised_per_second", None, "-")],
}


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str, kept: int) -> None:
    """Plot loss, rate of learning, gradient norm and speed over the steps, as PNG.

    `kept` is the step of the checkpoint that became the adapter; a line marks it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"))
    panels = figure.subplots(2, 2).flat
    for axes, (label, curves) in zip(panels, PANELS.items(), strict=True):
        for curve in curves:
            points = [(row["step"], row.get(curve.column, math.nan)) for row in history]
            points = [point for point in points if math.isfinite(point[1])]
            axes.plot(*zip(*points, strict=True), curve.style, label=curve.name)
        axes.axvline(kept, color="grey", linestyle=":", label=f"kept: step {kept}")
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        if curves[0].name:
            axes.legend(frameon=False)
        else:
            axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)
