"""How likely a model finds given texts, as the base or with one of its adapters."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from mimic_qlora.llm import chat
from mimic_qlora.llm.generation import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextlib.contextmanager
def answering(model: Model, who: str) -> Iterator[None]:
    """Let the model answer as `who`: "base", "adapter" (the first one), or an adapter's name."""
    if not hasattr(model, "peft_config"):
        yield
    elif who == "base":
        with model.disable_adapter():
            yield
    else:
        model.set_adapter("default" if who == "adapter" else who)
        try:
            yield
        finally:
            model.set_adapter("default")


@torch.no_grad()
def log_probabilities(model: Model, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return the log probabilities of each next token of each row [tokens, vocabulary]."""
    found = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row], device=model.device)).logits[0]
        found.append(logits.float().log_softmax(-1).cpu())
    return found


def divergence(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """Return the mean Kullback-Leibler divergence of `after` from `before` in nats a token."""
    pairs = zip(before, after, strict=True)
    each = torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in pairs])
    return float(each.mean())


def answer_ids(
    tokenizer: "PreTrainedTokenizerBase", turns: Sequence[chat.Turn], answer: str
) -> tuple[list[int], list[int]]:
    """Return the token ids of a prompt, and of an answer to it with the token that ends it."""
    prompt = chat.chat_ids(tokenizer, turns, add_generation_prompt=True)
    whole = chat.chat_ids(tokenizer, [*turns, {"role": "assistant", "content": answer}])
    own, ends = whole[len(prompt) :], chat.end_token_ids(tokenizer)
    last = max((place for place, token in enumerate(own) if token in ends), default=len(own) - 1)
    return prompt, own[: last + 1]


@torch.no_grad()
def of_answers(
    model: Model,
    tokenizer: "PreTrainedTokenizerBase",
    turns: Sequence[chat.Turn],
    answers: Sequence[str],
) -> list[float]:
    """Return the negative log-likelihood of each answer to a conversation, in nats.

    The prompt is computed once for all of them.
    """
    encoded = [answer_ids(tokenizer, turns, answer) for answer in answers]
    prompt, rows = encoded[0][0], [own for _, own in encoded]
    width, n = max(map(len, rows)), len(rows)
    device, pad = model.device, tokenizer.pad_token_id
    cache = model(input_ids=torch.tensor([prompt[:-1]], device=device), use_cache=True)
    cache.past_key_values.batch_repeat_interleave(n)
    inputs = [[prompt[-1], *own[:-1]] + [pad] * (width - len(own)) for own in rows]
    seen = [[1] * (len(prompt) - 1 + len(own)) + [0] * (width - len(own)) for own in rows]
    logits = model(
        input_ids=torch.tensor(inputs, device=device),
        attention_mask=torch.tensor(seen, device=device),
        past_key_values=cache.past_key_values,
    ).logits
    nats = []
    for row, own in zip(logits, rows, strict=True):
        scores = row[: len(own)].float().log_softmax(-1)
        targets = torch.tensor(own, device=device)
        nats.append(-float(scores.gather(1, targets[:, None]).double().sum()))
    return nats
