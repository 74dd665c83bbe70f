"""Prompts encoded together."""

import os

import pytest

from helpers.tiny_model import write_tiny_model
from helpers.training_runs import PATIENTS, record
from mimic_qlora.llm import chat
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import packing
from mimic_qlora.training.encoding import in_parallel


def rows() -> list[dict]:
    return [{"messages": record(s)["messages"], "subject_id": s} for s in PATIENTS]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_together_they_are_what_each_is_alone(tokenizer, talks, monkeypatch, chunk):
    monkeypatch.setattr(in_parallel, "CHUNK", chunk)
    done = []
    assert in_parallel.encode(tokenizer, rows(), "here", done.append) == talks
    assert sum(done) == len(talks) and max(done) <= chunk


def test_the_whole_vocabulary_is_not_asked_for(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "get_vocab", lambda self: pytest.fail("all of it"))
    assert in_parallel.encode(tokenizer, rows(), "here")


def test_a_record_that_cannot_be_trained_on_is_named_by_its_line(tokenizer):
    bad = rows()
    bad[7]["messages"][-1]["content"] = " "
    with pytest.raises(UserError, match="prompts/train.jsonl line 8: the answer is empty"):
        in_parallel.encode(tokenizer, bad, "prompts/train.jsonl")


def test_a_template_that_ends_no_answer_is_named(tmp_path):
    endless = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer = chat.load_tokenizer(write_tiny_model(tmp_path, template=endless))
    with pytest.raises(UserError, match="line 1: the chat template ends no answer"):
        in_parallel.encode(tokenizer, rows(), "here")


@pytest.mark.parametrize("before", ["false", None])
def test_threads_are_off_again_afterwards_also_after_an_error(monkeypatch, before):
    """Forked while they are on, a process could wait for them for ever."""
    if before:
        monkeypatch.setenv(in_parallel.SWITCH, before)
    else:
        monkeypatch.delenv(in_parallel.SWITCH, raising=False)
    with pytest.raises(ValueError, match="x"), in_parallel.threads():
        assert os.environ[in_parallel.SWITCH] == "true"
        raise ValueError("x")
    assert os.environ.get(in_parallel.SWITCH) == before


def test_a_sample_ends_at_its_last_end_token(tokenizer, talks):
    ends = frozenset(chat.end_token_ids(tokenizer))
    ids, prompt = list(talks[0].ids), list(talks[0].ids[: talks[0].n_prompt])
    longer = packing.Encoded([*ids, 50, ids[-1], 50], prompt, "answer", 1)
    assert list(packing.to_sample(longer, ends, "here").ids) == [*ids, 50, ids[-1]]
