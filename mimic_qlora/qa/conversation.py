"""A conversation about one patient on the terminal: opening a chart, asking, following up."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from mimic_qlora.display import text as terminal
from mimic_qlora.llm import generation
from mimic_qlora.qa import patient, session, transcript
from mimic_qlora.qa.patient import Patient
from mimic_qlora.qa.session import Answerer, Chart, Turn
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.plain_text import typed
from mimic_qlora.step.step_commands import command_for
from mimic_qlora.step.terminal import Flow

ARMS = {"base": ("base",), "adapter": ("adapter",), "both": ("base", "adapter")}  # by --arm
SHOWN = 8  # patients listed for a part of a subject_id
HELP = """\
  10014729           open this patient; a part of a number lists those that have it; `random` opens
                     a validation patient
  any other text     a question about the open patient; the next one follows up on it
  :new               forget the conversation so far, keep the patient
  :base :adapter :both   who answers
  :as-of 2150-03-01  what was known at that time (with a time of day: 2150-03-01T18:00);
                     `:as-of` alone: the usual time
  :context           show again what the model gets
  :patient ID        open a patient, as by typing the number
  :save              keep the questions and answers so far in the storage folder
  :quit              leave (so does Ctrl-D); Ctrl-C stops an answer"""


@dataclass
class Conversation:
    """The state of a conversation, changed by what is typed.

    `randoms` gives validation patients in the order drawn. `entries` are all questions so far,
    which :save keeps, and the first `saved` of them are kept already; `thread` are those that the
    next question follows up on. `as_of` is the time at which charts are opened, None for the usual
    one. `replaced` tells that the adapter was trained anew, which was said.
    """

    answerer: Answerer
    randoms: Iterator[Chart]
    as_of: datetime | None = None
    patient: Patient | None = None
    entries: list[transcript.Entry] = field(default_factory=list)
    saved: int = 0
    thread: list[transcript.Entry] = field(default_factory=list)
    replaced: bool = False

    def open(self, name: object, as_of: datetime | None) -> None:
        """Open a patient at a time, and forget the thread. Raises UserError for an unknown patient
        or time.
        """
        self.patient, self.thread = patient.find(self.answerer.session, name, as_of), []

    def opened(self) -> Patient:
        """Return the open patient. Raises UserError when there is none."""
        if self.patient is None:
            raise UserError("no patient is open: type a subject_id or random first")
        return self.patient


def next_random(randoms: Iterator[Chart]) -> int:
    """Return the subject_id of the next validation patient. Raises UserError when there is no
    further one.
    """
    found = next(randoms, None)
    if found is None:
        raise UserError(
            "there is no further validation patient with a coded stay and a discharge home: "
            "give a number"
        )
    return found[0]


# ---------------------------------------------------------------- asking


def turns(talk: Conversation, arm: str, question: str) -> list[Turn]:
    """Return the conversation that asks `arm` this question, after what it was asked and answered
    before.

    Where that exceeds the model's context length, the oldest questions are left out; the system
    prompt and the chart never are. Raises UserError when not even the question alone fits.
    """
    answerer, opened = talk.answerer, talk.opened()
    earlier = [
        (entry.question, entry.answers[arm].text) for entry in talk.thread if arm in entry.answers
    ]
    while True:
        asked = [question for question, _ in earlier] + [question]
        built = opened.turns(answerer.session, asked[0])
        for (_, answer), following in zip(earlier, asked[1:], strict=True):
            built.append({"role": "assistant", "content": answer})
            built.append({"role": "user", "content": following})
        if not earlier or session.room(answerer.session, built) >= answerer.max_new_tokens:
            session.check_room(answerer.session, [built], answerer.max_new_tokens)
            return built
        earlier = earlier[1:]


def ask(talk: Conversation, question: str) -> None:
    """Print the answers as they are generated; Ctrl-C stops them and keeps the program."""
    _say_replaced(talk)
    answers: dict[str, transcript.Reply] = {}
    for arm in talk.answerer.arms:
        print(f"\n--- {arm} ---")
        answers[arm], stopped = _stream(talk, arm, question)
        if stopped:
            break
    entry = transcript.entry(
        talk.answerer, talk.opened(), question, answers, turn=len(talk.thread) + 1
    )
    talk.entries.append(entry)
    talk.thread.append(entry)


def _say_replaced(talk: Conversation) -> None:
    """Say once that the adapter that answers is no longer the one in the storage folder."""
    answerer = talk.answerer
    if "adapter" not in answerer.arms or answerer.weights is None or talk.replaced:
        return
    if session.replaced(answerer.session.store, {answerer.run: answerer.weights}):
        talk.replaced = True
        print(f"note: the adapter {answerer.run} was trained again: start again to ask the new one")


def _say_left_out(talk: Conversation, arm: str, built: list[Turn]) -> None:
    """Say of how many earlier questions an answer knows nothing: others answered them, or `turns`
    had no room.
    """
    before = sum(arm in entry.answers for entry in talk.thread)
    if unasked := len(talk.thread) - before:
        print(f"note: {arm} was not asked {terminal.counted(unasked, 'question')} before this one")
    if left := before + 1 - sum(turn["role"] == "user" for turn in built):
        oldest = f"the first {left} questions have" if left > 1 else "the first question has"
        print(f"note: {oldest} no room in this model and no part in this answer")


def _stream(talk: Conversation, arm: str, question: str) -> tuple[transcript.Reply, bool]:
    """Print one arm's answer as it is generated. Returns it, and whether Ctrl-C stopped it."""
    answerer, built = talk.answerer, turns(talk, arm, question)
    _say_left_out(talk, arm, built)
    flow = generation.stream(
        answerer.model,
        answerer.session.tokenizer,
        built,
        arm,
        answerer.max_new_tokens,
    )
    pieces: list[str] = []
    shown = Flow()
    ended = stopped = False
    try:
        while True:
            try:
                pieces.append(next(flow))
            except StopIteration as end:
                ended = end.value.ended
                break
            print(shown.add(terminal.printable(pieces[-1])), end="", flush=True)
    except KeyboardInterrupt:
        stopped = True
    finally:
        flow.close()
    print(shown.end(), end="")
    cut = "" if ended else f"\n[cut at {answerer.max_new_tokens} tokens]"
    print("\n[stopped]" if stopped else cut)
    return transcript.Reply("".join(pieces).strip(), ended and not stopped), stopped


