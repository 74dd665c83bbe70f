"""Step 7's report: one HTML page that needs no network, with every number beside what it rests on."""

import difflib
import html
import re
import time
from pathlib import Path

import yaml
from markupsafe import Markup

from mimic_qlora.clinical import content
from mimic_qlora.display import html as page
from mimic_qlora.llm import finding
from mimic_qlora.qa import session
from mimic_qlora.step.version import VERSION
from mimic_qlora.validation import findings, results, statistics
from mimic_qlora.validation.scoring import rubric

BOTH = tuple(results.ARMS)  # endings of the columns, base first
NAMES = {"base": "Base", "qlora": "Adapter"}
ASSETS = Path(__file__).parent / "report_page"
GROUPS = {
    "kind of question": lambda row: "never trained on" if row["unseen"] else "trained on",
    "sex": lambda row: {"F": "female", "M": "male"}.get(row.get("sex"), "unknown"),
    "age": lambda row: row.get("age_band") or "unknown",
    "question": lambda row: row["question_id"],
}


def reviewed_line(rows: list, questions: list) -> str:
    """How many of the ideals and caution rules that were used a clinician has reviewed: said beside every number."""
    asked = {row["question_id"] for row in rows}
    called_for = {rule for row in rows for rule in row["cautions_called_for"].split()}
    used = {
        "ideals": [question for question in questions if question["id"] in asked],
        "rules": [rule for name, rule in content.load().cautions.items() if name in called_for],
    }
    return f"reviewed by a clinician: {', '.join(content.reviewed_of(part, kind) for kind, part in used.items())}"


def write(
    path: Path,
    lead: list,
    rows: list,
    apart: list,
    compared: tuple,
    notes: list,
    questions: list,
    facts: dict,
) -> None:
    """Write the page. `apart` are the rows of knowledge.csv and records.csv, `compared` is (differences, Holm's p
    values, metrics) as for comparison.table; `notes` are the sentences of summary.txt, `facts` what the checklist is
    filled from."""
    differences, adjusted, metrics = compared
    reviewed = reviewed_line(rows, questions)
    by_id = {q["id"]: q for q in questions}
    grouped = statistics.groups(
        rows, GROUPS, ("rubric", "red_flags", "harmful"), BOTH, rubric.METRICS
    )
    shown, folded = (
        [page.paragraph(note) for note in notes],
        {"caption": reviewed, "folded": "Open the table"},
    )
    small = f"Described, not tested. Groups of fewer than {statistics.SMALL} patients are named, not shown."
    trials = "".join(_trial(row, by_id) for row in rows)
    guide = "Gallifant and others, Nature Medicine 2025. What a run cannot know is left to the authors and says so."
    asked = [name for name in results.APART if any(f"{name}_{BOTH[0]}" in row for row in apart)]
    sections = [
        ("What the comparison shows", [*shown[:2], _table(*compared, reviewed), *shown[2:]]),
        ("By group", [page.paragraph(small), page.table(grouped, **folded)]),
        ("Answers side by side", [_controls(rows), f'<div id="trials">{trials}</div>']),
        *([("Asked apart", [_apart(apart, name, reviewed) for name in asked])] if asked else []),
        (
            "Checklist after TRIPOD-LLM",
            [
                page.table(
                    checklist(facts | {"reviewed": reviewed}), guide, folded="Open the checklist"
                )
            ],
        ),
    ]
    page.write_page(
        path,
        "Base against adapter",
        [*lead, reviewed.capitalize() + "."],
        [page.Section(heading, [Markup(part) for part in parts]) for heading, parts in sections],
        script=(ASSETS / "report.js").read_text(encoding="utf-8"),
    )


