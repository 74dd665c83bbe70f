"""Yes and no are read from shared beginnings as from whole prompts, one by one."""

import pytest
import torch

from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import chat, loading
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.judge import probabilities

RECORDS = ("Short.", "A record that is longer than the other one by quite a few words. " * 3)
ASKED = ("Is it?", "Is this statement, which has more words, true?", "No?")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny model in float32, and its tokenizer."""
    folder = write_tiny_model(tmp_path_factory.mktemp("judge"))
    return loading.load_base(folder, four_bit=False), chat.load_tokenizer(folder)


def talks(record, asked=ASKED):
    return [[{"role": "user", "content": f"{record}\n{one}"}] for one in asked]


def plain(model, tokenizer, turns) -> float:
    """The probability of yes by one forward pass over the whole prompt, alone."""
    ids = torch.tensor([chat.chat_ids(tokenizer, turns, add_generation_prompt=True)])
    with torch.no_grad():
        p = model(ids).logits[0, -1].float().softmax(-1)
    yes, no = (p[tokens].sum() for tokens in probabilities.words(tokenizer))
    return float(yes / (yes + no))


def check(model, tokenizer, fits):
    groups = [probabilities.prompts(tokenizer, talks(record)) for record in RECORDS]
    found, _ = probabilities.of_yes(model, tokenizer, groups, fits)
    expected = [[plain(model, tokenizer, one) for one in talks(record)] for record in RECORDS]
    assert [len(one) for one in found] == [3, 3]
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-4)
    assert len({round(p, 3) for one in expected for p in one}) > 3, "prompts that can be told apart"


@pytest.mark.parametrize("fits", [1, 2, 16])
def test_a_shared_beginning_gives_what_whole_prompts_give(tiny, fits):
    check(*tiny, fits)


def test_the_embedded_model_reads_shared_beginnings_alike(embedded_model):
    model = loading.load_base(embedded_model, four_bit=False)
    check(model, chat.load_tokenizer(embedded_model), 4)


def test_what_prompts_share_is_read_once(tiny, monkeypatch):
    model, tokenizer = tiny
    groups = [probabilities.prompts(tokenizer, talks(record)) for record in RECORDS]
    forward, read = model.forward, []

    def counting(**given):
        read.append(given["input_ids"].numel())
        return forward(**given)

    monkeypatch.setattr(model, "forward", counting)
    probabilities.of_yes(model, tokenizer, groups, 16)
    longest = max(len(one.shared) for one in groups)
    ends = max(len(ids) for one in groups for ids in one.endings)
    assert read == [2 * longest, 6 * ends]


def test_a_batch_without_room_is_halved(tiny, monkeypatch):
    model, tokenizer = tiny
    groups = [probabilities.prompts(tokenizer, talks(record)) for record in RECORDS]
    expected, fit = probabilities.of_yes(model, tokenizer, groups, 4)
    assert fit == 4
    forward = model.forward

    def small(**given):
        if len(given["input_ids"]) > 1:
            raise torch.OutOfMemoryError
        return forward(**given)

    monkeypatch.setattr(model, "forward", small)  # stands in for a GPU, which is not at hand
    found, fit = probabilities.of_yes(model, tokenizer, groups, 4)
    assert fit == 1 and torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-5)


def test_all_spellings_of_yes_and_no_count(embedded_model):
    tokenizer = chat.load_tokenizer(embedded_model)
    yes, no = probabilities.words(tokenizer)
    spelt = {tokenizer.decode([i]) for i in yes}, {tokenizer.decode([i]) for i in no}
    assert {"Yes", " Yes", "yes", " yes"} <= spelt[0] and {"No", " No", "no", " no"} <= spelt[1]
    assert all(word.strip().casefold() == "yes" for word in spelt[0])


def test_a_tokenizer_of_bytes_tells_them_by_their_first_letter(tiny):
    _, tokenizer = tiny
    yes, no = probabilities.words(tokenizer)
    assert {tokenizer.decode([i]) for i in yes} == {"y", "Y"}
    assert {tokenizer.decode([i]) for i in no} == {"n", "N"}


def test_a_tokenizer_that_tells_nothing_apart_is_refused():
    class Deaf:
        name_or_path = "deaf"

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [0]}

    with pytest.raises(UserError, match="does not tell yes from no"):
        probabilities.words(Deaf())
