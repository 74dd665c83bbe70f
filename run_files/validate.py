"""Step 7: base against adapter on held-out patients, asked the curated questions.

    cd run_files && ./run.sh 50
    ./run.sh 50 --plan                 which difference 50 trials can show
    ./run.sh --freeze plan.yaml        settle what will be tested; then ./run.sh --final, once
    ./run.sh 600 --tasks urgency       emergency visits, told from what happened after arrival

Asks n distinct (patient, question) pairs. Every arm answers them, from one loaded copy of the 4-bit
base. Apart from these it asks the knowledge prompts without a patient, and about n of step 4's
held-out chart questions and diagnoses. Previews the answers, scores them by a rubric
(mimic_qlora/validation/scoring/), and says what difference could be shown
(mimic_qlora/validation/statistics.py). The CSVs lie in a private folder under /tmp, with a copy in
the storage folder. A run that was stopped or killed goes on with the same command.

Exit codes: 0 done, 2 something to put right, 130 stopped by Ctrl-C with the finished trials
reported.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library of this checkout

from mimic_qlora.processes import environment, launch, meeting
from mimic_qlora.processes.meeting import GOES_ON
from mimic_qlora.step import command_line, ssh, storage, terminal
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mimic_qlora.clinical.schema import Question
    from mimic_qlora.processes.meeting import Team
    from mimic_qlora.qa.session import Session
    from mimic_qlora.validation.run import Answered, Machine
    from mimic_qlora.validation.settings import Run, Settings
    from mimic_qlora.validation.trials import Trial

HERE = Path(__file__).resolve().parent


def arguments() -> argparse.Namespace:
    parser = command_line.Parser(__doc__, prog="run.sh")
    _add_questions(parser)
    _add_answers(parser)
    command_line.add_arguments(parser, force=False)
    args = parser.parse_args()
    ends = vars(args).keys() - {"storage", "model"}  # which belong to a storage folder, not a run
    command_line.check_alone(parser, vars(args), "freeze", sorted(ends - {"freeze"}))
    command_line.check_alone(parser, vars(args), "plan", sorted(ends - {"plan", "n"}))
    command_line.check_alone(parser, vars(args), "strict", ["batch_size"])
    args.n = None if args.n is None else n_trials(args.n)
    return args


def _add_questions(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("n", nargs="?", help="number of trials: distinct (patient, question) pairs (default: 20)")
    add(
        "--arms",
        help="what answers beside base and adapter: base-examples (two training records in the "
        "prompt), base-rules (the caution rules that the chart calls for in the prompt), "
        "adapter-other-chart (the chart of another patient), or all (default: base,adapter)",
    )
    add(
        "--run",
        type=command_line.folder_names,
        help="adapter of step 5, or several: a,b,c; seeds of one recipe are pooled, recipes "
        "stand side by side (default: default)",
    )
    add(
        "--model",
        help="base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)",
    )
    add(
        "--judge",
        metavar="MODEL",
        help="another local instruct model that reads the answers: a folder, a cached hub name, "
        "embedded, or base for the arms' own base (default: patterns read them)",
    )
    by_plan = "ask the test patients by the frozen plan (default: validation patients)"
    add("--final", action="store_true", help=by_plan)
    add("--freeze", metavar="PLAN", help="freeze this plan.yaml for --final, and end")
    add("--plan", action="store_true", help="say which difference n trials can show, and end")
    add("--seed", type=int, help="seed that draws the trials (default: 0)")
    add(
        "--tasks",
        choices=("questions", "urgency"),
        default="questions",
        help="what is asked: curated questions, or step 4's urgency visits, told from what "
        "happened after arrival (default: %(default)s)",
    )


def _add_answers(parser: argparse.ArgumentParser) -> None:
    add, whole = parser.add_argument, command_line.positive_int
    add("--max-new-tokens", type=whole, help="budget of an answer in tokens (default: 512)")
    add(
        "--batch-size",
        type=whole,
        default=16,
        help="answers generated at once, of all arms (default: %(default)s)",
    )
    one_by_one = "answer one by one, so that no answer depends on its batch (slower)"
    add("--strict", action="store_true", help=one_by_one)
    yes_no = argparse.BooleanOptionalAction
    add("--knowledge", action=yes_no, default=True, help="ask the knowledge prompts too")
    twins = "also ask n sets of twins: a chart, without the finding of one caution, another changed"
    add("--twins", type=whole, default=0, metavar="N", help=twins)
    records = "ask step 4's held-out chart questions and diagnoses too"
    add("--records", action=yes_no, default=True, help=records)
    cost = "also measure what training cost: bits a byte by task, drift, help in fifty crises"
    add("--forgetting", action="store_true", help=cost)
    anew = "answer anew even what an earlier run of the same content answered"
    add("--force", action="store_true", help=anew)
    command_line.add_device(parser)
    command_line.add_processes(parser)
    login = "login host on the way to this machine, for the scp line (ssh's ProxyJump)"
    add("--jump", metavar="HOST", type=ssh.jump_host, help=login)


def n_trials(text: str) -> int:
    """Read n. Raises UserError unless it is a positive whole number of at most 18 digits."""
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit() and 1 <= len(digits) <= 18):
        raise UserError(f"n must be a positive whole number, like ./run.sh 20, not '{text}'")
    return int(text)


def freeze(store: Path, plan: str, questions: "Sequence[Question]") -> str:
    """Freeze the plan. Returns what was done."""
    from mimic_qlora.clinical import content
    from mimic_qlora.validation import ledger
    from mimic_qlora.validation import plan as plans

    sha256 = plans.freeze(store, Path(plan), questions)
    told = f"Frozen: {sha256} ({store / 'validation' / 'plan.yaml'})"
    before = ledger.opened_otherwise(store, sha256, content.asked_sha256(questions))
    if before:
        note = (
            "note: the test patients were opened before under another plan, or with other "
            f"questions or rules ({len(before)} in the ledger, first on {before[0]['time'][:10]}): "
            "what --final shows by this one is exploration, not a test."
        )
        told += "\n" + terminal.fitted(note, terminal.width())
    return told


def plan(store: Path, questions: "Sequence[Question]", n: int) -> str:
    """Return which difference n trials can show, and how many answers people must read for it."""
    from mimic_qlora.validation import power
    from mimic_qlora.validation.labelling import corrected

    return f"{power.what_can_be_shown(store, questions, n)}\n\n{corrected.what_must_be_read()}"


def draw(
    args: argparse.Namespace,
    opened: "Session",
    settings: "Settings",
    questions: "Sequence[Question]",
) -> "tuple[list[Trial], list[Trial]]":
    """Return the trials and what is asked apart from them, and print how many there are."""
    from mimic_qlora.clinical import content
    from mimic_qlora.validation import power, side_by_side, trials
    from mimic_qlora.validation.twins import drawing

    n, split, seed = settings.n, settings.split, settings.seed
    drawn = trials.draw(opened, questions, n, split, seed)
    fewer = f" ({n:,} were asked for: these are all pairs there are)" if len(drawn) < n else ""
    print(f"Trials: {len(drawn)} pairs of a {split} patient and a question{fewer}, seed {seed}")
    counted = sum(trial.tested is not None for trial in drawn)
    recipes = side_by_side.differ_in(opened.store, settings.runs)
    runs, assumed = 1 if recipes else len(settings.runs), settings.assumed
    print(power.in_one_line(power.assumed(questions, counted, runs, assumed)))
    apart = trials.without_patient(content.load_knowledge(HERE)) if args.knowledge else []
    apart += trials.of_records(opened, n, split, seed) if args.records else []
    apart += trials.of_crisis(content.load_crisis(HERE)) if args.forgetting else []
    if args.twins:
        twins = drawing.draw(opened, questions, args.twins, split, seed)
        print(drawing.in_words(twins, args.twins))
        apart += twins
    return drawn, apart


def open_tests(opened: "Session", sha256: str, adapters: dict[str, str], asked: str) -> str:
    """Enter in the ledger that the test patients are opened, and return what it says of that.

    From then on their records are there as tasks of lm-evaluation-harness too. `asked` is the hash
    of the questions and rules. Raises UserError for adapters of several recipes.
    """
    from mimic_qlora.clinical import content
    from mimic_qlora.prompts.harness import task_files
    from mimic_qlora.validation import ledger, side_by_side

    side_by_side.check_one_recipe(opened.store, list(adapters))
    opening = ledger.opening(opened.store, sha256, adapters, asked)
    knowledge = content.load_knowledge(HERE)
    if folder := task_files.write(opened.store, "test", opened.tokenizer, knowledge):
        print(f"The test records as tasks of lm-evaluation-harness: {folder}")
    return opening


def machine_of(
    args: argparse.Namespace, opened: "Session", settings: "Settings", team: "Team"
) -> "Machine":
    """Return the model that answers, not loaded yet, and the cache of its answers."""
    from mimic_qlora.processes.entries import Journal
    from mimic_qlora.qa import session
    from mimic_qlora.validation import answer_cache, run

    identity = session.identity(opened, settings.runs)

    @cache
    def load() -> "PreTrainedModel":
        model = session.load_arms(opened, settings.runs)
        if changed := session.replaced(opened.store, identity["adapters"]):
            # its answers would be kept, and stand in the ledger, as those of the one before
            raise UserError(
                f"the adapter {changed[0]} was replaced while the model was loaded: the same "
                "command asks the new one"
            )
        return model

    return run.Machine(
        load=load,
        journal=Journal(answer_cache.path_of(opened.store, identity), team),
        identity=identity,
        batch_size=1 if args.strict else args.batch_size,
        anew=args.force,
        again=team.n > 1 and identity["device"] != "cpu",
        leave=load.cache_clear,
    )


def ask_urgency(
    args: argparse.Namespace,
    opened: "Session",
    settings: "Settings",
    team: "Team",
    route: ssh.Route,
    asked: str,
) -> int:
    """Ask about urgency visits, and write what the answers show beside nurse and simple models."""
    from mimic_qlora.qa import session
    from mimic_qlora.validation import arms, delivery, ledger
    from mimic_qlora.validation import settings as setting
    from mimic_qlora.validation.urgency import report, run

    if args.judge or args.twins or args.forgetting or args.arms:
        raise UserError(
            "--tasks urgency reads probabilities of base and adapters: leave out --judge, --twins, "
            "--forgetting and --arms"
        )
    if team.n > 1:
        raise UserError("--tasks urgency runs in one process: leave out --processes")
    store, sha256 = opened.store, settings.plan_sha256
    ready = run.prepare(opened, settings)
    machine = machine_of(args, opened, settings, team)
    adapters = machine.identity["adapters"]
    opening = open_tests(opened, sha256, adapters, asked) if sha256 else ""
    chosen = arms.chosen("base", settings.runs)
    this = setting.Run(opened, settings, chosen, [], opening, adapters=adapters)
    with storage.locked(machine.journal.path, "validation"):
        found = run.find(this, machine, ready)
    if not settings.is_final:
        looked = {**settings.trials, "tasks": args.tasks}
        this = replace(this, opened=ledger.looked(store, adapters, looked, asked))
    this = replace(this, replaced=session.replaced(store, adapters))
    with delivery.kept_results(store / "validation") as kept:
        text = report.write(this, found, kept.partial)
    folder = delivery.copy_to_temporary(kept.place)
    page = folder / report.PAGE
    print(f"\n{text}\n\n{delivery.fetching(folder, kept.place, route, page)}")
    return 0


def main() -> int:
    args = arguments()
    store = storage.open_storage(args.storage)
    if launch.wanted(args.processes):
        return launch.start(args.processes)
    with meeting.joined(store) as team:
        if args.freeze or args.plan:
            return settle_first(args, store) if team.is_first else 0
        return validate(args, store, team)


def settle_first(args: argparse.Namespace, store: Path) -> int:
    """Freeze a plan, or say what n trials can show."""
    from mimic_qlora.clinical import content
    from mimic_qlora.validation import settings

    questions = content.load_questions(HERE)
    n = args.n or settings.DEFAULT_N
    print(freeze(store, args.freeze, questions) if args.freeze else plan(store, questions, n))
    return 0


def validate(args: argparse.Namespace, store: Path, team: "Team") -> int:
    """Ask, answer, compare and deliver; of several processes the first one does all but answer."""
    from mimic_qlora.clinical import content
    from mimic_qlora.qa import session
    from mimic_qlora.validation import arms, asking, ledger, run
    from mimic_qlora.validation import plan as plans
    from mimic_qlora.validation import settings as setting
    from mimic_qlora.validation import side_by_side as beside
    from mimic_qlora.validation.judge import judge as judging

    environment.take_gpu()
    route = ssh.route(args.jump)
    questions = content.load_questions(HERE)
    asked_sha256 = content.asked_sha256(questions)
    asked = setting.Asked(args.n, args.seed, args.run, args.arms, args.max_new_tokens)
    settings = setting.settle(asked, plans.frozen(store, asked_sha256) if args.final else None)
    storage.check_adapters(store, settings.runs)
    beside.check_different(store, settings.runs)
    opened = session.load(store, args.model)
    judge = judging.choose(args.judge, store, opened.path) if args.judge else None
    ledger.ledger(store)  # a damaged one is refused now, not after the answers
    print(session.first_lines(opened))
    if alone := environment.alone():
        print(alone)
    if args.tasks == "urgency":
        return ask_urgency(args, opened, settings, team, route, asked_sha256)
    drawn, apart = draw(args, opened, settings, questions)
    chosen = arms.chosen(settings.arms, settings.runs)
    asks = asking.asks([*drawn, *apart], chosen, opened)
    session.check_room(opened, [ask.messages for ask in asks], settings.max_new_tokens)

    machine, sha256 = machine_of(args, opened, settings, team), settings.plan_sha256
    adapters, opening = machine.identity["adapters"], ""
    if sha256 and team.is_first:
        opening = open_tests(opened, sha256, adapters, asked_sha256)
    differ = beside.differ_in(store, settings.runs)
    this = setting.Run(opened, settings, chosen, questions, opening, judge, differ, adapters)
    with storage.locked(machine.journal.path, "validation") if team.is_first else nullcontext():
        answered = run.answer_all(this, machine, asks, args.forgetting)
    if not team.is_first:
        return 0
    if not answered.trials:
        terminal.say_aside(f"\nStopped before a trial was answered: {GOES_ON}")
        return 130
    if not settings.is_final:
        this = replace(this, opened=ledger.looked(store, adapters, settings.trials, asked_sha256))
    this = replace(this, replaced=session.replaced(store, adapters))
    told = answered.how_far(len(drawn), len(apart))
    if len(answered.trials) < len(drawn):
        answered.stopped_after = told
    deliver(this, answered, route)
    if answered.stopped:
        terminal.say_aside(f"\nStopped after {told}, compared above: {GOES_ON}")
        return 130
    return 0


def deliver(this: "Run", answered: "Answered", route: ssh.Route) -> None:
    """Write the results, copy them to /tmp, and print what was found and where it lies."""
    from mimic_qlora.validation import delivery, run

    results = this.session.store / "validation"
    with delivery.kept_results(results) as kept:
        text = run.write(this, answered, kept.partial)
    folder = delivery.copy_to_temporary(kept.place)
    print(f"\n{text}\n\n{delivery.farewell(folder, kept.place, route, HERE)}")


if __name__ == "__main__":
    command_line.run(main)
