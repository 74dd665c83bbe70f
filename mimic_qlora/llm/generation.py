"""Greedy answers: many at once, by base and adapters in one batch, or one as it is generated."""

import contextlib
import copy
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from mimic_qlora.llm import chat
from mimic_qlora.step import terminal
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

Model: TypeAlias = "PreTrainedModel | PeftModel"
T = TypeVar("T")

NO_ROOM = (
    "the GPU has too little memory to answer even one question at a time: free some, or use a "
    "larger one"
)


class Answer(NamedTuple):
    """One greedy answer."""

    text: str
    n_tokens: int  # with the end token
    ended: bool  # by itself, not at the limit of tokens


def prompt_ids(
    tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Sequence[chat.Turn]]
) -> list[list[int]]:
    """Return the token ids that ask for the next turn of each conversation."""
    return [chat.chat_ids(tokenizer, turns, add_generation_prompt=True) for turns in conversations]


def batches(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Return the places of the prompts in batches of at most `batch_size` rows, the longest first.

    If memory does not suffice, that shows at once. No row is padded to more than twice its length,
    as a short one beside few-shot examples would be.
    """
    planned: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        if (
            not planned
            or len(planned[-1]) == batch_size
            or 2 * len(prompts[i]) < len(prompts[planned[-1][0]])
        ):
            planned.append([])
        planned[-1].append(i)
    return planned


def generate(
    model: Model,
    tokenizer: "PreTrainedTokenizerBase",
    conversations: Sequence[Sequence[chat.Turn]],
    who: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 8,
    on_batch: Callable[[int], object] | None = None,
) -> list[Answer]:
    """Answer each conversation, in the order given, by whom `who` names at its place.

    The names are those of `adapter_names`. `on_batch(rows)` is called with the number of rows just
    answered. Raises UserError when the GPU has no room for a single row.
    """
    prompts, fits = prompt_ids(tokenizer, conversations), batch_size
    answers: dict[int, Answer] = {}
    for rows in batches(prompts, batch_size):
        given, fits = answer(
            model,
            tokenizer,
            [prompts[i] for i in rows],
            [who[i] for i in rows],
            max_new_tokens,
            fits,
        )
        answers |= zip(rows, given, strict=True)
        if on_batch:
            on_batch(len(rows))
    return [answers[i] for i in range(len(prompts))]


def answer(
    model: Model,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    who: Sequence[str],
    max_new_tokens: int,
    fits: int,
    seed: int | None = None,
) -> tuple[list[Answer], int]:
    """Answer a batch of prompts, given as token ids, and return how many rows fit at once.

    At most `fits` rows are generated together (see `in_parts`). With `seed` each token is drawn by
    its probability instead of the likeliest being taken.
    """

    def some(rows: slice) -> list[Answer]:
        settings = greedy(tokenizer, model, max_new_tokens)
        if seed is None:
            return _together(model, tokenizer, prompts[rows], who[rows], settings)
        import torch

        settings.do_sample, settings.top_k = True, 0  # of all tokens
        with torch.random.fork_rng():
            torch.manual_seed(seed + rows.start)
            return _together(model, tokenizer, prompts[rows], who[rows], settings)

    return in_parts(len(prompts), fits, some)


def in_parts(n: int, fits: int, some: Callable[[slice], list[T]]) -> tuple[list[T], int]:
    """Return the results of n rows, and how many rows fit at once.

    `some` takes at most `fits` rows together; when the GPU has no room for them, half as many are
    tried. Raises UserError when there is no room for a single one.
    """
    import torch

    found: list[T] = []
    while len(found) < n:
        rows = slice(len(found), min(n, len(found) + fits))
        try:
            found += some(rows)
            continue
        except torch.OutOfMemoryError:
            fits = (rows.stop - rows.start) // 2
        torch.cuda.empty_cache()  # not above, where the error still holds on to the tensors
        if not fits:
            raise UserError(NO_ROOM)
    return found, fits


def _together(
    model: Model,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    who: Sequence[str],
    settings: "GenerationConfig",
) -> list[Answer]:
    import torch

    model.eval()
    # in a window of the last tokens the padding before a row's own rest would take their places
    windowed = getattr(model.config.get_text_config(), "sliding_window", None) is not None
    shared = [] if windowed else _shared(prompts)
    rests = [prompt[len(shared) :] for prompt in prompts]
    batch = tokenizer.pad({"input_ids": rests}, padding_side="left", return_tensors="pt")
    before = torch.tensor([shared] * len(prompts), dtype=torch.long)
    # the padding of a row stands between what all share and its own rest; the mask leaves it out
    batch["input_ids"] = torch.cat([before, batch["input_ids"]], dim=1)
    batch["attention_mask"] = torch.cat([before.new_ones(before.shape), batch["attention_mask"]], 1)
    batch = batch.to(model.device)
    with _counted(len(prompts), settings.max_new_tokens) as watched:
        output = model.generate(
            **batch,
            generation_config=settings,
            **({"past_key_values": _begun(model, shared, who)} if shared else {}),
            **watched,
            **adapter_names(model, who),
        )
    return [
        to_answer(tokenizer, ids, settings.eos_token_id)
        for ids in output[:, batch["input_ids"].shape[1] :].tolist()
    ]


def _shared(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens that all prompts of a batch begin with, mostly the system prompt's."""
    if len(prompts) == 1:
        return []
    return list(os.path.commonprefix([list(prompt)[:-1] for prompt in prompts]))


def _begun(model: Model, shared: list[int], who: Sequence[str]) -> Any:
    """Return the keys and values of the shared tokens for each row, computed once for each arm."""
    import torch

    arms = list(dict.fromkeys(who))
    ids = torch.tensor([shared] * len(arms), device=model.device)
    with torch.no_grad():
        output = model(
            input_ids=ids, use_cache=True, logits_to_keep=1, **adapter_names(model, arms)
        )
    places = torch.tensor([arms.index(name) for name in who], device=model.device)
    return cache_rows(output.past_key_values, places)


def cache_rows(cache: Any, places: "torch.Tensor") -> Any:
    """Return a cache of keys and values with these rows of another, which stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(places)
    return chosen


@contextlib.contextmanager
def _counted(n: int, max_new_tokens: int) -> Iterator[dict[str, Any]]:
    """Count the tokens of a batch of n answers in a bar, where standard error is a terminal.

    Yields arguments for `generate`.
    """
    if not terminal.is_terminal(sys.stderr):
        yield {}
        return
    import torch
    from tqdm import tqdm
    from transformers import StoppingCriteria, StoppingCriteriaList

    what = f"tokens of {n} answers at once" if n > 1 else "tokens of an answer"
    with tqdm(total=max_new_tokens, desc=what, unit="token", leave=False) as bar:

        class Count(StoppingCriteria):
            def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
                bar.update(1)
                return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        yield {"stopping_criteria": StoppingCriteriaList([Count()])}


def adapter_names(model: Model, who: Sequence[str]) -> dict[str, list[str]]:
    """Return the argument that tells PEFT's `generate` who answers each row; none without PEFT.

    A name is "base", "adapter" (the first one loaded), or that of an adapter. Raises ValueError
    for one that is not loaded.
    """
    loaded = getattr(model, "peft_config", {})
    names = [{"base": "__base__", "adapter": "default"}.get(name, name) for name in who]
    if unknown := set(names) - {"__base__", *loaded}:
        raise ValueError(f"no adapter {sorted(unknown)} is loaded")
    return {"adapter_names": names} if loaded else {}


def greedy(
    tokenizer: "PreTrainedTokenizerBase", model: Model, max_new_tokens: int
) -> "GenerationConfig":
    """Return the settings of greedy decoding that ends at any end token."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=chat.end_token_ids(tokenizer, model),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )


def to_answer(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], ends: Sequence[int]
) -> Answer:
    """Cut a row of generated ids after its first end token; what follows is padding."""
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    kept = ids if stop is None else ids[: stop + 1]
    return Answer(
        tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), stop is not None
    )


def stream(
    model: Model,
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Sequence[chat.Turn],
    who: str,
    max_new_tokens: int,
) -> Generator[str, None, Answer]:
    """Yield the greedy answer to one conversation piece by piece, and return it whole.

    Closing the generator stops the model. Raises UserError when the GPU has no room.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

    stopped = threading.Event()

    class Stop(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            return torch.full((input_ids.shape[0],), stopped.is_set(), device=input_ids.device)

    ids = torch.tensor(prompt_ids(tokenizer, [conversation]), device=model.device)
    pieces = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    model.eval()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(
            model.generate,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=greedy(tokenizer, model, max_new_tokens),
            stopping_criteria=StoppingCriteriaList([Stop()]),
            streamer=pieces,
            **adapter_names(model, [who]),
        )
        # also after an error, else the reader would wait for ever
        done.add_done_callback(lambda _: pieces.end())
        try:
            yield from (piece for piece in pieces if piece)
            (output,) = done.result()[:, ids.shape[1] :].tolist()
            return to_answer(tokenizer, output, chat.end_token_ids(tokenizer, model))
        except torch.OutOfMemoryError:
            raise UserError(NO_ROOM) from None
        finally:
            stopped.set()
