"""Draw sets of twins: a rule, a patient whose chart calls for it, a question that it bears on."""

from collections import Counter
from collections.abc import Iterator, Sequence

from mimic_qlora.chart import columns, prompt
from mimic_qlora.chart.context import Context
from mimic_qlora.clinical import content, presumptions
from mimic_qlora.clinical.schema import Caution, Question
from mimic_qlora.qa import session
from mimic_qlora.qa.session import Chart, Session
from mimic_qlora.step import seeded
from mimic_qlora.subjects import reader
from mimic_qlora.tasks import composing, guidance
from mimic_qlora.validation.scoring import readings
from mimic_qlora.validation.trials import Trial
from mimic_qlora.validation.twins import making
from mimic_qlora.validation.twins.making import AS_IT_IS, UNRELATED, WITHOUT, Place


def draw(
    opened: Session, questions: Sequence[Question], n: int, split: str, seed: int
) -> list[Trial]:
    """Return the trials of n sets of twins, or of as many as the patients of a split allow.

    A set is of one patient, and the rule that has the fewest sets so far comes first; a patient who
    has a set comes again only when all others have been tried.
    """
    used: Counter[str] = Counter()
    taken: set[tuple[int, str]] = set()
    trials: list[Trial] = []
    for _ in content.load().cautions:
        before = len(taken)
        for chart in session.charts(opened, split, seed):
            if len(taken) == n:
                return trials
            rules = [r for r in called(chart) if (chart.subject_id, r.id) not in taken]
            rules.sort(key=lambda r: (used[r.id], seeded.pick(f"{chart.subject_id}:{r.id}", 1000)))
            found = _of_patient(opened, chart, rules, questions, used)
            if found is not None:
                rule, question, contexts = found
                used.update((rule.id, question.id))
                taken.add((chart.subject_id, rule.id))
                first = Trial(len(trials) + 1, question, [], "twin", chart.subject_id, chart.moment)
                trials += _of_set(opened, first, Place(len(taken), rule, AS_IT_IS), contexts)
        if len(taken) == before:
            break
    return trials


def in_words(trials: Sequence[Trial], n: int) -> str:
    """Return how many sets were drawn, on how many rules, and why not n."""
    places = [trial.place for trial in trials if trial.place]
    found, rules = len({place.set for place in places}), len({place.rule.id for place in places})
    fewer = f" ({n:,} were asked for: no other chart has a valid twin)" if found < n else ""
    return f"Twins: {found} sets on {rules} caution rules{fewer}"


def called(chart: Chart) -> list[Caution]:
    """Return the rules that a chart calls for by what is shown."""
    return composing.called_for(chart.context.facts)


def _of_patient(
    opened: Session,
    chart: Chart,
    rules: Sequence[Caution],
    questions: Sequence[Question],
    used: Counter[str],
) -> tuple[Caution, Question, list[tuple[Place, Context]]] | None:
    """Return the first of the rules for which a patient has valid twins, with its question."""
    record = reader.record(opened.store, chart.subject_id, columns.WANTED)

    def build(changed: session.Record) -> Context:
        return session.build(opened, changed, chart.moment.as_of)

    beside = making.unrelated(record, chart.context, build)
    for rule in rules if beside else ():
        if not any(_bears(rule, question, chart.context) for question in questions):
            continue
        twin = making.without(rule, record, chart.context, build)
        if twin is None or beside is None:
            continue
        shown = [chart.context, twin.context, beside.context]
        fit = [
            question
            for question in questions
            if _bears(rule, question, chart.context)
            and _may_ask(question, shown)
            and [_is_heard(rule, question, one) for one in shown] == [True, False, True]
        ]
        if fit:
            question = min(fit, key=lambda q: (used[q.id], q.id))
            changes = ("", twin.change, beside.change)
            names = (AS_IT_IS, WITHOUT, UNRELATED)
            places = [
                Place(0, rule, name, change) for name, change in zip(names, changes, strict=True)
            ]
            return rule, question, list(zip(places, shown, strict=True))
    return None


def _bears(rule: Caution, question: Question, shown: Context) -> bool:
    """Return whether an answer has room for a rule: it is among the first three called for.

    A rule that is never trained on is asked about symptoms that are not trained on either.
    """
    symptom = content.symptom_of(question)
    if guidance.bearing(rule, symptom) < 1 or (rule.held_out and not symptom.held_out):
        return False
    return rule in guidance.cautions_for(symptom, shown.facts)[: composing.MOST_CAUTIONS]


def _is_heard(rule: Caution, question: Question, shown: Context) -> bool:
    """Return whether the ideal answer for a chart is heard to say a rule.

    What another rule that a twin calls for says, or the ideal to anybody, may be heard as this one.
    """
    cautions = guidance.cautions_for(content.symptom_of(question), shown.facts)
    ideal = guidance.ideal_for(question, cautions, shown.facts)
    return bool(readings.read(question, [rule], ideal).acted)


def _may_ask(question: Question, shown: Sequence[Context]) -> bool:
    """Return whether all charts of a set fit a question."""
    return all(
        (question.needs is None or question.needs.holds(one.facts))
        and not presumptions.unfounded(question.question, one.facts)
        for one in shown
    )


def _of_set(
    opened: Session, first: Trial, place: Place, contexts: Sequence[tuple[Place, Context]]
) -> Iterator[Trial]:
    """Yield the trials of a set."""
    symptom = content.symptom_of(first.curated)
    for number, (here, shown) in enumerate(contexts, first.number):
        turns = prompt.messages(opened.settings.system_prompt, shown.text, first.question.question)
        yield first._replace(
            number=number,
            messages=turns,
            chart=shown,
            cautions=tuple(guidance.cautions_for(symptom, shown.facts)),
            place=here._replace(set=place.set),
        )
