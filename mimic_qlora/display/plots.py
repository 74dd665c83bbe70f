"""Plots, as SVG in a page."""

import base64
import html
import io

from mimic_qlora.display.html import BLUE, GREY


def figure(height: float, width: float = 8.6):
    """An empty plot in the style of the page: (matplotlib Figure, Axes). Sizes in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "mimic_qlora",
        "font.size": 9,
        "axes.edgecolor": GREY,
        "hatch.linewidth": 0.6,
    }
    matplotlib.rcParams.update(style)  # the salt keeps the ids in the SVG the same on every run
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = fig.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return fig, axes


def image(fig, alt: str) -> str:
    """A plot as an image inside the page. `alt` says in words what it shows."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/svg+xml;base64,{data}">'


def bars(
    labels: list, values: list, xlabel: str, alt: str, log: bool, texts: list, hatched: list
) -> str:
    """Horizontal bars, the first on top, each with its text beside it; `hatched` bars are not of their exact length."""
    fig, axes = figure(0.6 + 0.21 * len(labels))
    places = list(range(len(labels)))
    drawn = axes.barh(places, values, color=BLUE, height=0.72, log=log)
    for bar, is_hatched in zip(drawn, hatched, strict=True):
        if is_hatched:
            bar.set(facecolor="white", edgecolor=BLUE, hatch="////")
    axes.bar_label(drawn, texts, padding=3, fontsize=8)
    name_lines(axes, labels)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.12)
    return image(fig, alt)


def name_lines(axes, labels: list) -> None:
    """Name the lines of a plot at its left, the first on top; a long name is cut."""
    axes.set_yticks(
        range(len(labels)), [label if len(label) <= 52 else label[:51] + "…" for label in labels]
    )
    axes.set_ylim(len(labels) - 0.4, -0.6)
