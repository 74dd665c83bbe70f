"""The probability of each level, read where an answer begins, before any reason is written.

Of the tokens that may come next, those with which the levels' words begin are compared: a softmax
over these four. Prompts of all arms share batches, as answers do, and what is read is kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from mimic_qlora.llm import chat, generation, likelihood
from mimic_qlora.processes import entries
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.answer_cache import Load

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TURNS: list[chat.Turn] = [{"role": "user", "content": "How urgent is this visit?"}]


class Tokens(NamedTuple):
    """The tokens that all words begin with, and the first of each word after them, in order."""

    shared: list[int]
    first: list[int]


class Prompt(NamedTuple):
    """A conversation that asks for a level, and whose answer is read."""

    messages: Sequence[chat.Turn]
    who: str  # as for generation.adapter_names


def tokens(tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> Tokens:
    """Return the tokens by which an answer's words are told apart. Raises UserError if by none."""
    found = [likelihood.answer_ids(tokenizer, _TURNS, word)[1] for word in words]
    n = 0
    while len({tuple(ids[: n + 1]) for ids in found}) == 1 and n < min(map(len, found)) - 1:
        n += 1
    first = [ids[n] for ids in found]
    if len(set(first)) < len(words):
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} does not tell the words "
            f"{', '.join(words)} apart by their first token: use another model"
        )
    return Tokens(found[0][:n], first)


def of_rows(
    model: generation.Model,
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Sequence[int]],
    who: Sequence[str],
    of: Tokens,
) -> list[list[float]]:
    """Return the probability of each word after each row of token ids [rows, words]."""
    import torch

    model.eval()
    batch = tokenizer.pad(
        {"input_ids": [[*row, *of.shared] for row in rows]},
        padding_side="left",
        return_tensors="pt",
    ).to(model.device)
    mask = batch["attention_mask"]
    with torch.no_grad():
        logits = model(
            input_ids=batch["input_ids"],
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=1,
            use_cache=False,
            **generation.adapter_names(model, who),
        ).logits
    chosen = logits[:, -1, torch.tensor(of.first, device=logits.device)]
    found: list[list[float]] = chosen.double().softmax(-1).tolist()
    return found


def read(
    load: Load,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    words: Sequence[str],
    batch_size: int,
    path: Path,
) -> list[list[float]]:
    """Return the probability of each word as the begin of each answer, from the cache where known.

    `load` returns the model; it is not called when all is in the cache at `path`.
    """
    of, done = tokens(tokenizer, words), entries.kept(path)
    ids = generation.prompt_ids(tokenizer, [prompt.messages for prompt in prompts])
    found: dict[int, list[float]] = {}
    fits = batch_size
    with tqdm(total=len(ids), desc="levels", unit="prompt", disable=None, leave=False) as bar:
        for places in generation.batches(ids, batch_size):
            rows, who = [ids[i] for i in places], [prompts[i].who for i in places]
            key = files.digest(["levels", rows, who, of])
            if key not in done:
                values, fits = _in_parts(load(), tokenizer, rows, who, of, fits)
                done[key] = entries.add(path, {"key": key, "value": values})
            found |= zip(places, done[key]["value"], strict=True)
            bar.update(len(places))
    return [found[i] for i in range(len(ids))]


def _in_parts(
    model: generation.Model,
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Sequence[int]],
    who: Sequence[str],
    of: Tokens,
    fits: int,
) -> tuple[list[list[float]], int]:
    def some(part: slice) -> list[list[float]]:
        return of_rows(model, tokenizer, rows[part], who[part], of)

    return generation.in_parts(len(rows), fits, some)


def by_level(
    levels: Iterable[str], probabilities: Sequence[Sequence[float]]
) -> Mapping[str, list[float]]:
    """Return the probabilities of each level over all prompts."""
    return {level: [row[i] for row in probabilities] for i, level in enumerate(levels)}
