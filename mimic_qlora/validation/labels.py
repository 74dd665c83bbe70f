"""What people say of answers, read without knowing who wrote them, and how far the scorer agrees, arm by arm.

A scorer of patterns may suit the prose of one model better than that of another, which alone makes a difference. So its
sensitivity (how much of what is there it finds) and specificity (how much of what is not there it leaves) are measured
per arm on labelled answers, and differences are corrected for them.
"""

import csv
import hashlib
from pathlib import Path

from mimic_qlora.clinical import content
from mimic_qlora.display import csv_files
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import findings, statistics
from mimic_qlora.validation.scoring import rubric

PER_ARM = 50
# column to fill -> (the scorer's column, what is asked): numbers out of a list, or yes and no
LISTED = {
    "named": (
        "red_flags_named",
        "which of the numbered warning signs the answer names as a reason to get help",
    ),
    "cautions_said": ("said", "which of the numbered cautions the answer says"),
}
ASKED = {
    "plays_down": (
        "reversed",
        "it calls a warning sign harmless, or advises against getting help for one",
    ),
    "forbidden": ("forbidden", "it advises what one of the numbered cautions rules out"),
    "cause": (
        "causes",
        "it names a disease as the cause of the symptom, or as what the person may have",
    ),
    "dose": ("doses", "it gives a dose of a medicine that the chart does not hold"),
}
COLUMNS = (
    "key",
    "question",
    "warning_signs",
    "cautions",
    "answer",
    *LISTED,
    *ASKED,
    "labelled_by",
    "note",
)


def key_of(trial: int, arm: str, answer: str) -> str:
    """What a label is found by: says nothing of the arm to a reader."""
    return hashlib.sha256(f"{trial}\n{arm}\n{answer}".encode()).hexdigest()[:12]


def to_fill(answers: list, questions: list, seed: int = 0, per_arm: int = PER_ARM) -> list:
    """Rows of label.csv with nothing filled in: up to `per_arm` answers of each arm, mixed, without their arm.

    `answers` are dicts with trial, arm, question_id, answer and cautions (ids), as in results.jsonl.
    """
    by_id, by_arm = {q["id"]: q for q in questions}, {}
    for a in answers:
        by_arm.setdefault(a["arm"], {})[key_of(a["trial"], a["arm"], a["answer"])] = a
    chosen = {
        key: found[key]
        for arm, found in by_arm.items()
        for key in seeded.order(found, f"labels:{arm}", seed)[:per_arm]
    }
    rows = []
    for key in seeded.order(chosen, "labels", seed):
        a, question = chosen[key], by_id[chosen[key]["question_id"]]
        rows.append(
            {
                "key": key,
                "question": question["question"],
                "warning_signs": _numbered(flag["name"] for flag in question["red_flags"]),
                "cautions": _numbered(content.load().cautions[i]["say"] for i in a["cautions"]),
                "answer": a["answer"],
            }
        )
    return [{column: row.get(column, "") for column in COLUMNS} for row in rows]


def _numbered(names) -> str:
    return "\n".join(f"{i} {name}" for i, name in enumerate(names, 1))


def write(path: Path, rows: list) -> None:
    """label.csv, for a spreadsheet: what to fill stands on the right."""
    csv_files.write(path, rows, columns=COLUMNS)


