"""What the tests of step 5 share: a tiny model, a storage folder as steps 1 and 4 leave it, and runs in processes."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import train_qlora
from helpers.tiny_model import TALK
from mimic_qlora.llm import chat
from mimic_qlora.step import command_line, files, storage

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
    return {
        "messages": [TALK[0], question, answer],
        "subject_id": subject_id,
        "split": PATIENTS[subject_id],
    }


def write_prompts(store: Path, split: str, records: list) -> None:
    lines = [json.dumps(row) + "\n" for row in records]
    (store / "prompts" / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_store(store: Path, tiny: Path) -> Path:
    """A storage folder as steps 1 and 4 leave it, with twelve training and four validation prompts."""
    for step, inputs in (("subjects", {}), ("prompts", {"subjects": None})):
        (store / step).mkdir(parents=True)
        source = {"kind": "synthetic", "folder": "synthetic", "patients": len(PATIENTS)}
        files.write_json(
            store / step / "manifest.json",
            storage.new_manifest(step, {}, inputs) | {"source": source},
        )
    rows = "".join(f"{subject_id},{split}\n" for subject_id, split in PATIENTS.items())
    (store / "subjects" / "split.csv").write_text(f"subject_id,split\n{rows}")
    for split in ("train", "validation"):
        write_prompts(store, split, [record(s) for s, name in PATIENTS.items() if name == split])
    template = chat.template_sha256(chat.load_tokenizer(tiny))
    files.write_json(
        store / "prompts" / "context.json", {"model": str(tiny), "template_sha256": template}
    )
    return store


def run_main(arguments: list, output: str, environment: dict) -> None:
    """Step 5 as a user starts it, with its output in a file."""
    os.environ.update(environment)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the process that it was forked from ignores it
    log = open(output, "ab", buffering=0)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.argv = ["train_qlora.py", *arguments]
    command_line.run(train_qlora.main)


def warm():
    """The way to start processes from one that has imported the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["peft", "bitsandbytes", "matplotlib.pyplot", "mimic_qlora.training.run"]
    )
    return context


def start(store: Path, tiny: Path, *options, environment=None, output: Path | None = None):
    """A run in a process of its own, forked from one that has imported the libraries already: that saves ten seconds.

    Process.wait() is join(); .exitcode is what a shell would see.
    """
    context = warm()
    arguments = ["--storage", store, "--model", tiny, *OPTIONS, *options]
    output = output or store.with_suffix(".log")
    process = context.Process(
        target=run_main, args=([str(a) for a in arguments], str(output), environment or {})
    )
    process.start()
    return process


def adapter_bytes(store: Path, run: str = "default") -> bytes:
    return (store / "adapters" / run / "adapter_model.safetensors").read_bytes()
