"""Conversations as training samples, samples in packed rows, rows as batches.

Samples that share the start of their prompt (questions about one chart) share a row, in which the
common tokens stand, and are computed, once.
"""

import bisect
import itertools
import os
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import torch

from mimic_qlora.llm import chat
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Sample(NamedTuple):
    """A conversation as token ids up to the end token of its answer."""

    ids: Sequence[int]
    n_prompt: int  # the tokens from here on are supervised
    patient: int = 0  # subject_id
    n_bytes: int = 0  # of the answer's text in UTF-8
    # a 1 for each supervised token in a line that no training answer has, else 0; empty: not asked
    new: bytes = b""
    n_new_bytes: int = 0  # of these lines

    @property
    def n_supervised(self) -> int:
        """The number of tokens of the answer, its end token included."""
        return len(self.ids) - self.n_prompt


Pack = list[Sample]  # the samples of one row
Split = dict[str, list[Sample]]  # "train" and "validation"


class Layout(NamedTuple):
    """The places of each sample's tokens in a packed row, for `packed_attention`.

    A sample's queries are its own tokens; its keys are these and the tokens that it shares.
    """

    pieces: list[int]  # sizes of the segments of the row, in tokens
    order: list[int]  # segments to concatenate to rebuild every sample in full
    queries: torch.Tensor  # int32 [samples + 1]: cumulative lengths of each sample's own tokens
    keys: torch.Tensor  # int32 [samples + 1]: cumulative full lengths
    longest: tuple[int, int]  # longest query, longest key


class Batch(TypedDict):
    """One pack as a row without padding."""

    input_ids: torch.Tensor  # int64 [1, tokens]
    position_ids: torch.Tensor  # int64 [1, tokens], as if each sample stood alone
    supervised: torch.Tensor  # int64 [n]: places whose next token is a target
    targets: torch.Tensor  # int64 [n]: these next tokens
    n_tokens: int  # of all samples in full
    attended: int  # for each token of the row the tokens before it in its sample
    layout: Layout


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[chat.Turn],
    where: str,
    patient: int = 0,
) -> Sample:
    """Encode a conversation; its last turn, with the token that ends it, is supervised.

    What the template puts after that token (SmolLM2: a newline) is left out. `where` names the
    record in errors. Raises UserError when the answer cannot be told apart, is empty, or has no
    end token.
    """
    ids, prompt = chat.token_ids(tokenizer, texts_of(tokenizer, messages))
    ends = frozenset(chat.end_token_ids(tokenizer))
    return to_sample(Encoded(ids, prompt, messages[-1]["content"], patient), ends, where)


def texts_of(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[chat.Turn]) -> list[str]:
    """Return a conversation as the template writes it, whole and up to its answer."""
    return [
        chat.chat_text(tokenizer, messages),
        chat.chat_text(tokenizer, messages[:-1], add_generation_prompt=True),
    ]


class Encoded(NamedTuple):
    """The two texts of a conversation as token ids, and what else its sample holds."""

    ids: list[int]  # of all of it
    prompt: list[int]  # of what comes before the answer
    answer: str
    patient: int


def to_sample(encoded: Encoded, ends: frozenset[int], where: str) -> Sample:
    """Return the sample of a conversation whose answer ends with one of `ends`.

    Raises UserError as `encode` does.
    """
    ids, prompt, answer, patient = encoded
    if ids[: len(prompt)] != prompt:
        raise UserError(
            f"{where}: this model's chat template rewrites earlier turns once an answer follows, "
            "so that the answer's tokens cannot be told apart: use another instruct model"
        )
    answer = answer.strip()
    if not answer:
        raise UserError(
            f"{where}: the answer is empty, there is nothing to learn from: run step 4 again"
        )
    last = next((i for i in range(len(ids) - 1, len(prompt) - 1, -1) if ids[i] in ends), None)
    if last is None:
        raise UserError(
            f"{where}: the chat template ends no answer with an end token, "
            "so that the model would never learn to stop: use another instruct model"
        )
    if last == len(prompt):
        raise UserError(
            f"{where}: the chat template drops the answer, so no token of it would be trained"
        )
    # 4 bytes a token; a list takes 36, for half a million prompts of 1,000 tokens 18 GB
    return Sample(array("i", ids[: last + 1]), len(prompt), patient, len(answer.encode()))


def mark_supervised(tokenizer: "PreTrainedTokenizerBase", sample: Sample) -> str:
    """Return the sample as text, its supervised part between ⟦ and ⟧."""
    ids = list(sample.ids)
    return f"{tokenizer.decode(ids[: sample.n_prompt])}⟦{tokenizer.decode(ids[sample.n_prompt :])}⟧"


def n_shared(before: Sample | None, sample: Sample) -> int:
    """Return how many tokens at its start a sample has in common with the one before it in a row.

    They are computed once. The last token of the prompt is never among them, since the answer's
    first token is predicted there.
    """
    if before is None:
        return 0
    common = os.path.commonprefix([list(before.ids), list(sample.ids)])
    return min(len(common), sample.n_prompt - 1)


