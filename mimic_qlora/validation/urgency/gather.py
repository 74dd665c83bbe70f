"""Ask the arms and the simple models about the visits of a run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.chart import prompt
from mimic_qlora.llm import generation
from mimic_qlora.processes import entries
from mimic_qlora.qa import session
from mimic_qlora.qa.session import Session
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.tasks.urgency import task, visits
from mimic_qlora.tasks.urgency.visits import Visit
from mimic_qlora.validation.arms import ADAPTER, PAIR, Arm, Prompt
from mimic_qlora.validation.run import Machine
from mimic_qlora.validation.settings import Run, Settings
from mimic_qlora.validation.urgency import asked, charts, drawn, options, population, simple
from mimic_qlora.validation.urgency.asked import Part, Shown
from mimic_qlora.validation.urgency.endpoint import Floats
from mimic_qlora.validation.urgency.study import PRIMARY, SECONDARY, Split, Visits

EARLIER = "earlier years"
REASONED = 40  # visits whose answers are written out, for their reasons
REASON_TOKENS = 64


class Training(NamedTuple):
    """The simple models by target and name, and how many training visits they were fitted to.

    `earlier` have seen no patient of the latest years.
    """

    models: Mapping[frozenset[str], Mapping[str, simple.Model]]
    earlier: Mapping[str, simple.Model]
    visits: int
    emergencies: int


def train(opened: Session, every: Sequence[Visit], seed: int) -> Training:
    """Fit the simple models to the facts of the prompts that the adapter was trained on."""
    records = charts.records(opened, "train")
    mine = [one for one in every if one.split == "train" and one.subject_id in records]
    facts, kept = [], []
    for one in charts.shown(opened, mine, records):
        facts.append(simple.facts(one.chart, one.visit.complaint))
        kept.append(one.visit)
    positive = {
        target: np.array([visit.level in target for visit in kept], dtype=bool)
        for target in (PRIMARY, SECONDARY)
    }
    latest = max((visit.year_group for visit in every), default="")
    before = [i for i, visit in enumerate(kept) if visit.year_group != latest]
    earlier = simple.fit([facts[i] for i in before], positive[PRIMARY][before], seed)
    return Training(
        {target: simple.fit(facts, levels, seed) for target, levels in positive.items()},
        {f"{name}, {EARLIER}": model for name, model in earlier.items()},
        len(kept),
        int(positive[PRIMARY].sum()),
    )


Parts = Sequence[Mapping[Part, asked.Content]]


class Sample(NamedTuple):
    """The visits drawn of a split, with their charts and what is asked about each."""

    split: str
    drawn: drawn.Drawn
    shown: Sequence[Shown]
    parts: Parts


def sample(opened: Session, settings: Settings, every: Sequence[Visit], name: str) -> Sample:
    """Draw visits of a split, and prepare what is asked about them.

    Raises UserError where there are none, or a prompt or the answers cannot be asked.
    """
    records = charts.records(opened, name)
    mine = [one for one in every if one.split == name and one.subject_id in records]
    found = drawn.draw(mine, settings.n, settings.seed)
    if not found.visits:
        raise UserError(
            f"no {name} patient has an urgency visit after a coded stay with a triage level: "
            "convert more patients in step 1"
        )
    shown = list(charts.shown(opened, found.visits, records))
    parts = [asked.parts(place, shown) for place in range(len(shown))]
    system = opened.settings.system_prompts["urgency"]
    prompts = [asked.turns(system, content) for one in parts for content in one.values()]
    session.check_room(opened, [list(one) for one in prompts], REASON_TOKENS)
    options.tokens(opened.tokenizer, WORDS)
    return Sample(name, found, shown, parts)


def ask(run: Run, machine: Machine, these: Sample, by: Training) -> Split:
    """Ask all arms and models about the visits of a split."""
    return Split(
        these.split,
        these.drawn,
        these.shown,
        said(run, machine, these.parts),
        {
            (target, model, part): risks
            for target, models in by.models.items()
            for model, of in {**models, **(by.earlier if target == PRIMARY else {})}.items()
            for part, risks in _risks(of, these.parts).items()
        },
    )


def said(run: Run, machine: Machine, parts: Parts) -> dict[tuple[str, Part], Floats]:
    """Return the probability of each level by arm and part [visits, levels]."""
    opened = run.session
    system = opened.settings.system_prompts["urgency"]
    places: list[tuple[str, Part, int]] = []
    prompts: list[options.Prompt] = []
    for arm in answering(run):
        for place, found in enumerate(parts):
            for part, content in found.items():
                if part is Part.ALL or arm == ADAPTER:
                    places.append((arm.name, part, place))
                    prompts.append(options.Prompt(asked.turns(system, content), arm.who))
    read = options.read(
        machine.load, opened.tokenizer, prompts, WORDS, machine.batch_size, machine.journal.path
    )
    made: dict[tuple[str, Part], Floats] = {}
    for (arm_name, part, place), row in zip(places, read, strict=True):
        empty = np.full((len(parts), len(WORDS)), np.nan)
        made.setdefault((arm_name, part), empty)[place] = row
    return made


LEVELS: tuple[visits.Level, ...] = tuple(level for level, _ in task.LEVEL_WORDS)
WORDS = [task.WORDS[level] for level in LEVELS]
assert population.LEVELS == LEVELS


def answering(run: Run) -> list[Arm]:
    """Return the arms that get each prompt as it is: base and adapters."""
    return [arm for arm in run.arms if arm.prompt is Prompt.AS_ASKED]


def _risks(model: simple.Model, parts: Parts) -> dict[Part, Floats]:
    """Return the risk of each visit by part [visits], nan where it was not asked."""
    made = {}
    for part in Part:
        there = [place for place, found in enumerate(parts) if part in found]
        risks = np.full(len(parts), np.nan)
        if there:
            contents = [parts[place][part] for place in there]
            risks[there] = model.risks([simple.facts(one.chart, one.complaint) for one in contents])
            made[part] = risks
    return made


# ---------------------------------------------------------------- reasons


class Reasons(NamedTuple):
    """The reasons that an arm's answers name, and how many of these the prompt shows."""

    arm: str
    answers: int
    with_reason: int
    named: int
    in_prompt: int


def reasons(run: Run, machine: Machine, of: Visits) -> Iterator[Reasons]:
    """Yield how many reasons of each arm's answers stand in their prompts, over some visits."""
    opened = run.session
    system = opened.settings.system_prompts["urgency"]
    shown: Sequence[Shown] = of.splits[-1].shown[:REASONED]
    turns = [prompt.messages(system, one.chart.text, one.question) for one in shown]
    for arm in PAIR:
        written = entries.once(
            machine.journal.path,
            files.digest(["reasons", arm.who, turns]),
            lambda who=arm.who: [  # type: ignore[misc]
                answer.text
                for answer in generation.generate(
                    machine.load(),
                    opened.tokenizer,
                    turns,
                    [who] * len(turns),
                    REASON_TOKENS,
                    machine.batch_size,
                )
            ],
        )
        named = [task.reasons(text) for text in written]
        there = [
            sum(reason.casefold() in one.chart.text.casefold() for reason in own)
            for own, one in zip(named, shown, strict=True)
        ]
        yield Reasons(
            arm.name, len(written), sum(map(bool, named)), sum(map(len, named)), sum(there)
        )
