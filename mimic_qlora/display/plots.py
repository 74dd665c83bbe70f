"""Plots, as SVG images inside a page."""

import base64
import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from mimic_qlora.step.plain_text import inline

if TYPE_CHECKING:  # matplotlib takes most of a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# They differ in lightness too, for readers who cannot tell colours apart.
INK, GREY, BLUE, ORANGE = "#1b1b1b", "#8a8a8a", "#20639b", "#d1691f"

LONGEST_NAME = 52  # characters of a line's name beside a plot


def figure(height: float, width: float = 8.6) -> "tuple[Figure, Axes]":
    """Return an empty plot in the style of the pages, its sizes in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "mimic_qlora",  # keeps the ids in the SVG the same on every run
        "font.size": 9,
        "axes.edgecolor": GREY,
        "hatch.linewidth": 0.6,
    }
    matplotlib.rcParams.update(style)
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = fig.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return fig, axes


def image(fig: "Figure", alt: str) -> Markup:
    """Return a plot as an image on a clear ground. `alt` says in words what it shows."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # of characters that the font lacks: they are drawn as boxes
        warnings.simplefilter("ignore", UserWarning)
        fig.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    data = base64.b64encode(buffer.getvalue()).decode()
    picture = (
        '<div class="scroll"><img class="plot" alt="{}" src="data:image/svg+xml;base64,{}"></div>'
    )
    return Markup(picture).format(inline(alt), data)


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    hatched: Sequence[bool],
    xlabel: str,
    alt: str,
    log: bool = False,
) -> Markup:
    """Return horizontal bars, the first on top, each with its text beside it.

    A hatched bar stands for a value that is not known exactly.
    """
    fig, axes = figure(0.6 + 0.21 * len(labels))
    drawn = axes.barh(list(range(len(labels))), values, color=BLUE, height=0.72, log=log)
    for bar, is_hatched in zip(drawn, hatched, strict=True):
        if is_hatched:
            bar.set(facecolor="white", edgecolor=BLUE, hatch="////")
    axes.bar_label(drawn, texts, padding=3, fontsize=8)
    name_lines(axes, labels)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.12)
    return image(fig, alt)


def _name(label: str) -> str:
    """Return a name as a plot shows it: inert, on one line, cut, and never read as mathematics.

    Between two dollar signs matplotlib reads formulas; with a backslash they are dollar signs.
    """
    name = inline(label)
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")


def name_lines(axes: "Axes", labels: Sequence[str]) -> None:
    """Name the lines of a plot at its left, the first on top; a long name is cut."""
    axes.set_yticks(range(len(labels)), [_name(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