def facts(source, rows: list, arms: list, args, primary: str, probed: dict, opened: str) -> dict:
    """What a run knows of itself, for the checklist."""
    alone = ", ".join(f"{ms:.0f} ms a token ({arm})" for arm, ms in probed.items())
    return {
        "data": page.data_line(source.manifest),
        "model": finding.model_name(source.path),
        "fingerprint": finding.fingerprint(source.path),
        "runs": args.run,
        "max_new_tokens": args.max_new_tokens,
        "template": source.settings["template_sha256"][:12],
        "primary": primary,
        "date": time.strftime("%Y-%m-%d"),
        "arms": ", ".join(arm.name for arm in arms),
        "speed": f"Alone, an answer takes {alone}. " if alone else "",
        "plan": opened or "No frozen plan: an exploration of validation patients.",
        "software": VERSION,
        "trials": len(rows),
        "patients": len({row["subject_id"] for row in rows}),
        "questions": len({row["question_id"] for row in rows}),
        "split": rows[0]["split"],
        "seed": args.seed,
        "small": statistics.SMALL,
        "limits": "A scorer of patterns (see benchmarks/README.md for what it misses); one hospital; greedy answers."
        + (
            " Built-in data or model: nothing about patients." if session.trial_only(source) else ""
        ),
    }


def checklist(known: dict) -> list:
    """The items of TRIPOD-LLM as rows of a table, filled from `facts`."""
    items = yaml.safe_load((ASSETS / "checklist.yaml").read_text(encoding="utf-8"))
    return [
        {"item": i["item"], "topic": i["topic"], "in this run": i["here"].format_map(known)}
        for i in items
    ]


# ---------------------------------------------------------------- the comparison


