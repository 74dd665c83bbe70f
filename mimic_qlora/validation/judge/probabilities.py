"""The probability of "yes" as the next token, for many prompts that share their beginning.

The prompts on one answer differ in their last sentence alone. What they share is read once, and
its keys and values are copied for each of them, so that a prompt costs its own sentence.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mimic_qlora.llm import chat, generation
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

YES, NO = "yes", "no"


class Group(NamedTuple):
    """Prompts that share their beginning, as token ids: what they share, and each one's rest.

    Each ending holds one token or more.
    """

    shared: list[int]
    endings: list[list[int]]


class Words(NamedTuple):
    """The token ids that begin a yes, and those that begin a no."""

    yes: list[int]
    no: list[int]


def group(prompts: Sequence[Sequence[int]]) -> Group:
    """Return prompts as a Group: one or more, as token ids that begin alike and end otherwise."""
    shared = os.path.commonprefix([list(prompt)[:-1] for prompt in prompts])
    return Group(list(shared), [list(prompt[len(shared) :]) for prompt in prompts])


def words(tokenizer: "PreTrainedTokenizerBase") -> Words:
    """Return the tokens of all spellings of yes and no: in capitals or not, after a blank or not.

    Where a tokenizer has both as single tokens, these count; else the first token of each spelling
    that begins no spelling of the other. Raises UserError where nothing tells them apart.
    """

    def spelt(word: str) -> list[list[int]]:
        cases = (word, word.capitalize(), word.upper())
        texts = [blank + case for blank in ("", " ") for case in cases]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    spellings = spelt(YES), spelt(NO)
    for only in (True, False):
        yes, no = ({ids[0] for ids in found if len(ids) == 1 or not only} for found in spellings)
        if yes - no and no - yes:
            return Words(sorted(yes - no), sorted(no - yes))
    raise UserError(
        f"the tokenizer of {tokenizer.name_or_path} does not tell yes from no: use another judge"
    )


def of_yes(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    groups: Sequence[Group],
    fits: int,
) -> tuple[list[list[float]], int]:
    """Return the probability of yes, of yes or no, for each ending of each group, 0 to 1.

    At most `fits` beginnings, and then at most `fits` endings, are read together; fewer where the
    GPU has no room for them. Returns how many fit, too.
    """
    import torch

    which = words(tokenizer)
    room = fits

    def some(rows: slice) -> list[list[float]]:
        nonlocal room
        part = groups[rows]
        cache, mask = _begin(model, tokenizer, [one.shared for one in part])
        endings = [(place, ids) for place, one in enumerate(part) for ids in one.endings]

        def end(rows: slice) -> list[float]:
            return _end(model, which, tokenizer, (cache, mask), endings[rows])

        found, room = generation.in_parts(len(endings), room, end)
        taken = iter(found)
        return [list(itertools.islice(taken, len(one.endings))) for one in part]

    model.eval()
    with torch.no_grad():
        found, begun = generation.in_parts(len(groups), fits, some)
    return found, min(begun, room)


def _begin(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", shared: Sequence[list[int]]
) -> tuple[Any, "torch.Tensor"]:
    """Return the keys and values of beginnings, and which places hold a token [rows, tokens]."""
    ids, mask = _padded(tokenizer, shared, model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.past_key_values, mask


def _end(
    model: "PreTrainedModel",
    which: Words,
    tokenizer: "PreTrainedTokenizerBase",
    begun: tuple[Any, "torch.Tensor"],
    endings: Sequence[tuple[int, list[int]]],
) -> list[float]:
    """Return the probability of yes after each ending, given with the place of its beginning.

    The padding of an ending stands between it and its beginning, where the mask leaves it out.
    """
    import torch

    cache, mask = begun
    places = torch.tensor([place for place, _ in endings], device=model.device)
    ids, own = _padded(tokenizer, [ids for _, ids in endings], model.device)
    whole = torch.cat([mask[places], own], dim=1)
    positions = (whole.cumsum(1) - 1).clamp(min=0)[:, mask.shape[1] :]
    output = model(
        input_ids=ids,
        attention_mask=whole,
        position_ids=positions,
        past_key_values=generation.cache_rows(cache, places),
        use_cache=True,
        logits_to_keep=1,
    )
    logits = output.logits[:, -1].float()
    yes, no = (logits[:, tokens].logsumexp(1) for tokens in which)
    return cast(list[float], torch.sigmoid(yes - no).tolist())


def _padded(
    tokenizer: "PreTrainedTokenizerBase", rows: Sequence[list[int]], device: Any
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return rows padded on the left, as ids and as a mask."""
    batch = tokenizer.pad({"input_ids": list(rows)}, padding_side="left", return_tensors="pt")
    return batch["input_ids"].to(device), batch["attention_mask"].to(device)


def prompts(
    tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Sequence[chat.Turn]]
) -> Group:
    """Return the conversations on one answer as a Group, each asking for its next turn."""
    texts = [chat.chat_text(tokenizer, turns, True) for turns in conversations]
    return group(chat.token_ids(tokenizer, texts))


def batches(groups: Sequence[Group], size: int) -> Iterator[list[int]]:
    """Yield the places of the groups in batches of beginnings of similar length."""
    yield from generation.batches([one.shared for one in groups], size)
