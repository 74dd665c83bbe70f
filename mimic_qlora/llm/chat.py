"""Conversations as tokens: the tokenizer, its end tokens and the chat template."""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from mimic_qlora.llm import finding, tokenizer_files
from mimic_qlora.llm.embedded import is_embedded
from mimic_qlora.llm.finding import read_json, remedy
from mimic_qlora.llm.offline import FROM_HERE, check_kind, quiet_transformers, refuse_own_code
from mimic_qlora.step import faults, storage
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Turn = dict[str, str]  # {"role": "system", "user" or "assistant", "content": text}

# The names by which chat models of the Llama family end a turn or a text.
END_TOKENS = ("<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|eom_id|>")
# Some Llama templates write a date into the system turn: 3.1's a fixed one, 3.2's today's. It is
# pinned to 3.1's, so that a prompt has the same tokens on every day.
TEMPLATE_DATE = "26 Jul 2024"
# One of each kind of character that a pre-tokenizer's pattern distinguishes, and common line ends.
KINDS = (*"aAé中7-;'_/°😀", "\u0301", "123", "):", "'s", ")\n-", "a\n-")
WORDS_REMEMBERED = 1 << 16  # about 10 MB


@functools.lru_cache(maxsize=4)
def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a chat model; it pads on the left, never with an end token.

    Raises UserError when the files are damaged, the model is of a kind that transformers does not
    know, or there is no chat template, as in base models.
    """
    transformers = quiet_transformers()
    if (path / "config.json").is_file():  # an adapter's folder has none
        check_kind(path)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **FROM_HERE)
    except Exception as error:  # the Rust tokenizers raise a bare Exception
        refuse_own_code(path, error)
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"the tokenizer in {path} cannot be read ({reason}): {remedy(path)}"
        ) from None
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer in {path} has no chat template{_without_template(path)}")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        raise UserError(
            f"the tokenizer in {path} has several chat templates "
            f"({', '.join(tokenizer.chat_template)}) and none is named default: name the right one "
            "so in its tokenizer_config.json"
        )
    tokenizer.padding_side = "left"
    if "attention_mask" not in tokenizer.model_input_names:  # as models that take no padding say
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    ends = end_token_ids(tokenizer)
    size = _vocabulary_size(path)
    _check_vocabulary(path, tokenizer, size)
    pad = tokenizer.pad_token_id
    if pad is None or pad in ends or size and pad >= size:
        tokenizer.pad_token = _spare_token(tokenizer, ends, size)
    return tokenizer


def check_tokenizer(
    store: Path, path: Path, tokenizer: "PreTrainedTokenizerBase", runs: Sequence[str]
) -> None:
    """Raise UserError when a model has another tokenizer now than adapters were trained with.

    Weights do not tell: a newer snapshot of a model may have the same. That of the embedded model
    is written anew where its folder is, by whichever transformers there is. Nor does the sum tell
    the tokens that begin and end a text, which the adapter's own files do.
    """
    if is_embedded(path) or not runs:
        return
    counted_by = storage.verified_manifest(store, "prompts")["inputs"].get("tokenizer")
    if counted_by not in (None, finding.tokenizer_sha256(path)):
        raise UserError(
            f"the adapter {runs[0]} was trained with another tokenizer than {path} has now: put "
            "that one back, or run steps 4 and 5 again"
        )
    for run in runs:
        own = store / "adapters" / run / tokenizer_files.CONFIG
        config = read_json(own) if own.is_file() else {}
        for name in ("bos_token", "eos_token") if config else ():
            token = config.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            if token != (now := getattr(tokenizer, name)):
                raise UserError(
                    f"the adapter {run} was trained with {name} {token}, and {path} has {now} now: "
                    "put its tokenizer_config.json back, or run step 5 again with --force"
                )


def _vocabulary_size(path: Path) -> int | None:
    """Return how many tokens a model has embeddings for; None where its config does not say."""
    config = path / "config.json"
    size = read_json(config).get("vocab_size") if config.is_file() else None
    return size if isinstance(size, int) and size > 0 else None


def _check_vocabulary(path: Path, tokenizer: "PreTrainedTokenizerBase", size: int | None) -> None:
    """Raise UserError when a model has no embedding for a token that its tokenizer may give.

    Tokens that were added and that the chat template does not write are left out: a fine-tuner's
    token to pad with often has none.
    """
    template = tokenizer.get_chat_template()
    written = [i for i, token in tokenizer.added_tokens_decoder.items() if str(token) in template]
    written += [tokenizer.eos_token_id or 0] if "eos_token" in template else []
    highest = max(tokenizer.vocab_size - 1, *written, tokenizer.bos_token_id or 0)
    if size and size <= highest:
        raise UserError(
            f"{path / 'config.json'} gives {size:,} tokens and the tokenizer beside it has more "
            f"(up to number {highest:,}): one of the two is another model's, so fetch or copy the "
            "model anew"
        )


def _without_template(path: Path) -> str:
    """Return why a model has no chat template, and what to do, as the end of a sentence."""
    name = path.name
    if path.parent.name == "snapshots":  # <cache>/models--meta-llama--Llama-3.1-8B/snapshots/<hash>
        name = path.parent.parent.name.removeprefix("models--").replace("--", "/")
    if re.search(r"instruct|chat|(^|[-_])it($|[-_])", name.lower()):
        return (
            f", though {name} is the name of an instruct model: fetch its tokenizer_config.json, "
            "and its chat_template.jinja where it has one, anew"
        )
    if "llama-3" not in name.lower():
        name = "meta-llama/Meta-Llama-3-8B"
    return (
        ", as a base model has none: use the instruct model, such as "
        f"{name}-Instruct instead of {name}"
    )


def _spare_token(
    tokenizer: "PreTrainedTokenizerBase", ends: Sequence[int], size: int | None
) -> str:
    """Return a reserved special token to pad with.

    Llama 3 has no pad token. EOS in its place would hide the token that ends an answer from the
    loss. The token is set in the tokenizer only; the model's config stays the checkpoint's. One
    beyond its embeddings, of which there are `size`, would end a batch of answers.
    """
    special = {i: str(t) for i, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special}
    taken = {*ends, tokenizer.bos_token_id}
    spare = [t for i, t in special.items() if i not in taken and (size is None or i < size)]
    named = [t for t in spare if t == "<|finetune_right_pad_id|>"]
    return (named or spare or [tokenizer.eos_token])[-1]


def count_tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> int:
    """Return the number of tokens of a text, without those that begin or end it."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def token_counter(tokenizer: "PreTrainedTokenizerBase") -> Callable[[str], int]:
    """Return a function that counts as `count_tokens` does, but remembers the tokens of each word.

    It is for texts whose words recur. A tokenizer that does not cut at blanks (`cuts_at_blanks`)
    counts every text as a whole.
    """
    whole = functools.partial(count_tokens, tokenizer)
    first = functools.lru_cache(maxsize=16)(whole)
    known: dict[str, int] = {}  # word -> tokens of the blank before it and the word

    def count(text: str) -> int:
        if re.search(r"\s ", text):  # the tokenizer decides which of two blanks joins the next word
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


