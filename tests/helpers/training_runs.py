"""Storage folders for step 5 as steps 1 and 4 leave them, and runs in processes of their own."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Timer
from typing import NamedTuple

import train_qlora
from helpers.forking import forked
from helpers.prompt_records import context_settings, prompt_record
from helpers.storage_folders import SUBJECTS_FACTS, write_bare_manifest
from helpers.tiny_model import TALK
from mimic_qlora.llm import chat
from mimic_qlora.step import command_line
from mimic_qlora.training import callbacks

PATIENTS = {
    10000000 + 7 * i: ("train", "train", "validation", "train", "test")[i % 5] for i in range(20)
}
OPTIONS = [
    "--batch-tokens",
    "400",
    "--accumulate",
    "2",
    "--lr",
    "0.01",
    "--rank",
    "4",
    "--dropout",
    "0.1",
]
OPTIONS += ["--patience", "0", "--compute", "fp32"]
PRELOADED = [
    *("peft", "bitsandbytes", "datasets", "scipy.stats", "matplotlib.pyplot"),
    *("mimic_qlora.training.run", "mimic_qlora.training.loop", "helpers.training_runs"),
]


def record(subject_id: int, answer: str = "- Rest and drink water.") -> dict:
    symptom = ("cough", "a sore leg", "a bad headache since this morning")[subject_id % 3]
    question = {
        "role": "user",
        "content": f"Patient context\n- Age: {subject_id % 90}\n\nQuestion\nI have {symptom}.",
    }
    answer = {
        "role": "assistant",
        "content": f"What you can try now\n{answer} {'Sit down. ' * (subject_id % 4)}",
    }
    messages = [TALK[0], question, answer]
    return prompt_record(messages, subject_id, split=PATIENTS[subject_id])


def write_prompts(store: Path, split: str, records: list) -> None:
    lines = [json.dumps(row) + "\n" for row in records]
    (store / "prompts" / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_store(store: Path, tiny: Path) -> Path:
    """Write what steps 1 and 4 leave: twelve training prompts and four for validation."""
    for step, inputs in (("subjects", {}), ("prompts", {"subjects": None})):
        (store / step).mkdir(parents=True)
        source = SUBJECTS_FACTS["source"] | {"folder": "synthetic", "patients": len(PATIENTS)}
        facts = {**SUBJECTS_FACTS, "source": source}
        write_bare_manifest(store / step, step, {}, inputs, **facts)
    rows = "".join(f"{subject_id},{split}\n" for subject_id, split in PATIENTS.items())
    (store / "subjects" / "split.csv").write_text(f"subject_id,split\n{rows}")
    for split in ("train", "validation"):
        write_prompts(store, split, [record(s) for s, name in PATIENTS.items() if name == split])
    template = chat.template_sha256(chat.load_tokenizer(tiny))
    context_settings(model=str(tiny), template_sha256=template).write(store / "prompts")
    return store


class Hold(NamedTuple):
    """An event of a run: it waits at the end of a step until a signal comes or `go` is called."""

    folder: Path  # of the files by which both processes tell each other
    step: int = 3

    def install(self) -> None:
        """Let this process wait, two minutes at most."""
        step_end, reached = callbacks.Pace.on_step_end, self.folder / "reached"
        go = self.folder / "go"

        def held(pace, settings, state, control, **kwargs):
            if state.global_step == self.step:
                reached.touch()
                deadline = time.time() + 120
                while not pace.signal and not go.exists() and time.time() < deadline:
                    time.sleep(0.01)
            step_end(pace, settings, state, control, **kwargs)

        callbacks.Pace.on_step_end = held

    def wait(self, run) -> None:
        """Wait until a run has come to the step. Fails when it ends before."""
        while not (self.folder / "reached").exists():
            assert run.is_alive(), "the run ended before it was to be disturbed"
            time.sleep(0.01)

    def go(self) -> None:
        """Let the run go on."""
        (self.folder / "go").touch()


class KillAfter(NamedTuple):
    """An event of a run: it is killed so many seconds after the end of a step."""

    step: int
    seconds: float

    def install(self) -> None:
        """Let this process kill itself; the step may have been done by an earlier run."""
        step_end, timers = callbacks.Pace.on_step_end, []

        def timed(pace, settings, state, control, **kwargs):
            if state.global_step >= self.step and not timers:
                timers.append(Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)))
                timers[0].start()
            step_end(pace, settings, state, control, **kwargs)

        callbacks.Pace.on_step_end = timed


def run_main(arguments: list, output: str, environment: dict, event) -> None:
    """Step 5 as a user starts it, with its output in a file."""
    os.environ.update(environment)
    # the process that it was forked from ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = open(output, "ab", buffering=0)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    # a file takes to be what it was when it was opened, and a pipe cannot be sought in
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    sys.argv = ["train_qlora.py", *arguments]
    if event:
        event.install()
    command_line.run(train_qlora.main)


def start(
    store: Path,
    tiny: Path,
    *options,
    environment: dict | None = None,
    output: Path | None = None,
    event: Hold | KillAfter | None = None,
):
    """Start a run in a process forked from one that has imported the libraries: 10 s less.

    Process.wait() is join(); .exitcode is what a shell would see.
    """
    arguments = ["--storage", store, "--model", tiny, *OPTIONS, *options]
    output = output or store.with_suffix(".log")
    words = [str(one) for one in arguments]
    return forked(PRELOADED, run_main, words, str(output), environment or {}, event)


def adapter_bytes(store: Path, run: str = "default") -> bytes:
    return (store / "adapters" / run / "adapter_model.safetensors").read_bytes()
