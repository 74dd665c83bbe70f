"""What an urgency run leaves: sentences, one page, and a CSV file for each of its tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from mimic_qlora.display import csv_files, html, plots, text_tables
from mimic_qlora.display.html import Section
from mimic_qlora.display.text import counted
from mimic_qlora.llm import finding
from mimic_qlora.qa import session
from mimic_qlora.step import manifests, terminal, yaml_files
from mimic_qlora.subjects.manifest import data_name
from mimic_qlora.validation.settings import Run
from mimic_qlora.validation.urgency import claims, tables
from mimic_qlora.validation.urgency.claims import NOT_TESTED, Claim
from mimic_qlora.validation.urgency.drawn import LEAST
from mimic_qlora.validation.urgency.endpoint import NURSE
from mimic_qlora.validation.urgency.gather import Reasons, Training
from mimic_qlora.validation.urgency.population import Calibration
from mimic_qlora.validation.urgency.study import Visits
from mimic_qlora.validation.urgency.tables import ADAPTER, BASE, Measured, Table

PAGE = "urgency.html"
ON_SCREEN = ("performance", "claims", "undertriage")  # tables; the page has all of them
PAGES = Path(__file__).parent / "pages"
BESIDE = (
    "The nurse saw the patient and took the vital signs; the models read an earlier chart, age, "
    "sex and the complaint. Her level decides in part what is done, and so the outcome."
)
NEED = "The outcome is care received at one centre, not need."


@dataclass(frozen=True)
class Found:
    """All that a run found; `primary` is None where there is too little to set a threshold on.

    `best` is the simple model that validation patients chose, None where none could be fitted.
    `may_claim` says that what is shown is claimed, and not only seen.
    """

    visits: Visits
    training: Training
    best: str | None
    primary: Measured | None
    claims: Sequence[Claim]
    may_claim: bool
    tables: Sequence[Table]
    calibrations: dict[str, Calibration]
    reasons: Sequence[Reasons]


def sentence(found: Found) -> str:
    """Return the sentence that a paper should print."""
    of = found.primary
    if of is None:
        return (
            "Too few visits to set a threshold on: nothing is said of how many emergencies are "
            "found."
        )
    here = of.study.held
    n, others = int((here & of.study.positive).sum()), int((here & ~of.study.positive).sum())

    def told(arm: str) -> str:
        one = of.found[arm]
        hits = int(one.called[here & of.study.positive].sum())
        low, high = claims.share(hits, n, one.drawn.sensitivity)
        return (
            f"{one.at.sensitivity[0]:.1%} (95% {low:.1%} to {high:.1%}; specificity "
            f"{one.at.specificity[0]:.1%})"
        )

    simple = f"{found.best} on the same facts {told(found.best)}, " if found.best else ""
    return (
        f"Of {counted(n, 'emergency visit')} (death, intensive care or "
        f"a life-saving treatment within 24 hours of arrival) and {others:,} others of adults with "
        f"an earlier hospital stay, at the specificity of the nurse's level 1 or 2 and with "
        f"thresholds set on other patients, the adapter found {told(ADAPTER)}, {simple}the base "
        f"{told(BASE)}, and the nurse, who saw the patient and the vital signs, {told(NURSE)}. "
        f"{NEED}"
    )


def claim_words(found: Found) -> str:
    """Return what is claimed, and why no more is."""
    if not found.claims:
        return "Nothing is claimed: the order of claims needs a threshold and a simple model."
    parts = [f"than {c.than}: {tables.outcome(c, found.may_claim)}" for c in found.claims]
    told = f"The adapter finds more emergencies {'; '.join(parts)}."
    if all(claim.outcome == NOT_TESTED for claim in found.claims):
        told += f" It takes {claims.FEWEST} emergencies and as many others."
    if not found.may_claim:
        told += " Claims are made of test patients (--final), of real data and another model."
    return told


def lines(run: Run, found: Found) -> list[str]:
    """Return the result in sentences; the first is the one that a paper should print."""
    asked = found.visits.splits[-1].drawn
    training = found.training
    said = [sentence(found), claim_words(found), BESIDE]
    said.append(
        f"{len(asked.visits):,} {run.settings.split} visits were drawn of {asked.there:,} of the "
        f"primary set ({asked.emergencies:,} emergencies); {asked.no_level:,} without the nurse's "
        "level were left out."
    )
    if found.best:
        said.append(
            f"Logistic regression and XGBoost were fitted to the facts of {training.visits:,} "
            f"training prompts ({training.emergencies:,} emergencies); {found.best} is the better "
            "on validation patients."
        )
    else:
        said.append(
            f"No simple model was fitted: {training.visits:,} training prompts have "
            f"{training.emergencies:,} emergencies."
        )
    said += [
        f"{one.arm.capitalize()}, over {one.answers} answers written out: {one.in_prompt} of "
        f"{one.named} reasons named stand in the context. Nothing is claimed of reasons."
        for one in found.reasons
    ]
    if len(run.settings.runs) > 1:
        said.append(
            f"The adapter is {run.settings.runs[0]} alone; the others have rows of their own."
        )
    said += [
        f"The adapter {name} was replaced since it answered: these are answers of the one before."
        for name in run.replaced
    ]
    if not run.settings.is_final:
        said.append("Step 5 chose its checkpoint by the loss on half of the validation patients.")
    if run.opened:
        said.append(run.opened)
    if session.trial_only(run.session):
        said.append(
            "Built-in data or model: this shows that the pipeline works, and nothing about "
            "patients."
        )
    return said


def facts_of(run: Run, found: Found) -> dict[str, str]:
    """Return the facts that a run knows of itself, for STARD."""
    last = found.visits.splits[-1]
    drawn = (
        f"{len(last.drawn.visits):,} of {last.drawn.there:,}, with "
        f"{sum(visit.level == 'A' for visit in last.drawn.visits):,} of "
        f"{last.drawn.emergencies:,} emergencies"
    )
    return {
        "order": ", ".join(claims.order(found.best or "the better simple model", BASE)),
        "data": data_name(run.session.manifest["source"]),
        "drawn": drawn,
        "model": finding.model_name(run.session.path),
        "run": run.settings.runs[0],
        "turns": "from all validation patients, unchanged"
        if run.settings.is_final
        else "in five turns among validation patients",
        "no_level": f"{last.drawn.no_level:,}",
        "least": str(LEAST),
        "table": _crossed(found.primary),
        "plan": run.opened or "No frozen plan.",
    }


def _crossed(of: Measured | None) -> str:
    if of is None:
        return "Too few visits"
    called, here, positive = of.found[ADAPTER].called, of.study.held, of.study.positive
    cells = {
        "emergencies called": called & positive,
        "emergencies not called": ~called & positive,
        "others called": called & ~positive,
        "others not called": ~called & ~positive,
    }
    return ", ".join(f"{int((here & cell).sum()):,} {name}" for name, cell in cells.items())


def stard(run: Run, found: Found) -> Table:
    """Return the items of STARD as a table, filled from the run."""
    facts = facts_of(run, found)
    items = yaml_files.loads((PAGES / "stard.yaml").read_text("utf-8"), "stard.yaml")
    rows: list[tables.Row] = [
        {"item": i["item"], "topic": i["topic"], "in this run": i["here"].format_map(facts)}
        for i in items
    ]
    note = "Bossuyt and others, BMJ 2015. What a run cannot know is left to the authors."
    return Table("stard", "STARD 2015", note, rows)


def write(run: Run, found: Found, folder: Path) -> str:
    """Write page, CSV files and summary into a folder, and return what a terminal shows."""
    said = lines(run, found)
    every = [*found.tables, stard(run, found)]
    csv_files.write(folder / "output.csv", _visits(found))
    for table in every:
        csv_files.write(folder / f"{table.name}.csv", table.rows)
    for_file = [*said, *(_as_text(table, terminal.WIDTH) for table in found.tables)]
    summary = "\n".join(terminal.fitted(line, terminal.WIDTH) for line in for_file)
    (folder / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    if under := manifests.study_used():
        (folder / "study.yaml").write_text(under.text, encoding="utf-8")
    sections = [Section(table.title, _parts(table, found)) for table in every]
    html.write_page(folder / PAGE, "Urgency from outcomes", said[1:], sections, said[0])
    first = [table for table in found.tables if table.name in ON_SCREEN]
    on_screen = [*(_as_text(table, None) for table in first), "", *said]
    return "\n".join(terminal.fitted(line, terminal.width()) for line in on_screen)


def _as_text(table: Table, width: int | None) -> str:
    return text_tables.text_table(table.rows, table.title, width=width)


def _parts(table: Table, found: Found) -> list[Markup]:
    parts = [html.table(table.rows, table.note, folded=_folded(table))]
    if table.name == "calibration" and found.calibrations:
        parts.append(_plot(found.calibrations))
    return parts


def _folded(table: Table) -> str:
    return "Open the table" if table.name in ("stard", "groups", "controls") else ""


def _plot(calibrations: dict[str, Calibration]) -> Markup:
    """Return predicted against observed risk, by tenths of the population."""
    fig, axes = plots.figure(3.2, 5.2)
    axes.plot([0, 1], [0, 1], color=plots.GREY, linewidth=0.8)
    marks = zip(calibrations.items(), ("o-", "s--", "^:", "d-."), strict=False)
    for (arm, one), mark in marks:
        axes.plot(
            [part.predicted for part in one.bins],
            [part.observed for part in one.bins],
            mark,
            label=arm,
            markersize=4,
        )
    axes.set_xlabel("predicted risk of an emergency")
    axes.set_ylabel("observed share")
    axes.legend(frameon=False)
    return plots.image(fig, "Predicted against observed risk by tenths of the population")


def _visits(found: Found) -> list[dict[str, object]]:
    """Return the rows of output.csv: a visit each, with what every arm said of it."""
    visits, primary = found.visits, found.primary
    rows: list[dict[str, object]] = []
    for place, visit in enumerate(visits.every):
        if not visits.asked[place]:
            continue
        row: dict[str, object] = {
            "subject_id": visit.subject_id,
            "stay_id": visit.stay_id,
            "split": visit.split,
            "level": visit.level,
            "acuity": visit.acuity,
            "weight": float(visits.weight[place]),
        }
        if primary:
            for arm in (name for name in primary.found if name != NURSE):
                row[f"risk_{arm}"] = float(visits.scores(tables.PRIMARY, arm)[place])
                row[f"called_{arm}"] = bool(primary.found[arm].called[place])
        rows.append(row)
    return rows
