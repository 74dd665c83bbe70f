"""Step 7's report: one HTML page that needs no network, with every number beside its basis."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Question
from mimic_qlora.display import html
from mimic_qlora.llm import finding
from mimic_qlora.qa import session
from mimic_qlora.step import manifests, yaml_files
from mimic_qlora.step.files import atomic_write
from mimic_qlora.step.version import VERSION
from mimic_qlora.subjects.manifest import data_line
from mimic_qlora.training.memorisation import audited
from mimic_qlora.validation import side_by_side, statistics
from mimic_qlora.validation.arms import PAIR
from mimic_qlora.validation.findings import Comparison
from mimic_qlora.validation.forgetting import told
from mimic_qlora.validation.report import figures, forest, trials
from mimic_qlora.validation.report.verdict import Verdict
from mimic_qlora.validation.scoring import rubric
from mimic_qlora.validation.settings import Run
from mimic_qlora.validation.statistics import Row
from mimic_qlora.validation.trial_results import APART, ApartResult, TrialResult, TwinResult
from mimic_qlora.validation.twins import measure

PAGES = Path(__file__).parent / "pages"
SHOWN_BY_GROUP = ("rubric", "red_flags", "false_statements", "harmful")
Facts = Mapping[str, str | int]


class Content(NamedTuple):
    """Everything that the page is made of.

    `notes` are the sentences of summary.txt under its table; `probed` are the milliseconds a token
    of each arm that answers alone, `beside` the rows of the table of several runs, `forgotten`
    those of what training cost.
    """

    run: Run
    trials: Sequence[TrialResult]
    apart: Sequence[ApartResult]
    twins: Sequence[TwinResult]
    comparison: Comparison
    verdict: Verdict
    notes: Sequence[str]
    probed: Mapping[str, float]
    beside: Sequence[Row] = ()
    forgotten: Sequence[Row] = ()


def write(path: Path, of: Content) -> None:
    """Write the page."""
    facts = facts_of(of)
    lead = [f"Model: {facts['model']}; adapter: {facts['runs']}."]
    lead += [f"{sentence}." for sentence in manifests.study_sentences()]
    store = of.run.session.store
    lead += [audited.sentence(store, run) for run in of.run.settings.runs]
    write_page(path, lead, of, facts)


def write_page(path: Path, lead: Sequence[str], of: Content, facts: Facts) -> None:
    """Write the page with these lines under its title, and a checklist filled from `facts`."""
    reviewed = reviewed_line(of.trials, of.run.questions)
    by_id = {question.id: question for question in of.run.questions}
    page = html.render(
        "report.html",
        PAGES,
        title="Base against adapter",
        lead=[*lead, f"{reviewed.capitalize()}."],
        verdict=of.verdict,
        forest=forest.of(of.comparison),
        notes=of.notes,
        reviewed=reviewed,
        comparison=figures.comparison_rows(of.comparison),
        small=statistics.SMALL,
        grouped=html.table(by_group(of.trials), reviewed, folded="Open the table"),
        questions=list(dict.fromkeys(result.trial.question.id for result in of.trials)),
        trials=[trials.view(r, by_id[r.trial.question.id]) for r in of.trials],
        pair=PAIR,
        apart=apart_tables(of.apart, reviewed),
        beside=html.table(of.beside, side_by_side.CHOSEN) if of.beside else "",
        forgotten=html.table(of.forgotten, told.ABOUT) if of.forgotten else "",
        twins=html.table(measure.table(of.twins), reviewed) if of.twins else "",
        checklist=html.table(
            checklist({**facts, "reviewed": reviewed}),
            "Gallifant and others, Nature Medicine 2025. What a run cannot know is left to the "
            "authors and says so.",
            folded="Open the checklist",
        ),
        script=Markup((PAGES / "report.js").read_text(encoding="utf-8")),
    )
    atomic_write(path, page + "\n")


def reviewed_line(trials: Iterable[TrialResult], questions: Sequence[Question]) -> str:
    """Return how many of the ideals and caution rules that were used a clinician has reviewed.

    It stands beside every number.
    """
    used = [result.trial for result in trials]
    asked = {trial.question.id for trial in used}
    called_for = {rule.id for trial in used for rule in trial.cautions}
    rules = content.load().cautions
    counts = (
        content.reviewed_of([q for q in questions if q.id in asked], "ideals"),
        content.reviewed_of([rule for name, rule in rules.items() if name in called_for], "rules"),
    )
    return f"reviewed by a clinician: {', '.join(counts)}"


# ---------------------------------------------------------------- groups of trials


def _kind(row: Row) -> str:
    return "never trained on" if row["unseen"] else "trained on"


def _sex(row: Row) -> str:
    return {"F": "female", "M": "male"}.get(row["sex"], "unknown")


def _age(row: Row) -> str:
    return row["age_band"] or "unknown"


def _race(row: Row) -> str:
    return row["race"] or "unknown"


def _question(row: Row) -> str:
    return row["question_id"]


GROUPS: dict[str, Callable[[Row], str]] = {
    "kind of question": _kind,
    "sex": _sex,
    "age": _age,
    "race": _race,
    "question": _question,
}


def by_group(trials: Sequence[TrialResult]) -> list[Row]:
    """Return the comparison within groups of trials, as rows of a table."""
    rows = [result.row() for result in trials]
    return list(statistics.groups(rows, GROUPS, SHOWN_BY_GROUP, PAIR, rubric.METRICS))


def apart_tables(apart: Sequence[ApartResult], reviewed: str) -> list[Markup]:
    """Return a table for each metric of what was asked apart from the trials."""
    tables = []
    for name, metric in APART.items():
        rows = [_apart_row(result, name) for result in apart if result.metric == name]
        if rows:
            opens = f"Open the answers: {metric.label.partition(':')[0]}"
            tables.append(html.table(rows, f"{metric.label}; {reviewed}", folded=opens))
    return tables


def _apart_row(result: ApartResult, name: str) -> dict[str, str | float | None]:
    question = result.trial.question
    row: dict[str, str | float | None] = {"question": question.question}
    if name != "key_points":
        row["right"] = question.ideal
    row |= {f"score, {arm.name}": result.scores[arm][name] for arm in PAIR}
    return row | {arm.name: result.given[arm].answer.text for arm in PAIR}


# ---------------------------------------------------------------- the checklist


def facts_of(of: Content) -> dict[str, str | int]:
    """Return the facts that a run knows of itself, for the checklist."""
    run, settings = of.run, of.run.settings
    reader = f"the judge {run.judge.name}" if run.judge else "patterns"
    limits = (
        f"Answers read by {reader} (see docs/scoring.md for what errs); nothing claimed without "
        "labels of these answers; one hospital; greedy answers."
    )
    if session.trial_only(run.session):
        limits += " Built-in data or model: nothing about patients."
    asked = [result.trial for result in of.trials]
    return {
        "data": data_line(run.session.manifest["source"], with_folder=False),
        "model": finding.model_name(run.session.path),
        "fingerprint": finding.fingerprint(run.session.path),
        "runs": ",".join(settings.runs),
        "max_new_tokens": settings.max_new_tokens,
        "template": run.session.settings.template_sha256[:12],
        "primary": of.comparison.metrics[settings.primary][0],
        "date": time.strftime("%Y-%m-%d"),
        "arms": ", ".join(arm.name for arm in run.arms),
        "speed": f"{speed(of.probed)}. " if of.probed else "",
        "plan": run.opened,
        "software": VERSION,
        "trials": len(asked),
        "patients": len({trial.subject_id for trial in asked}),
        "questions": len({trial.question.id for trial in asked}),
        "split": settings.split,
        "seed": settings.seed,
        "small": statistics.SMALL,
        "limits": limits,
    }


def speed(probed: Mapping[str, float]) -> str:
    """Return how long a token of an arm takes that answers alone, in words."""
    each = ", ".join(f"{ms:.0f} ms a token ({arm})" for arm, ms in probed.items())
    return f"Alone, an answer takes {each}"


def checklist(facts: Facts) -> list[dict[str, str]]:
    """Return the items of TRIPOD-LLM as rows of a table, filled from `facts`."""
    items = yaml_files.loads((PAGES / "checklist.yaml").read_text("utf-8"), "checklist.yaml")
    return [
        {"item": i["item"], "topic": i["topic"], "in this run": i["here"].format_map(facts)}
        for i in items
    ]
