"""Conversations as training samples: what is supervised, how samples share a sequence, and the batch that results."""

import bisect
import itertools
import os
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mimic_qlora.llm import chat
from mimic_qlora.step.errors import UserError


class Sample(NamedTuple):
    """A conversation up to the end of its answer: token ids, of which those from `n_prompt` on are supervised."""

    ids: Sequence[int]
    n_prompt: int
    patient: int = 0
    n_bytes: int = 0  # of the answer's text in UTF-8

    @property
    def n_supervised(self) -> int:
        return len(self.ids) - self.n_prompt


def encode(tokenizer, messages: list[dict], where: str, patient: int = 0) -> Sample:
    """A conversation as a sample whose supervised part is the last turn with the token that ends it.

    What the template puts after that token (SmolLM2: a newline) is left out. `where` names the record in errors.
    Raises UserError when the answer cannot be told apart, is empty, or is never ended.
    """
    ids = chat.chat_ids(tokenizer, messages)
    prompt = chat.chat_ids(tokenizer, messages[:-1], add_generation_prompt=True)
    if ids[: len(prompt)] != prompt:
        raise UserError(
            f"{where}: this model's chat template rewrites earlier turns once an answer follows, "
            "so that the answer's tokens cannot be told apart: use another instruct model"
        )
    answer = messages[-1]["content"].strip()
    if not answer:
        raise UserError(
            f"{where}: the answer is empty, there is nothing to learn from: run step 4 again"
        )
    ends = set(chat.end_token_ids(tokenizer))
    last = max((i for i in range(len(prompt), len(ids)) if ids[i] in ends), default=None)
    if last is None:
        raise UserError(
            f"{where}: the chat template ends no answer with an end token, "
            "so that the model would never learn to stop: use another instruct model"
        )
    if last == len(prompt):
        raise UserError(
            f"{where}: the chat template drops the answer, so no token of it would be trained"
        )
    # an array, since a list takes nine times as much: 18 GB for half a million prompts of 1,000 tokens
    return Sample(array("i", ids[: last + 1]), len(prompt), patient, len(answer.encode()))


def mark_supervised(tokenizer, sample: Sample) -> str:
    """The sample as text, its supervised part between ⟦ and ⟧."""
    ids = list(sample.ids)
    return f"{tokenizer.decode(ids[: sample.n_prompt])}⟦{tokenizer.decode(ids[sample.n_prompt :])}⟧"


def n_shared(before: Sample | None, sample: Sample) -> int:
    """Tokens at the start of a sample that the sample before it in a row has too: they are computed once.

    The last token of the prompt is never among them, since the answer's first one is predicted there.
    """
    return (
        min(len(os.path.commonprefix([list(before.ids), list(sample.ids)])), sample.n_prompt - 1)
        if before
        else 0
    )


def row_length(samples: list[Sample]) -> int:
    """Tokens of the row that `collate` makes of samples."""
    return totals([samples])[0]


def totals(packs: list[list[Sample]]) -> tuple[int, int, int]:
    """Of the rows that `collate` makes: tokens, what they attend to (the tokens before each), supervised tokens."""
    tokens = attended = supervised = 0
    for samples in packs:
        for before, sample in zip([None, *samples], samples, strict=False):
            shared, length = n_shared(before, sample), len(sample.ids)
            tokens += length - shared
            attended += sum(range(shared, length))
            supervised += sample.n_supervised
    return tokens, attended, supervised


def groups(samples: list[Sample], room: int) -> list[tuple[int, list[Sample]]]:
    """Samples in the order of their tokens, cut where less than half a prompt is shared, or the row would overflow:
    the tokens of each group's row, and the group.
    """
    found: list[tuple[int, list[Sample]]] = []
    before = None
    for sample in sorted(samples):
        shared = n_shared(before, sample)
        length, group = found[-1] if found else (0, [])
        if 2 * shared < sample.n_prompt or length + len(sample.ids) - shared > room:
            found.append((len(sample.ids), [sample]))
        else:
            group.append(sample)
            found[-1] = (length + len(sample.ids) - shared, group)
        before = sample
    return found


def pack(samples: list[Sample], room: int, n_processes: int = 1) -> list[list[Sample]]:
    """Put samples into rows of at most `room` tokens; a sample that is longer goes alone.

    Samples that share most of their prompt (questions about one chart) stay together; best fit, longest first. Packs
    without a supervised token fill up to a multiple of `n_processes`, so that each process has as many.
    """
    packs: list[list[Sample]] = []
    space: list[tuple[int, int]] = []  # (tokens left, index of the pack), sorted
    for length, group in sorted(groups(samples, room), key=lambda pair: -pair[0]):
        place = bisect.bisect_left(space, (length, 0))
        left, index = space.pop(place) if place < len(space) else (max(room, length), len(packs))
        if index == len(packs):
            packs.append([])
        packs[index] = sorted(packs[index] + group)  # so that neighbours share what they can
        bisect.insort(space, (left - length, index))
    filler = Sample(packs[0][0].ids[:1], 1)
    return packs + [[filler]] * (-len(packs) % n_processes)


def collate(samples: list[Sample]) -> dict:
    """One pack as a batch of a single row without padding. What a sample shares with the one before it, at its start,
    stands in the row once.

    `input_ids` and `position_ids` are [1, tokens], positions as if each sample stood alone. `supervised` [n] are the
    places whose next token is a target, `targets` [n] those tokens; `n_tokens` is what all samples have. `layout` is
    for `attention`: samples' own tokens lie between `queries` [samples + 1]; with the row cut into pieces of the sizes
    `pieces`, the pieces in `order` give all tokens of all samples, between `keys` [samples + 1]; `longest` of both.
    """
    ids, positions, supervised, targets, spans = [], [], [], [], []
    for before, sample in zip([None, *samples], samples, strict=False):
        shared, start = n_shared(before, sample), len(ids)
        ids += sample.ids[shared:]
        positions += range(shared, len(sample.ids))
        supervised += range(len(ids) - sample.n_supervised - 1, len(ids) - 1)
        targets += sample.ids[sample.n_prompt :]
        spans.append([*first(spans[-1] if spans else [], shared), (start, len(ids))])
    cuts = sorted({end for path in spans for span in path for end in span})
    queries = [path[-1][0] for path in spans] + [len(ids)]
    keys = [0, *itertools.accumulate(len(sample.ids) for sample in samples)]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "supervised": torch.tensor(supervised, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long),
        "n_tokens": keys[-1],
        "layout": {
            "pieces": [end - start for start, end in itertools.pairwise(cuts)],
            "order": [
                n
                for path in spans
                for start, end in path
                for n in range(cuts.index(start), cuts.index(end))
            ],
            "queries": torch.tensor(queries, dtype=torch.int32),
            "keys": torch.tensor(keys, dtype=torch.int32),
            "longest": tuple(
                max(b - a for a, b in itertools.pairwise(ends)) for ends in (queries, keys)
            ),
        },
    }


def first(spans: list[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """The spans of a row that hold the first n tokens of those given."""
    found = []
    for start, end in spans:
        if n > 0:
            found.append((start, min(end, start + n)))
        n -= end - start
    return found
