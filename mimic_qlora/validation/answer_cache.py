"""Answers kept as they come, so that a run that was killed goes on where it stopped and ends with the same answers.

An answer in 4 bits may depend on the rows that share its batch, so batches are fixed by the plan of the run and one
that was not finished is done again whole. A batch is known by its content: other prompts, arms or budget are another.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mimic_qlora.llm import generation
from mimic_qlora.step import files


def path_of(store: Path, identity: dict) -> Path:
    """Where the journal is of all answers by these models with this software, in a folder made private."""
    files.private_folder(store / "validation")
    return (
        files.private_folder(store / "validation" / "answers") / f"{files.digest(identity)}.jsonl"
    )


def begin(path: Path, identity: dict, anew: bool) -> None:
    """Make the journal if it is missing, or `anew`; its first line says by what the answers were made."""
    if anew or not path.exists():
        path.write_text(json.dumps({"by": identity}) + "\n", encoding="utf-8")


def kept(path: Path) -> dict:
    """The entries of the journal by their key. What follows a line that a killed run left unfinished is cut off."""
    found, whole = {}, 0
    with open(path, "rb+") as file:
        for line in file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None:
                break
            whole += len(line)
            found[entry.get("key")] = entry
        file.truncate(whole)
    return found


def add(path: Path, entry: dict) -> dict:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return entry


def once(path: Path, key: str, make):
    """What `make` gives, or gave when this was kept."""
    return (kept(path).get(key) or add(path, {"key": key, "value": make()}))["value"]


def answers(
    load, tokenizer, asks: list, max_new_tokens: int, batch_size: int, path: Path
) -> Iterator[tuple]:
    """Yield (asks of a batch, their Answers, milliseconds an answer took, whether it was kept from before).

    Prompts of like length share a batch, the longest first, whatever their arm. What was found to be too large for
    the memory is remembered too, so that the batches of a run that goes on are those of one that was never stopped.
    `load` gives the model; it is not called when every answer is in the journal.
    """
    done = kept(path)
    prompts = generation.prompt_ids(tokenizer, [ask.messages for ask in asks])
    fits = batch_size
    for rows in generation.batches(prompts, batch_size):
        batch, who = [prompts[i] for i in rows], [asks[i].arm.who for i in rows]
        key = files.digest([batch, who, max_new_tokens])
        if key not in done:
            model, started = load(), time.perf_counter()
            given, fits = generation.answer(model, tokenizer, batch, who, max_new_tokens, fits)
            milliseconds = round((time.perf_counter() - started) * 1000 / len(rows), 1)
            add(
                path,
                entry := {"key": key, "fits": fits, "milliseconds": milliseconds, "answers": given},
            )
        else:
            entry = done[key]
            fits = min(fits, entry["fits"])
        given = [generation.Answer(*answer) for answer in entry["answers"]]
        yield [asks[i] for i in rows], given, entry["milliseconds"], key in done
