"""The verdict of a run made again by labels: summary.txt, report.html, and a file of figures."""

import contextlib
import csv
from collections.abc import Sequence
from pathlib import Path

from mimic_qlora.display import csv_files
from mimic_qlora.step import files, terminal
from mimic_qlora.validation import edited, findings, results
from mimic_qlora.validation.arms import BASE
from mimic_qlora.validation.labelling import claims
from mimic_qlora.validation.labelling.claims import Basis, Labelled
from mimic_qlora.validation.report import figures, verdict
from mimic_qlora.validation.report.verdict import Verdict
from mimic_qlora.validation.scoring import rubric

FIGURES = "labelled.csv"  # as summary.csv, corrected by labels
SUMMARY = "summary.txt"
AS_READ = "As the reader of the run found it, before people labelled answers:"
NO_RULES = "Not shown to beat the same rules in the prompt: only base and adapter are labelled."


def verdict_of(labelled: Labelled, basis: Basis) -> Verdict:
    """Return the verdict by labels; what may not be claimed is told as seen, with the reason.

    It stands above all else, and says itself which look at the patients it is of.
    """
    comparison, _ = claims.compare(labelled, basis)
    metrics = {name: rubric.METRICS[name] for name in basis.margins} | dict(comparison.metrics)
    why = claims.why_not(labelled, basis)
    on = verdict.Basis(
        data=basis.data,
        reader=f"{basis.reader}, and labelled by {claims.by_whom(labelled)} answers",
        reader_known=not why,
        shows_nothing=basis.shows_nothing,
        beside_rules=NO_RULES,
        unknown=why,
        of_chart=basis.of_chart,
    )
    asked = labelled.by_arm[BASE.name].values()
    rows = [{"subject_id": a.subject_id, "question_id": a.question_id} for a in asked]
    found = verdict.of(
        comparison._replace(metrics=metrics),
        rows,
        basis.primary,
        basis.margins,
        on,
        claims.limits(labelled, basis),
    )
    return found._replace(basis=" ".join(filter(None, [found.basis, basis.opened])))


def write(folder: Path, labelled: Labelled, basis: Basis) -> list[str]:
    """Make a run's results again by labels, and return what a terminal shows.

    Labels that come later make them again; what the run's reader found stays below.
    """
    comparison, sentences = claims.of(labelled, basis)
    concluded = verdict_of(labelled, basis)
    title = f"Corrected by labels (read by {basis.reader})"
    _say_if_less(folder, labelled)
    by = {"labelled_by": labelled.by, "labelled": labelled.fewest}
    edited.keep(folder / FIGURES)
    rows = [row | by for row in findings.rows(comparison)]
    edited.write(folder / FIGURES, csv_files.as_text(rows))
    for_file = [title, findings.table(*comparison, terminal.WIDTH), "", *sentences]
    _remake_summary(folder / SUMMARY, [*concluded.lines(), "", *for_file])
    made = [FIGURES, SUMMARY]
    if figures.remake(folder / "report.html", concluded, comparison, sentences):
        made.append("report.html")
    told = f"Made again by these labels, in {folder}: {', '.join(made)}."
    return [title, findings.table(*comparison), "", *sentences, "", *concluded.lines(), told]


def figures_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows of labelled.csv; none where nobody labelled, or too few for a figure."""
    with contextlib.suppress(FileNotFoundError):
        with open(folder / FIGURES, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    return []


def in_earlier(store: Path) -> Path | None:
    """Return the last results with figures of labels where the newest have none: step 7 ran again.

    None where the newest have them, or none do.
    """

    def has_figures(folder: Path) -> bool:
        with contextlib.suppress(OSError, ValueError, csv.Error):
            return bool(figures_of(folder))
        return False

    newest_first = [*reversed(results.in_order(store))]
    found = next(filter(has_figures, newest_first), None)
    return found if found not in newest_first[:1] else None


def _say_if_less(folder: Path, labelled: Labelled) -> None:
    """Say what the verdict rested on before, if on more labels or on those of better people."""
    with contextlib.suppress(LookupError, ValueError, csv.Error):  # of an earlier version, edited
        before = figures_of(folder)[0]
        n, by = int(before["labelled"]), before["labelled_by"]
        if n > labelled.fewest or _best(by) < _best(labelled.by):
            terminal.say_aside(
                f"note: the verdict rested on {n} answers of each arm or more before, labelled by "
                f"{by}, and rests on these labels alone now: give those files too, with --labels"
            )


def _best(by: str) -> int:
    """Return the place of the best one of those who labelled among claims.LABELLERS."""
    return min([*claims.LABELLERS, claims.UNKNOWN].index(one) for one in by.split(" and "))


def _remake_summary(path: Path, lines: Sequence[str]) -> None:
    """Put lines above the summary as the run wrote it, in the place of those of earlier labels."""
    before, found, as_read = files.read_kept(path).partition(f"{AS_READ}\n\n")
    folded = "\n".join(terminal.fitted(line, terminal.WIDTH) for line in lines)
    if found:  # else all of it stays below
        edited.keep(path)
    edited.write(path, f"{folded}\n\n{AS_READ}\n\n{as_read if found else before}")
