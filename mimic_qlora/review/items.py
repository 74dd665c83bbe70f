"""What raters judge: each question of step 7 about a patient, with the chart's context and the answers of both arms."""

import re
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart.prompt import split_prompt
from mimic_qlora.display import text as terminal
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import results
from mimic_qlora.validation.arms import PAIR

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
    names = [arm.name for arm in PAIR]
    asked: dict[int, results.Line] = {}
    answers: dict[int, dict[str, str]] = {}
    for line in results.read(folder):
        if line.is_of_pair:  # other arms were shown other prompts
            asked.setdefault(line.trial, line)
            answer = terminal.printable(line.answer).strip() or "(no answer)"
            answers.setdefault(line.trial, {}).setdefault(line.arm, answer)
    items = {}
    for number, given in sorted(answers.items()):
        if all(name in given for name in names):
            line, prompt = asked[number], terminal.printable(asked[number].prompt)
            context, question = split_prompt(prompt)
            both = {name: given[name] for name in names}
            items[number] = Item(number, line.question_id, line.subject_id, question, context, both)
    path = folder / results.FILE
    if not items:
        raise UserError(
            f"{path} holds no question that both {' and '.join(names)} answered: run step 7 again"
        )
    return items, files.file_sha256(path)


def shown(item: Item, swapped: bool) -> tuple:
    """The answers as (A, B)."""
    base, adapter = (item.answers[arm.name] for arm in PAIR)
    return (adapter, base) if swapped else (base, adapter)


def sentences(text: str) -> list:
    """The text in pieces, [(sentence, what separates it from the next)]; joined, they are the text."""
    parts = [*_BREAK.split(text), ""]
    return [(said, gap) for said, gap in zip(parts[::2], parts[1::2], strict=True) if said or gap]
