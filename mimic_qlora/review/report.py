"""The report on the marks once it is known who wrote what: win rate, marks, agreement.

Only this module unblinds.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from markupsafe import Markup

from mimic_qlora.display import csv_files, html, text_tables
from mimic_qlora.review import agreement
from mimic_qlora.review import items as review_items
from mimic_qlora.review.assignment import Task
from mimic_qlora.review.items import Item
from mimic_qlora.review.marks import CRITERIA, SIDES, Mark
from mimic_qlora.review.store import Store
from mimic_qlora.step import files, terminal
from mimic_qlora.validation import edited, findings, statistics
from mimic_qlora.validation.arms import PAIR
from mimic_qlora.validation.statistics import Difference

AGREEMENT = "Agreement (1 full, 0 as by chance), with intervals over questions"
MEASURES = (
    "alpha: Krippendorff's (nominal for the better one, ordinal for marks); kappa: Cohen's "
    "(quadratic for marks). A mark is of one answer, so an item has two."
)
ARMS = tuple(arm.column for arm in PAIR)  # the endings of columns, base first
NAMES = {arm.column: arm.name for arm in PAIR}
METRICS = {
    "win": ("preference (equal: half)", True),
    **{name: (f"{c.label.lower()} (1 to 5)", True) for name, c in CRITERIA.items()},
    "harmful": ("a sentence marked harmful", False),
}
_SCALE = [1, 2, 3, 4, 5]
_START, _END = "<!-- ratings -->", "<!-- end of ratings -->"
# A row of ratings.csv: one rater's marks of one item; see _row. Columns of marks end in an arm.
Row = dict[str, Any]
Agreed = dict[str, Any]  # an agreement.Agreement as a mapping, for JSON


class Share(TypedDict):
    """A share of `of` cases; None of none."""

    share: float | None
    of: int


class Agreements(TypedDict, total=False):
    """Agreement on one criterion: alpha of all raters, kappa of each pair ("anna and ben")."""

    alpha: Agreed
    kappa: dict[str, Agreed]


class Summary(TypedDict):
    """The contents of ratings_report.json.

    `raters` holds how many items each has answered, of how many. `win_rate` is the adapter's over
    the base, with its interval, p, and counts of preferences; None without an answered item.
    `differences` holds statistics.Difference and Holm's p by metric; agreements are by criterion.
    """

    raters: dict[str, dict[str, int]]
    items: int
    questions: int
    win_rate: dict[str, Any] | None
    differences: dict[str, dict[str, Any]]
    statement: list[str]
    between_raters: dict[str, Agreements]
    with_oneself: dict[str, dict[str, Agreed]]
    left_preferred: Share
    marked_at_once: Share


class Measured(NamedTuple):
    """An agreement: of whom, by which measure, on what."""

    who: str
    measure: str
    on: str
    found: Agreed


def unblind(store: Store, items: Mapping[int, Item]) -> list[Row]:
    """Return a row per rater and answered item: marks by arm, not by side.

    `again` is true for items that the rater had seen before.
    """
    rows = []
    for rater in store.tasks.raters():
        answered, marks = set(store.marks.answered(rater)), store.marks.all(rater)
        for task in store.tasks.of(rater):
            if task.position in answered:
                rows.append(_row(rater, task, items[task.item], marks[task.position]))
    return rows


def _row(rater: str, task: Task, item: Item, marks: Mapping[str, Mark]) -> Row:
    side_of = dict(zip(ARMS, SIDES[::-1] if task.swapped else SIDES, strict=True))
    better = marks["better"].value
    row: Row = {
        "rater": rater,
        "trial": item.number,
        "subject_id": item.subject_id,
        "question_id": item.question_id,
        "question": item.question,
        "position": task.position,
        "again": task.again,
        "answer_a": next(arm for arm in ARMS if side_of[arm] == "a"),
        "better": next((arm for arm in ARMS if side_of[arm] == better), "equal"),
    }
    for arm in ARMS:
        side = side_of[arm]
        given = {name: marks[f"{side}_{name}"] for name in CRITERIA}
        row[f"win_{arm}"] = 0.5 if better == "equal" else float(better == side)
        row |= {f"{name}_{arm}": int(mark.value) for name, mark in given.items()}
        said = review_items.sentences(item.answers[NAMES[arm]])
        numbers = [int(n) for n in marks.get(f"{side}_harm", Mark()).value.split()]
        harmful = [said[n - 1][0] for n in numbers if 0 < n <= len(said)]
        row[f"harmful_{arm}"] = float(bool(harmful))
        row[f"harmful_sentences_{arm}"] = "\n".join(harmful)
        row[f"at_once_{arm}"] = float(all(mark.at_once for mark in given.values()))
    return row | {"comment": marks.get("comment", Mark()).value}


def summarize(rows: Sequence[Row], tasks: Mapping[str, Collection[Task]]) -> Summary:
    """Return the report on these rows. `tasks` maps a rater to all of their tasks."""
    first = [row for row in rows if not row["again"]]
    by_item: dict[int, list[Row]] = {}
    for row in first:
        by_item.setdefault(row["trial"], []).append(row)
    found = statistics.compare([_mean(group) for group in by_item.values()], METRICS, PAIR)
    adjusted = statistics.holm({name: difference.p for name, difference in found.items()})
    left = [float(row["better"] == row["answer_a"]) for row in rows if row["better"] != "equal"]
    return {
        "raters": {
            rater: {"answered": sum(row["rater"] == rater for row in rows), "of": len(given)}
            for rater, given in tasks.items()
        },
        "items": len(by_item),
        "questions": len({row["question_id"] for row in first}),
        "win_rate": _win_rate(found["win"], first) if "win" in found else None,
        "differences": {
            name: {**d._asdict(), "p_holm": adjusted[name]} for name, d in found.items()
        },
        "statement": findings.statement(found, adjusted, METRICS) if found else [],
        "between_raters": _between(list(by_item.values())),
        "with_oneself": _with_oneself(rows),
        "left_preferred": _share(left),
        "marked_at_once": _share([row[f"at_once_{arm}"] for row in rows for arm in ARMS]),
    }


def _mean(group: Sequence[Row]) -> Row:
    """Return the means over the raters of one item."""
    about = {name: group[0][name] for name in ("question_id", "subject_id")}
    columns = [f"{metric}_{arm}" for metric in METRICS for arm in ARMS]
    return about | {name: sum(row[name] for row in group) / len(group) for name in columns}


def _win_rate(win: Difference, first: Sequence[Row]) -> dict[str, Any]:
    """Return the adapter's win rate; a difference of wins of 0 is a rate of one half."""
    return {
        "adapter_over_base": win.adapter,
        "low": None if win.low is None else max(0.0, 0.5 + win.low / 2),
        "high": None if win.high is None else min(1.0, 0.5 + win.high / 2),
        "p": win.p,
        **{value: sum(row["better"] == value for row in first) for value in (*ARMS, "equal")},
    }


