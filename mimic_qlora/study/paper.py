"""The files of a paper: Table 1 as CSV and LaTeX, the forest plot as SVG and PDF, the methods."""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimic_qlora.display import plots
from mimic_qlora.step import files, step_commands, storage, terminal
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import methods, runs
from mimic_qlora.validation import results
from mimic_qlora.validation.findings import Comparison
from mimic_qlora.validation.labelling import claims, remade
from mimic_qlora.validation.report import forest
from mimic_qlora.validation.report.forest import Forest
from mimic_qlora.validation.scoring import rubric
from mimic_qlora.validation.statistics import Difference
from mimic_qlora.validation.trial_results import APART

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"better": plots.BLUE, "worse": plots.ORANGE, "open": plots.GREY}
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"<": "$<$", ">": "$>$"}


def write(store: Path, folder: Path) -> list[Path]:
    """Write all files into a folder and return them.

    Raises UserError when step 2 or step 7 has left nothing yet, or step 7 results of other patients
    or adapters than those that are there.
    """
    rows = _table1(store)
    plot = forest_of(store)
    if earlier := remade.in_earlier(store):
        terminal.say_aside(
            f"note: {earlier} has labels, and the newest results have none: the plot is of these, "
            "which no labels correct (run_files/label.py --labels takes those that fit)"
        )
    files.private_folder(folder)
    contents = {
        "table1.csv": (store / "summary" / "table1.csv").read_bytes(),
        "table1.tex": ("\n".join(latex(rows)) + "\n").encode(),
    }
    drawn = draw(*plot)
    for name, date in {"forest.svg": "Date", "forest.pdf": "CreationDate"}.items():
        image = io.BytesIO()
        drawn.savefig(image, format=name.rpartition(".")[2], metadata={date: None})
        contents[name] = image.getvalue()
    contents["methods.txt"] = (methods.text(store) + "\n").encode()
    for name, content in contents.items():
        _write(folder / name, content)
    return [folder / name for name in contents]


def _write(path: Path, content: bytes) -> None:
    """Write a file that people go on with: another one in its place is kept beside it."""
    if path.is_file() and path.read_bytes() == content:
        return
    if os.path.lexists(path):
        print(f"{path} was another one, which is kept as {files.put_aside(path, path).name}")
    files.atomic_write(path, content)


def _table1(store: Path) -> list[list[str]]:
    if not storage.verified_manifest(store, "summary")["settings"].get("min_cell"):
        again = step_commands.command_for("summary")
        raise UserError(
            f"{store / 'summary'} shows small counts (--min-cell 0 or 1), which no paper may: run "
            f"`{again}` first"
        )
    path = store / "summary" / "table1.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing: the data has no stays, so there is no Table 1")
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file))


def forest_of(store: Path) -> tuple[Forest, str]:
    """Return the forest plot of the newest results, corrected by labels where there are any, and
    which of the two it is. Raises UserError where there are no results of what is there now.
    """
    newest = results.newest(store)
    if newest is None:
        raise UserError(f"{store / 'validation'} has no results: run step 7 first")
    if other := runs.of_other(store, newest):
        raise UserError(f"{newest} holds results of {other}. Run step 7 again")
    labelled = newest / remade.FIGURES
    found = _differences(labelled, "run_files/label.py") if labelled.is_file() else {}
    if found:  # a few labels leave no figures
        metrics = claims.metrics_of(rubric.METRICS.keys() & found)
        caption = "corrected by labels"
    else:
        found = _differences(newest / "summary.csv", "step 7")
        metrics = dict(rubric.METRICS) | dict(APART)
        caption = "as the run read them, not corrected by labels"
    shown = {name: metrics[name] for name in found if name in metrics}
    return forest.of(Comparison(found, {}, shown)), caption


def _differences(path: Path, made_by: str) -> dict[str, Difference]:
    """Return the rows of summary.csv or labelled.csv as they were written, by metric."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return {row["metric"]: _difference(row) for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, TypeError):
        raise UserError(f"{path} cannot be read: run {made_by} again") from None


def _difference(row: dict[str, str]) -> Difference:
    open_ended = {
        name: float(row[name]) if row[name] else None for name in ("low", "high", "effect", "p")
    }
    return Difference(
        base=float(row["base"]),
        adapter=float(row["adapter"]),
        mean=float(row["mean"]),
        **open_ended,
        trials=int(row["trials"]),
        questions=int(row["questions"]),
        patients=int(row["patients"]),
    )


def latex(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table for LaTeX's booktabs; blanks in front indent a level."""
    yield "% needs \\usepackage{booktabs}"
    yield f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    yield "\\toprule"
    for number, row in enumerate(rows):
        indent = "\\quad " if row[0].startswith(" ") else ""
        yield indent + " & ".join(escaped(cell.strip()) for cell in row) + r" \\"
        if number == 0:
            yield "\\midrule"
    yield "\\bottomrule"
    yield "\\end{tabular}"


def escaped(cell: str) -> str:
    """Return a text that LaTeX sets as it stands, and a range with the dash of one."""
    told = re.sub(r"[\\~^&%$#_{}<>]", lambda found: _LATEX[found[0]], cell)
    return re.sub(r"(?<=\d)-(?=\d)", "--", told)


def draw(of: Forest, caption: str) -> "Figure":
    """Return the forest plot; right is better for every metric. `caption` says which figures."""
    figure, axes = plots.figure(1.05 + 0.24 * max(1, len(of.lines)))
    for row, line in enumerate(of.lines):
        colour = _COLOURS[line.kind]
        axes.plot([line.low, line.high], [row, row], color=colour, linewidth=2)
        axes.plot([line.mean], [row], marker="s", color=colour, markersize=5)
        axes.annotate(
            line.numbers,
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
        )
    plots.name_lines(axes, [line.label for line in of.lines])
    axes.axvline((forest.LEFT + forest.RIGHT) / 2, color=plots.INK, linewidth=0.8)
    axes.set_xlim(0, 100)
    axes.set_xticks([tick.place for tick in of.ticks], [tick.text for tick in of.ticks])
    axes.set_xlabel(
        f"difference with its 95% interval; right is better for the adapter\n({caption})"
    )
    return figure
