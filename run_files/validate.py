"""Step 7: base against adapter on held-out patients, asked the curated questions.

    cd run_files && ./run.sh 50
    ./run.sh 50 --plan                 which difference 50 trials can show
    ./run.sh --freeze plan.yaml        settle what will be tested; then ./run.sh --final, once

Asks n distinct (patient, question) pairs, each answered by every arm from one loaded copy of the
4-bit base, and apart from these the knowledge prompts without a patient and about n of step 4's
held-out chart questions and diagnoses; previews them, scores them by a rubric
(mimic_qlora/validation/scoring/), and says what difference could be shown (mimic_qlora/validation/statistics.py). The
CSVs lie in a private folder under /tmp, with a copy in the storage folder. A run that was stopped
or killed goes on with the same command. Exit codes: 0 done, 2 something to put right, 130 stopped
by Ctrl-C with the finished trials reported.
"""

import argparse
import re
import sys
from functools import cache
from pathlib import Path

from mimic_qlora.step import command_line, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.run import answer_all, probe, report

HERE = Path(__file__).resolve().parent


def arguments():
    parser = argparse.ArgumentParser(
        prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("n", nargs="?", help="number of trials: distinct (patient, question) pairs (default: 20)")
    add(
        "--arms",
        help="what answers beside base and adapter: base-examples (two training records in the prompt), "
        "base-rules (the caution rules that the chart calls for in the prompt), adapter-other-chart (the chart of "
        "another patient), or all (default: base,adapter)",
    )
    add("--run", help="adapter of step 5, or several of different seeds: a,b,c (default: default)")
    add(
        "--model",
        help="base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)",
    )
    add(
        "--final",
        action="store_true",
        help="ask the test patients by the frozen plan (default: validation patients)",
    )
    add("--freeze", metavar="PLAN", help="freeze this plan.yaml for --final, and end")
    add("--plan", action="store_true", help="say which difference n trials can show, and end")
    add("--seed", type=int, help="seed that draws the trials (default: 0)")
    add("--max-new-tokens", type=int, help="budget of an answer in tokens (default: 512)")
    add(
        "--batch-size",
        type=int,
        default=16,
        help="answers generated at once, of all arms (default: %(default)s)",
    )
    add(
        "--strict",
        action="store_true",
        help="answer one by one, so that no answer depends on its batch (slower)",
    )
    add(
        "--knowledge",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask the knowledge prompts too",
    )
    add(
        "--records",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask step 4's held-out chart questions and diagnoses too",
    )
    add(
        "--force",
        action="store_true",
        help="answer anew even what an earlier run of the same content answered",
    )
    add(
        "--jump",
        metavar="HOST",
        help="login host on the way to this machine, for the scp line (ssh's ProxyJump)",
    )
    command_line.add_arguments(parser, force=False)
    args = parser.parse_args()
    if args.n is not None:
        if not re.fullmatch("0*[1-9][0-9]{0,17}", args.n):
            raise UserError(
                f"n is '{args.n}': give the number of trials as a positive whole number, like ./run.sh 20"
            )
        args.n = int(args.n)
    command_line.check_positive(args, "max_new_tokens", "batch_size")
    for run in (args.run or "default").split(","):
        command_line.check_run(run)
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)

    from mimic_qlora.clinical import content
    from mimic_qlora.qa import session
    from mimic_qlora.validation import answer_cache, arms, delivery, ledger, power, results, trials
    from mimic_qlora.validation import plan as plans

    if args.freeze:
        print(
            f"Frozen: {plans.freeze(store, Path(args.freeze))} ({store / 'validation' / 'plan.yaml'})"
        )
        return None
    questions, knowledge = (
        content.load_questions(HERE),
        content.load_knowledge(HERE) if args.knowledge else [],
    )
    if args.plan:
        print(power.what_can_be_shown(store, len(questions), args.n or plans.DEFAULTS["n"]))
        return None
    plan, plan_sha256 = plans.frozen(store) if args.final else (None, None)
    runs = plans.settle(args, plan)
    session.check_runs(store, runs)
    source = session.load(store, args.model)
    print(session.first_lines(source))
    split = "test" if args.final else "validation"
    drawn = trials.draw(source, questions, args.n, split, args.seed)
    fewer = (
        f" ({args.n:,} were asked for: these are all pairs there are)"
        if len(drawn) < args.n
        else ""
    )
    print(
        f"Trials: {len(drawn)} pairs of a {split} patient and a question{fewer}, seed {args.seed}"
    )
    chosen = arms.chosen(args.arms, runs)
    records = trials.of_records(source, args.n, split, args.seed) if args.records else []
    asks = arms.asks(drawn + trials.without_patient(knowledge) + records, chosen, source)
    session.check_room(source, [ask.messages for ask in asks], args.max_new_tokens)
    identity = session.identity(source, runs)
    about = {"plan_sha256": plan_sha256} if plan else {}
    opened = ledger.opening(store, plan_sha256, identity["adapters"]) if args.final else ""
    path = answer_cache.path_of(store, identity)
    load = cache(lambda: session.load_arms(source, runs))

    made, lines, stopped = {kind: [] for kind in results.OF_KIND}, [], False
    with storage.locked(path, "validation"):
        try:
            answer_cache.begin(path, identity, args.force)
            answer_all(load, source, asks, args, path, split, about, made, lines)
            probed = answer_cache.once(
                path, f"probe of {args.arms}", lambda: probe(load(), source, drawn[0], chosen)
            )
        except KeyboardInterrupt:
            stopped, probed = True, {}
    if not made["trial"]:
        print(
            "\nStopped before a trial was answered: the same command goes on from here",
            file=sys.stderr,
        )
        return 130
    rows, points, exact = (sorted(part, key=lambda row: row["trial"]) for part in made.values())
    lines.sort(key=lambda line: ([*made].index(line["kind"]), line["trial"]))
    results.add_likeness(rows)
    folder = delivery.fresh_folder()
    text = report(
        source, rows, points, exact, lines, probed, folder, questions, chosen, opened, args
    )
    kept = delivery.copy_to(store / "validation", folder)
    print(f"{text}\n\n{delivery.farewell(folder, kept, args.jump)}")
    if stopped:
        print(
            f"\nStopped after {len(rows)} of {len(drawn)} trials, compared above: the same command goes on from here",
            file=sys.stderr,
        )
        return 130


# ---------------------------------------------------------------- answers


# ---------------------------------------------------------------- results


if __name__ == "__main__":
    command_line.run(main)
