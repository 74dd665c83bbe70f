"""Answers to many questions at once: a file of JSON lines in, a line of JSON for each out."""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mimic_qlora.display import text as terminal
from mimic_qlora.llm import generation
from mimic_qlora.processes import entries
from mimic_qlora.processes.entries import Journal, Work
from mimic_qlora.processes.meeting import Team
from mimic_qlora.qa import patient, session, transcript
from mimic_qlora.qa.patient import Patient
from mimic_qlora.qa.session import Answerer, Turn
from mimic_qlora.step import files, plain_text, storage
from mimic_qlora.step.errors import UserError

FIELDS = ("subject_id", "question", "as_of")  # of a line of --batch


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
    cannot be read or holds no line.
    """
    try:
        data = plain_text.in_utf8(_standard_input() if path == "-" else Path(path).read_bytes())
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is cut or damaged UTF-16"
        raise UserError(f"--batch {path} cannot be read ({reason})") from None
    lines = enumerate(data.splitlines(), 1)  # of bytes: at \n and \r alone
    texts = ((number, line.decode("utf-8", "surrogateescape")) for number, line in lines)
    found = [Line(number, text) for number, text in texts if text.strip()]
    if not found:
        raise UserError(f"--batch {path} holds no line: there is nothing to answer")
    return found


def _standard_input() -> bytes:
    """Return all of standard input, whatever the locale says of its encoding."""
    return sys.stdin.buffer.read()


def parse(answerer: Answerer, line: str) -> Question:
    """Return the question of a line. Raises UserError that says what is wrong with the line."""
    if not plain_text.is_whole(line):
        raise UserError("this is not UTF-8 text: save the file as UTF-8")
    objects: list[list[tuple[str, Any]]] = []  # that end one after the other, the line's own last

    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        objects.append(pairs)
        return dict(pairs)

    try:
        asked = json.loads(line, object_pairs_hook=kept)
    except (ValueError, RecursionError):
        raise UserError("this is not JSON") from None
    if isinstance(asked, dict):
        _check_names([name for name, _ in objects[-1]])
    text = asked.get("question") if isinstance(asked, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            'a line is {"subject_id": number, "question": "..."}, with "as_of" if you like'
        )
    if not plain_text.is_whole(text):
        raise UserError("the question holds half of a character, \\ud800 to \\udfff")
    given = asked.get("as_of")
    as_of = None if given in (None, "") else patient.parse_time(given)
    found = patient.find(answerer.session, asked.get("subject_id"), as_of)
    question = Question(found, text.strip())
    turns = found.turns(answerer.session, question.text)
    session.check_room(answerer.session, [turns], answerer.max_new_tokens)
    return question


def _check_names(names: list[str]) -> None:
    """Raise UserError where a line gives a field twice, or one of ours under another name.

    Of two equal keys JSON keeps the last, and other keys are the user's own: the question, or the
    time, would be another one than was asked for.
    """
    for name, n in Counter(names).items():
        if n > 1:
            raise UserError(f"it gives {name[:40]} twice: keep one of the two")
        bare = re.sub(r"[\W_]", "", name).lower()
        meant = next((field for field in FIELDS if field.replace("_", "") == bare), name)
        if meant != name:
            raise UserError(f"'{name[:40]}' is not read: write {meant}")


@contextmanager
def journal(answerer: Answerer, lines: list[Line], team: Team) -> Iterator[Journal]:
    """Yield the journal of these lines and of who answers them; it is gone when all are answered.

    Raises UserError where another run answers the same, or a process of this one something else.
    """
    identity = session.identity(answerer.session, [answerer.run] if answerer.has_adapter else [])
    asked = [answerer.arms, answerer.max_new_tokens, answerer.batch_size, lines]
    folder = files.private_folder(files.private_folder(answerer.session.store / "qa") / ".answers")
    path = folder / f"{files.digest([identity, asked])}.jsonl"
    with storage.locked(path, "qa") if team.is_first else nullcontext():
        if team.is_first:
            entries.begin(path, identity, anew=False)
        team.meet(
            {
                "kind of GPU": identity.pop("device"),
                "version of the software": files.digest(identity.pop("versions")),
                "model or adapter": files.digest(identity),
                "file of questions, or set of arguments": files.digest(asked),
            }
        )
        try:
            yield Journal(path, team)
            team.meet({})  # all have read what the others made
        finally:
            if team.is_first:
                entries.gather(path)
        if team.is_first:
            path.unlink()
            with suppress(OSError):  # Windows removes no open file
                path.with_name(f".{path.name}.lock").unlink()


@dataclass
class _Part:
    """Lines that are answered together, the questions in them, and what is known of them so far.

    `talks` has a conversation for each question and arm, `answers` those of their places.
    """

    lines: list[Line]
    questions: dict[int, Question]  # by line number, as the errors
    errors: dict[int, dict[str, str]]
    talks: list[list[Turn]]
    answers: dict[int, generation.Answer] = field(default_factory=dict)

    @property
    def is_answered(self) -> bool:
        """Tell whether all of it is answered."""
        return len(self.answers) == len(self.talks)


class _Batch(NamedTuple):
    """Prompts, as token ids, that are answered together, and who answers each."""

    prompts: list[list[int]]
    who: list[str]

    def answered(self, answerer: Answerer) -> list[generation.Answer]:
        """Return an answer to each prompt."""
        given, _ = generation.answer(
            answerer.model,
            answerer.session.tokenizer,
            self.prompts,
            self.who,
            answerer.max_new_tokens,
            answerer.batch_size,
        )
        return given


class _Sample(NamedTuple):
    """A batch that a process has answered, by its key."""

    key: str
    batch: _Batch
    answers: list[generation.Answer]


Samples = dict[int, _Sample]  # by process


def run(answerer: Answerer, lines: list[Line], journal: Journal) -> int:
    """Print an answer to each line, in the same order, and keep a transcript. Returns how many
    lines failed.

    Several processes share the batches; the first one prints. A run that was stopped goes on from
    the answers in the journal. On GPUs each process then answers a batch of another one.
    """
    given: list[transcript.Entry] = []
    samples: Samples = {}
    is_first = journal.team.is_first
    try:
        with bar(answerer, len(lines)) as shown:
            for part in _answered(answerer, lines, journal, shown, samples):
                replies = _replies(answerer, part)
                given += replies.values()
                for number, _ in part.lines if is_first else ():
                    reply = part.errors.get(number) or replies[number].as_dict()
                    print(json.dumps({"line": number, **reply}), flush=True)
    finally:  # Ctrl-C or a reader that has gone costs no answer that was given
        if given and is_first:
            print(f"Saved {transcript.save(answerer.session.store, given)}", file=sys.stderr)
    if session.device() != "cpu" and (says := _repeated(answerer, samples, journal)) and is_first:
        print(says, file=sys.stderr)
    failed = len(lines) - len(given)
    if failed:
        print(f"{failed} of {len(lines)} lines could not be answered", file=sys.stderr)
    return failed


def _answered(
    answerer: Answerer, lines: list[Line], journal: Journal, shown: tqdm, samples: Samples
) -> Iterator[_Part]:
    """Yield the parts in their order, each when all its batches are answered.

    `samples` takes a batch of each process.
    """
    begun: dict[int, _Part] = {}
    following = 0
    for done in entries.each(_works(answerer, lines, begun, shown, journal.team.rank), journal):
        place, rows, batch = done.of
        (entry,) = done.entries
        given = [generation.Answer(*answer) for answer in entry["answers"]]
        sample = _Sample(entry["key"], batch, given)
        by = entry.get("by", 0)
        samples[by] = min(samples.get(by, sample), sample, key=attrgetter("key"))
        begun[place].answers |= zip(rows, given, strict=True)
        shown.update(len(rows))
        while following in begun and begun[following].is_answered:
            yield begun.pop(following)
            following += 1
    yield from begun.values()


def _works(
    answerer: Answerer, lines: list[Line], begun: dict[int, _Part], shown: tqdm, by: int
) -> Iterator[Work[tuple[int, list[int], _Batch]]]:
    """Yield the batches of all lines, with the place of their part, which is begun, and their rows.

    So many lines make a part that questions of similar length can share a batch.
    """
    size = 4 * answerer.batch_size
    for start in range(0, len(lines), size):
        part = _parsed(answerer, lines[start : start + size])
        place = start // size
        begun[place] = part
        shown.update(len(part.errors) * len(answerer.arms))
        prompts = generation.prompt_ids(answerer.session.tokenizer, part.talks)
        who = [*answerer.arms] * len(part.questions)
        for rows in generation.batches(prompts, answerer.batch_size):
            batch = _Batch([prompts[row] for row in rows], [who[row] for row in rows])
            key = files.digest([start, *batch])
            yield Work((place, rows, batch), [key], partial(_made, answerer, key, batch, by))


def _made(answerer: Answerer, key: str, batch: _Batch, by: int) -> list[entries.Entry]:
    """Answer a batch and return its entry."""
    return [{"key": key, "answers": batch.answered(answerer), "by": by}]


def _repeated(answerer: Answerer, samples: Samples, journal: Journal) -> str:
    """Return a sentence on what each process answers to a batch of another one."""
    planned = {sample.key: sample for sample in samples.values()}
    made = {sample.key: by for by, sample in samples.items()}
    works = []
    for rank, of in enumerate(entries.exchanged(made, journal.team.n)):
        key = files.digest(["again", rank, of])
        make = partial(_made, answerer, key, planned[of].batch, rank)
        works.append(Work(planned[of], [key], make))
    differ = [
        before != generation.Answer(*now)
        for done in entries.each(works, journal)
        for before, now in zip(done.of.answers, done.entries[0]["answers"], strict=True)
    ]
    if not differ:
        return ""
    return (
        f"Another process answered {len(differ)} of the prompts once more: {sum(differ)} answers "
        f"({sum(differ) / len(differ):.1%}) differ."
    )


def _parsed(answerer: Answerer, lines: list[Line]) -> _Part:
    """Return lines as a part with no answer yet; a line that is no question has {"error": ...}."""
    questions: dict[int, Question] = {}
    errors: dict[int, dict[str, str]] = {}
    for number, line in lines:
        try:
            questions[number] = parse(answerer, line)
        except UserError as error:
            errors[number] = {"error": str(error)}
    talks = [
        question.patient.turns(answerer.session, question.text)
        for question in questions.values()
        for _ in answerer.arms
    ]
    return _Part(lines, questions, errors, talks)


def _replies(answerer: Answerer, part: _Part) -> dict[int, transcript.Entry]:
    """Return the entries of the lines of a part that could be answered, by line number."""
    found = {}
    answers = (part.answers[place] for place in range(len(part.talks)))
    for number, asked in part.questions.items():
        given = transcript.replies({arm: next(answers) for arm in answerer.arms})
        found[number] = transcript.entry(answerer, asked.patient, asked.text, given)
    return found