def _between(items: Sequence[Sequence[Row]]) -> dict[str, Agreements]:
    """Return the agreement on items that two raters or more answered."""
    groups = [group for group in items if len(group) > 1]
    questions = [group[0]["question_id"] for group in groups]
    better = [[row["better"] for row in group] for group in groups]
    alpha = agreement.alpha(better, [*ARMS, "equal"], "nominal", questions)
    found: dict[str, Agreements] = {"better": {"alpha": alpha._asdict()}}
    of_answers = [question for question in questions for _ in ARMS]
    for name in CRITERIA:
        units = [[row[f"{name}_{arm}"] for row in group] for group in groups for arm in ARMS]
        alpha = agreement.alpha(units, _SCALE, "ordinal", of_answers)
        found[name] = {"alpha": alpha._asdict()}
    by_rater = [{row["rater"]: row for row in group} for group in groups]
    names = list(dict.fromkeys(rater for group in by_rater for rater in group))
    for one, other in itertools.combinations(names, 2):
        both = [(group[one], group[other]) for group in by_rater if {one, other} <= group.keys()]
        for name, value in _kappas(both).items():
            found[name].setdefault("kappa", {})[f"{one} and {other}"] = value
    return found


def _with_oneself(rows: Sequence[Row]) -> dict[str, dict[str, Agreed]]:
    """Return Cohen's kappa of each rater's first and second marks of repeated items."""
    found = {}
    for rater in dict.fromkeys(row["rater"] for row in rows):
        own = [row for row in rows if row["rater"] == rater]
        first = {row["trial"]: row for row in own if not row["again"]}
        second = [row for row in own if row["again"] and row["trial"] in first]
        found[rater] = _kappas([(first[row["trial"]], row) for row in second])
    return found


def _kappas(pairs: Sequence[tuple[Row, Row]]) -> dict[str, Agreed]:
    """Return kappa on the preference and, quadratically weighted, on each criterion.

    `pairs` are rows on the same item.
    """
    questions = [one["question_id"] for one, _ in pairs]
    better = [(one["better"], other["better"]) for one, other in pairs]
    found = {"better": agreement.kappa(better, [*ARMS, "equal"], None, questions)._asdict()}
    for name in CRITERIA:
        columns = [f"{name}_{arm}" for arm in ARMS]
        marks = [(one[column], other[column]) for column in columns for one, other in pairs]
        clusters = questions * len(ARMS)
        found[name] = agreement.kappa(marks, _SCALE, "quadratic", clusters)._asdict()
    return found


def _share(values: Sequence[float]) -> Share:
    return {"share": sum(values) / len(values) if values else None, "of": len(values)}


def write(store: Store, items: Mapping[int, Item], folder: Path) -> str:
    """Write ratings.csv and ratings_report.json, and put the ratings into step 7's page.

    Returns the report in words.
    """
    rows = unblind(store, items)
    found = summarize(rows, {rater: store.tasks.of(rater) for rater in store.tasks.raters()})
    table, page = folder / "ratings.csv", folder / "report.html"
    written = [table.name, "ratings_report.json"]
    with edited.alone(folder, "python run_files/review.py --report"):
        edited.keep(table)
        edited.write(table, csv_files.as_text(rows))
        files.write_json(folder / "ratings_report.json", found)
        if found["items"] and page.is_file():
            files.rewrite(page, include(files.read_kept(page), found))
            written.append(page.name)
    return f"{text(found)}\n\nWritten: {', '.join(written)} in {folder}"


