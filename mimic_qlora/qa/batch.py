"""Answers to many questions at once: a file of JSON lines in, a line of JSON for each out."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mimic_qlora.display import text as terminal
from mimic_qlora.llm import generation
from mimic_qlora.qa import patient, session, transcript
from mimic_qlora.qa.patient import Patient
from mimic_qlora.qa.session import Answerer
from mimic_qlora.step import plain_text
from mimic_qlora.step.errors import UserError


class Question(NamedTuple):
    """A question about a patient, with nothing asked before."""

    patient: Patient
    text: str


class Line(NamedTuple):
    """A line of --batch, counted from 1."""

    number: int
    text: str


def answer(
    answerer: Answerer,
    questions: list[Question],
    on_batch: Callable[[int], object] | None = None,
) -> list[dict[str, generation.Answer]]:
    """Return {arm: answer} for each question; `on_batch` is called with the number of answers just
    generated.
    """
    turns = [question.patient.turns(answerer.session, question.text) for question in questions]
    return session.generate(answerer, turns, on_batch)


def answer_one(answerer: Answerer, question: Question, as_json: bool) -> None:
    """Print the answers to one question, as text or as a line of JSON, and keep the transcript."""
    started = time.perf_counter()
    (answers,) = answer(answerer, [question])
    seconds = round(time.perf_counter() - started, 2)
    given = transcript.replies(answers)
    entry = transcript.entry(answerer, question.patient, question.text, given, seconds)
    if as_json:
        # ASCII: no character of an answer reaches the terminal as it is
        print(json.dumps(entry.as_dict()))
    else:
        print(patient.describe(question.patient))
        print(f"Question\n{terminal.printable(question.text)}")
        for arm, reply in given.items():
            cut = "" if reply.ended else f"\n[cut at {answerer.max_new_tokens} tokens]"
            print(f"\n--- {arm} ---\n{terminal.printable(reply.text)}{cut}")
    print(f"\nSaved {transcript.save(answerer.session.store, [entry])}", file=sys.stderr)


def bar(answerer: Answerer, questions: int) -> tqdm:
    """Return a progress bar over the answers of all arms to so many questions."""
    total = questions * len(answerer.arms)
    return tqdm(total=total, desc="answers", smoothing=0, disable=None, leave=False)


def read_lines(path: str) -> list[Line]:
    """Return the lines of --batch that are not empty; "-" reads standard input.

    Lines end where JSON Lines end, not at other breaks, which may stand in a string. A byte that is
    not UTF-8 is kept as a surrogate, for its own line to fail. Raises UserError for a file that
    cannot be read.
    """
    try:
        data = plain_text.in_utf8(_standard_input() if path == "-" else Path(path).read_bytes())
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is cut or damaged UTF-16"
        raise UserError(f"--batch {path} cannot be read ({reason})") from None
    lines = enumerate(data.splitlines(), 1)  # of bytes: at \n and \r alone
    texts = ((number, line.decode("utf-8", "surrogateescape")) for number, line in lines)
    return [Line(number, text) for number, text in texts if text.strip()]


def _standard_input() -> bytes:
    """Return all of standard input, whatever the locale says of its encoding."""
    return sys.stdin.buffer.read()


def parse(answerer: Answerer, line: str) -> Question:
    """Return the question of a line. Raises UserError that says what is wrong with the line."""
    if not plain_text.is_whole(line):
        raise UserError("this is not UTF-8 text: save the file as UTF-8")
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError("this is not JSON") from None
    text = asked.get("question") if isinstance(asked, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            'a line is {"subject_id": number, "question": "..."}, with "as_of" if you like'
        )
    if not plain_text.is_whole(text):
        raise UserError("the question holds half of a character, \\ud800 to \\udfff")
    as_of = patient.parse_time(asked["as_of"]) if asked.get("as_of") else None
    found = patient.find(answerer.session, asked.get("subject_id"), as_of)
    question = Question(found, text.strip())
    turns = found.turns(answerer.session, question.text)
    session.check_room(answerer.session, [turns], answerer.max_new_tokens)
    return question


def run(answerer: Answerer, lines: list[Line]) -> int:
    """Print an answer to each line, in the same order, and keep a transcript. Returns how many
    lines failed.
    """
    entries: list[transcript.Entry] = []
    # so many lines at a time that questions of similar length can share a batch
    size = 4 * answerer.batch_size
    try:
        with bar(answerer, len(lines)) as shown:
            for start in range(0, len(lines), size):
                part = lines[start : start + size]
                answered, errors = _answer_part(answerer, part, shown)
                entries += answered.values()
                for number, _ in part:
                    reply = errors[number] if number in errors else answered[number].as_dict()
                    print(json.dumps({"line": number, **reply}), flush=True)
    finally:  # Ctrl-C or a reader that has gone costs no answer that was given
        if entries:
            print(f"Saved {transcript.save(answerer.session.store, entries)}", file=sys.stderr)
    failed = len(lines) - len(entries)
    if failed:
        print(f"{failed} of {len(lines)} lines could not be answered", file=sys.stderr)
    return failed


def _answer_part(
    answerer: Answerer, lines: list[Line], shown: tqdm
) -> tuple[dict[int, transcript.Entry], dict[int, dict[str, str]]]:
    """Return the entries of the lines that could be answered, and {"error": ...} of the others, by
    line number.
    """
    questions: dict[int, Question] = {}
    errors: dict[int, dict[str, str]] = {}
    for number, line in lines:
        try:
            questions[number] = parse(answerer, line)
        except UserError as error:
            errors[number] = {"error": str(error)}
    shown.update(len(errors) * len(answerer.arms))
    given = answer(answerer, [*questions.values()], shown.update) if questions else []
    answered = {
        number: transcript.entry(answerer, asked.patient, asked.text, transcript.replies(answers))
        for (number, asked), answers in zip(questions.items(), given, strict=True)
    }
    return answered, errors
