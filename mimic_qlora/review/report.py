"""What the marks show once it is known who wrote what: win rate, marks, agreement. Only this module unblinds."""

import itertools
import textwrap

from mimic_qlora.display import html, text_tables
from mimic_qlora.review import agreement, assignment
from mimic_qlora.review import items as review_items
from mimic_qlora.review import store as ratings
from mimic_qlora.validation import findings, statistics
from mimic_qlora.validation.arms import PAIR

AGREEMENT = "Agreement (1 full, 0 as by chance), with intervals over questions"
MEASURES = (
    "alpha: Krippendorff's (nominal for the better one, ordinal for marks); kappa: Cohen's (quadratic for marks). "
    "A mark is of one answer, so an item has two."
)
ARMS = tuple(arm.column for arm in PAIR)  # the endings of columns, base first
NAMES = {arm.column: arm.name for arm in PAIR}
METRICS = {
    "win": ("preference (equal: half)", True),
    **{name: (f"{words[0].lower()} (1 to 5)", True) for name, words in ratings.CRITERIA.items()},
    "harmful": ("a sentence marked harmful", False),
}


def unblind(store: ratings.Ratings, items: dict) -> list:
    """A row per rater and answered item, as in ratings.csv: marks by arm, not by side. `again`: seen before."""
    rows = []
    for rater in store.raters():
        answered, marks = set(store.answered(rater)), store.all_marks(rater)
        for task in store.tasks(rater):
            if task.position in answered:
                rows.append(_row(rater, task, items[task.item], marks[task.position]))
    return rows