def _table(differences: dict, adjusted: dict, metrics: dict, reviewed: str) -> str:
    head = (
        "mean over questions",
        "base",
        "adapter",
        "difference",
        "95% interval",
        "",
        "effect",
        "p (Holm)",
        "trials",
    )
    ends = [abs(x) for d in differences.values() for x in (d.low, d.high, d.mean) if x is not None]
    reach = max([*ends, 0.01])
    lines = []
    for name, (label, up) in metrics.items():
        d = differences.get(name)
        if d is None:
            lines.append(f"<tr><td>{_text(label)}</td><td colspan=8>no trial has it</td></tr>")
            continue
        cells = [
            f"{d.base:.2f}",
            f"{d.adapter:.2f}",
            findings.signed(d.mean),
            findings.interval(d),
            _drawn(d, reach, up),
            "" if d.effect is None else f"{d.effect:.1f}",
            _text(findings.p_value(adjusted.get(name))),
            str(d.trials),
        ]
        mark = " class=claimed" if name in adjusted else ""
        label += "" if up else " (less is better)"
        lines.append(
            f"<tr{mark}><td>{_text(label)}</td>{''.join(f'<td class=n>{c}</td>' for c in cells)}</tr>"
        )
    return (
        f'<div class="scroll"><table><caption>{_text(reviewed)}. Claims are made about the bold rows only.</caption>'
        f"<thead><tr>{''.join(f'<th scope=col>{h}</th>' for h in head)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _drawn(d: statistics.Difference, reach: float, up: bool) -> str:
    """The interval as a line about zero; right is where the adapter has more."""
    if d.low is None:
        return ""
    low, mean, high = (60 + 55 * max(-1, min(1, x / reach)) for x in (d.low, d.mean, d.high))
    told, color = "the interval does not hold 0", "#20639b" if (d.mean > 0) == up else "#d1691f"
    if d.low <= 0 <= d.high:
        told, color = "the interval holds 0", "#767676"
    return (
        f'<svg viewBox="0 0 120 14" width="120" height="14" role="img" aria-label="{told}">'
        '<path d="M60 0V14" stroke="#8a8a8a"/>'
        f'<path d="M{low:.1f} 7H{high:.1f}" stroke="#1b1b1b" stroke-width="2"/>'
        f'<circle cx="{mean:.1f}" cy="7" r="4" fill="{color}"/></svg>'
    )


# ---------------------------------------------------------------- side by side


def _controls(rows: list) -> str:
    options = "".join(
        f"<option>{_text(q)}</option>" for q in dict.fromkeys(row["question_id"] for row in rows)
    )
    return (
        '<form id="filter" onsubmit="return false"><input type="search" id="words" placeholder="words (press /)" '
        'aria-label="Show trials with these words"> <select id="question" aria-label="Show one question">'
        f'<option value="">all questions</option>{options}</select> <select id="kind" aria-label="Show one kind">'
        '<option value="">all trials</option><option value="better">adapter better</option>'
        '<option value="worse">adapter worse</option><option value="harm">unsafe advice</option>'
        '<option value="missed">a caution missed</option><option value="unseen">never trained on</option></select> '
        '<label><input type="checkbox" id="differ"> mark words of its own (d)</label> '
        '<output id="count"></output></form>'
        '<p class="lead keys">Keys: j and k next and previous, / search, d differences, Esc everything.</p>'
    )


def _trial(row: dict, by_id: dict) -> str:
    question = by_id[row["question_id"]]
    scores = [row.get(f"rubric_{arm}") for arm in BOTH]
    kinds = [
        *(["better"] if scores[1] > scores[0] else ["worse"] if scores[1] < scores[0] else []),
        *(["harm"] if any(row.get(f"harmful_{arm}") for arm in BOTH) else []),
        *(["missed"] if any(row.get(f"cautions_{arm}") not in (None, 1) for arm in BOTH) else []),
        *(["unseen"] if row["unseen"] else []),
    ]
    asked, reach = _criteria(row, question), 'class="arm"'
    others = [arm for arm in _arms(row) if arm not in BOTH]
    texts = [
        f"<div {reach}><h4>{NAMES[arm]}</h4>{_answer(row, arm, question)}</div>" for arm in BOTH
    ]
    texts.append(
        f"<div {reach}><h4>Ideal, for a chart that calls for nothing</h4><p>{_lines(row['ideal'])}</p></div>"
    )
    more = "".join(
        f"<h4>{_text(arm.replace('qlora', 'adapter', 1))}</h4>{_answer(row, arm, question)}"
        for arm in others
    )
    return (
        f'<article class="trial" tabindex="-1" data-question="{_text(row["question_id"])}" '
        f'data-kinds="{" ".join(kinds)}">'
        f"<h3>{row['trial']}. {_text(row['question'])}</h3>"
        f"<details><summary>Chart as the model got it (patient {row['subject_id']}, {_text(row['as_of'])})</summary>"
        f"<p>{_lines(row['prompt'])}</p></details>{asked}<div class='arms'>{''.join(texts)}</div>"
        + (f"<details><summary>Further arms</summary>{more}</details>" if more else "")
        + "</article>"
    )


def _arms(row: dict) -> list:
    return [name.removesuffix("_answer") for name in row if name.endswith("_answer")]


def _criteria(row: dict, question: dict) -> str:
    """What was asked of the answer, a row each, with what each arm did."""
    lines = []
    for flag in question["red_flags"]:
        lines.append(
            (f"warning sign: {flag['name']}", 1, [_flag(row, arm, flag["name"]) for arm in BOTH])
        )
    for name in row["cautions_called_for"].split():
        rule = content.load().cautions.get(name)
        told = (
            f"{rule['say']}{' (rule never trained on)' if rule['held_out'] else ''}"
            if rule
            else name
        )
        lines.append(
            (
                f"caution: {told}",
                rule["severity"] if rule else "",
                [_caution(row, arm, name) for arm in BOTH],
            )
        )
    for column, text in (("causes", "names no cause"), ("doses", "invents no dose")):
        given = [
            ("kept", "yes") if not row.get(f"{column}_{arm}") else ("broken", "NO") for arm in BOTH
        ]
        lines.append((text, "-1 if not", given))
    body = "".join(
        f"<tr><td>{_text(text)}</td><td class=n>{worth}</td>{''.join(f'<td class={c}>{t}</td>' for c, t in given)}</tr>"
        for text, worth, given in lines
    )
    totals = "".join(f"<td>{row[f'rubric_{arm}']:.2f}</td>" for arm in BOTH)
    heads = "".join(f"<th scope=col>{NAMES[arm].lower()}</th>" for arm in BOTH)
    return (
        "<table class=criteria><thead><tr><th scope=col>what a good answer does</th><th scope=col class=n>points</th>"
        f"{heads}</tr></thead><tbody>{body}<tr class=claimed><td>rubric</td><td></td>{totals}</tr></tbody></table>"
    )


def _flag(row: dict, arm: str, name: str) -> tuple:
    said = {
        "named": ("kept", "named"),
        "reversed": ("broken", "PLAYED DOWN"),
        "hedged": ("missed", "left to the reader"),
    }
    found = (
        mark
        for way, mark in said.items()
        if name in row.get(f"red_flags_{way}_{arm}", "").split("; ")
    )
    return next(found, ("missed", "not named"))


def _caution(row: dict, arm: str, name: str) -> tuple:
    if name in row[f"forbidden_given_{arm}"].split():
        return "broken", "ADVISED AGAINST IT"
    return ("kept", "said") if name in row[f"said_{arm}"].split() else ("missed", "not said")


def _answer(row: dict, arm: str, question: dict) -> str:
    """An answer with the words that its marks rest on, and those that the other of the pair lacks."""
    text = row[f"{arm}_answer"]
    named = row.get(f"red_flags_named_{arm}", "").split("; ")
    patterns = [(f["pattern"], "hit") for f in question["red_flags"] if f["name"] in named]
    for name in row.get(f"said_{arm}", "").split():
        patterns += [(p, "hit") for p in content.load().cautions[name]["pattern"]]
    patterns += [(p, "harm") for p in rubric.harm_patterns(row, arm)]
    marks = {}
    for pattern, kind in patterns:
        for found in re.finditer(pattern, text, re.IGNORECASE):
            marks.update(dict.fromkeys(range(*found.span()), kind))
    other = row.get(f"{BOTH[1 - BOTH.index(arm)]}_answer", "") if arm in BOTH else text
    marked = _marked(text, marks, _lacking(text, other))
    cut = (
        f" <span class=cut>cut at {row[f'len_{arm}']} tokens</span>"
        if row.get(f"cut_{arm}")
        else ""
    )
    return f"<p>{marked}{cut}</p>"


def _lacking(text: str, other: str) -> set:
    """Places of the characters in `text` whose words the other text does not have in that order."""
    pieces = [[m.span() for m in re.finditer(r"\w+|[^\w\s]", t)] for t in (text, other)]
    words = [
        [t[a:b].casefold() for a, b in spans]
        for t, spans in zip((text, other), pieces, strict=True)
    ]
    alike = difflib.SequenceMatcher(None, *words, autojunk=False).get_matching_blocks()
    shared = {i for block in alike for i in range(block.a, block.a + block.size)}
    return {at for i, (a, b) in enumerate(pieces[0]) if i not in shared for at in range(a, b)}


def _marked(text: str, marks: dict, lacking: set) -> str:
    """The text as HTML, each run of characters of one kind in a span of that class."""
    parts, start = [], 0

    def kind(at):
        return " ".join(filter(None, (marks.get(at), "own" if at in lacking else "")))

    for at in range(1, len(text) + 1):
        if at == len(text) or kind(at) != kind(start):
            piece = _lines(text[start:at])
            parts.append(f'<span class="{kind(start)}">{piece}</span>' if kind(start) else piece)
            start = at
    return "".join(parts)


def _apart(rows: list, measure: str, reviewed: str) -> str:
    label = results.APART[measure][0]
    asked = [
        {
            "question": row["question"],
            **({} if measure == "key_points" else {"right": row["ideal"]}),
            **{f"score, {NAMES[arm].lower()}": row[f"{measure}_{arm}"] for arm in BOTH},
            **{NAMES[arm].lower(): row[f"{arm}_answer"] for arm in BOTH},
        }
        for row in rows
        if f"{measure}_{BOTH[0]}" in row
    ]
    return page.table(
        asked, f"{label}; {reviewed}", folded=f"Open the answers: {label.partition(':')[0]}"
    )


def _text(text) -> str:
    return html.escape(str(text), quote=True)


def _lines(text: str) -> str:
    return _text(text).replace("\n", "<br>")
