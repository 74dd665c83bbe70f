"""What raters judge: each question of step 7 about a patient, with the chart's context and the answers of both arms."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.display import text as terminal
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import results

FILE = "results.jsonl"
# a full stop ends a sentence after two letters, two digits, a bracket or a quotation mark: not in "e.g.", "2." or "B."
_BREAK = re.compile(
    r"((?<=[!?])\s+|(?:(?<=[^\W\d]{2}\.)|(?<=\d\d\.)|(?<=[\])\"'”’]\.)|(?<=\.[\"”]))\s+|\n\s*)"
)


class Item(NamedTuple):
    """`answers` maps "base" and "adapter" to the text that each gave. Question and patient are clusters in statistics;
    `subject_id` is on no page.
    """

    number: int
    question_id: str
    subject_id: int | None
    question: str
    context: str
    answers: dict


def read(folder: Path) -> tuple:
    """({number: Item}, SHA-256 of the file). Trials that lack an arm are left out. UserError if unreadable."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: give step 7's results folder with --results")
    arms, found = list(results.ARMS.values()), {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["kind"] == "trial" and row["arm"] in arms:  # other arms were shown other prompts
                context, _, question = terminal.printable(
                    row["messages"][-1]["content"]
                ).rpartition("\n\nQuestion\n")
                _, _, answers = found.setdefault(
                    row["trial"],
                    ((row["question_id"], row.get("subject_id"), question), context, {}),
                )
                answers.setdefault(
                    row["arm"], terminal.printable(row["answer"]).strip() or "(no answer)"
                )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UserError(
            f"{path} cannot be read: run step 7 again, or give another folder with --results"
        ) from None
    items = {
        number: Item(number, *asked, context, {arm: answers[arm] for arm in arms})
        for number, (asked, context, answers) in sorted(found.items())
        if all(arm in answers for arm in arms)
    }
    if not items:
        raise UserError(
            f"{path} holds no question that both {' and '.join(arms)} answered: run step 7 again"
        )
    return items, files.file_sha256(path)


def shown(item: Item, swapped: bool) -> tuple:
    """The answers as (A, B)."""
    base, adapter = (item.answers[arm] for arm in results.ARMS.values())
    return (adapter, base) if swapped else (base, adapter)


def sentences(text: str) -> list:
    """The text in pieces, [(sentence, what separates it from the next)]; joined, they are the text."""
    parts = [*_BREAK.split(text), ""]
    return [(said, gap) for said, gap in zip(parts[::2], parts[1::2], strict=True) if said or gap]
