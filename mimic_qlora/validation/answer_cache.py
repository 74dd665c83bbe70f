"""The cache of answers: a run that was killed resumes, and ends with the same answers.

An answer in 4 bits may depend on the rows that share its batch. So batches are fixed by the plan of
the run, and one that was not finished is done again whole. A batch is known by its content: other
prompts, arms or budgets make another batch.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mimic_qlora.llm import generation
from mimic_qlora.step import files
from mimic_qlora.validation.asking import Ask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Entry = dict[str, Any]  # a line of the cache; all but the first have a "key"
Load = Callable[[], "PreTrainedModel"]


class Batch(NamedTuple):
    """Asks that were answered together, the answers, and each one's share of the time.

    `from_cache` says that an earlier run had answered them.
    """

    asks: list[Ask]
    answers: list[generation.Answer]
    milliseconds: float
    from_cache: bool


def path_of(store: Path, identity: dict[str, Any], kind: str = "answers") -> Path:
    """Return the file of all answers by these models and this software, in a private folder.

    `kind` names the folder: "answers", or "judgements" of a judge.
    """
    files.private_folder(store / "validation")
    folder = files.private_folder(store / "validation" / kind)
    return folder / f"{files.digest(identity)}.jsonl"


def begin(path: Path, identity: dict[str, Any], anew: bool) -> None:
    """Create the cache if it is missing, or `anew`; its first line holds the identity."""
    if anew or not path.exists():
        path.write_text(json.dumps({"by": identity}) + "\n", encoding="utf-8")


def kept(path: Path) -> dict[str | None, Entry]:
    """Return the entries by their key.

    Cuts off what comes from the first line on that a killed run left unfinished, or that is not as
    it was written.
    """
    found: dict[str | None, Entry] = {}
    whole = 0
    with open(path, "rb+") as file:
        for line in file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                entry = None
            if not isinstance(entry, dict) or not _is_sound(entry):
                break
            whole += len(line)
            found[entry.get("key")] = entry
        file.truncate(whole)
    return found


def _is_sound(entry: Entry) -> bool:
    """Take the sum from an entry and compare it; earlier versions wrote none."""
    expected = entry.pop("sum", None)
    return expected is None or expected == files.digest(entry)


def add(path: Path, entry: Entry) -> Entry:
    """Append an entry with its sum, on the disk when this returns, and return it."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({**entry, "sum": files.digest(entry)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return entry


def once(path: Path, key: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, or returned when this key was cached; it must fit into JSON."""
    return (kept(path).get(key) or add(path, {"key": key, "value": make()}))["value"]


def answers(
    load: Load,
    tokenizer: "PreTrainedTokenizerBase",
    asks: Sequence[Ask],
    max_new_tokens: int,
    batch_size: int,
    path: Path,
) -> Iterator[Batch]:
    """Yield the asks in batches with their answers.

    Prompts of one kind and of similar length share a batch, the longest first, whatever their arm:
    a run that leaves out a kind (--no-knowledge) has the batches of the others. A batch size that
    was too large for the memory is cached too, so that a resumed run has the batches of one
    that was never stopped. `load` returns the model; it is not called when all is in the cache.
    """
    done = kept(path)
    prompts = generation.prompt_ids(tokenizer, [ask.messages for ask in asks])
    fits = batch_size
    for rows in _batches(asks, prompts, batch_size):
        batch, who = [prompts[i] for i in rows], [asks[i].arm.who for i in rows]
        key = files.digest([batch, who, max_new_tokens])
        if key in done:
            entry = done[key]
            fits = min(fits, entry["fits"])
        else:
            model, started = load(), time.perf_counter()
            given, fits = generation.answer(model, tokenizer, batch, who, max_new_tokens, fits)
            milliseconds = round((time.perf_counter() - started) * 1000 / len(rows), 1)
            entry = {"key": key, "fits": fits, "milliseconds": milliseconds, "answers": given}
            add(path, entry)
        given = [generation.Answer(*answer) for answer in entry["answers"]]
        yield Batch([asks[i] for i in rows], given, entry["milliseconds"], key in done)


def _batches(asks: Sequence[Ask], prompts: list[list[int]], size: int) -> Iterator[list[int]]:
    """Yield the batches as places in `asks`, each of one kind of trial."""
    for kind in dict.fromkeys(ask.trial.kind for ask in asks):
        places = [place for place, ask in enumerate(asks) if ask.trial.kind == kind]
        for rows in generation.batches([prompts[place] for place in places], size):
            yield [places[row] for row in rows]
