"""What an adapter writes after half of a chart, and after the heading of a section alone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from mimic_qlora.chart.prompt import messages
from mimic_qlora.llm import chat, generation
from mimic_qlora.privacy import reading
from mimic_qlora.privacy.extraction import charts
from mimic_qlora.processes import entries
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.step import files
from mimic_qlora.training import packed_attention

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

TOKENS = 60  # of a continuation
BATCH = 32  # continuations at once; fewer where memory has no room
SECTIONS = ("Latest labs", "Latest measurements")  # which have the dated values of a chart


class Half(NamedTuple):
    """The first half of a chart, what stands after it, and the prompt that ends with it."""

    ids: list[int]
    shown: str
    rest: str


def half(tokenizer: "PreTrainedTokenizerBase", record: PromptRecord) -> Half:
    """Cut the conversation of a record in the middle of its chart, at the end of an entry."""
    text = chat.chat_text(tokenizer, record.messages[:-1])
    start, chart = reading.chart_in(tokenizer, text, record)
    middle = len(chart) // 2
    ends = [found.start() for found in charts.ENTRY_ENDS.finditer(chart)]
    cut = max((end for end in ends if end <= middle), default=middle)
    (ids,) = chat.token_ids(tokenizer, [text[: start + cut]])
    return Half(ids, chart[:cut], chart[cut:])


def headings(tokenizer: "PreTrainedTokenizerBase", system_prompt: str) -> list[list[int]]:
    """Return prompts that end with the heading of a section, and hold nothing of any patient."""
    begun = [f"Patient context\n- {section}:" for section in SECTIONS]
    texts = [chat.chat_text(tokenizer, messages(system_prompt, lead, "?")) for lead in begun]
    cut = [text[: text.index(lead) + len(lead)] for text, lead in zip(texts, begun, strict=True)]
    return chat.token_ids(tokenizer, cut)


def continued(
    load: Callable[[], Any],
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    path: Path,
    seed: int | None = None,
) -> list[str]:
    """Return what the adapter writes after each prompt: greedily, or with `seed` at random.

    In step 7's batches, from the cache where it has them.
    """
    done = entries.kept(path)
    said: dict[int, str] = {}
    fits = BATCH
    planned = generation.batches(prompts, BATCH)
    for number, rows in enumerate(
        tqdm(planned, "extraction", unit="batch", leave=False, disable=None)
    ):
        batch = [prompts[i] for i in rows]
        drawn = None if seed is None else seed + number
        key = files.digest([batch, TOKENS, drawn, "continued"])
        if key not in done:
            with _generating(load()) as model:
                who = ["adapter"] * len(rows)
                given, fits = generation.answer(model, tokenizer, batch, who, TOKENS, fits, drawn)
            done[key] = entries.add(path, {"key": key, "value": [one.text for one in given]})
        said |= zip(rows, done[key]["value"], strict=True)
    return [said[i] for i in range(len(prompts))]


@contextlib.contextmanager
def _generating(model: "PeftModel") -> Iterator["PeftModel"]:
    """Let the one loaded model attend as generation needs it, not by packed rows."""
    base = model.get_base_model()
    base.set_attn_implementation("sdpa")
    try:
        yield model
    finally:
        packed_attention.use_packed(base)