def _row(rater: str, task: assignment.Task, item: review_items.Item, marks: dict) -> dict:
    """`marks` maps a field to (value, made for all four criteria at once)."""
    side_of = dict(zip(ARMS, ratings.SIDES[::-1] if task.swapped else ratings.SIDES, strict=True))
    better = marks["better"][0]
    row = {
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
        row[f"win_{arm}"] = 0.5 if better == "equal" else float(better == side)
        row |= {f"{name}_{arm}": int(marks[f"{side}_{name}"][0]) for name in ratings.CRITERIA}
        said = review_items.sentences(item.answers[NAMES[arm]])
        numbers = [int(n) for n in marks.get(f"{side}_harm", ("",))[0].split()]
        row[f"harmful_{arm}"] = float(bool(numbers))
        row[f"harmful_sentences_{arm}"] = "\n".join(
            said[n - 1][0] for n in numbers if 0 < n <= len(said)
        )
        row[f"at_once_{arm}"] = float(all(marks[f"{side}_{name}"][1] for name in ratings.CRITERIA))
    return row | {"comment": marks.get("comment", ("",))[0]}


def summarize(rows: list, tasks: dict) -> dict:
    """What ratings_report.json holds. `tasks` maps a rater to all of their Tasks."""
    first = [row for row in rows if not row["again"]]
    by_item = {}
    for row in first:
        by_item.setdefault(row["trial"], []).append(row)
    means = [
        {"question_id": group[0]["question_id"], "subject_id": group[0]["subject_id"]}
        | {
            f"{m}_{arm}": sum(row[f"{m}_{arm}"] for row in group) / len(group)
            for m in METRICS
            for arm in ARMS
        }
        for group in by_item.values()
    ]
    found = statistics.compare(means, METRICS, PAIR)
    adjusted = statistics.holm({name: difference.p for name, difference in found.items()})
    win = found.get("win")
    return {
        "raters": {
            rater: {"answered": sum(row["rater"] == rater for row in rows), "of": len(given)}
            for rater, given in tasks.items()
        },
        "items": len(by_item),
        "questions": len({row["question_id"] for row in first}),
        "win_rate": win
        and {
            "adapter_over_base": win.adapter,
            "low": None if win.low is None else max(0.0, 0.5 + win.low / 2),
            "high": None if win.high is None else min(1.0, 0.5 + win.high / 2),
            "p": win.p,
            **{value: sum(row["better"] == value for row in first) for value in (*ARMS, "equal")},
        },
        "differences": {
            name: {**d._asdict(), "p_holm": adjusted[name]} for name, d in found.items()
        },
        "statement": findings.statement(found, adjusted, METRICS) if found else [],
        "between_raters": _between(by_item.values()),
        "with_oneself": _with_oneself(rows),
        "left_preferred": _share(
            [float(row["better"] == row["answer_a"]) for row in rows if row["better"] != "equal"]
        ),
        "marked_at_once": _share([row[f"at_once_{arm}"] for row in rows for arm in ARMS]),
    }


def _between(groups) -> dict:
    """Agreement between raters on items that two or more answered: alpha over all of them, kappa of each pair."""
    groups = [group for group in groups if len(group) > 1]
    preference = [([row["better"] for row in group], group[0]["question_id"]) for group in groups]
    found = {"better": {"alpha": _alpha(preference, [*ARMS, "equal"], "nominal")}}
    for name in ratings.CRITERIA:
        units = [
            ([row[f"{name}_{arm}"] for row in g], g[0]["question_id"])
            for g in groups
            for arm in ARMS
        ]
        found[name] = {"alpha": _alpha(units, [1, 2, 3, 4, 5], "ordinal")}
    by_rater = [({row["rater"]: row for row in group}, group[0]["question_id"]) for group in groups]
    names = list(dict.fromkeys(rater for raters, _ in by_rater for rater in raters))
    for one, other in itertools.combinations(names, 2):
        both = [
            (raters[one], raters[other])
            for raters, _ in by_rater
            if one in raters and other in raters
        ]
        for name, value in _kappas(both).items():
            found[name].setdefault("kappa", {})[f"{one} and {other}"] = value
    return found


def _with_oneself(rows: list) -> dict:
    """Cohen's kappa of each rater's first and second marks of the items that came again."""
    found = {}
    for rater in dict.fromkeys(row["rater"] for row in rows):
        first = {row["trial"]: row for row in rows if row["rater"] == rater and not row["again"]}
        second = [
            row for row in rows if row["rater"] == rater and row["again"] and row["trial"] in first
        ]
        found[rater] = _kappas([(first[row["trial"]], row) for row in second])
    return found


def _kappas(pairs: list) -> dict:
    """Kappa on the preference and, quadratically weighted, on each criterion, over pairs of rows on the same item."""
    questions = [one["question_id"] for one, _ in pairs]
    better = [(one["better"], other["better"]) for one, other in pairs]
    found = {"better": agreement.kappa(better, [*ARMS, "equal"], None, questions)._asdict()}
    for name in ratings.CRITERIA:
        marks = [
            (one[f"{name}_{arm}"], other[f"{name}_{arm}"]) for arm in ARMS for one, other in pairs
        ]
        found[name] = agreement.kappa(
            marks, [1, 2, 3, 4, 5], "quadratic", questions * len(ARMS)
        )._asdict()
    return found


def _alpha(units: list, values: list, level: str) -> dict:
    return agreement.alpha(
        [u for u, _ in units], values, level, [question for _, question in units]
    )._asdict()


def _share(values: list) -> dict:
    return {"share": sum(values) / len(values) if values else None, "of": len(values)}


# ---------------------------------------------------------------- in words


def text(found: dict) -> str:
    """The report for a terminal of 100 columns."""
    done = ", ".join(
        f"{rater} {n['answered']} of {n['of']}" for rater, n in found["raters"].items()
    )
    lines = [f"Answered: {done or 'nobody has begun'}"]
    if not found["items"]:
        return "\n".join([*lines, "Nothing is answered yet, so there is nothing to compare."])
    differences, adjusted = _differences(found)
    paragraphs = [
        findings.table(differences, adjusted, METRICS),
        *(textwrap.fill(sentence, 100) for sentence in sentences(found)),
        text_tables.text_table(agreements(found), AGREEMENT),
        textwrap.fill(MEASURES, 100),
    ]
    return "\n".join([*lines, "", paragraphs[0], "", *paragraphs[1:]])


def include(text: str, found: dict) -> str:
    """Step 7's HTML report with the ratings before its end, in the place of those of an earlier report."""
    differences, _ = _differences(found)
    rows = [
        {
            "mean over questions": METRICS[name][0],
            "base": d.base,
            "adapter": d.adapter,
            "difference": d.mean,
            "95% interval": _interval(d.low, d.high).strip(),
            "p (Holm)": found["differences"][name]["p_holm"],
        }
        for name, d in differences.items()
    ]
    done = ", ".join(
        f"{rater} {n['answered']} of {n['of']}" for rater, n in found["raters"].items()
    )
    parts = [html.paragraph(f"Blind ratings; answered: {done}."), html.table(rows)]
    parts += [html.paragraph(sentence) for sentence in sentences(found)]
    parts += [html.table(agreements(found), AGREEMENT), html.paragraph(MEASURES)]
    start, end = "<!-- ratings -->", "<!-- end of ratings -->"
    section = (
        f"{start}\n<section><h2>Judged blind by people</h2>{''.join(parts)}</section>\n{end}\n"
    )
    before, found_start, rest = text.partition(start)
    if found_start:
        text = before + rest.partition(f"{end}\n")[2]
    before, body_end, after = text.rpartition("</body>")
    return before + section + body_end + after


def sentences(found: dict) -> list:
    """What the ratings show, in words."""
    win = found["win_rate"]
    return [
        f"The adapter's answer was preferred {win['qlora']} times, the base model's {win['base']}, neither "
        f"{win['equal']}: win rate {win['adapter_over_base']:.0%}{_interval(win['low'], win['high'], '.0%')}.",
        *found["statement"],
        f"{found['items']} items, {found['questions']} questions; the unit compared is the question, raters averaged.",
        f"The left answer was preferred in {_percent(found['left_preferred'])} preferences; it should be near half.",
        f"Answers whose four marks were set with one key: {_percent(found['marked_at_once'])}. These say little about "
        "the single criteria.",
    ]


def _differences(found: dict) -> tuple:
    """({metric: Difference}, {metric: Holm's p}) from what ratings_report.json holds."""
    fields = statistics.Difference._fields
    differences = {
        name: statistics.Difference(*(d[f] for f in fields))
        for name, d in found["differences"].items()
    }
    return differences, {name: d["p_holm"] for name, d in found["differences"].items()}


def agreements(found: dict) -> list:
    """A row for each agreement: of all raters (alpha), of each pair and of each rater with themselves (kappa)."""
    measured = [
        ("all raters", "alpha", name, value["alpha"])
        for name, value in found["between_raters"].items()
    ]
    for name, value in found["between_raters"].items():
        measured += [(pair, "kappa", name, k) for pair, k in value.get("kappa", {}).items()]
    for rater, values in found["with_oneself"].items():
        measured += [(f"{rater}, seen again", "kappa", name, k) for name, k in values.items()]
    return [
        {
            "who": who,
            "on": ratings.CRITERIA.get(name, ("Better one",))[0].lower(),
            "measure": measure,
            "value": ""
            if few
            else "undefined"
            if value["value"] is None
            else f"{value['value']:.2f}",
            "95% interval": "too few questions"
            if few
            else _interval(value["low"], value["high"]).strip(),
            "rated twice": value["units"],
        }
        for who, measure, name, value in sorted(
            measured, key=lambda row: row[0] if row[1] == "kappa" else ""
        )
        if value["units"]
        for few in [value["clusters"] < agreement.FEWEST]
    ]


def _interval(low: float | None, high: float | None, form: str = ".2f") -> str:
    return "" if low is None else f" [{low:{form}}, {high:{form}}]"


def _percent(share: dict) -> str:
    return "none of 0" if share["share"] is None else f"{share['share']:.0%} of {share['of']}"
