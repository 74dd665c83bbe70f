"""Conversations encoded together, word by word, new words by the library's threads."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mimic_qlora.llm import chat
from mimic_qlora.llm.encoder import encoder
from mimic_qlora.training import packing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 64  # prompts that are encoded together
SWITCH = "TOKENIZERS_PARALLELISM"  # the library reads it at each call


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Iterable[Mapping[str, Any]],
    where: str,
    on_chunk: Callable[[int], object] = lambda n: None,
) -> list[packing.Sample]:
    """Encode conversations in their order, as `packing.encode` does one by one.

    Rows are {"messages": [turns], "subject_id": int}; `where` names their file in errors.
    `on_chunk(n)` is called when n more are done. Raises UserError as `packing.encode` does.
    """
    ends, token_ids = frozenset(chat.end_token_ids(tokenizer)), encoder(tokenizer)
    samples: list[packing.Sample] = []
    numbered = enumerate(rows, 1)
    with threads():
        while chunk := list(itertools.islice(numbered, CHUNK)):
            texts = [
                text for _, row in chunk for text in packing.texts_of(tokenizer, row["messages"])
            ]
            ids = token_ids(texts)
            for (number, row), whole, prompt in zip(chunk, ids[::2], ids[1::2], strict=True):
                answer = row["messages"][-1]["content"]
                encoded = packing.Encoded(whole, prompt, answer, row["subject_id"])
                samples.append(packing.to_sample(encoded, ends, f"{where} line {number}"))
            on_chunk(len(chunk))
    return samples


@contextlib.contextmanager
def threads() -> Iterator[None]:
    """Let the tokenizers library use its threads, which are off elsewhere for the sake of forks."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
