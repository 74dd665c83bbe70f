"""Step 6: ask questions about one patient, by subject_id.

    python qa_by_subject.py
    python qa_by_subject.py --once --subject-id 10014729 --question "I have a bad headache."
    python qa_by_subject.py --batch questions.jsonl > answers.jsonl
    python qa_by_subject.py --check 20

Shows the context that the model gets, exactly, and answers with the base, with the adapter, or with
both. Without --once, --batch or --check it is a conversation with the terminal (:help lists what
can be typed), in which a question follows up on those before. Transcripts go to `qa/` in the
storage folder. --check proves the whole pipeline on n validation patients: record found, context
there and within its budget, age and sex known, answers that end by themselves.

Exit codes: 0 done, 1 a patient of --check or a line of --batch failed, 2 something to put right,
130 stopped by Ctrl-C.
"""

import argparse
import contextlib
import json
import sys
import time
from itertools import islice
from pathlib import Path

from mimic_qlora import command_line, storage
from mimic_qlora.storage import UserError

QUESTIONS = Path(__file__).parent / "run_files"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--subject-id", metavar="ID|random", help="patient to open; random: one of the validation patients")
    add("--question", help="the question to ask with --once (and with --check, default: the first curated one)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="answer one question and leave (default: ask on the terminal)")
    how.add_argument("--batch", metavar="FILE", help='answer each line, {"subject_id": ..., "question": ..., '
                     '"as_of": optional}, with a line of JSON; - reads standard input')  # fmt: skip
    how.add_argument("--check", type=int, metavar="N", help="test the pipeline on N validation patients")
    add("--as-of", metavar="DATE", help="show what the chart held then (default: days after the last discharge home)")
    add("--arm", choices=("base", "adapter", "both"),
        help="who answers (default: both when there is an adapter, else base)")  # fmt: skip
    add("--run", default="default", help="which adapter of step 5 (default: %(default)s)")
    add("--model", help="base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)")
    add("--format", choices=("text", "json"), default="text", help="of the answer to --once (default: %(default)s)")
    add("--max-new-tokens", type=int, default=512, help="budget of an answer in tokens (default: %(default)s)")
    add(
        "--batch-size",
        type=int,
        default=16,
        help="answers generated at once by --batch, --check (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed that picks random patients (default: %(default)s)")
    command_line.add_arguments(parser, force=False)
    args = parser.parse_args()
    if args.once and not (args.subject_id and (args.question or "").strip()):
        raise UserError("--once needs --subject-id (a number or random) and --question")
    if not args.once and (args.format == "json" or (args.question and not args.check)):
        raise UserError("--question and --format json go with --once")
    if (args.batch or args.check is not None) and (args.subject_id or args.as_of):
        raise UserError("--subject-id and --as-of are for one patient: leave them out with --batch and --check")
    command_line.check_positive(args, "max_new_tokens", "batch_size", "check")
    command_line.check_run(args.run)
    return args


def main():
    args = arguments()
    lines = read_lines(args.batch) if args.batch else []
    store = storage.open_storage(args.storage)
    # the only thing on stdout is the JSON, whatever a library says
    aside = contextlib.redirect_stdout(sys.stderr) if args.format == "json" or args.batch else contextlib.nullcontext()
    with aside:
        storage.read_manifest(store, "prompts")

        from mimic_qlora import answers, conversation, trials

        as_of = conversation.parse_time(args.as_of) if args.as_of else None
        arm = args.arm or ("both" if args.run != "default" or answers.has_adapter(store, args.run) else "base")
        if arm != "base":
            answers.check_runs(store, [args.run])
        source = answers.sources(store, args.model)
        randoms = trials.charts(source, "validation", args.seed)
        talk = conversation.start(source, arm, as_of, args, randoms)
        print(answers.first_lines(source))
        checked = charts_to_check(talk) if args.check else []
        if args.subject_id:
            conversation.open_patient(talk, args.subject_id)
        # kept at hand in a conversation, where :both may follow; the others load what they need
        one_way = args.once or args.batch or args.check
        wants_adapter = arm != "base" if one_way else answers.has_adapter(store, args.run)
        talk.model = answers.load_arms(source, [args.run] if wants_adapter else [])
    if args.check:
        return check(talk, checked)
    if args.batch:
        return batch(talk, lines)
    return once(talk) if args.once else conversation.converse(talk)


def answer(talk, asked: list, on_batch=None) -> list:
    """The answers of each arm to questions about patients, as [{arm: {"text", "n_tokens", "ended"}}].

    `asked` holds (patient, question); nothing that was asked before is followed up on. `on_batch` as for
    generation.generate.
    """
    from mimic_qlora import answers, conversation, generation

    arms = conversation.ARMS[talk.arm]
    turns = [turns_of(talk, patient, question) for patient, question in asked]
    answers.check_room(talk.source, turns, talk.args.max_new_tokens)
    flat = generation.generate(
        talk.model,
        talk.source.tokenizer,
        [turn for turn in turns for _ in arms],
        [*arms] * len(turns),
        talk.args.max_new_tokens,
        talk.args.batch_size,
        on_batch,
    )
    given = zip(*[iter(a._asdict() for a in flat)] * len(arms), strict=True)
    return [dict(zip(arms, row, strict=True)) for row in given]


def bar(talk, questions: int):
    """A progress bar over the answers of all arms to so many questions."""
    from tqdm import tqdm

    from mimic_qlora import conversation

    total = questions * len(conversation.ARMS[talk.arm])
    return tqdm(total=total, desc="answers", smoothing=0, disable=None, leave=False)


def turns_of(talk, patient, question: str) -> list:
    from mimic_qlora import context

    return context.messages(talk.source.settings, patient.context.text, question)


def once(talk) -> None:
    """Answer the one question of --once and keep the transcript."""
    from mimic_qlora import conversation, terminal

    question, patient = talk.args.question.strip(), talk.patient
    started = time.perf_counter()
    (given,) = answer(talk, [(patient, question)])
    seconds = round(time.perf_counter() - started, 2)
    talk.said.append(conversation.entry(talk, patient, question, given) | {"seconds": seconds})
    if talk.args.format == "json":
        print(json.dumps(talk.said[-1]))  # ASCII: no character of an answer reaches the terminal as it is
    else:
        print(conversation.describe(patient))
        print(f"Question\n{terminal.printable(question)}")
        for arm, a in given.items():
            cut = "" if a["ended"] else f"\n[cut at {talk.args.max_new_tokens} tokens]"
            print(f"\n--- {arm} ---\n{terminal.printable(a['text'])}{cut}")
    print(f"\nSaved {conversation.save(talk)}", file=sys.stderr)


# ---------------------------------------------------------------- many questions


def read_lines(path: str) -> list:
    """The lines of --batch with their numbers; empty ones are passed over. Raises UserError for a file that is none."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--batch {path} cannot be read as UTF-8 text ({type(error).__name__})") from None
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def wanted(talk, line: str) -> tuple:
    """(patient, question) of a line of --batch. Raises UserError that says what is wrong with it."""
    from mimic_qlora import answers, conversation

    try:
        asked = json.loads(line)
    except ValueError:
        raise UserError("this is no JSON") from None
    if not (isinstance(asked, dict) and isinstance(asked.get("question"), str) and asked["question"].strip()):
        raise UserError('a line is {"subject_id": number, "question": "..."}, with "as_of" if you like')
    as_of = conversation.parse_time(asked["as_of"]) if asked.get("as_of") else None
    patient, question = conversation.chart(talk.source, asked.get("subject_id"), as_of), asked["question"].strip()
    answers.check_room(talk.source, [turns_of(talk, patient, question)], talk.args.max_new_tokens)
    return patient, question


def batch(talk, lines: list) -> int:
    """Answer each line with a line, in the same order; 1 when one could not be answered."""
    from mimic_qlora import conversation

    failed, size = 0, 4 * talk.args.batch_size  # so many at a time that those of like length find each other
    with bar(talk, len(lines)) as shown:
        for part in (lines[i : i + size] for i in range(0, len(lines), size)):
            asked, replies = {}, {}
            for number, line in part:
                try:
                    asked[number] = wanted(talk, line)
                except UserError as error:
                    replies[number] = {"line": number, "error": str(error)}
            failed += len(replies)
            shown.update(len(replies) * len(conversation.ARMS[talk.arm]))
            given_to = answer(talk, [*asked.values()], shown.update) if asked else []
            for (number, (patient, question)), given in zip(asked.items(), given_to, strict=True):
                talk.said.append(conversation.entry(talk, patient, question, given))
                replies[number] = {"line": number, **talk.said[-1]}
            for _, reply in sorted(replies.items()):
                print(json.dumps(reply), flush=True)
    if talk.said:
        print(f"Saved {conversation.save(talk)}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(lines)} lines could not be answered", file=sys.stderr)
    return int(failed > 0)


# ---------------------------------------------------------------- the check


def charts_to_check(talk) -> list:
    """(subject_id, milliseconds to open it, patient or the error) of n validation patients of the cohort."""
    from mimic_qlora import conversation

    found = []
    for subject_id, _, _ in islice(talk.randoms, talk.args.check):
        started = time.perf_counter()
        try:
            patient = conversation.chart(talk.source, subject_id, None)
        except UserError as error:
            patient = str(error)
        found.append((subject_id, (time.perf_counter() - started) * 1000, patient))
    if not found:
        raise UserError(
            "no validation patient has a coded stay that ended with a discharge to home: convert more patients"
        )
    return found


def told(text: str) -> list:
    """The lines of a context that tell something of the chart, beyond age and sex."""
    nothing = ("unknown", "none on record", "none coded", "the record does not say")
    lines = [line for line in text.splitlines()[1:] if not line.startswith(("- Age:", "- Sex:"))]
    return [line for line in lines if not line.endswith(nothing)]


def check(talk, checked: list) -> int:
    """Print what holds for each patient; 1 when something does not."""
    from mimic_qlora import clinical

    question = talk.args.question or clinical.load_questions(QUESTIONS)[0]["question"]
    there = [patient for _, _, patient in checked if not isinstance(patient, str)]
    with bar(talk, len(there)) as shown:
        answered = iter(answer(talk, [(patient, question) for patient in there], shown.update) if there else [])
    budget, failed = talk.source.settings["token_budget"], 0
    print(f"\n{'subject_id':>10} {'opened':>9} {'context':>9} {'age':>5} {'sex':>4}  result")
    for subject_id, ms, patient in checked:
        if isinstance(patient, str):
            wrong, cells = [patient], ("-", "-", "-")
        else:
            facts, tokens, given = patient.context.facts, talk.source.count_tokens(patient.context.text), next(answered)
            cells = (
                f"{tokens} tok",
                "over 89" if (facts["age"] or 0) > 89 else facts["age"] or "-",
                facts["sex"] or "-",
            )
            wrong = [
                *([] if told(patient.context.text) else ["the context is empty"]),
                *([f"the context has more than {budget} tokens"] if tokens > budget else []),
                *(["age unknown"] if facts["age"] is None else []),
                *(["sex unknown"] if facts["sex"] not in ("F", "M") else []),
                *([f"{arm}: no answer" for arm, a in given.items() if not a["text"]]),
                *([f"{arm}: cut at {a['n_tokens']} tokens" for arm, a in given.items() if not a["ended"]]),
            ]
        failed += bool(wrong)
        print(f"{subject_id:>10} {ms:>6.1f} ms {cells[0]:>9} {cells[1]!s:>5} {cells[2]:>4}  {'; '.join(wrong) or 'ok'}")
    fewer = f" ({talk.args.check} were asked for)" if len(checked) < talk.args.check else ""
    print(f"\nAsked: {question}\n{len(checked) - failed} of {len(checked)} patients passed{fewer}")
    return int(failed > 0)


if __name__ == "__main__":
    command_line.run(main)
