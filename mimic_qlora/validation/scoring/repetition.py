"""Loops of an answer: how much of it says again what it has said, and a short form to read."""

import re

_ENDS = re.compile(r"[\n.!?;:,]+")
_LEAST_WORDS = 4  # shorter lines, such as "rest" or "fever", may well come twice
_LOOP = re.compile(r"(?<!\w)(\S.{14,400}?)(?!\w)(?:\s*\1(?!\w)){2,}", re.DOTALL)


def repeated(answer: str) -> float:
    """Return the share of the answer's lines that stand in it before, 0 to 1.

    A line ends at a line break or a mark of punctuation, so that a loop within one sentence counts
    too. Case and marks in front are passed over, and lines of fewer than four words.
    """
    words = [tuple(re.findall(r"\w+", line.casefold())) for line in _ENDS.split(answer)]
    lines = [line for line in words if len(line) >= _LEAST_WORDS]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def folded(answer: str) -> str:
    """Return the answer with whole words that stand three times and more in a row said once.

    Their count follows.

    >>> folded("Rest in bed today.\\n" * 43)
    'Rest in bed today. [43 times]\\n'
    """
    return _LOOP.sub(lambda loop: f"{loop[1]} [{loop[0].count(loop[1])} times]", answer)
