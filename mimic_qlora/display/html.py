"""HTML pages from Jinja2 templates, with one base template and one style sheet for all of them.

A page of one's own extends `base.html` and fills its blocks `title`, `header`, `main`, `script`;
`render` finds it in the folder that is given. `write_page` makes the plain kind of page: a title,
lines under it, and sections of paragraphs, tables and plots. Everything is escaped but `Markup`,
which the functions here and in `plots` return.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from mimic_qlora.display import text
from mimic_qlora.display.cells import Row, heading, is_numeric, shown
from mimic_qlora.step.files import atomic_write
from mimic_qlora.step.plain_text import printable

PAGES = Path(__file__).parent / "pages"
COMMAND = re.compile(r"`([^`]+)`|(?<![\w-])(--[a-z][a-z-]*)")  # an option may stand alone
LONG = 40  # letters of a cell that keeps some width where a table is narrow
COLUMN = re.compile(r"[a-z_]+\.[a-z0-9_]+")


class Section(NamedTuple):
    """A part of a page: its heading, and the paragraphs, tables and plots under it."""

    heading: str
    parts: Sequence[Markup]


@cache
def environment(*folders: Path) -> jinja2.Environment:
    """Return the templates of these folders and the shared ones, with `page_css` for them all."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, PAGES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    templates.filters["name_of"] = text.name_of
    templates.filters["with_commands"] = with_commands
    templates.globals["print_js"] = Markup((PAGES / "print.js").read_text(encoding="utf-8"))
    templates.globals["page_css"] = Markup((PAGES / "page.css").read_text(encoding="utf-8"))
    return templates


def _inert(value: Any) -> Any:
    """Return what a page shows: text of charts and answers without steering characters."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def render(template: str, folder: Path | None = None, **values: Any) -> Markup:
    """Return a template of `folder`, or a shared one, filled with the values."""
    folders = () if folder is None else (folder,)
    return Markup(environment(*folders).get_template(template).render(**values))


def with_commands(line: str) -> Markup:
    """Return a sentence of this project with its commands and options as code.

    Markup is returned as it is.
    """
    if isinstance(line, Markup):
        return line
    result, end = Markup(""), 0
    for match in COMMAND.finditer(line := printable(line)):
        kind = "command" if match[1] else "option"
        result += line[end : match.start()]
        result += Markup('<code class="{}">{}</code>').format(kind, match[1] or match[2])
        end = match.end()
    return result + line[end:]


def paragraph(line: str) -> Markup:
    """Return one paragraph."""
    return Markup("<p>{}</p>").format(with_commands(line))


def listed(lines: Sequence[str], folded: str = "") -> Markup:
    """Return lines as a list; with `folded`, behind a line with this text that opens it."""
    items = Markup("").join(Markup("<li>{}</li>").format(with_commands(line)) for line in lines)
    if not folded:
        return Markup("<ul>{}</ul>").format(items)
    return Markup("<details><summary>{}</summary><ul>{}</ul></details>").format(folded, items)


def table(
    rows: Sequence[Row], caption: str = "", columns: Sequence[str] | None = None, folded: str = ""
) -> Markup:
    """Return the rows as a table; with `folded`, behind a line with this text that opens it.

    `columns` picks and orders the columns of the rows, by default all. Leading spaces of a cell
    are shown as an indent.
    """
    if not rows:
        return paragraph(f"{caption}: none." if caption else "None.")
    columns = list(columns or rows[0])
    numeric = {column for column in columns if is_numeric(rows, column)}
    lines = [[_cell(row, column, column in numeric) for column in columns] for row in rows]
    return render(
        "table.html",
        caption=caption,
        headings=[(heading(column), column in numeric) for column in columns],
        lines=lines,
        folded=folded,
    )


def _cell(row: Row, column: str, is_number: bool) -> tuple[str, str]:
    """Return the class of the cell in `page.css`, and its text."""
    cell = shown(row[column], column)
    if is_number:
        return "n", cell
    kind = "in" if cell.startswith(" ") else "long" if len(cell) > LONG else ""
    return kind, _breakable(cell.lstrip(" "))


def _breakable(cell: str) -> str:
    """Let the name of a table's column break after the table, where there is little room."""
    return Markup(cell.replace(".", ".<wbr>")) if COLUMN.fullmatch(cell) else cell


def write_page(
    path: Path,
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    headline: str = "",
) -> None:
    """Write one page that needs no network.

    `headline` is the result in one sentence, `lead` are the lines under it.
    """
    page = render("sections.html", title=title, headline=headline, lead=lead, sections=sections)
    atomic_write(path, page + "\n")
