"""How results are shown: tables in a terminal of 100 columns, and one self-contained HTML page with plots.

A table is a list of dicts with the same keys. Columns whose name ends in "share" hold parts of one and are shown as
percentages.
"""

import html
from pathlib import Path

from mimic_qlora.display.text_tables import _numeric, shown
from mimic_qlora.step import storage

INK, GREY, BLUE, ORANGE = (
    "#1b1b1b",
    "#8a8a8a",
    "#20639b",
    "#d1691f",
)  # these differ in lightness too

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


def data_line(manifest: dict) -> str:
    """Which data a result is about, for what may leave the machine: without the path of the folder."""
    source = manifest["source"]
    return storage.data_line(
        {**manifest, "source": {**source, "folder": Path(source["folder"]).name}}
    )


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def table(rows: list, caption: str = "", columns: list | None = None, folded: str = "") -> str:
    """An HTML table; with `folded`, behind a line that opens it."""
    if not rows:
        return paragraph(f"{caption}: none." if caption else "None.")
    columns = columns or list(rows[0])
    classes = {c: ' class="n"' if _numeric(rows, c) else "" for c in columns}
    head = "".join(
        f'<th scope="col"{classes[c]}>{html.escape(c.replace("_", " "))}</th>' for c in columns
    )
    cells = (
        "".join(f"<td{classes[c]}>{_indented(shown(row[c], c))}</td>" for c in columns)
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>\n" for line in cells)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    text = f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    return f"<details><summary>{html.escape(folded)}</summary>{text}</details>" if folded else text


def _indented(text: str) -> str:
    bare = text.lstrip(" ")
    return "&nbsp;" * 2 * (len(text) - len(bare)) + html.escape(bare)


def write(
    path: Path, title: str, lead: list, sections: list, style: str = "", script: str = ""
) -> None:
    """One HTML page that needs no network: lines under the title, then sections as pairs (heading, HTML parts).

    `style` and `script` are put into the page, which a browser lets load nothing else.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *(f'<p class="lead">{html.escape(line)}</p>' for line in lead),
    ]
    for heading, content in sections:
        parts += [f"<section><h2>{html.escape(heading)}</h2>", *content, "</section>"]
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}{style}</style>'
    )
    parts += [f"<script>{script}</script>"] if script else []
    body = "\n".join(parts)
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n</body></html>\n'
    path.write_text(page, encoding="utf-8")
