"""How results are shown: tables in a terminal of 100 columns, and one self-contained HTML page with plots.

A table is a list of dicts with the same keys. Columns whose name ends in "share" hold parts of one and are shown as
percentages.
"""

import base64
import html
import io
import math
import re
from pathlib import Path

from mimic_qlora import storage

WIDTH = 100
INK, GREY, BLUE, ORANGE = "#1b1b1b", "#8a8a8a", "#20639b", "#d1691f"  # these differ in lightness too

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1b1b1b; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; break-after: avoid; }
.lead { color: #555; margin: 0 0 .2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; margin: .6rem 0; }
caption { text-align: left; color: #555; padding-bottom: .3rem; }
th, td { padding: .22rem .7rem .22rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e2e2e0; }
th { border-bottom: 2px solid #1b1b1b; white-space: nowrap; }
.n { text-align: right; padding-left: .8rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; height: auto; display: block; margin: .8rem 0; break-inside: avoid; }
summary { cursor: pointer; color: #20639b; } tr { break-inside: avoid; } thead { display: table-header-group; }
@media print { body { max-width: none; margin: 0; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; } table { font-size: 8pt; } th { white-space: normal; vertical-align: bottom; } }
"""


def shown(value, column: str = "") -> str:
    """One cell as people read it: thousands apart, decimals to some three digits, shares as percentages, None empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if column.endswith("share"):
            return f"{value:.1%}"
        return f"{value:,.{3 if abs(value) <= 1 else 2 if abs(value) < 10 else 1}f}"
    return f"{value:,}" if isinstance(value, int) and column not in ("icd_version", "itemid", "seed") else str(value)


def _numeric(rows: list, column: str) -> bool:
    """Numbers, and what stands for one, such as "<10" or "12 (34%)", are set flush right."""
    values = [row[column] for row in rows if row[column] not in (None, "")]
    return bool(values) and all(
        isinstance(v, (int, float)) or v in ("hidden", "undefined") or _NUMBER.match(v) for v in values
    )


_NUMBER = re.compile(r"^[<+-]?\d[\d,.]*%?( [(\[].*)?$")


def terminal(rows: list, title: str, width: int = WIDTH, columns: list | None = None) -> str:
    """A table of text no wider than `width`: text columns are cut, the widest first, numbers never."""
    if not rows:
        return f"\n{title}\n  (none)"
    columns = columns or list(rows[0])
    lines = [columns] + [[shown(row[c], c) for c in columns] for row in rows]
    right = [_numeric(rows, c) for c in columns]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    texts = [i for i in range(len(columns)) if not right[i]]
    while sum(widths) + 2 * (len(widths) - 1) > width and any(widths[i] > 8 for i in texts):
        widths[max(texts, key=lambda i: widths[i])] -= 1
    lines.insert(1, ["-" * w for w in widths])
    fitted = [[_fit(cell, w, r) for cell, w, r in zip(line, widths, right, strict=True)] for line in lines]
    return "\n".join(["", title, *("  ".join(line).rstrip() for line in fitted)])


def _fit(text: str, width: int, right: bool) -> str:
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.rjust(width) if right else text.ljust(width)


def data_line(manifest: dict) -> str:
    """Which data a result is about, for what may leave the machine: without the path of the folder."""
    source = manifest["source"]
    return storage.data_line({**manifest, "source": {**source, "folder": Path(source["folder"]).name}})


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def table(rows: list, caption: str = "", columns: list | None = None, folded: str = "") -> str:
    """An HTML table; with `folded`, behind a line that opens it."""
    if not rows:
        return paragraph(f"{caption}: none." if caption else "None.")
    columns = columns or list(rows[0])
    classes = {c: ' class="n"' if _numeric(rows, c) else "" for c in columns}
    head = "".join(f'<th scope="col"{classes[c]}>{html.escape(c.replace("_", " "))}</th>' for c in columns)
    cells = ("".join(f"<td{classes[c]}>{_indented(shown(row[c], c))}</td>" for c in columns) for row in rows)
    body = "".join(f"<tr>{line}</tr>\n" for line in cells)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    text = f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    return f"<details><summary>{html.escape(folded)}</summary>{text}</details>" if folded else text


def _indented(text: str) -> str:
    bare = text.lstrip(" ")
    return "&nbsp;" * 2 * (len(text) - len(bare)) + html.escape(bare)


def figure(height: float, width: float = 8.6):
    """An empty plot in the style of the page: (matplotlib Figure, Axes). Sizes in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    style = {"svg.hashsalt": "mimic_qlora", "font.size": 9, "axes.edgecolor": GREY, "hatch.linewidth": 0.6}
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


def bars(labels: list, values: list, xlabel: str, alt: str, log: bool, texts: list, hatched: list) -> str:
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
    axes.set_yticks(range(len(labels)), [label if len(label) <= 52 else label[:51] + "…" for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)


def write(path: Path, title: str, lead: list, sections: list, style: str = "", script: str = "") -> None:
    """One HTML page that needs no network: lines under the title, then sections as pairs (heading, HTML parts).

    `style` and `script` are put into the page, which a browser lets load nothing else.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", *(f'<p class="lead">{html.escape(line)}</p>' for line in lead)]
    for heading, content in sections:
        parts += [f"<section><h2>{html.escape(heading)}</h2>", *content, "</section>"]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}{style}</style>'
    )
    parts += [f"<script>{script}</script>"] if script else []
    body = "\n".join(parts)
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n</body></html>\n'
    path.write_text(page, encoding="utf-8")
