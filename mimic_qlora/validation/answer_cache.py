"""The cache of answers: a run that was killed resumes, and ends with the same answers.

An answer in 4 bits may depend on the rows that share its batch. So batches are fixed by the plan of
the run, and one that was not finished is done again whole. A batch is known by its content: other
prompts, arms or budgets make another batch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mimic_qlora.llm import generation
from mimic_qlora.processes import entries
from mimic_qlora.processes.entries import Entry, Journal
from mimic_qlora.step import files
from mimic_qlora.validation.asking import Ask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Load = Callable[[], "PreTrainedModel"]


class Batch(NamedTuple):
    """Asks that were answered together, the answers, and each one's share of the time.

    `from_cache` says that an earlier run had answered them, `by` which process.
    """

    asks: list[Ask]
    answers: list[generation.Answer]
    milliseconds: float
    from_cache: bool
    key: str
    by: int = 0


def path_of(store: Path, identity: dict[str, Any], kind: str = "answers") -> Path:
    """Return the file of all answers by these models and this software, in a private folder.

    `kind` names the folder: "answers", or "judgements" of a judge.
    """
    files.private_folder(store / "validation")
    folder = files.private_folder(store / "validation" / kind)
    return folder / f"{files.digest(identity)}.jsonl"


def answers(
    load: Load,
    tokenizer: "PreTrainedTokenizerBase",
    asks: Sequence[Ask],
    max_new_tokens: int,
    batch_size: int,
    journal: Journal,
) -> Iterator[Batch]:
    """Yield the asks in batches with their answers.

    Prompts of one kind and of similar length share a batch, the longest first, whatever their arm:
    a run that leaves out a kind (--no-knowledge) has the batches of the others. A batch size that
    was too large for the memory is cached too, so that a resumed run has the batches of one
    that was never stopped. `load` returns the model; it is not called when all is in the cache.
    Several processes share the batches, which are those of one.
    """
    prompts = generation.prompt_ids(tokenizer, [ask.messages for ask in asks])
    fits, by = batch_size, journal.team.rank

    def make(rows: list[int], key: str) -> list[Entry]:
        batch, who = [prompts[i] for i in rows], [asks[i].arm.who for i in rows]
        model, started = load(), time.perf_counter()
        given, now_fit = generation.answer(model, tokenizer, batch, who, max_new_tokens, fits)
        milliseconds = round((time.perf_counter() - started) * 1000 / len(rows), 1)
        return [
            {"key": key, "fits": now_fit, "milliseconds": milliseconds, "answers": given, "by": by}
        ]

    works = []
    for rows in _batches(asks, prompts, batch_size):
        key = key_of([prompts[i] for i in rows], [asks[i].arm.who for i in rows], max_new_tokens)
        works.append(entries.Work(rows, [key], partial(make, rows, key)))
    if idle := entries.idle(works, journal):
        print(
            f"note: {idle} of {journal.team.n} processes have nothing to answer, as there are "
            f"fewer batches than processes: a smaller --batch-size makes more of them"
        )
    for done in entries.each(works, journal):
        (entry,) = done.entries
        fits = min(fits, entry["fits"])
        given = [generation.Answer(*answer) for answer in entry["answers"]]
        yield Batch(
            [asks[i] for i in done.of],
            given,
            entry["milliseconds"],
            done.from_before,
            entry["key"],
            entry.get("by", 0),
        )


def again(
    load: Load,
    tokenizer: "PreTrainedTokenizerBase",
    batches: Sequence[Batch],
    max_new_tokens: int,
    batch_size: int,
    journal: Journal,
) -> Iterator[tuple[Batch, list[generation.Answer]]]:
    """Yield for each process a batch of another one, with the answers that it gives itself."""
    planned, works = {batch.key: batch for batch in batches}, []

    def make(batch: Batch, key: str) -> list[Entry]:
        prompts = generation.prompt_ids(tokenizer, [ask.messages for ask in batch.asks])
        who = [ask.arm.who for ask in batch.asks]
        given, _ = generation.answer(load(), tokenizer, prompts, who, max_new_tokens, batch_size)
        return [{"key": key, "answers": given}]

    made = {batch.key: batch.by for batch in batches}
    for rank, of in enumerate(entries.exchanged(made, journal.team.n)):
        key = files.digest(["again", rank, of])
        works.append(entries.Work(planned[of], [key], partial(make, planned[of], key)))
    for done in entries.each(works, journal):
        yield done.of, [generation.Answer(*answer) for answer in done.entries[0]["answers"]]


def key_of(prompts: list[list[int]], who: list[str], max_new_tokens: int) -> str:
    """Return the key of a batch: prompts as token ids, and who answers each."""
    return files.digest([prompts, who, max_new_tokens])


def _batches(asks: Sequence[Ask], prompts: list[list[int]], size: int) -> Iterator[list[int]]:
    """Yield the batches as places in `asks`, each of one kind of trial."""
    for kind in dict.fromkeys(ask.trial.kind for ask in asks):
        places = [place for place, ask in enumerate(asks) if ask.trial.kind == kind]
        for rows in generation.batches([prompts[place] for place in places], size):
            yield [places[row] for row in rows]
