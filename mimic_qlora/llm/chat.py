"""Conversations as tokens: the tokenizer, its end tokens and the chat template."""

import functools
import hashlib
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

from mimic_qlora.llm.offline import quiet_transformers
from mimic_qlora.step.errors import UserError

# The names under which chat models of the Llama family end a turn or a text
END_TOKENS = ("<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|eom_id|>")
# Some Llama templates write a date into the system turn: 3.1's a fixed one, 3.2's today's, beside charts dated 21xx.
# It is pinned to 3.1's own, so that a prompt has the same tokens on every day.
TEMPLATE_DATE = "26 Jul 2024"
# Every kind of character that the pattern of a pre-tokenizer tells apart, and what may stand at the end of a line
KINDS = (*"aAé中7-;'_/°😀", "\u0301", "123", "):", "'s", ")\n-", "a\n-")
WORDS_REMEMBERED = 1 << 16  # about 10 MB


@functools.lru_cache(maxsize=4)
def load_tokenizer(path: Path):
    """The tokenizer of a chat model, padding on the left, with a pad token that is never an end token.

    Llama 3 comes without a pad token; giving it EOS would hide the very token that an answer must learn to end with,
    so a reserved special token serves. It is set in the tokenizer only: the model's config stays the checkpoint's.
    Raises UserError when there is no chat template, as in base checkpoints, or the files are damaged.
    """
    try:
        tokenizer = quiet_transformers().AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # the Rust tokenizers raise a bare Exception
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"the tokenizer in {path} cannot be read ({reason}): fetch or copy the model anew"
        ) from None
    if not tokenizer.chat_template:
        cached = (
            path.parent.name == "snapshots"
        )  # <cache>/models--meta-llama--Llama-3.1-8B/snapshots/<revision>
        name = (
            path.parent.parent.name.removeprefix("models--").replace("--", "/")
            if cached
            else path.name
        )
        if "llama-3" not in name.lower():
            name = "meta-llama/Meta-Llama-3-8B"
        raise UserError(
            f"the tokenizer in {path} has no chat template, as a base model has none: "
            f"use the instruct model, such as {name}-Instruct instead of {name}"
        )
    tokenizer.padding_side = "left"
    ends = end_token_ids(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        special = {
            i: str(t) for i, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special
        }
        spare = [t for i, t in special.items() if i not in ends and i != tokenizer.bos_token_id]
        named = [t for t in spare if t == "<|finetune_right_pad_id|>"]
        tokenizer.pad_token = (named or spare or [tokenizer.eos_token])[-1]
    return tokenizer


def count_tokens(tokenizer, text: str) -> int:
    """Tokens of a piece of text, without those that begin or end a text."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def token_counter(tokenizer) -> Callable[[str], int]:
    """`count_tokens` of texts whose words come again and again: it remembers how many tokens each word has.

    A tokenizer that does not cut at blanks counts the whole text each time.
    """
    whole = functools.partial(count_tokens, tokenizer)
    first = functools.lru_cache(maxsize=16)(whole)
    known = {}  # word -> tokens of the blank before it and the word

    def count(text: str) -> int:
        if re.search(
            r"\s ", text
        ):  # which blank of a run goes with the word after it is for the tokenizer to say
            return whole(text)
        start, *words = text.split(" ")
        try:
            return first(start) + sum(map(known.__getitem__, words))
        except KeyError:
            if len(known) > WORDS_REMEMBERED:
                known.clear()
            new = list(set(words) - known.keys())
            ids = tokenizer([f" {word}" for word in new], add_special_tokens=False)["input_ids"]
            known.update(zip(new, map(len, ids), strict=True))
            return first(start) + sum(map(known.__getitem__, words))

    return count if cuts_at_blanks(tokenizer) else whole


def cuts_at_blanks(tokenizer) -> bool:
    """Whether the tokens of a text are those of its words, each with the single blank before it.

    A tokenizer works on pieces that its pre-tokenizer cuts, one by one. Those of GPT-2 and Llama 3 cut before every
    blank; it is tried with every kind of character before a blank and after it.
    """
    rust = getattr(tokenizer, "backend_tokenizer", None)
    added = tokenizer.added_tokens_decoder.values()
    if (
        rust is None
        or rust.pre_tokenizer is None
        or any(token.rstrip or " " in token.content for token in added)
    ):
        return False

    def pieces(text):
        normal = rust.normalizer.normalize_str(text) if rust.normalizer else text
        return [piece for piece, _ in rust.pre_tokenizer.pre_tokenize_str(normal)]

    text = " ".join(f"{before} {after}" for before, after in product(KINDS, repeat=2))
    return pieces(text) == [piece for word in re.split("(?= )", text) for piece in pieces(word)]


def template_sha256(tokenizer) -> str:
    """The hash of the chat template: prompts, adapter and answers must all have been made with the same one."""
    return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()


def end_token_ids(tokenizer, model=None) -> list[int]:
    """Every token that ends a turn or a text: what training must teach and generation must stop on."""
    vocabulary = tokenizer.get_vocab()
    ends = {vocabulary[token] for token in END_TOKENS if token in vocabulary}
    declared = model.generation_config.eos_token_id if model is not None else None
    ends.update([declared] if isinstance(declared, int) else declared or [])
    ends.update([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
    return sorted(ends)


def neutralise(tokenizer, text: str) -> str:
    """The text with every chat-control token in it broken by a space, so that a record cannot open or end a turn."""
    for token in map(str, tokenizer.added_tokens_decoder.values()):
        if token.strip() and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def chat_ids(tokenizer, messages: list[dict], add_generation_prompt: bool = False) -> list[int]:
    """The token ids of a conversation, exactly as the chat template writes it (so with one BOS where it has one).

    Raises UserError when the template is damaged or refuses the conversation; some know no system turn.
    """
    from jinja2 import TemplateError

    safe = [
        {"role": turn["role"], "content": neutralise(tokenizer, turn["content"])}
        for turn in messages
    ]
    try:
        return tokenizer.apply_chat_template(
            safe,
            add_generation_prompt=add_generation_prompt,
            tokenize=True,
            return_dict=False,
            date_string=TEMPLATE_DATE,
        )
    except TemplateError as error:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} cannot write a conversation ({error}): "
            "use another instruct model, or copy this one anew"
        ) from None
