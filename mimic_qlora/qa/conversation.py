"""A talk about one patient on the terminal: opening a chart, asking, asking further, and what is kept of it."""

import contextlib
import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from mimic_qlora.chart import columns, context, facts, prediction_times
from mimic_qlora.display import text as terminal
from mimic_qlora.llm import finding, generation
from mimic_qlora.qa import session
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader

ARMS = {"base": ("base",), "adapter": ("adapter",), "both": ("base", "adapter")}
SHOWN = 8  # patients listed for a part of a subject_id
HELP = """\
  10014729           open this patient; a part of a number lists those that have it; `random` opens
                     a validation patient
  any other text     a question about the open patient; the next one follows up on it
  :new               forget the talk so far, keep the patient
  :base :adapter :both   who answers
  :as-of 2150-03-01  what was known at that time (with a time of day: 2150-03-01T18:00);
                     `:as-of` alone: the usual time
  :context           show again what the model gets
  :patient ID        open a patient, as by typing the number
  :save              keep the questions and answers so far in the storage folder
  :quit              leave (so does Ctrl-D); Ctrl-C stops an answer"""


def start(
    source: SimpleNamespace, arm: str, as_of: datetime | None, args, randoms
) -> SimpleNamespace:
    """A talk with nobody yet: `said` is all that will be saved, `thread` what a further question follows up on."""
    state = {"patient": None, "said": [], "thread": [], "model": None}
    return SimpleNamespace(source=source, arm=arm, as_of=as_of, args=args, randoms=randoms, **state)


# ---------------------------------------------------------------- the patient


