"""Gold answers of the guidance task, put together from sentences of the clinical content."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from mimic_qlora.chart.facts import Facts, facts_of_view
from mimic_qlora.clinical import conflicts, content, levels, phrases
from mimic_qlora.clinical.conflicts import Saying
from mimic_qlora.clinical.levels import LEVELS, LevelId
from mimic_qlora.clinical.schema import Advice, Caution, Line, RedFlag, Symptom
from mimic_qlora.step.seeded import pick

WORDS = (120, 180)
MOST_CAUTIONS = 3
FIRST_FLAGS = 2  # red flags that are in every answer, the most important ones


class TooFewSentences(ValueError):
    """So many sentences do not fit a chart that no answer of the right length can be made."""


@dataclass(frozen=True)
class Patient:
    """What binds an answer: the facts that its reader is shown, and all of the chart.

    `called` are all caution rules that the chart calls for, held out and shown or not.
    """

    shown: Facts
    chart: Facts
    called: tuple[Caution, ...]


_NOTHING = facts_of_view(defaultdict(list), datetime(2100, 1, 1))  # of a record without rows
ANYBODY = Patient(_NOTHING, _NOTHING, ())  # somebody of whom nothing is known


def patient_of(shown: Facts, chart: Facts) -> Patient:
    """Return what binds an answer to a patient."""
    return Patient(shown, chart, tuple(called_for(chart)))


def called_for(known: Facts) -> list[Caution]:
    """Return the caution rules that this chart calls for, whatever is asked."""
    return [c for c in content.load().cautions.values() if c.when.holds(known)]


def words(text: str) -> int:
    """Return the number of words of a text."""
    return sum(map(_words, text.splitlines()))


@lru_cache(maxsize=10_000)  # the sentences of answers come again and again
def _words(line: str) -> int:
    return len(re.findall(r"\w(?:[\w'’/.-]*\w)?", line))


def compose(
    symptom: Symptom,
    cautions: Sequence[Caution],
    key: str,
    patient: Patient,
    opening: LevelId | None = None,
    asked: Collection[str] = (),
    learned: bool = False,
) -> str:
    """Return the gold answer: three sections, 120 to 180 words, at most three cautions.

    Where the question names warning signs (`asked`), the line of their level (`opening`) comes
    first, and with it no sentence for those who may wait. No sentence is given that the chart does
    not fit, that one of its rules forbids or tells the opposite of, that gives a warning sign a
    lower level than they do, or that repeats a caution. The first red flags that are left are
    always there. The rest is drawn by hash of `key`, so that answers vary between patients but not
    between runs, and told in the order of the file. An answer that is to be `learned` has no
    held-out sentence. Raises TooFewSentences when no choice of sentences keeps within the words.
    """
    told = cautions[:MOST_CAUTIONS]
    first = first_flags(symptom, told, patient, asked)
    start = _Start.of(opening)
    chosen: dict[str, list[Saying]] = {
        section: [c for c in told if c.section == section] for section in content.SECTIONS
    }
    pools = _pools(symptom, told, patient, [*first, *start.sayings])
    pools["urgent"] = [flag for flag in pools["urgent"] if flag not in first]
    chosen["urgent"] += first
    for section in ("try", "track"):
        where = f"{symptom.id}: nothing fits in section {section}"
        one = _drawn(pools[section], f"{key}:{section}", where)
        if learned and _is_held_out(one):
            one = _drawn(pools[section], f"{key}:{section}:again", where)
        chosen[section].append(one)
    _fill(chosen, pools, key, start, learned)
    _sort(chosen, symptom)
    answer = _text(chosen, start)
    if not WORDS[0] <= words(answer) <= WORDS[1]:
        raise TooFewSentences(f"{symptom.id}: {words(answer)} words")
    return answer


def for_chart(
    ideal: str,
    cautions: Sequence[Caution],
    called: Sequence[Caution],
    opening: LevelId | None = None,
) -> str:
    """Return a curated answer as it should be for one chart.

    It begins as a gold answer does: with the line of the level `opening`, and in an emergency with
    the first step. It holds the first cautions, and none of its own lines that a rule of `called`
    forbids or tells the opposite of, or that tell somebody to wait who may not. A warning sign that
    a rule of `called` gives a higher level has that level. Of lines to try and to track the last
    give way where there is no room for all.
    """
    told = cautions[:MOST_CAUTIONS]
    start = _Start.of(opening)
    lines = _own_lines(ideal, called, start)
    own = {s: [f"- {c.say}" for c in told if c.section == s] for s in lines}
    if start.step:
        own["try"].insert(0, f"- {start.step}")

    def text() -> str:
        there = {s: lines[s] + own[s] if s == "track" else own[s] + lines[s] for s in lines}
        there["urgent"].sort(key=lambda line: levels.rank(levels.asked_by(line)))
        parts = ["\n".join([content.SECTIONS[s], *there[s]]) for s in there]
        return "\n\n".join([start.line, *parts] if start.line else parts)

    while words(text()) > WORDS[1]:
        longest = max(("try", "track"), key=lambda s: len(lines[s]))
        if len(lines[longest]) < 2:
            break
        lines[longest].pop()
    return text()


def _own_lines(ideal: str, called: Sequence[Caution], start: "_Start") -> dict[str, list[str]]:
    """Return the lines of a curated answer by section, without those that do not fit a chart."""
    names = {heading: section for section, heading in content.SECTIONS.items()}
    starts = {text for level in LEVELS.values() for text in (level.opening, level.first_step)}
    lines: dict[str, list[str]] = {section: [] for section in content.SECTIONS}
    section = next(iter(lines))
    for line in filter(None, map(str.strip, ideal.splitlines())):
        section = names.get(line, section)
        said = conflicts.as_advice(line.removeprefix("- "))
        if not (
            line in names
            or said.say in starts
            or any(phrases.forbidden(rule, line) for rule in called)
            or any(conflicts.opposes(said, other) for other in (*start.sayings, *called))
        ):
            lines[section] += _at_the_highest_level(said, called)
    return lines


def _at_the_highest_level(said: Advice, called: Sequence[Caution]) -> list[str]:
    """Return a line with the highest level that rules give its signs; [] if it cannot say so."""
    highest = levels.highest(
        rule.level for rule in called if not {*rule.signs}.isdisjoint(said.signs)
    )
    if not (said.level and highest and levels.is_above(highest, said.level)):
        return [f"- {said.say}"]
    lead = LEVELS[said.level].lead
    raised = said.say.replace(lead, LEVELS[highest].lead, 1)
    return [f"- {raised}"] if said.say.startswith(lead) else []


@dataclass(frozen=True)
class _Start:
    """What comes before the sections, and the self-care that then comes first."""

    line: str
    step: str
    sayings: tuple[Saying, ...]  # the line, with what it tells

    @classmethod
    def of(cls, opening: LevelId | None) -> "_Start":
        """Return the start of an answer that opens with a level, an empty one for None."""
        if opening is None:
            return cls("", "", ())
        level = LEVELS[opening]
        said = Advice(say=level.opening, tells=level.tells)
        return cls(level.opening, level.first_step, (said,) if level.opening else ())


def _sort(chosen: dict[str, list[Saying]], symptom: Symptom) -> None:
    """Put sentences in order: cautions first (last in "track"), the most urgent signs first."""
    lines: list[Saying] = [*symptom.self_care, *symptom.track]
    for section in ("try", "track"):
        last = len(lines) if section == "track" else -1
        chosen[section].sort(key=lambda one: lines.index(one) if one in lines else last)
    chosen["urgent"].sort(key=lambda one: levels.rank(one.level))


def first_flags(
    symptom: Symptom,
    cautions: Sequence[Caution],
    patient: Patient,
    asked: Collection[str] = (),
) -> tuple[RedFlag, ...]:
    """Return the red flags that an answer with these cautions must have, in file order.

    These are the first ones that fit, and the most urgent for a sign that the question names
    (`asked`).
    """
    fit = [flag for flag in symptom.urgent if fits(flag, cautions, patient)]
    named = [flag for flag in fit if not {*flag.signs}.isdisjoint(asked)]
    must = [*fit[:FIRST_FLAGS], *sorted(named, key=lambda flag: levels.rank(flag.level))[:1]]
    return tuple(flag for flag in fit if flag in must)


def fits(line: Line, cautions: Sequence[Caution], patient: Patient) -> bool:
    """Return whether a general sentence may stand beside these cautions in a patient's answer.

    That a rule forbids the sentence stands in the content, as `unless` or as opposed tags.
    """
    rules = {c.id: c for c in (*cautions, *patient.called)}
    holds = line.when is None or all(line.when.holds(f) for f in (patient.shown, patient.chart))
    return (
        holds
        and rules.keys().isdisjoint(line.unless)
        and not any(conflicts.never(line, facts) for facts in (patient.shown, patient.chart))
        and not any(conflicts.opposes(line, rule) for rule in rules.values())
        and not conflicts.outranked(line, rules.values())
        and not conflicts.repeats(line, cautions)
    )


def _pools(
    symptom: Symptom, cautions: Sequence[Caution], patient: Patient, said: Sequence[Saying]
) -> dict[str, list[Saying]]:
    """Return the sentences that each section can take beside what is `said` already."""
    lines: dict[str, tuple[Line, ...]] = {
        "try": symptom.self_care,
        "urgent": symptom.urgent,
        "track": symptom.track,
    }
    return {
        section: [
            line
            for line in there
            if fits(line, cautions, patient) and not any(conflicts.opposes(line, s) for s in said)
        ]
        for section, there in lines.items()
    }


def _drawn(pool: list[Saying], key: str, none: str) -> Saying:
    """Take a sentence from a pool, drawn by hash of `key`; `none` says that there is none."""
    if not pool:
        raise TooFewSentences(none)
    return pool.pop(pick(key, len(pool)))


def _is_held_out(one: Saying) -> bool:
    """Return whether a sentence of general advice is never trained on."""
    return isinstance(one, Advice) and one.held_out


def _fill(
    chosen: dict[str, list[Saying]],
    pools: dict[str, list[Saying]],
    key: str,
    start: _Start,
    learned: bool,
) -> None:
    """Move sentences from the pools into the sections, until the answer is long enough."""
    goal = WORDS[0] + 10 + pick(f"{key}:words", 35)
    for turn in range(30):
        section = ("try", "urgent", "track", "try")[turn % 4]
        if words(_text(chosen, start)) >= goal or not any(pools.values()):
            break
        if pools[section]:
            sentence = pools[section].pop(pick(f"{key}:{turn}", len(pools[section])))
            if _clashes(sentence, chosen) or (learned and _is_held_out(sentence)):
                continue
            chosen[section].append(sentence)
            if words(_text(chosen, start)) > WORDS[1]:
                chosen[section].remove(sentence)


def _clashes(sentence: Saying, chosen: Mapping[str, Iterable[Saying]]) -> bool:
    """Return whether a sentence contradicts one that stands already."""
    return any(any(conflicts.of([one, sentence])) for there in chosen.values() for one in there)


def _text(chosen: Mapping[str, Sequence[Saying]], start: _Start) -> str:
    told = {section: [one.say for one in chosen[section]] for section in content.SECTIONS}
    if start.step:
        told["try"].insert(0, start.step)
    sections = [
        "\n".join([heading, *(f"- {say}" for say in told[section])])
        for section, heading in content.SECTIONS.items()
    ]
    return "\n\n".join([start.line, *sections] if start.line else sections)