def cuts_at_blanks(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether a text's tokens are those of its words, each with the single blank before it.

    A tokenizer encodes the pieces that its pre-tokenizer cuts one by one; those of GPT-2 and
    Llama 3 cut before every blank. Each kind of character is tried on both sides of a blank.
    """
    rust = getattr(tokenizer, "backend_tokenizer", None)
    added = tokenizer.added_tokens_decoder.values()
    if (
        rust is None
        or rust.pre_tokenizer is None
        or any(token.rstrip or " " in token.content for token in added)
    ):
        return False

    def pieces(text: str) -> list[str]:
        normal = rust.normalizer.normalize_str(text) if rust.normalizer else text
        return [piece for piece, _ in rust.pre_tokenizer.pre_tokenize_str(normal)]

    text = " ".join(f"{before} {after}" for before, after in product(KINDS, repeat=2))
    return pieces(text) == [piece for word in re.split("(?= )", text) for piece in pieces(word)]


def template_sha256(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the hash of the chat template, which prompts, adapter and answers must share."""
    return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()


def end_token_ids(
    tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel | None" = None
) -> list[int]:
    """Return every token that ends a turn or a text: training teaches, generation stops at it."""
    # not by get_vocab(), which copies all 128,256 tokens of Llama 3: 80 ms of CPU
    ids = tokenizer.convert_tokens_to_ids(list(END_TOKENS))
    known = dict(zip(END_TOKENS, ids, strict=True))  # a token that it lacks has that of "unknown"
    ends = {
        i
        for token, i in known.items()
        if i is not None and tokenizer.convert_ids_to_tokens(i) == token
    }
    ends.update(_declared_ends(model) if model is not None else [])
    ends.update([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
    return sorted(ends)


def _declared_ends(model: "PreTrainedModel") -> list[int]:
    """Return the end tokens of a model's generation_config.json. Raises UserError for others."""
    declared = model.generation_config.eos_token_id
    listed = [declared] if isinstance(declared, int) else declared or []
    if not all(isinstance(i, int) for i in listed):
        raise UserError(
            f"{model.config.name_or_path}/generation_config.json names an end token "
            "(eos_token_id) that is no number: fetch or copy the model anew"
        )
    return listed


@functools.lru_cache(maxsize=4)
def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Return the texts of the tokens that control a chat; they are read from a tokenizer once."""
    tokens = map(str, tokenizer.added_tokens_decoder.values())
    return tuple(token for token in tokens if token.strip())


def neutralise(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """Break each chat-control token in a text by a space: no record can open or end a turn."""
    tokens = control_tokens(tokenizer)
    if os.path.commonprefix(tokens) not in text:  # Llama 3's 256 tokens all begin with "<|"
        return text
    for token in tokens:
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def chat_ids(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Turn],
    add_generation_prompt: bool = False,
) -> list[int]:
    """Return the token ids of a conversation as the chat template writes it, with its own BOS.

    Raises UserError as `chat_text` does.
    """
    (ids,) = token_ids(tokenizer, [chat_text(tokenizer, messages, add_generation_prompt)])
    return ids


def token_ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """Return the token ids of texts that `chat_text` wrote, in which BOS stands already."""
    return tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
    )["input_ids"]


def chat_text(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Turn],
    add_generation_prompt: bool = False,
) -> str:
    """Return a conversation as the chat template writes it, control tokens in its turns broken.

    Raises UserError when the template is damaged or refuses the conversation; some take no system
    turn.
    """
    safe = [
        {"role": turn["role"], "content": neutralise(tokenizer, turn["content"])}
        for turn in messages
    ]
    try:
        return tokenizer.apply_chat_template(
            safe,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            date_string=TEMPLATE_DATE,
        )
    except Exception as error:  # of many kinds, by what the template computes
        if faults.of_the_machine(error):
            raise
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} cannot write a conversation ({error}): "
            "use another instruct model, or copy this one anew"
        ) from None
