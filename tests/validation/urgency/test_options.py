"""The probability of each level where an answer begins, by base and adapter in one batch."""

import pytest
import torch

from helpers.tiny_model import TALK
from mimic_qlora.llm import chat, likelihood, loading
from mimic_qlora.processes import entries
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.urgency import options
from mimic_qlora.validation.urgency.options import Prompt

WORDS = ["Emergency", "Hospital", "Today", "Later"]
LONG = [*TALK[:1], {"role": "user", "content": "A longer prompt. " * 9}]


@pytest.fixture(scope="module")
def with_adapter(tuned_store):
    """The tiny model in float32 with a random adapter, and its tokenizer."""
    base = loading.load_base(tuned_store.model, four_bit=False)
    model = loading.load_adapter(base, tuned_store.path / "adapters" / "default")
    return model, chat.load_tokenizer(tuned_store.model)


def alone(model, tokenizer, turns, who: str) -> list[float]:
    """The same by one prompt without padding, through all of the vocabulary."""
    prompt = chat.chat_ids(tokenizer, turns, add_generation_prompt=True)
    first = [likelihood.answer_ids(tokenizer, turns, word)[1][0] for word in WORDS]
    with likelihood.answering(model, who):
        (found,) = likelihood.log_probabilities(model, [prompt])
    chosen = found[-1, torch.tensor(first)].double().exp()
    return (chosen / chosen.sum()).tolist()


def test_levels_read_in_one_batch_are_those_of_each_prompt_alone(with_adapter, tmp_path):
    model, tokenizer = with_adapter
    prompts = [Prompt(turns, who) for turns in (TALK, LONG) for who in ("base", "adapter")]
    path = tmp_path / "levels.jsonl"
    entries.begin(path, {}, False)
    read = options.read(lambda: model, tokenizer, prompts, WORDS, 4, path)
    for prompt, found in zip(prompts, read, strict=True):
        assert found == pytest.approx(alone(model, tokenizer, *prompt), abs=1e-4)
        assert sum(found) == pytest.approx(1)
    assert read[0] != pytest.approx(read[1], abs=1e-3)  # the adapter says something else


def test_what_was_read_is_kept(with_adapter, tmp_path):
    model, tokenizer = with_adapter
    path = tmp_path / "levels.jsonl"
    entries.begin(path, {}, False)
    prompts = [Prompt(TALK, "base")]
    first = options.read(lambda: model, tokenizer, prompts, WORDS, 4, path)

    def never():
        raise AssertionError("the model is loaded again")

    assert options.read(never, tokenizer, prompts, WORDS, 4, path) == first
    with pytest.raises(AssertionError):
        options.read(never, tokenizer, prompts, ["Now", "Later"], 4, path)


def test_words_that_begin_alike_are_told_apart_where_they_part(with_adapter):
    _, tokenizer = with_adapter  # a token a byte
    found = options.tokens(tokenizer, ["Level A", "Level B"])
    assert tokenizer.decode(found.shared) == "Level " and len(set(found.first)) == 2
    with pytest.raises(UserError, match="does not tell the words"):
        options.tokens(tokenizer, ["Level AA", "Level AB", "Level B"])
