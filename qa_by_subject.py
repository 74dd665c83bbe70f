"""Step 6: ask a question about one patient, by subject_id.

    python qa_by_subject.py
    python qa_by_subject.py --once --subject-id 10014729 --question "I have a bad headache."

Shows the context that the model gets, exactly, and answers with the base, with the adapter, or with
both. Without --once it is a conversation with the terminal (:help lists what can be typed). Each
question is asked on its own, as in step 7. Transcripts go to `qa/` in the storage folder. Exit
codes: 0 answered or left, 2 something to put right, 130 stopped by Ctrl-C.
"""

import argparse
import contextlib
import json
import sys
import time
from datetime import datetime
from types import SimpleNamespace

from mimic_qlora import storage
from mimic_qlora.storage import UserError

ARMS = {"base": ("base",), "adapter": ("adapter",), "both": ("base", "adapter")}
HELP = """\
  10014729           open this patient; `random` opens a validation patient
  any other text     a question about the open patient
  :base :adapter :both   who answers
  :as-of 2150-03-01  what was known at that time (with a time of day: 2150-03-01T18:00); `:as-of` alone: the usual time
  :patient ID        open a patient, as by typing the number
  :save              keep the questions and answers so far in the storage folder
  :quit              leave (so does Ctrl-D); Ctrl-C stops an answer"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--subject-id", metavar="ID|random", help="patient to open; random: one of the validation patients")
    add("--question", help="the question to ask with --once")
    add("--once", action="store_true", help="answer one question and leave (default: ask on the terminal)")
    add("--as-of", metavar="DATE", help="show what the chart held then (default: days after the last discharge home)")
    add("--arm", choices=ARMS, help="who answers (default: both when there is an adapter, else base)")
    add("--run", default="default", help="which adapter of step 5 (default: %(default)s)")
    add("--model", help="base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)")
    add("--format", choices=("text", "json"), default="text", help="of the answer to --once (default: %(default)s)")
    add("--max-new-tokens", type=int, default=320, help="budget of an answer in tokens (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed that picks the random patient (default: %(default)s)")
    storage.add_arguments(parser, force=False)
    args = parser.parse_args()
    if args.once and not (args.subject_id and (args.question or "").strip()):
        raise UserError("--once needs --subject-id (a number or random) and --question")
    if not args.once and (args.question or args.format == "json"):
        raise UserError("--question and --format json go with --once")
    storage.check_positive(args, "max_new_tokens")
    storage.check_run(args.run)
    return args


def main():
    args = arguments()
    as_of = parse_time(args.as_of) if args.as_of else None
    store = storage.open_storage(args.storage)
    # the only thing on stdout is the JSON, whatever a library says
    aside = contextlib.redirect_stdout(sys.stderr) if args.format == "json" else contextlib.nullcontext()
    with aside:
        storage.read_manifest(store, "prompts")

        from mimic_qlora import answers, trials

        arm = args.arm or ("both" if args.run != "default" or answers.has_adapter(store, args.run) else "base")
        if arm != "base":
            storage.read_manifest(store, f"adapters/{args.run}")
        source = answers.sources(store, args.model)
        talk = SimpleNamespace(source=source, arm=arm, as_of=as_of, patient=None, said=[], args=args)
        talk.randoms = trials.charts(source, "validation", args.seed)
        print(answers.first_lines(source))
        if args.subject_id:
            open_patient(talk, args.subject_id)
        # kept at hand in a conversation, where :both may follow; --once loads what it needs
        wants_adapter = arm != "base" if args.once else answers.has_adapter(store, args.run)
        talk.model = answers.load_arms(source, [args.run] if wants_adapter else [])
    if args.once:
        return once(talk)
    return converse(talk)


def parse_time(text: str) -> datetime:
    """A date (its first minute) or a date and time, in the patient's shifted calendar. Raises UserError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo:
        raise UserError(f"'{text}' is not a date: give one like 2150-03-01 or 2150-03-01T18:00")
    return moment


# ---------------------------------------------------------------- the patient


def open_patient(talk, name: str) -> None:
    """Make a patient the one that is asked about. Raises UserError for an unknown one."""
    from mimic_qlora import answers, facts, moments, subjects

    if name == "random":
        found = next(talk.randoms, None)
        if found is None:
            raise UserError(
                "there is no further validation patient with a coded stay and a discharge home: give a number"
            )
        name = str(found[0])
    if not (name.isascii() and name.isdigit()):
        raise UserError(f"'{name}' is not a subject_id: give a number such as 10014729, or random")
    record = subjects.record(talk.source.store, int(name), facts.WANTED)
    usual = None if talk.as_of else moments.latest(record, talk.source.settings["seed"])
    as_of = talk.as_of or usual.as_of
    built = answers.build(talk.source, record, as_of)
    talk.patient = SimpleNamespace(subject_id=int(name), as_of=as_of, context=built)


def describe(patient) -> str:
    from mimic_qlora import terminal

    cuts = ", ".join(f"{n} of {section}" for section, n in patient.context.cuts.items())
    return (
        f"\nsubject_id {patient.subject_id} as of {patient.as_of}: this is what the model gets\n\n"
        f"{terminal.printable(patient.context.text)}\n" + (f"\n(left out to fit: {cuts})\n" if cuts else "")
    )


# ---------------------------------------------------------------- answers