# ---------------------------------------------------------------- in words


def text(found: Summary) -> str:
    """Return the report in lines that fit the terminal."""
    lines = [f"Answered: {_answered(found) or 'nobody has begun'}"]
    if not found["items"]:
        return "\n".join([*lines, "Nothing is answered yet, so there is nothing to compare."])
    adjusted = {name: d["p_holm"] for name, d in found["differences"].items()}
    room = terminal.width()
    return "\n".join(
        [
            *lines,
            "",
            findings.table(_differences(found), adjusted, METRICS),
            "",
            *(terminal.fitted(sentence, room) for sentence in sentences(found)),
            text_tables.text_table(agreements(found), AGREEMENT),
            terminal.fitted(MEASURES, room),
        ]
    )


def include(text: str, found: Summary) -> str:
    """Return step 7's HTML report with the ratings at its end, instead of earlier ones."""
    rows = [
        {
            "mean over questions": METRICS[name][0],
            "base": d.base,
            "adapter": d.adapter,
            "difference": d.mean,
            "95% interval": _interval(d.low, d.high).strip(),
            "p (Holm)": found["differences"][name]["p_holm"],
        }
        for name, d in _differences(found).items()
    ]
    section = html.render(
        "ratings.html",
        review_items.PAGES,
        start=Markup(_START),
        end=Markup(_END),
        answered=_answered(found),
        comparison=html.table(rows),
        sentences=sentences(found),
        agreements=html.table(agreements(found), AGREEMENT),
        measures=MEASURES,
    )
    before, found_start, rest = text.partition(_START)
    if found_start:
        text = before + rest.partition(f"{_END}\n")[2]
    before, body_end, after = text.rpartition("</body>")
    return f"{before}{section}\n{body_end}{after}"


def _answered(found: Summary) -> str:
    """Return who has answered how many items: "anna 3 of 8, ben 2 of 8"."""
    return ", ".join(
        f"{rater} {n['answered']} of {n['of']}" for rater, n in found["raters"].items()
    )


def sentences(found: Summary) -> list[str]:
    """Return the findings in sentences. Raises ValueError when nothing was answered."""
    win = found["win_rate"]
    if win is None:
        raise ValueError("nothing is answered")
    rate = f"{win['adapter_over_base']:.0%}{_interval(win['low'], win['high'], '.0%')}"
    return [
        f"The adapter's answer was preferred {win['qlora']} times, the base model's {win['base']}, "
        f"neither {win['equal']}: win rate {rate}.",
        *found["statement"],
        f"{found['items']} items, {found['questions']} questions; the unit compared is the "
        "question, raters averaged.",
        f"The left answer was preferred in {_percent(found['left_preferred'])} preferences; it "
        "should be near half.",
        f"Answers whose four marks were set with one key: {_percent(found['marked_at_once'])}. "
        "These say little about the single criteria.",
    ]


def _differences(found: Summary) -> dict[str, Difference]:
    """Return the differences by metric."""
    return {
        name: Difference(**{field: d[field] for field in Difference._fields})
        for name, d in found["differences"].items()
    }


def agreements(found: Summary) -> list[dict[str, str | int]]:
    """Return a row for each agreement: of all raters, of each pair, of each with themselves."""
    between = found["between_raters"]
    all_raters = [
        Measured("all raters", "alpha", on, value["alpha"]) for on, value in between.items()
    ]
    kappas = [
        Measured(pair, "kappa", on, kappa)
        for on, value in between.items()
        for pair, kappa in value.get("kappa", {}).items()
    ]
    kappas += [
        Measured(f"{rater}, seen again", "kappa", on, kappa)
        for rater, values in found["with_oneself"].items()
        for on, kappa in values.items()
    ]
    measured = [*all_raters, *sorted(kappas, key=lambda one: one.who)]
    return [_agreement_row(one) for one in measured if one.found["units"]]


def _agreement_row(one: Measured) -> dict[str, str | int]:
    """Return an agreement as a row of the table."""
    value, interval = "", "too few questions"
    if one.found["clusters"] >= agreement.FEWEST:
        known = one.found["value"]
        value = "undefined" if known is None else f"{known:.2f}"
        interval = _interval(one.found["low"], one.found["high"]).strip()
    return {
        "who": one.who,
        "on": CRITERIA[one.on].label.lower() if one.on in CRITERIA else "better one",
        "measure": one.measure,
        "value": value,
        "95% interval": interval,
        "rated twice": one.found["units"],
    }


def _interval(low: float | None, high: float | None, form: str = ".2f") -> str:
    return "" if low is None else f" [{low:{form}}, {high:{form}}]"


def _percent(share: Share) -> str:
    return "none of 0" if share["share"] is None else f"{share['share']:.0%} of {share['of']}"