def read(path: Path) -> dict:
    """key -> its label: {"named": {1, 3}, ..., "plays_down": True, ...}; rows that nobody filled are left out.

    Raises UserError that names the row and the column of what cannot be read.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [c for c in ("key", *LISTED, *ASKED) if c not in (reader.fieldnames or ())]:
            raise UserError(
                f"{path.name} has no column '{missing[0]}': fill the file that step 7 left"
            )
        rows = list(reader)
    found = {}
    for number, row in enumerate(rows, 2):
        cells = {column: (row[column] or "").strip().lstrip("'") for column in (*LISTED, *ASKED)}
        if any(cells.values()):
            found[row["key"]] = _label(cells, f"{path.name}, row {number}")
    return found


def _label(cells: dict, where: str) -> dict:
    label = {}
    for column, cell in cells.items():
        if column in LISTED:
            numbers = cell.replace(",", " ").replace(";", " ").split()
            if numbers != ["-"] and not all(n.isdigit() for n in numbers):
                raise UserError(
                    f"{where}: {column} is '{cell}': give numbers, like 1 3, or leave it empty for none"
                )
            label[column] = {int(n) for n in numbers if n.isdigit()}
        elif cell.casefold() not in ("", "y", "yes", "1", "n", "no", "0"):
            raise UserError(f"{where}: {column} is '{cell}': give yes or no")
        else:
            label[column] = cell.casefold() in ("y", "yes", "1")
    return label


# ---------------------------------------------------------------- how far the scorer agrees


def judged(answers: list, labelled: dict, questions: list) -> list:
    """One dict per judgement, what people and scorer say of it: {criterion, arm, question_id, person, scorer}.

    `answers` as for `to_fill`, with ended, and prompt or messages. Each sign and each caution counts by itself.
    """
    by_id, found = {q["id"]: q for q in questions}, []
    for a in answers:
        label = labelled.get(key_of(a["trial"], a["arm"], a["answer"]))
        if label is None:
            continue
        question, rules = (
            by_id[a["question_id"]],
            [content.load().cautions[i] for i in a["cautions"]],
        )
        shown = a["prompt"] if "prompt" in a else a["messages"][-1]["content"]
        scores = rubric.rubric(question, rules, a["answer"], a["ended"], shown)
        names = {
            "named": [f["name"] for f in question["red_flags"]],
            "cautions_said": a["cautions"],
        }
        said = {
            "named": scores["red_flags_named"].split("; "),
            "cautions_said": scores["said"].split(),
        }
        about = {"arm": a["arm"], "question_id": a["question_id"]}
        for column in LISTED:
            found += [
                about
                | {
                    "criterion": column,
                    "person": i in label[column],
                    "scorer": name in said[column],
                }
                for i, name in enumerate(names[column], 1)
            ]
        found += [
            about | {"criterion": column, "person": label[column], "scorer": bool(scores[name])}
            for column, (name, _) in ASKED.items()
        ]
    return found


def accuracy(judgements: list, arms: tuple) -> list:
    """A row per criterion: the scorer's sensitivity and specificity in each arm, and the difference between the arms'
    shares as scored, as people say, and as corrected (comparison.corrected). None where nothing tells it."""
    rows = []
    for criterion in (*LISTED, *ASKED):
        row, rates = {"criterion": criterion}, {}
        for arm in arms:
            of_arm = [j for j in judgements if j["criterion"] == criterion and j["arm"] == arm]
            there, absent = (
                [j["scorer"] for j in of_arm if j["person"] is kind] for kind in (True, False)
            )
            rates[arm] = {
                "sensitivity": _share(there),
                "specificity": None if not absent else 1 - _share(absent),
                "scored": _share([j["scorer"] for j in of_arm]),
                "person": _share([j["person"] for j in of_arm]),
            }
            row |= {f"there_{arm}": len(there), f"found_{arm}": sum(there)}
            row |= {f"absent_{arm}": len(absent), f"false_alarms_{arm}": sum(absent)}
        base, other = (rates[arm] for arm in arms)
        row |= {
            f"{name}_{arm}": rates[arm][name]
            for arm in arms
            for name in ("sensitivity", "specificity")
        }
        if base["scored"] is not None and other["scored"] is not None:
            row["difference_scored"] = other["scored"] - base["scored"]
            row["difference_person"] = other["person"] - base["person"]
            row["difference_corrected"] = statistics.corrected(
                row["difference_scored"],
                (base["sensitivity"], other["sensitivity"]),
                (base["specificity"], other["specificity"]),
                base["scored"],
            )
        rows.append(row)
    return rows


def _share(values: list) -> float | None:
    return sum(values) / len(values) if values else None


def shown(rows: list, arms: tuple) -> list:
    """The rows of `accuracy` as a table of 100 columns: found / there, and false alarms / absent."""
    return [
        {
            "criterion": row["criterion"],
            **{f"found, {arm}": _of(row[f"found_{arm}"], row[f"there_{arm}"]) for arm in arms},
            **{
                f"false, {arm}": _of(row[f"false_alarms_{arm}"], row[f"absent_{arm}"])
                for arm in arms
            },
            **{
                name: ""
                if (found := row.get(f"difference_{name}")) is None
                else findings.signed(found)
                for name in ("scored", "person", "corrected")
            },
        }
        for row in rows
    ]


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else "none"
