"""How likely a text is: one prompt computed for several answers, as the base or an adapter."""

import math

import pytest

from helpers.tiny_model import TALK
from mimic_qlora.llm import chat, likelihood

ANSWERS = ["Rest.", "Drink water, and see a doctor if it does not go away.", "No."]


@pytest.mark.parametrize("who", ["base", "adapter"])
def test_answers_to_one_prompt_are_as_likely_as_each_alone(with_adapter, who):
    model, tokenizer = with_adapter
    with likelihood.answering(model, who):
        together = likelihood.of_answers(model, tokenizer, TALK, ANSWERS)
        for text, nats in zip(ANSWERS, together, strict=True):
            prompt, own = likelihood.answer_ids(tokenizer, TALK, text)
            (found,) = likelihood.log_probabilities(model, [[*prompt, *own]])
            places = range(len(prompt) - 1, len(prompt) + len(own) - 1)
            alone = -sum(float(found[p, t]) for p, t in zip(places, own, strict=True))
            assert nats == pytest.approx(alone, rel=1e-4)


def test_an_adapter_answers_within_its_block_alone(with_adapter):
    model, tokenizer = with_adapter

    def nats(who: str) -> float:
        with likelihood.answering(model, who):
            return likelihood.of_answers(model, tokenizer, TALK, ANSWERS[:1])[0]

    base, adapter = nats("base"), nats("adapter")
    assert abs(base - adapter) > 0.1 and nats("base") == base and nats("adapter") == adapter


def test_an_answer_ends_with_the_token_that_ends_its_turn(with_adapter):
    _, tokenizer = with_adapter
    prompt, own = likelihood.answer_ids(tokenizer, TALK, "Rest.")
    assert own[-1] in chat.end_token_ids(tokenizer) and len(own) == len("Rest.") + 1
    assert tokenizer.decode(own[:-1]) == "Rest." and len(prompt) > len(own)


def test_divergence_is_that_of_kullback_and_leibler():
    import torch

    before, after = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert likelihood.divergence([before], [after]) == pytest.approx(expected)
    assert likelihood.divergence([before], [before]) == 0
