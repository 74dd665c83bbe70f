"""Texts as token ids, word by word: a tokenizer is asked once for the ids of each word.

Charts, instructions and answers repeat their words, so that this is many times faster than to
encode each text. The ids are the same where a tokenizer cuts at blanks (`chat.cuts_at_blanks`).
"""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mimic_qlora.llm import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[list[str]], list[list[int]]]

LONGEST = 40  # characters; what is longer hardly comes again and is not remembered
# a blank behind a blank, where the tokenizer decides which of the two joins the next word
_TWO_BLANKS = re.compile(r"\s ")


def encoder(tokenizer: "PreTrainedTokenizerBase") -> Encode:
    """Return a function that gives the token ids of texts as `chat.token_ids` does."""
    if _stand_alone(tokenizer) and chat.cuts_at_blanks(tokenizer):
        return _Words(tokenizer).encode
    return lambda texts: chat.token_ids(tokenizer, texts)


def _stand_alone(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether no added token depends on the text around it."""
    added = tokenizer.added_tokens_decoder.values()
    return not any(token.lstrip or token.rstrip or token.single_word for token in added)


class _Words:
    """The token ids of words, each with the blank before it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        added = filter(None, map(str, tokenizer.added_tokens_decoder.values()))
        longest_first = sorted(added, key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._known: dict[str, list[int]] = {}

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text."""
        cut = [[*self._words(text)] for text in texts]
        if len(self._known) > chat.WORDS_REMEMBERED:
            self._known.clear()
        new = list({*itertools.chain.from_iterable(cut)} - self._known.keys())
        if new:
            self._known.update(zip(new, chat.token_ids(self._tokenizer, new), strict=True))
        ids = self._known.__getitem__
        encoded = [[*itertools.chain.from_iterable(map(ids, words))] for words in cut]
        for word in new:
            if len(word) > LONGEST:
                del self._known[word]
        return encoded

    def _words(self, text: str) -> Iterator[str]:
        """Yield what is encoded alone: added tokens, words, and a piece that holds two blanks."""
        for place, piece in enumerate(self._added.split(text)):
            if place % 2 or _TWO_BLANKS.search(piece):
                yield piece
            elif piece:
                first, *words = piece.split(" ")
                if first:
                    yield first
                yield from [f" {word}" for word in words]