# ---------------------------------------------------------------- what can be typed


def open_typed(talk: Conversation, name: str) -> None:
    """Open the patient with this number, or list those whose number contains it."""
    if name == "random":
        name = str(next_random(talk.randoms))
    elif name.isdecimal():
        found = patient.with_part(talk.answerer.session.store, name)
        if not found:
            raise UserError(
                f"no patient has {name} in their subject_id: type another number, or random"
            )
        if len(found) > 1:
            rest = len(found) - SHOWN
            more = f" and {rest:,} more: type more digits" if rest > 0 else ""
            listed = ", ".join(found[:SHOWN])
            print(f"{len(found):,} patients have {name} in their number: {listed}{more}")
            return
        name = found[0]
    talk.open(name, talk.as_of)
    show_context(talk)


def let_answer(talk: Conversation, arm: str) -> None:
    """Choose who answers. Raises UserError for the adapter where none is loaded."""
    if arm != "base" and not talk.answerer.has_adapter:
        raise UserError(
            f"there is no adapter '{talk.answerer.run}': run "
            f"`{command_for(f'adapters/{talk.answerer.run}')}` and start again"
        )
    talk.answerer = replace(talk.answerer, arms=ARMS[arm])
    print(f"{arm} answers")


def move_to(talk: Conversation, text: str) -> None:
    """Show the open patient, and all opened later, as of a time; at the usual one when `text` is
    empty.
    """
    as_of = patient.parse_time(text) if text else None
    if talk.patient:
        talk.open(talk.patient.subject_id, as_of)
        show_context(talk)
    talk.as_of = as_of