def row_length(samples: Pack) -> int:
    """Return the tokens of the row that `collate` makes of samples."""
    return totals([samples]).tokens


class Totals(NamedTuple):
    """Sums over the rows that `collate` makes."""

    tokens: int
    attended: int  # for each token the tokens before it in its sample
    supervised: int


def totals(packs: Sequence[Pack]) -> Totals:
    """Count the tokens of rows, as `collate` would make them."""
    tokens = attended = supervised = 0
    for samples in packs:
        before = None
        for sample in samples:
            shared, length = n_shared(before, sample), len(sample.ids)
            tokens += length - shared
            attended += sum(range(shared, length))
            supervised += sample.n_supervised
            before = sample
    return Totals(tokens, attended, supervised)


class Group(NamedTuple):
    """Samples that share most of their prompts."""

    tokens: int  # of the row that they make
    samples: Pack


def groups(samples: Sequence[Sample], room: int) -> list[Group]:
    """Sort samples by their tokens and cut them into groups of rows of at most `room` tokens.

    A new group begins where less than half a prompt is shared, or the row would overflow.
    """
    made: list[Group] = []
    before = None
    for sample in sorted(samples):
        shared = n_shared(before, sample)
        length, group = made[-1] if made else Group(0, [])
        if 2 * shared < sample.n_prompt or length + len(sample.ids) - shared > room:
            made.append(Group(len(sample.ids), [sample]))
        else:
            group.append(sample)
            made[-1] = Group(length + len(sample.ids) - shared, group)
        before = sample
    return made


def pack(samples: Sequence[Sample], room: int, n_processes: int = 1) -> list[Pack]:
    """Put samples into rows of at most `room` tokens; a longer sample goes alone.

    Best fit, longest group first. Packs without a supervised token fill up to a multiple of
    `n_processes`, so that each process has as many.
    """
    packs: list[Pack] = []
    space: list[tuple[int, int]] = []  # (tokens left, index of the pack), sorted
    for length, group in sorted(groups(samples, room), key=lambda made: -made.tokens):
        place = bisect.bisect_left(space, (length, 0))
        left, index = space.pop(place) if place < len(space) else (max(room, length), len(packs))
        if index == len(packs):
            packs.append([])
        packs[index] = sorted(packs[index] + group)  # so that neighbours share what they can
        bisect.insort(space, (left - length, index))
    filler = Sample(packs[0][0].ids[:1], 1)
    return packs + [[filler] for _ in range(-len(packs) % n_processes)]


def collate(samples: Pack) -> Batch:
    """Make one pack a batch of a single row.

    What a sample shares with the one before it, at its start, stands in the row once.
    """
    ids: list[int] = []
    positions: list[int] = []
    supervised: list[int] = []
    targets: list[int] = []
    spans: list[list[Span]] = []  # of each sample in full
    before = None
    for sample in samples:
        shared, start = n_shared(before, sample), len(ids)
        ids += sample.ids[shared:]
        positions += range(shared, len(sample.ids))
        supervised += range(len(ids) - sample.n_supervised - 1, len(ids) - 1)
        targets += sample.ids[sample.n_prompt :]
        spans.append([*first(spans[-1] if spans else [], shared), Span(start, len(ids))])
        before = sample
    keys = [0, *itertools.accumulate(len(sample.ids) for sample in samples)]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "supervised": torch.tensor(supervised, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long),
        "n_tokens": keys[-1],
        "attended": sum(positions),
        "layout": _layout(spans, keys),
    }


class Span(NamedTuple):
    """Tokens of a row from `start` to before `end`."""

    start: int
    end: int


def first(spans: Sequence[Span], n: int) -> list[Span]:
    """Return the spans of a row that hold the first n tokens of those given."""
    kept = []
    for start, end in spans:
        if n > 0:
            kept.append(Span(start, min(end, start + n)))
        n -= end - start
    return kept


def _layout(spans: Sequence[Sequence[Span]], keys: Sequence[int]) -> Layout:
    """Return the layout of samples that lie in these spans, with these cumulative full lengths."""
    cuts = sorted({end for path in spans for span in path for end in span})
    queries = [*(path[-1].start for path in spans), spans[-1][-1].end]
    order = [
        n
        for path in spans
        for start, end in path
        for n in range(cuts.index(start), cuts.index(end))
    ]
    longest = [max(b - a for a, b in itertools.pairwise(ends)) for ends in (queries, keys)]
    return Layout(
        pieces=[end - start for start, end in itertools.pairwise(cuts)],
        order=order,
        queries=torch.tensor(queries, dtype=torch.int32),
        keys=torch.tensor(keys, dtype=torch.int32),
        longest=(longest[0], longest[1]),
    )
