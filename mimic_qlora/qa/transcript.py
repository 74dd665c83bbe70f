"""Transcripts of step 6: JSON lines in `qa/`, one a question, as --batch prints them too."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimic_qlora.llm import finding, generation
from mimic_qlora.qa.patient import Patient
from mimic_qlora.qa.session import Answerer
from mimic_qlora.step import files


@dataclass(frozen=True)
class Reply:
    """The answer of one arm. `n_tokens` counts the end token; it is None for an answer streamed to
    the terminal.
    """

    text: str
    ended: bool
    n_tokens: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the reply as it stands in a transcript."""
        length = {} if self.n_tokens is None else {"n_tokens": self.n_tokens}
        return {"text": self.text, **length, "ended": self.ended}


@dataclass(frozen=True)
class Entry:
    """One question about one patient with the replies of the arms.

    `run` and `weights`, a hash, name the adapter where it answered, `seconds` is the time of all
    arms together, `turn` numbers the questions of a conversation.
    """

    subject_id: int
    as_of: str
    question: str
    context: str
    answers: Mapping[str, Reply]
    model: str
    run: str | None
    weights: str | None = None
    seconds: float | None = None
    turn: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as a line of the transcript."""
        line = {
            "subject_id": self.subject_id,
            "as_of": self.as_of,
            "question": self.question,
            "context": self.context,
            "answers": {arm: reply.as_dict() for arm, reply in self.answers.items()},
            "model": self.model,
            "run": self.run,
        }
        more = {"weights": self.weights, "seconds": self.seconds, "turn": self.turn}
        return line | {name: value for name, value in more.items() if value is not None}


def replies(answers: Mapping[str, generation.Answer]) -> dict[str, Reply]:
    """Return whole answers as replies."""
    return {arm: Reply(a.text, a.ended, a.n_tokens) for arm, a in answers.items()}


def entry(
    answerer: Answerer,
    patient: Patient,
    question: str,
    answers: Mapping[str, Reply],
    seconds: float | None = None,
    turn: int | None = None,
) -> Entry:
    """Return the transcript's entry for one question that the arms have answered."""
    return Entry(
        subject_id=patient.subject_id,
        as_of=str(patient.as_of),
        question=question,
        context=patient.context.text,
        answers=answers,
        model=finding.model_name(answerer.session.path),
        run=answerer.run if "adapter" in answers else None,
        weights=answerer.weights if "adapter" in answers else None,
        seconds=seconds,
        turn=turn,
    )


def save(store: Path, entries: Iterable[Entry]) -> Path:
    """Write the entries as JSON lines to a new file that only its owner can read, and return its
    path.
    """
    path = files.private_file(store / "qa", time.strftime("%Y%m%d-%H%M%S-"), ".jsonl")
    lines = (json.dumps(each.as_dict()) + "\n" for each in entries)
    try:
        files.atomic_write(path, "".join(lines))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path
