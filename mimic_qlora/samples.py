"""Conversations as training samples: what is supervised, how samples share a sequence, and the batch that results."""

import bisect
from typing import NamedTuple

import torch

from mimic_qlora import models
from mimic_qlora.storage import UserError


class Sample(NamedTuple):
    """A conversation up to the end of its answer: token ids, of which those from `n_prompt` on are supervised."""

    ids: list[int]
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
    ids = models.chat_ids(tokenizer, messages)
    prompt = models.chat_ids(tokenizer, messages[:-1], add_generation_prompt=True)
    if ids[: len(prompt)] != prompt:
        raise UserError(
            f"{where}: this model's chat template rewrites earlier turns once an answer follows, "
            "so that the answer's tokens cannot be told apart: use another instruct model"
        )
    answer = messages[-1]["content"].strip()
    if not answer:
        raise UserError(f"{where}: the answer is empty, there is nothing to learn from: run step 4 again")
    ends = set(models.end_token_ids(tokenizer))
    last = max((i for i in range(len(prompt), len(ids)) if ids[i] in ends), default=None)
    if last is None:
        raise UserError(
            f"{where}: the chat template ends no answer with an end token, "
            "so that the model would never learn to stop: use another instruct model"
        )
    if last == len(prompt):
        raise UserError(f"{where}: the chat template drops the answer, so no token of it would be trained")
    return Sample(ids[: last + 1], len(prompt), patient, len(answer.encode()))


def mark_supervised(tokenizer, sample: Sample) -> str:
    """The sample as text, its supervised part between ⟦ and ⟧."""
    return f"{tokenizer.decode(sample.ids[: sample.n_prompt])}⟦{tokenizer.decode(sample.ids[sample.n_prompt :])}⟧"


def pack(samples: list[Sample], room: int, n_processes: int = 1) -> list[list[Sample]]:
    """Put samples into sequences of at most `room` tokens, best fit, longest first; what is longer goes alone.

    Packs without a supervised token fill up to a multiple of `n_processes`, so that each process has as many.
    """
    packs: list[list[Sample]] = []
    space: list[tuple[int, int]] = []  # (tokens left, index of the pack), sorted
    for sample in sorted(samples, key=lambda sample: -len(sample.ids)):
        place = bisect.bisect_left(space, (len(sample.ids), 0))
        left, index = space.pop(place) if place < len(space) else (max(room, len(sample.ids)), len(packs))
        if index == len(packs):
            packs.append([])
        packs[index].append(sample)
        bisect.insort(space, (left - len(sample.ids), index))
    filler = Sample(packs[0][0].ids[:1], 1)
    return packs + [[filler]] * (-len(packs) % n_processes)


def collate(samples: list[Sample]) -> dict:
    """One pack as a batch of a single row without padding.

    `input_ids` and `position_ids` are [1, tokens]; positions start anew with each sample, at the `boundaries`
    [samples + 1], of which the `longest` sample is told too. `supervised` [n] are the positions whose next token is a
    target, `targets` [n] those tokens.
    """
    ids, positions, supervised, targets, boundaries = [], [], [], [], [0]
    for sample in samples:
        supervised += range(len(ids) + sample.n_prompt - 1, len(ids) + len(sample.ids) - 1)
        targets += sample.ids[sample.n_prompt :]
        positions += range(len(sample.ids))
        ids += sample.ids
        boundaries.append(len(ids))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "supervised": torch.tensor(supervised, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long),
        "boundaries": torch.tensor(boundaries, dtype=torch.int32),
        "longest": max(len(sample.ids) for sample in samples),
    }