def parse_time(text: str) -> datetime:
    """A date (its first minute) or a date and time, in the patient's shifted calendar. Raises UserError."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        moment = None
    if moment is None or moment.tzinfo:
        raise UserError(f"'{text}' is not a date: give one like 2150-03-01 or 2150-03-01T18:00")
    return moment


def chart(source: SimpleNamespace, name, as_of: datetime | None) -> SimpleNamespace:
    """A patient's context at a time, or at the usual one. Raises UserError for an unknown patient and for a time of
    which the chart cannot tell: before its first stay, after death, or over a year after the last discharge (until
    then MIMIC-IV knows of deaths)."""
    if not (str(name).isascii() and str(name).isdigit()):
        raise UserError(f"'{name}' is not a subject_id: give a number such as 10014729, or random")
    record = reader.record(source.store, int(name), columns.WANTED)
    stays = facts.stays(record)
    if as_of and stays:
        ends = [p["dod"] + timedelta(days=1) for p in record["patients"] if "dod" in p]
        ends += [s["dischtime"] + timedelta(days=365) for s in stays[-1:] if "dischtime" in s]
        first, last = stays[0]["admittime"], min(ends, default=datetime.max)
        if not first <= as_of <= last:
            raise UserError(
                f"the chart of subject_id {name} tells of {first} to {last}, not of {as_of}: give a time between"
            )
    as_of = as_of or prediction_times.latest(record, source.settings["seed"]).as_of
    return SimpleNamespace(
        subject_id=int(name), as_of=as_of, context=session.build(source, record, as_of)
    )


def open_patient(talk, name: str) -> None:
    """Make a patient the one that is asked about, with a fresh talk. Raises UserError for an unknown one."""
    if name == "random":
        found = next(talk.randoms, None)
        if found is None:
            raise UserError(
                "there is no further validation patient with a coded stay and a discharge home: give a number"
            )
        name = str(found[0])
    talk.patient, talk.thread = chart(talk.source, name, talk.as_of), []


def with_part(store: Path, part: str) -> list:
    """The subject_ids that are this number, else those that begin with it, else those that contain it."""
    ids = [str(subject_id) for subject_id in reader.split_of(store)]
    return (
        [i for i in ids if i == part]
        or [i for i in ids if i.startswith(part)]
        or [i for i in ids if part in i]
    )


def describe(patient) -> str:
    cuts = ", ".join(f"{n} of {section}" for section, n in patient.context.cuts.items())
    return (
        f"\nsubject_id {patient.subject_id} as of {patient.as_of}: this is what the model gets\n\n"
        f"{terminal.printable(patient.context.text)}\n"
        + (f"\n(left out to fit: {cuts})\n" if cuts else "")
    )


# ---------------------------------------------------------------- asking


def turns(talk, who: str, question: str) -> list:
    """The conversation that asks `who` this question, after what they were asked and answered before.

    Where that is longer than the model can read, the oldest questions go; the system prompt and the chart never do.
    Raises UserError when not even the question alone fits.
    """
    earlier = [
        (said["question"], said["answers"][who]["text"])
        for said in talk.thread
        if who in said["answers"]
    ]
    budget = talk.args.max_new_tokens
    while True:
        asked = [question for question, _ in earlier] + [question]
        first = context.messages(talk.source.settings, talk.patient.context.text, asked[0])
        rest = [
            {"role": role, "content": text}
            for (_, answer), following in zip(earlier, asked[1:], strict=True)
            for role, text in (("assistant", answer), ("user", following))
        ]
        if not earlier or session.room(talk.source, first + rest) >= budget:
            session.check_room(talk.source, [first + rest], budget)
            return first + rest
        earlier = earlier[1:]


def entry(talk, patient, question: str, given: dict) -> dict:
    """What is kept of one question: a line of the transcript."""
    return {
        "subject_id": patient.subject_id,
        "as_of": str(patient.as_of),
        "question": question,
        "context": patient.context.text,
        "answers": given,
        "model": finding.model_name(talk.source.path),
        "run": talk.args.run if "adapter" in given else None,
    }


def stream(talk, question: str) -> None:
    """Print the answers as they come; Ctrl-C stops them and keeps the program."""
    given, stopped = {}, False
    for who in ARMS[talk.arm]:
        print(f"\n--- {who} ---")
        flow = generation.stream(
            talk.model,
            talk.source.tokenizer,
            turns(talk, who, question),
            who,
            talk.args.max_new_tokens,
        )
        pieces, answer = [], None
        try:
            while answer is None:
                try:
                    pieces.append(next(flow))
                    print(terminal.printable(pieces[-1]), end="", flush=True)
                except StopIteration as end:
                    answer = end.value
        except KeyboardInterrupt:
            stopped = True
        finally:
            flow.close()
        given[who] = {"text": "".join(pieces).strip(), "ended": not stopped and answer.ended}
        cut = "" if given[who]["ended"] else f"\n[cut at {talk.args.max_new_tokens} tokens]"
        print("\n[stopped]" if stopped else cut)
        if stopped:
            break
    said = entry(talk, talk.patient, question, given) | {"turn": len(talk.thread) + 1}
    talk.said.append(said)
    talk.thread.append(said)


def save(talk) -> str:
    """Write the transcript as JSON lines to a fresh private file."""
    path = files.private_file(talk.source.store / "qa", time.strftime("%Y%m%d-%H%M%S-"), ".jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in talk.said), encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------- the terminal


def converse(talk) -> None:
    """Read lines from the terminal until :quit or the end of input."""
    remember_lines(talk)
    print(
        f"\nType a subject_id, a part of one, or random; then ask. {talk.arm} answers. :help lists what can be typed."
    )
    if talk.patient:
        print(describe(talk.patient))
    while True:
        try:
            line = input(f"{talk.patient.subject_id if talk.patient else 'patient'}> ").strip()
        except (EOFError, RuntimeError):  # the latter when standard input is closed
            print()
            return
        except KeyboardInterrupt:
            print("  (:quit or Ctrl-D leaves)")
            continue
        if line in (":quit", ":q"):
            return
        try:
            if line:
                obey(talk, line)
        except UserError as error:
            print(f"error: {error}")
        except KeyboardInterrupt:
            print("\n[stopped]")


def obey(talk, line: str) -> None:
    """Do what one typed line asks for. Raises UserError, which leaves the conversation as it was."""
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    if line == "random" or word == ":patient" or line.isdigit():
        name = rest or line
        found = with_part(talk.source.store, name) if name.isdigit() else [name]
        if not found:
            raise UserError(
                f"no patient has {name} in their subject_id: type another number, or random"
            )
        if len(found) > 1:
            more = (
                f" and {len(found) - SHOWN:,} more: type more digits" if len(found) > SHOWN else ""
            )
            print(
                f"{len(found):,} patients have {name} in their number: {', '.join(found[:SHOWN])}{more}"
            )
            return
        open_patient(talk, found[0])
        print(describe(talk.patient))
    elif word in (":base", ":adapter", ":both"):
        if word != ":base" and not hasattr(talk.model, "peft_config"):
            raise UserError(
                f"there is no adapter '{talk.args.run}': run `python train_qlora.py` and start again"
            )
        talk.arm = word[1:]
        print(f"{talk.arm} answers")
    elif word == ":as-of":
        as_of = parse_time(rest) if rest else None
        if talk.patient:
            talk.patient, talk.thread = chart(talk.source, talk.patient.subject_id, as_of), []
            print(describe(talk.patient))
        talk.as_of = as_of
    elif word == ":save":
        if not talk.said:
            raise UserError("nothing has been asked yet")
        print(f"Saved {save(talk)}")
    elif word.startswith(":") and word not in (":new", ":context"):
        print(HELP if word == ":help" else f"{word} is unknown. What can be typed:\n{HELP}")
    elif talk.patient is None:
        raise UserError("no patient is open: type a subject_id or random first")
    elif word == ":context":
        print(describe(talk.patient))
    elif word == ":new":
        talk.thread = []
        print("a new talk")
    else:
        stream(talk, line)


def remember_lines(talk) -> None:
    """Line editing, with a history that is as private as the answers. Windows' own terminal has both."""
    with contextlib.suppress(ImportError, OSError):
        import atexit
        import readline

        path = files.private_folder(talk.source.store / "qa") / ".history"
        path.touch(mode=0o600)
        readline.read_history_file(path)
        readline.set_history_length(500)
        atexit.register(readline.write_history_file, path)
