"""The prompts of step 7: each trial put to each arm, as that arm is asked."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from mimic_qlora.chart import context, prompt
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.clinical import content
from mimic_qlora.prompts import record_files
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.qa.session import Session, Turn
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError
from mimic_qlora.tasks import guidance
from mimic_qlora.validation.arms import Arm, Prompt
from mimic_qlora.validation.trials import Trial

EXAMPLES = 2
OTHERS = 50  # charts that are looked at for one that calls for none of the same cautions


class Ask(NamedTuple):
    """One trial put to one arm, with the conversation that asks it."""

    trial: Trial
    arm: Arm
    messages: list[Turn]


class Shared(NamedTuple):
    """The parts of prompts beside the trial: settings of step 4, all trials, the examples."""

    settings: ContextSettings
    trials: Sequence[Trial]
    examples: Sequence[PromptRecord]


def asks(trials: Sequence[Trial], arms: Sequence[Arm], session: Session) -> list[Ask]:
    """Put every trial to every arm; what is asked apart only to those that get it as it is."""
    few_shot = any(arm.prompt is Prompt.WITH_EXAMPLES for arm in arms)
    shared = Shared(session.settings, trials, draw_examples(session) if few_shot else [])
    return [
        Ask(trial, arm, MAKERS[arm.prompt](trial, shared))
        for trial in trials
        for arm in arms
        if trial.kind == "trial" or arm.prompt is Prompt.AS_ASKED
    ]


def as_asked(trial: Trial, _: Shared) -> list[Turn]:
    """Return the trial's own prompt."""
    return trial.messages


def with_examples(trial: Trial, shared: Shared) -> list[Turn]:
    """Return the prompt after answered training records, as the adapter saw them."""
    system, question = trial.messages
    examples = [turn for record in shared.examples for turn in record.messages[1:]]
    return [system, *examples, question]


def with_rules(trial: Trial, shared: Shared) -> list[Turn]:
    """Return the prompt with the caution rules that this chart calls for, after the context."""
    if not trial.cautions or trial.chart is None:
        return trial.messages
    rules = "\n".join(f"- {caution.say}" for caution in trial.cautions)
    text = f"{trial.chart.text}\n\nCautions for this person\n{rules}"
    return prompt.messages(shared.settings.system_prompt, text, trial.question.question)


def with_another_chart(trial: Trial, shared: Shared) -> list[Turn]:
    """Return the question with the chart of another patient.

    Of the next OTHERS, the chart is taken that shares the fewest of the cautions called for.
    Raises UserError when all trials are of one patient.
    """
    charts = [t.chart for t in shared.trials if t.chart and t.subject_id != trial.subject_id]
    if not charts:
        raise UserError("adapter-other-chart needs trials of two patients or more: give a larger n")
    start = trial.number % len(charts)
    charts = [*charts[start:], *charts[:start]][:OTHERS]
    own, symptom = {c.id for c in trial.cautions}, content.symptom_of(trial.curated)

    def shared_cautions(chart: context.Context) -> int:
        return len(own & {c.id for c in guidance.cautions_for(symptom, chart.facts)})

    other = min(charts, key=shared_cautions)
    return prompt.messages(shared.settings.system_prompt, other.text, trial.question.question)


MAKERS: dict[Prompt, Callable[[Trial, Shared], list[Turn]]] = {
    Prompt.AS_ASKED: as_asked,
    Prompt.WITH_EXAMPLES: with_examples,
    Prompt.WITH_RULES: with_rules,
    Prompt.OTHER_CHART: with_another_chart,
}


def draw_examples(session: Session) -> list[PromptRecord]:
    """Return training records to show, with a caution, each of another symptom.

    Raises UserError when step 4 left none.
    """
    first = islice(record_files.read(record_files.path_of(session.store, "train")), 1000)
    cautioned = {i: record for i, record in enumerate(first) if record.cautions}
    order = seeded.order(cautioned, "examples", session.settings.seed)
    by_symptom = {cautioned[i].symptom: cautioned[i] for i in order}
    if not by_symptom:
        raise UserError(
            "base-examples needs a training prompt with a caution, and step 4 left none: "
            "leave it out"
        )
    return list(by_symptom.values())[:EXAMPLES]
