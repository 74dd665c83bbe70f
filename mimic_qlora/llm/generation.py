"""Greedy answers: many at once, with the base and several adapters in one batch, or one answer as it comes."""

import threading
from collections.abc import Generator
from typing import NamedTuple

from mimic_qlora.llm import chat
from mimic_qlora.step.errors import UserError

NO_ROOM = "the GPU has too little memory to answer even one question at a time: free some, or use a larger one"


class Answer(NamedTuple):
    """One greedy answer: its text, its length in tokens (the end token included), and whether it ended by itself."""

    text: str
    n_tokens: int
    ended: bool


def prompt_ids(tokenizer, conversations: list) -> list:
    """The token ids that ask for the next turn of each conversation."""
    return [chat.chat_ids(tokenizer, turns, add_generation_prompt=True) for turns in conversations]


def batches(prompts: list, batch_size: int) -> list:
    """The places of the prompts in batches of at most so many rows, the longest first: if memory does not suffice it
    shows at once. No row is padded to more than twice its length, as a short one beside few-shot examples would be."""
    planned = []
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
    model,
    tokenizer,
    conversations: list,
    who: list,
    max_new_tokens: int,
    batch_size: int = 8,
    on_batch=None,
) -> list:
    """An Answer to each conversation, in the order given, by whom `who` names at its place (see `adapter_names`).

    `on_batch(rows)` is called with the number of rows just answered.
    """
    prompts, answers, fits = prompt_ids(tokenizer, conversations), {}, batch_size
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


def answer(model, tokenizer, prompts: list, who: list, max_new_tokens: int, fits: int) -> tuple:
    """The Answers to a batch of prompts, given as token ids, and how many rows fit into memory at once.

    At most `fits` rows are generated together; when the GPU has no room for them, half as many are tried. Raises
    UserError when there is no room for a single one.
    """
    import torch

    given = []
    while len(given) < len(prompts):
        rows = slice(len(given), len(given) + fits)
        try:
            given += _together(model, tokenizer, prompts[rows], who[rows], max_new_tokens)
            continue
        except torch.OutOfMemoryError:
            fits = len(prompts[rows]) // 2
        torch.cuda.empty_cache()  # not above, where the error still holds on to the tensors
        if not fits:
            raise UserError(NO_ROOM)
    return given, fits


def _together(model, tokenizer, prompts: list, who: list, max_new_tokens: int) -> list:
    model.eval()
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(
        model.device
    )
    settings = greedy(tokenizer, model, max_new_tokens)
    output = model.generate(**batch, generation_config=settings, **adapter_names(model, who))
    return [
        to_answer(tokenizer, ids, settings.eos_token_id)
        for ids in output[:, batch["input_ids"].shape[1] :].tolist()
    ]


def adapter_names(model, who: list) -> dict:
    """How `generate` is told who answers each row: "base", "adapter" (the first one loaded), or an adapter's name."""
    loaded = getattr(model, "peft_config", {})
    names = [{"base": "__base__", "adapter": "default"}.get(name, name) for name in who]
    if unknown := set(names) - {"__base__", *loaded}:
        raise ValueError(f"no adapter {sorted(unknown)} is loaded")
    return {"adapter_names": names} if loaded else {}


def greedy(tokenizer, model, max_new_tokens: int):
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=chat.end_token_ids(tokenizer, model),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )


def to_answer(tokenizer, ids: list, ends: list) -> Answer:
    """Cut a row of generated ids after its first end token; what follows is padding."""
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    kept = ids if stop is None else ids[: stop + 1]
    return Answer(
        tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), stop is not None
    )


def stream(
    model, tokenizer, conversation: list, who: str, max_new_tokens: int
) -> Generator[str, None, Answer]:
    """Yield the greedy answer to one conversation piece by piece, and return it whole. Closing this stops the model.

    Raises UserError when the GPU has no room for it.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

    stopped = threading.Event()

    class Stop(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
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
        done.add_done_callback(
            lambda _: pieces.end()
        )  # also after an error, else the reader waits for ever
        try:
            yield from (piece for piece in pieces if piece)
            (output,) = done.result()[:, ids.shape[1] :].tolist()
            return to_answer(tokenizer, output, chat.end_token_ids(tokenizer, model))
        except torch.OutOfMemoryError:
            raise UserError(NO_ROOM) from None
        finally:
            stopped.set()
