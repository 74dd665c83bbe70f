"""Answers: the same alone, in a batch and as a stream, whoever else answers in that batch."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from helpers.tiny_model import TALK, write_tiny_model
from mimic_qlora.llm import chat, generation, loading
from mimic_qlora.step.errors import UserError


def test_base_and_adapter_rows_of_one_batch_answer_as_if_asked_alone(with_adapter):
    model, tokenizer = with_adapter
    talks = [
        [*TALK[:1], {"role": "user", "content": text}]
        for text in ("Hi", "A much longer question, is it?", "Why")
    ]
    rows, arms = [t for t in talks for _ in range(2)], ["base", "adapter"] * 3
    batches = []
    together = generation.generate(
        model, tokenizer, rows, arms, 12, batch_size=4, on_batch=batches.append
    )
    alone = [
        generation.generate(model, tokenizer, [r], [a], 12)[0]
        for r, a in zip(rows, arms, strict=True)
    ]
    assert together == alone and sum(batches) == 6
    assert all(base != adapter for base, adapter in zip(together[::2], together[1::2], strict=True))


def test_a_batch_too_large_for_the_gpu_is_halved(with_adapter, monkeypatch):
    import torch

    model, tokenizer = with_adapter
    expected = generation.generate(model, tokenizer, [TALK] * 5, ["base"] * 5, 4)
    whole, sizes = model.generate, []

    def small(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return whole(**inputs)

    monkeypatch.setattr(
        model, "generate", small
    )  # stands in for a GPU, which this test cannot count on
    assert (
        generation.generate(model, tokenizer, [TALK] * 5, ["base"] * 5, 4, batch_size=5) == expected
    )
    assert sizes == [5, 2, 2, 1]
    sizes.clear()
    generation.generate(model, tokenizer, [TALK] * 9, ["base"] * 9, 4, batch_size=4)
    assert sizes == [4, 2, 2, 2, 2, 1], "what did not fit is not tried again"


def test_the_sampling_settings_of_a_checkpoint_never_reach_an_answer(tmp_path, tiny):
    eager = write_tiny_model(tmp_path, repetition_penalty=5.0, do_sample=True, temperature=9.0)
    tokenizer = chat.load_tokenizer(tiny)
    ours, plain = (
        generation.generate(
            loading.load_base(path, four_bit=False), tokenizer, [TALK], ["base"], 16
        )
        for path in (eager, tiny)
    )
    assert ours == plain


def test_an_answer_ends_with_its_first_end_token(tiny):
    tokenizer = chat.load_tokenizer(tiny)
    ids = tokenizer("ab", add_special_tokens=False)["input_ids"]
    end, pad = tokenizer.convert_tokens_to_ids("<|eot_id|>"), tokenizer.pad_token_id
    assert generation.to_answer(tokenizer, [*ids, end, pad, pad], [end]) == generation.Answer(
        "ab", 3, True
    )
    assert generation.to_answer(tokenizer, ids, [end]) == generation.Answer("ab", 2, False)


def test_a_streamed_answer_is_the_same_and_can_be_closed(with_adapter):
    model, tokenizer = with_adapter
    for arm in ("base", "adapter"):
        [answer] = generation.generate(model, tokenizer, [TALK], [arm], 20)
        assert "".join(generation.stream(model, tokenizer, TALK, arm, 20)).strip() == answer.text
    steps = []
    hook = model.get_base_model().register_forward_hook(lambda *_: steps.append(time.sleep(0.005)))
    pieces = generation.stream(model, tokenizer, TALK, "base", 1500)
    next(pieces)
    pieces.close()  # returns only when the model has stopped
    hook.remove()
    assert len(steps) < 200, "by itself this answer ends after 393 tokens"
    with pytest.raises(ValueError):
        next(generation.stream(model, tokenizer, TALK, "both", 4))


def test_a_streamed_answer_without_room_is_one_sentence(with_adapter, monkeypatch):
    import torch

    model, tokenizer = with_adapter

    def full(**inputs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(
        model, "generate", full
    )  # stands in for a GPU, which this test cannot count on
    with pytest.raises(UserError, match="too little memory"):
        list(generation.stream(model, tokenizer, TALK, "base", 4))


def test_rows_of_like_length_share_a_batch_and_the_longest_come_first():
    prompts = [[0] * n for n in (5, 100, 49, 50, 51, 4, 11, 5)]
    assert generation.batches(prompts, 3) == [[1, 4, 3], [2], [6], [0, 7, 5]]
    assert generation.batches(prompts, 1) == [[1], [4], [3], [2], [6], [0], [7], [5]]
    assert generation.batches([], 3) == []


def test_several_adapters_answer_in_one_batch(with_adapter, tmp_path):
    import torch

    model, tokenizer = with_adapter
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(tmp_path)
    base = loading.load_base(Path(model.get_base_model().name_or_path), four_bit=False)
    both = loading.load_adapter(loading.load_adapter(base, tmp_path), tmp_path, "again")
    who = ["base", "adapter", "again"]
    given = generation.generate(both, tokenizer, [TALK] * 3, who, 12)
    assert given[0] != given[1] == given[2]
    with pytest.raises(ValueError, match="no adapter"):
        generation.generate(both, tokenizer, [TALK], ["third"], 4)


def test_weights_unpacked_once_give_the_same_answers(with_adapter, tmp_path, monkeypatch):
    import psutil
    import torch

    model, tokenizer = with_adapter
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(tmp_path)
    path = Path(model.get_base_model().name_or_path)
    talks, who = (
        [TALK, TALK[:1] + [{"role": "user", "content": "And a fever?"}]] * 2,
        ["base", "base", "adapter", "adapter"],
    )
    given = []
    for prepared in (lambda base: base, loading.unpacked):
        base = prepared(loading.load_base(path))
        given.append(
            generation.generate(loading.load_adapter(base, tmp_path), tokenizer, talks, who, 12)
        )
    assert given[0] == given[1] and given[0][0] != given[0][2]
    assert torch.cuda.is_available() or "Linear4bit" not in {
        type(m).__name__ for m in base.modules()
    }
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 0}))
    assert "Linear4bit" in {
        type(m).__name__ for m in loading.unpacked(loading.load_base(path)).modules()
    }


def test_what_all_rows_begin_with_is_computed_once_an_arm(with_adapter):
    model, tokenizer = with_adapter
    texts = ("Hi", "A much longer question, is it?", "Why", "How long?")
    talks = [[*TALK[:1], {"role": "user", "content": text}] for text in texts]
    prompts = generation.prompt_ids(tokenizer, talks)
    shared = len(os.path.commonprefix(prompts))
    longest = max(map(len, prompts))
    read = []
    seen = model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: read.append(tuple(inputs[0].shape))
    )
    generation.generate(model, tokenizer, talks, ["base", "adapter"] * 2, 2)
    seen.remove()
    assert read[:2] == [(2, shared), (4, longest - shared)]
    assert shared > longest / 2, "else it would show little"


def test_in_a_window_of_few_tokens_an_answer_does_not_depend_on_its_batch(tiny, tmp_path):
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mistral", "sliding_window": 16}
    (copy / "config.json").write_text(json.dumps(config))
    model, tokenizer = loading.load_base(copy, four_bit=False), chat.load_tokenizer(copy)
    system, texts = {"role": "system", "content": "Help."}, ("Hi", "Why do I cough? " * 3)
    talks = [[system, {"role": "user", "content": text}] for text in texts]
    alone = [generation.generate(model, tokenizer, [talk], ["base"], 16)[0] for talk in talks]
    assert generation.generate(model, tokenizer, talks, ["base"] * 2, 16) == alone


def test_the_head_is_given_no_view_of_a_batch(with_adapter):
    model, tokenizer = with_adapter
    whole = []
    seen = model.get_output_embeddings().register_forward_pre_hook(
        lambda head, inputs: whole.append(inputs[0].is_contiguous())
    )
    generation.generate(model, tokenizer, [TALK] * 2, ["base", "adapter"], 2)
    seen.remove()
    assert whole and all(whole)
