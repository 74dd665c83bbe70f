"""The items that raters judge: a question about a patient, the context, both arms' answers."""

import re
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart.prompt import split_prompt
from mimic_qlora.display import text as terminal
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import results
from mimic_qlora.validation.arms import PAIR

PAGES = Path(__file__).parent / "pages"
# A full stop ends a sentence after two letters, two digits, a bracket or a quotation mark: not in
# "e.g.", "2." or "B."
_BREAK = re.compile(
    r"((?<=[!?])\s+|(?:(?<=[^\W\d]{2}\.)|(?<=\d\d\.)|(?<=[\])\"'”’]\.)|(?<=\.[\"”]))\s+|\n\s*)"
)


class Item(NamedTuple):
    """One item to judge; `answers` maps "base" and "adapter" to the text that each gave.

    Question and patient are clusters in statistics; `subject_id` is on no page.
    """

    number: int
    question_id: str
    subject_id: int | None
    question: str
    context: str
    answers: dict[str, str]


class Items(NamedTuple):
    """The items of a results folder by number, and the SHA-256 of its results.jsonl."""

    items: dict[int, Item]
    sha256: str


def read(folder: Path) -> Items:
    """Return the items of step 7's results; trials that lack an arm are left out.

    Raises UserError if they cannot be read, or if nothing is left.
    """
    names = [arm.name for arm in PAIR]
    asked: dict[int, results.Line] = {}
    answers: dict[int, dict[str, str]] = {}
    for line in results.read(folder):
        if line.is_of_pair:  # other arms were shown other prompts
            asked.setdefault(line.trial, line)
            answer = _whole(line) or "(no answer)"
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
    return Items(items, files.file_sha256(path))


def _whole(line: results.Line) -> str:
    """Return an answer; one that ran out of tokens ends with its last whole word, and says so."""
    answer = terminal.printable(line.answer).strip()
    if line.ended or not answer:
        return answer
    limit = f" at {line.n_tokens} tokens" if line.n_tokens else ""
    kept = re.sub(r"(?<=\s)\S+$", "", answer).rstrip()
    return f"{kept} … [cut{limit}]"


def shown(item: Item, swapped: bool) -> tuple[str, str]:
    """Return the answers as (A, B)."""
    base, adapter = item.answers[PAIR[0].name], item.answers[PAIR[1].name]
    return (adapter, base) if swapped else (base, adapter)


def sentences(text: str) -> list[tuple[str, str]]:
    """Return the text in pieces (sentence, gap before the next); joined, they are the text."""
    parts = [*_BREAK.split(text), ""]
    return [(said, gap) for said, gap in zip(parts[::2], parts[1::2], strict=True) if said or gap]