def save(talk: Conversation) -> None:
    """Keep the questions and answers so far in the storage folder."""
    if not talk.entries:
        raise UserError("nothing has been asked yet")
    print(f"Saved {transcript.save(talk.answerer.session.store, talk.entries)}")
    talk.saved = len(talk.entries)


def take_leave(talk: Conversation) -> None:
    """Say what goes with the conversation, since nobody asked to keep it."""
    if new := len(talk.entries) - talk.saved:
        asked = terminal.counted(new, "question")
        print(f"Not kept: {asked} and the answers, as :save was not typed")


def show_context(talk: Conversation) -> None:
    """Print the context that the model gets."""
    print(patient.describe(talk.opened()))


def start_anew(talk: Conversation) -> None:
    """Forget the thread and keep the patient."""
    talk.opened()
    talk.thread = []
    print("a new conversation")


COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    ":patient": lambda talk, name: open_typed(talk, name or ":patient"),
    ":base": lambda talk, _: let_answer(talk, "base"),
    ":adapter": lambda talk, _: let_answer(talk, "adapter"),
    ":both": lambda talk, _: let_answer(talk, "both"),
    ":as-of": move_to,
    ":save": lambda talk, _: save(talk),
    ":context": lambda talk, _: show_context(talk),
    ":new": lambda talk, _: start_anew(talk),
    ":help": lambda *_: print(HELP),
}


def obey(talk: Conversation, line: str) -> None:
    """Do what one typed line asks for. Raises UserError, which leaves the talk as it was."""
    word, _, rest = line.partition(" ")
    if line == "random" or line.isdecimal():
        open_typed(talk, line)
    elif word in COMMANDS:
        COMMANDS[word](talk, rest.strip())
    elif word.startswith(":"):
        print(f"{word} is unknown. What can be typed:\n{HELP}")
    else:
        talk.opened()
        ask(talk, line)


def converse(talk: Conversation) -> None:
    """Read lines from the terminal until :quit or the end of input."""
    remember_lines(talk)
    who = " and ".join(talk.answerer.arms)
    print(
        f"\nType a subject_id, a part of one, or random; then ask. Who answers: {who}. "
        ":help lists what can be typed."
    )
    if talk.patient:
        show_context(talk)
    while True:
        try:
            line = input(f"{talk.patient.subject_id if talk.patient else 'patient'}> ").strip()
        except (EOFError, RuntimeError):  # the latter when standard input is closed
            print()
            break
        except KeyboardInterrupt:
            print("  (:quit or Ctrl-D leaves)")
            continue
        if line in (":quit", ":q"):
            break
        try:
            if line:
                obey(talk, typed(line))
        except UnicodeError:
            print("error: this is not UTF-8 text: type it in a terminal that is set to UTF-8")
        except UserError as error:
            print(f"error: {terminal.printable(str(error))}")
        except KeyboardInterrupt:
            print("\n[stopped]")
    take_leave(talk)


def remember_lines(talk: Conversation) -> None:
    """Turn on line editing, with a history as private as the answers. Windows' own terminal has
    both.
    """
    with contextlib.suppress(ImportError, OSError):
        import atexit
        import readline

        path = files.private_folder(talk.answerer.session.store / "qa") / ".history"
        path.touch(mode=0o600)
        readline.read_history_file(path)
        readline.set_history_length(500)
        atexit.register(_keep_lines, path, readline.get_current_history_length())


def _keep_lines(path: Path, n_before: int) -> None:
    """Add the lines after the first `n_before` to the history, beside those of another window.

    A full disk is no reason to end in a traceback. Python with libedit can only write all lines.
    """
    import readline

    with contextlib.suppress(OSError):
        if add := getattr(readline, "append_history_file", None):
            add(readline.get_current_history_length() - n_before, path)
        else:
            readline.write_history_file(path)