def messages(talk, question: str) -> list:
    from mimic_qlora import answers, context

    turns = context.messages(talk.source.settings, talk.patient.context.text, question)
    answers.check_room(talk.source, [turns], talk.args.max_new_tokens)
    return turns


def once(talk) -> None:
    """Answer the one question of --once and keep the transcript."""
    from mimic_qlora import generation, terminal

    question, arms = talk.args.question.strip(), ARMS[talk.arm]
    turns, budget = messages(talk, question), talk.args.max_new_tokens
    started = time.perf_counter()
    given = generation.generate(talk.model, talk.source.tokenizer, [turns] * len(arms), arms, budget, len(arms))
    seconds = round(time.perf_counter() - started, 2)
    entry = remember(talk, question, {arm: a._asdict() for arm, a in zip(arms, given, strict=True)}) | {
        "seconds": seconds
    }
    talk.said[-1] = entry
    if talk.args.format == "json":
        print(json.dumps(entry))  # ASCII: no character of an answer reaches the terminal as it is
    else:
        print(describe(talk.patient))
        print(f"Question\n{terminal.printable(question)}")
        for arm, a in zip(arms, given, strict=True):
            cut = "" if a.ended else f"\n[cut at {budget} tokens]"
            print(f"\n--- {arm} ---\n{terminal.printable(a.text)}{cut}")
    print(f"\nSaved {save(talk)}", file=sys.stderr)


def stream(talk, question: str) -> None:
    """Print the answers as they come; Ctrl-C stops them and keep the program."""
    from mimic_qlora import generation, terminal

    turns, given = messages(talk, question), {}
    for arm in ARMS[talk.arm]:
        print(f"\n--- {arm} ---")
        pieces, stopped = [], False
        flow = generation.stream(talk.model, talk.source.tokenizer, turns, arm, talk.args.max_new_tokens)
        try:
            for piece in flow:
                pieces.append(piece)
                print(terminal.printable(piece), end="", flush=True)
        except KeyboardInterrupt:
            stopped = True
        finally:
            flow.close()
        text = "".join(pieces).strip()
        cut = not stopped and talk.source.count_tokens(text) >= talk.args.max_new_tokens - 1
        given[arm] = {"text": text, "ended": not (stopped or cut)}
        print(f"\n[cut at {talk.args.max_new_tokens} tokens]" if cut else "\n[stopped]" if stopped else "")
        if stopped:
            break
    remember(talk, question, given)


def remember(talk, question: str, given: dict) -> dict:
    from mimic_qlora import models

    patient = talk.patient
    entry = {
        "subject_id": patient.subject_id,
        "as_of": str(patient.as_of),
        "question": question,
        "context": patient.context.text,
        "answers": given,
        "model": models.model_name(talk.source.path),
        "run": talk.args.run if "adapter" in given else None,
    }
    talk.said.append(entry)
    return entry


def save(talk) -> str:
    """Write the transcript as JSON lines to a fresh private file."""
    from mimic_qlora import answers

    path = answers.private_file(talk.source.store / "qa", time.strftime("%Y%m%d-%H%M%S-"), ".jsonl")
    path.write_text("".join(json.dumps(entry) + "\n" for entry in talk.said), encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------- the conversation


def converse(talk) -> None:
    """Read lines from the terminal until :quit or the end of input."""
    remember_lines(talk)
    print(f"\nType a subject_id, or random; then ask. {talk.arm} answers. :help lists what can be typed.")
    if talk.patient:
        print(describe(talk.patient))
    while True:
        try:
            line = input(f"{talk.patient.subject_id if talk.patient else 'patient'}> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("  (:quit or Ctrl-D leaves)")
            continue
        try:
            if line in (":quit", ":q"):
                return
            if line:
                obey(talk, line)
        except UserError as error:
            print(f"error: {error}")


def obey(talk, line: str) -> None:
    """Do what one typed line asks for. Raises UserError, which leaves the conversation as it was."""
    word, _, rest = line.partition(" ")
    if word in (":patient", "random") or line.isdigit():
        open_patient(talk, rest.strip() or line)
        print(describe(talk.patient))
    elif word in (":base", ":adapter", ":both"):
        if word != ":base" and not hasattr(talk.model, "peft_config"):
            raise UserError(f"there is no adapter '{talk.args.run}': run `python train_qlora.py` and start again")
        talk.arm = word[1:]
        print(f"{talk.arm} answers")
    elif word == ":as-of":
        before = talk.as_of
        talk.as_of = parse_time(rest.strip()) if rest.strip() else None
        if talk.patient:
            try:
                open_patient(talk, str(talk.patient.subject_id))
            except UserError:
                talk.as_of = before
                raise
            print(describe(talk.patient))
    elif word == ":save":
        if not talk.said:
            raise UserError("nothing has been asked yet")
        print(f"Saved {save(talk)}")
    elif word.startswith(":"):
        print(HELP)
    elif talk.patient is None:
        raise UserError("no patient is open: type a subject_id or random first")
    else:
        stream(talk, line)


def remember_lines(talk) -> None:
    """Line editing, with a history that is as private as the answers. Windows' own terminal has both."""
    with contextlib.suppress(ImportError, OSError):
        import atexit
        import readline

        path = talk.source.store / "qa" / ".history"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
        readline.set_history_length(500)
        atexit.register(readline.write_history_file, path)


if __name__ == "__main__":
    storage.run(main)
