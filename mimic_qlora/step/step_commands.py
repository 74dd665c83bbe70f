"""The command that writes each folder of the storage folder, as messages tell users to run it."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from mimic_qlora.step.files import given_path, linked_place, part_of, resolved_path
from mimic_qlora.step.manifests import read_any

CANARIES = 200  # as docs/memorisation.md has it
COMMANDS = {
    "subjects": "python convert_to_jsonl.py",
    "summary": "python summarize_jsonl.py",
    "features": "python feature_select_xgb_columns.py",
    "prompts": "python make_symptom_prompts_ctx_dxpx.py",
    "adapters": "python train_qlora.py",
    "qa": "python qa_by_subject.py",
    "validation": "cd run_files && ./run.sh",
    "lm_eval": "python make_symptom_prompts_ctx_dxpx.py",
    "lm_eval_test": "cd run_files && ./run.sh --final",
    "exports": "python run_files/export_adapter.py",
    "canaries": f"python train_qlora.py --canaries {CANARIES}",
    "privacy": "python run_files/audit_adapter.py",
    "models": "python train_qlora.py --save-base",
}
# The settings of a step that its command names again, with what they are unasked: with others it
# would write something else.
CARRIED: Mapping[str, Mapping[str, object]] = {
    "subjects": {"subjects_file": None, "sample": 1.0, "seed": 42},
    "features": {
        "targets": "phenotypes",
        "n_targets": 20,
        "landmark_hours": 24,
        "seeds": 5,
        "margin": 0.01,
    },
    "prompts": {
        "tasks": ["guidance", "chart_qa", "diagnoses"],
        "pairs_per_subject": 2,
        "max_total": None,
        "token_budget": 700,
        "landmark_hours": 24,
        "seed": 42,
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    },
}
OF_RUNS = ("adapters", "exports", "privacy")  # steps with a folder for each run
_OPENED: list[Path] = []  # storage folders that this process opened


def remember_storage(path: Path) -> None:
    """Keep which storage folder this process opened: its commands name it."""
    _OPENED.append(path)


def from_here(command: str) -> str:
    """Return a command of the checkout as it is to be pasted in the folder of this process.

    Step 7 is run in run_files/, and those beside it often are.
    """
    if not _in_run_files():
        return command
    there = "cd run_files && "
    return command.removeprefix(there) if command.startswith(there) else f"cd .. && {command}"


def _in_run_files() -> bool:
    return Path("run.sh").is_file() and Path("../convert_to_jsonl.py").is_file()


def is_usual(store: Path) -> bool:
    """Tell whether a command finds a storage folder without --storage, whichever folder it runs in.

    A relative STORAGE_DIR leads elsewhere once a command begins with `cd`.
    """
    if given := os.environ.get("STORAGE_DIR"):
        return os.path.isabs(given_path(given)) and store == resolved_path(given)
    return store == resolved_path("../storage" if _in_run_files() else "storage")


def plain_command(step: str, canaries: int | None = None) -> str:
    """Return the command that writes a step's folder, such as "adapters/default".

    `canaries` is how many it holds; None where that is not known.
    """
    name, _, run = step.partition("/")
    options = ""
    audit = re.fullmatch(r"(.+)-canaries(?:-seed(\d+))?", run)
    if name == "adapters" and audit and canaries != 0:  # step 5 adds the end of the name
        run, seed = audit.groups()
        options = f" --canaries {canaries or CANARIES}" + (f" --seeds {seed}" if seed else "")
    elif name == "canaries" and canaries:
        name, options = "adapters", f" --canaries {canaries}"
    if name in OF_RUNS and run not in ("", "default"):
        options = f" --run {shlex.quote(run)}{options}"
    return COMMANDS[name] + options


def command_for(step: str, **others: object) -> str:
    """Return the command of a step, with the options by which it finds the storage folder that this
    process has opened and, for step 1, the real tables that it was made from.

    What is there was made with settings that the command has too, but for the `others`: without
    them step 1 would convert everybody, with another split, and step 4 make other prompts.
    """
    if not _OPENED:
        return from_here(plain_command(step) + _options(step, others))
    store = _OPENED[-1]
    settings = part_of(read_any(linked_place(store / step)), "settings")
    n = settings.get("n" if step == "canaries" else "canaries")
    command = plain_command(step, n if isinstance(n, int) else None)
    source = part_of(read_any(linked_place(store / "subjects")), "source")
    folder = source.get("folder") if source.get("kind") == "mimic" else None
    if step == "subjects" and folder:
        command += f" --mimic-dir {shlex.quote(str(folder))}"
    elif step == "subjects":
        command += "".join(f" {word}" for word in synthetic_options(store))
    return from_here(command + _options(step, settings | others) + storage_option())


def storage_option(store: Path | None = None) -> str:
    """Return the option by which a command finds a storage folder, with a blank in front.

    It is the one that this process has opened, unless another is given. The usual one needs none.
    """
    store = store or (_OPENED[-1] if _OPENED else None)
    if store is None or is_usual(store):
        return ""
    return f" --storage {shlex.quote(str(store))}"


def step_1(store: Path) -> str:
    """Return the command of step 1 for a storage folder that is not there yet."""
    return from_here(COMMANDS["subjects"]) + storage_option(store)


def synthetic_options(store: Path) -> list[str]:
    """Return the options of step 1 that made the built-in patients of a storage folder."""
    settings = part_of(read_any(store / "synthetic"), "settings")
    n = settings.get("patients")
    words = ["--synthetic-patients", str(n)] if isinstance(n, int) and n != 400 else []
    return words + ["--synthetic-emergency"] * (settings.get("emergency") is True)


def _options(step: str, settings: Mapping[str, object]) -> str:
    """Return the options of a step's command, with a blank in front of each."""
    options = ""
    for name, usual in CARRIED.get(step, {}).items():
        if (value := settings.get(name)) not in (None, usual):
            words = value if isinstance(value, list) else [value]
            options += f" --{name.replace('_', '-')} " + shlex.join(map(str, words))
    return options
