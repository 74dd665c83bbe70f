"""Step 6: ask questions about one patient, by subject_id.

    python qa_by_subject.py
    python qa_by_subject.py --once --subject-id 10014729 --question "I have a bad headache."
    python qa_by_subject.py --batch questions.jsonl > answers.jsonl
    python qa_by_subject.py --check 20

Shows the context that the model gets, exactly, and answers with the base, with the adapter, or with
both. Without --once, --batch or --check it is a conversation with the terminal, in which a question
follows up on those before; :help lists the commands. Transcripts go to `qa/` in the storage folder.
--check proves the whole pipeline on n validation patients: record found, context there and within
its budget, age and sex known, answers that end by themselves.

Exit codes: 0 done, 1 a patient of --check or a line of --batch failed, 2 something to put right,
130 stopped by Ctrl-C.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from mimic_qlora.processes import environment, launch, meeting
from mimic_qlora.step import command_line, ending, storage
from mimic_qlora.step.errors import UserError

QUESTIONS = Path(__file__).resolve().parent / "run_files"


def arguments() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    _add_questions(parser)
    _add_answers(parser)
    command_line.add_arguments(parser, force=False)
    args = parser.parse_args()
    if args.once and not (args.subject_id and (args.question or "").strip()):
        raise UserError("--once needs --subject-id (a number or random) and --question")
    if not args.once and (args.format == "json" or (args.question and not args.check)):
        raise UserError("--question and --format json go with --once")
    command_line.check_alone(parser, vars(args), "once", ["batch_size"])
    command_line.check_alone(parser, vars(args), "batch", ["seed"])
    args.talk = not (args.once or args.batch or args.check)
    if args.arm == "base" and args.run != "default" and not args.talk:
        raise UserError("--arm base leaves --run without effect: give one or the other")
    shared = args.batch not in (None, "-")
    if not shared and (args.processes or environment.place().n > 1):
        raise UserError(
            "several processes share --batch with a file alone: start one for anything else"
        )
    if (args.batch or args.check is not None) and (args.subject_id or args.as_of):
        raise UserError(
            "--subject-id and --as-of are for one patient: leave them out with --batch and --check"
        )
    return args


def _add_questions(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--subject-id",
        metavar="ID|random",
        help="patient to open; random: one of the validation patients",
    )
    add(
        "--question",
        type=command_line.text,
        help="the question to ask with --once (and with --check, default: the first curated one)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="one answer (default: a conversation)")
    how.add_argument(
        "--batch",
        metavar="FILE",
        help='answer each line, {"subject_id": ..., "question": ..., '
        '"as_of": optional}, with a line of JSON; - reads standard input',
    )
    how.add_argument(
        "--check",
        type=command_line.positive_int,
        metavar="N",
        help="test the pipeline on N validation patients",
    )
    add(
        "--as-of",
        metavar="DATE",
        help="show what the chart held then (default: days after the last discharge home)",
    )


def _add_answers(parser: argparse.ArgumentParser) -> None:
    add, whole = parser.add_argument, command_line.positive_int
    who = "who answers (default: both when there is an adapter, else base)"
    add("--arm", choices=("base", "adapter", "both"), help=who)
    command_line.add_adapter(parser)
    form = "of the answer to --once (default: %(default)s)"
    add("--format", choices=("text", "json"), default="text", help=form)
    budget = "budget of an answer in tokens (default: %(default)s)"
    add("--max-new-tokens", type=whole, default=512, help=budget)
    at_once = "answers generated at once by --batch, --check (default: %(default)s)"
    add("--batch-size", type=whole, default=16, help=at_once)
    add("--seed", type=int, default=0, help="picks random patients (default: %(default)s)")
    command_line.add_device(parser)
    command_line.add_processes(parser)


def main() -> int:
    args = arguments()
    store = storage.open_storage(args.storage)
    if launch.wanted(args.processes):
        return launch.start(args.processes)
    with meeting.joined(store) as team:
        return answer(args, store, team)


def answer(args: argparse.Namespace, store: Path, team: meeting.Team) -> int:
    """Open the data, load the model, and answer in the way that was asked for."""
    # the only thing on stdout is the JSON, whatever a library prints
    quiet = args.format == "json" or args.batch
    with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
        storage.verified_manifest(store, "prompts")

        from mimic_qlora.clinical import content
        from mimic_qlora.qa import batch, check, conversation, patient, session

        environment.take_gpu()
        lines = batch.read_lines(args.batch) if args.batch else []
        as_of = patient.parse_time(args.as_of) if args.as_of else None
        there = session.has_adapter(store, args.run)
        arm = args.arm or ("both" if args.run != "default" or there else "base")
        if arm != "base":
            storage.check_adapters(store, [args.run])
        opened = session.load(store, args.model)
        randoms = session.charts(opened, "validation", args.seed)
        print(session.first_lines(opened))
        checked = check.open_charts(opened, randoms, args.check) if args.check else []
        found = None
        if args.subject_id:
            draw = args.subject_id == "random"
            number = conversation.next_random(randoms) if draw else args.subject_id
            found = patient.find(opened, number, as_of)
        question = (args.question or "").strip()
        if args.check:
            question = question or content.load_questions(QUESTIONS)[0].question
        first = [found] if args.once else [each.patient for each in checked]
        if asked := [one.turns(opened, question) for one in first if one]:
            session.check_room(opened, asked, args.max_new_tokens)  # before the model's seconds
        # a conversation keeps the adapter at hand, as :both may follow; the others load what they
        # need
        wants_adapter = there if args.talk else arm != "base"
        model, loaded = session.load_known(opened, [args.run] if wants_adapter else [])
    who, tokens, weights = conversation.ARMS[arm], args.max_new_tokens, loaded.get(args.run)
    answerer = session.Answerer(opened, model, who, args.run, tokens, args.batch_size, weights)
    if args.check:
        return 0 if check.run(answerer, checked, question, args.check) else 1
    if args.batch:
        with batch.journal(answerer, lines, team) as journal:
            failed = batch.run(answerer, lines, journal)
        return 1 if failed and team.is_first else 0
    if args.once and found:
        one = batch.Question(found, question)
        batch.answer_one(answerer, one, as_json=args.format == "json")
    else:
        conversation.converse(conversation.Conversation(answerer, randoms, as_of, found))
    if not quiet:
        ending.say_next("qa", ending.Options(args.storage, args.model, args.run))
    return 0


if __name__ == "__main__":
    command_line.run(main)
