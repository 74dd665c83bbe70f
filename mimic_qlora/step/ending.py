"""How a step ends: what it wrote, how to look at it, and the command of the next step."""

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimic_qlora.step import manifests, ssh, step_commands, terminal
from mimic_qlora.step.errors import UpToDate, UserError
from mimic_qlora.step.files import given_path, part_of

# step -> what comes after it
NEXT = {
    "subjects": ("summary",),
    "summary": ("features",),
    "features": ("prompts",),
    "prompts": ("adapters",),
    "adapters": ("qa", "validation"),
    "qa": ("validation",),
}
TAKES_MODEL = ("prompts", "adapters", "qa", "validation")
TAKES_RUN = ("qa", "validation")
TRIALS = "50"  # of step 7, as the README has it


@dataclass(frozen=True)
class Options:
    """The options of a command line that later steps need too; None where none was given."""

    storage: str | None = None
    model: str | None = None
    run: str | None = None

    def of(self, step: str) -> list[str]:
        """Return what the command of a step takes of them; folders by their whole path."""
        words: list[str] = []
        if not step_commands.is_usual(store := _storage(self.storage)):
            words += ["--storage", str(store)]
        if self.model is not None and step in TAKES_MODEL:
            words += ["--model", _whole(self.model)]
        if self.run not in (None, "default") and step in TAKES_RUN:
            words += ["--run", str(self.run)]
        if step == "validation" and _only_urgency(self.storage):
            words += ["--tasks", "urgency"]
        return words


def _only_urgency(folder: str | None) -> bool:
    """Return whether step 4 wrote urgency visits and nothing else; step 7 has a way to ask them."""
    found = manifests.read(_storage(folder) / "prompts") or {}
    return part_of(found, "settings").get("tasks") == ["urgency"]


def _whole(name: str) -> str:
    """Return the whole path of a folder that is there, any other name as it is."""
    path = given_path(name)
    return str(path.resolve()) if os.path.isdir(path) else name  # False where nobody may look


def _storage(folder: str | None) -> Path:
    """Return the storage folder that is opened with --storage `folder`; None: without."""
    return given_path(folder or os.environ.get("STORAGE_DIR") or "storage").resolve()


def command(step: str, options: Options) -> str:
    """Return the command of a step, with the options that it needs."""
    trials = [TRIALS] if step == "validation" else []
    words = map(shlex.quote, [*trials, *options.of(step)])
    return step_commands.from_here(" ".join([step_commands.COMMANDS[step], *words]))


def next_lines(step: str, options: Options, others: Sequence[str] = ()) -> str:
    """Return the lines that name the commands after a step, then `others`."""
    after = [command(name, options) for name in NEXT.get(step, ())]
    commands = [*map(terminal.shown, [*after, *others])]
    if len(commands) == 1 and terminal.columns(commands[0]) + len("Next: ") <= terminal.width():
        return f"Next: {commands[0]}"
    return "\n".join(["Next:", *map(terminal.pasteable, commands)])


def say_next(step: str, options: Options, others: Sequence[str] = ()) -> None:
    """Print the lines that name the commands after a step; a study runs them itself."""
    if manifests.study_used() is None:
        print(next_lines(step, options, others))


def seen(page: Path) -> str:
    """Return how to look at a page or picture; over SSH with the line that fetches it."""
    lines = [f"Open {page} in a browser"]
    if ssh.is_remote():
        with contextlib.suppress(UserError):  # the environment names a host that cannot be one
            line = ssh.route().scp(page)
            lines = [f"Fetch {page}, on your own machine:", terminal.pasteable(line)]
    return "\n".join(lines)


@contextlib.contextmanager
def told(
    step: str, store: Path, options: Options, page: str = "", others: Sequence[str] = ()
) -> Iterator[None]:
    """Say at the end of the block what the step wrote, where to look, and what comes next.

    A step that is up to date says so instead, and its block ends there. `page` is a file of the
    step's folder, `others` are further commands.
    """
    folder = store / step
    try:
        yield
        print(f"\nWrote {folder}")
    except UpToDate as message:
        print(message)
    if page and (folder / page).is_file():
        print(seen(folder / page))
    say_next(step.split("/")[0], options, others)
