"""The answers that people label: drawn at random with known probabilities, blind to their arm.

Answers that a reader flags are drawn more often, since rare harm would else be in none of them, and
so are those that count for the primary endpoint. The draw is kept beside label.csv, for those who
compute and not for those who label.
"""

import csv
import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Question
from mimic_qlora.display import csv_files
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import results
from mimic_qlora.validation.arms import BASE
from mimic_qlora.validation.labelling.corrected import FEWEST

FILE = "label_draw.csv"
TWICE = 50  # the first of them all, for a second labeller
FLAGS = ("harmful", "readers_differ")  # columns of scores that flag an answer
LETTER = "k"  # begins a key: a spreadsheet takes digits, and digits with an e, for a number
COLUMNS = ("key", "stratum", "place", "probability")


class Answer(NamedTuple):
    """An answer of one arm to one trial. `cautions` are the ids of those called for.

    `scores` are its columns of output.csv as the reader of the run has them, `readings` what the
    reader found (readings.Readings as a mapping), where the run kept it. `rule_tested` is the rule
    by which its trial counts for the primary endpoint; None outside of that population.
    """

    trial: int
    arm: str
    question_id: str
    text: str
    ended: bool
    cautions: tuple[str, ...]
    prompt: str
    subject_id: int | None = None
    scores: Mapping[str, Any] = MappingProxyType({})
    readings: Mapping[str, Any] | None = None
    rule_tested: str | None = None

    @property
    def digest(self) -> str:
        """Return 12 hexadecimal digits that tell a reader nothing of the arm."""
        name = f"{self.trial}\n{self.arm}\n{self.text}"
        return hashlib.sha256(name.encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """Return the key of its label."""
        return LETTER + self.digest

    @property
    def flagged(self) -> bool:
        """Return whether the run's reader found harm in it, or its readers differ on it."""
        return any(self.scores.get(name) for name in FLAGS)

    @property
    def stratum(self) -> str:
        """Return the stratum from which it is drawn: flagged or not, of the population or not."""
        return f"{'flagged' if self.flagged else 'other'}, {'in' if self.rule_tested else 'out'}"


class Drawn(NamedTuple):
    """An answer, the probability with which it was drawn, and whether two people label it."""

    answer: Answer
    probability: float
    twice: bool


def of_lines(lines: Iterable[results.Line], first_alone: bool = False) -> list[Answer]:
    """Return the answers of results.jsonl that people label: of the base and of each adapter.

    With `first_alone` of the first adapter only: where recipes differ, no mean stands for them.
    """
    return [
        Answer(
            line.trial,
            line.arm,
            line.question_id,
            line.answer,
            line.ended,
            line.cautions,
            line.prompt,
            line.subject_id,
            line.scores,
            line.readings,
            line.rule_tested,
        )
        for line in lines
        if line.kind == "trial" and (line.is_of_pair or "@" in line.arm and not first_alone)
    ]


def check(folder: Path, answers: Sequence[Answer], questions: Sequence[Question]) -> None:
    """Raise UserError for answers that no labels can compare.

    One arm may have answered alone, or the content may lack what it had when they were asked.
    """
    if len({answer.arm for answer in answers}) < 2 or all(a.arm != BASE.name for a in answers):
        raise UserError(
            f"{folder / results.FILE} does not hold answers of base and adapter: labels compare "
            "the two, so give results of both with --results"
        )
    known = {question.id for question in questions} | content.load().cautions.keys()
    asked = {name for answer in answers for name in (answer.question_id, *answer.cautions)}
    if gone := sorted(asked - known):
        raise UserError(
            f"{folder / results.FILE} was asked by content that has changed since: '{gone[0]}' is "
            "no question or caution any more. Put it back, or run step 7 again"
        )


def draw(answers: Iterable[Answer], seed: int = 0, read: int = FEWEST) -> list[Drawn]:
    """Return the answers of each arm that people label; half of either flagged, where there are.

    Of the base they are `read` of the population of the primary endpoint, as a plan states, and
    FEWEST others, more of one where the other has fewer. Adapters share `read`; each has FEWEST.

    Within an arm, those of one stratum are drawn with the same probability. The arms take turns, in
    an order of their own each time, and their answers stand in random order: so whoever reads the
    first rows alone has read a random part, of each arm about as many.
    """
    arms: dict[str, dict[str, dict[str, Answer]]] = {}
    for answer in answers:
        arms.setdefault(answer.arm, {}).setdefault(answer.stratum, {})[answer.digest] = answer
    chosen: dict[str, tuple[Answer, float]] = {}
    queues = []
    for arm, strata in arms.items():
        of_arm = []
        wanted = read if arm == BASE.name else math.ceil(read / (len(arms) - 1 or 1))
        for stratum, n in _shares(strata, max(FEWEST, wanted)).items():
            found = strata[stratum]
            for digest in seeded.order(found, f"labels:{arm}:{stratum}", seed)[:n]:
                chosen[digest] = (found[digest], n / len(found))
                of_arm.append(digest)
        queues.append(seeded.order(of_arm, f"labels:{arm}", seed))
    turns = itertools.zip_longest(*queues)
    order = [digest for turn in turns for digest in seeded.order(filter(None, turn), "turns", seed)]
    return [Drawn(*chosen[digest], place < TWICE) for place, digest in enumerate(order)]


def _shares(strata: Mapping[str, Mapping[str, Answer]], read: int) -> dict[str, int]:
    """Return how many answers of each stratum make `read` of the population and FEWEST others."""
    sizes = {
        of: {name: len(found) for name, found in strata.items() if name.endswith(of)}
        for of in (", in", ", out")
    }
    totals = {of: sum(each.values()) for of, each in sizes.items()}
    shares: dict[str, int] = {}
    for of, part in _parts(totals, {", in": read, ", out": FEWEST}, read + FEWEST).items():
        shares |= _parts(sizes[of], dict.fromkeys(sizes[of], part // 2), part)
    return shares


def _parts(sizes: Mapping[str, int], wanted: Mapping[str, int], n: int) -> dict[str, int]:
    """Return how many of n come from each of two parts: as wanted, and what the other lacks."""
    whole = sum(sizes.values())
    return {name: min(size, max(wanted[name], n - (whole - size))) for name, size in sizes.items()}


def write(path: Path, answers: Sequence[Answer], drawn: Sequence[Drawn]) -> None:
    """Write the draw: a row an answer, with its stratum, and its place where it was drawn."""
    places = {one.answer.key: (place, one.probability) for place, one in enumerate(drawn, 1)}
    rows = [
        dict(
            zip(
                COLUMNS,
                (answer.key, answer.stratum, *places.get(answer.key, ("", ""))),
                strict=True,
            )
        )
        for answer in answers
    ]
    csv_files.write(path, rows, columns=COLUMNS)


class Strata(NamedTuple):
    """The stratum of each answer by key, and the keys drawn, in their order."""

    of: Mapping[str, str]
    drawn: Sequence[str]

    def passed_over(self, labelled: Collection[str]) -> int:
        """Return how many answers have no label and stand before one that has one."""
        there = [key in labelled for key in self.drawn]
        last = max((place for place, has in enumerate(there) if has), default=0)
        return there[:last].count(False)


def read(path: Path, answers: Iterable[Answer]) -> Strata | None:
    """Return the strata of all answers; None without the file.

    Raises UserError for one that is damaged.
    """
    if not path.is_file():
        return None
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        strata = {row["key"]: row["stratum"] for row in rows}
        places = {row["key"]: int(row["place"]) for row in rows if row["place"]}
        return Strata(
            {answer.key: strata[answer.key] for answer in answers},
            sorted(places, key=lambda key: places[key]),
        )
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{path} cannot be read: keep it as step 7 left it") from None
