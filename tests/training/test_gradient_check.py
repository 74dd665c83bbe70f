"""The two steps before a run, and how checkpointing is chosen."""

import math
from types import SimpleNamespace

import pytest
import torch

from helpers.packed_model import SETTINGS, gradients, on, packed_model
from mimic_qlora.llm import loading
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import (
    gradient_check,
    hardware,
    packed_attention,
    packing,
    preparation,
    trainer,
)


def test_checkpointed_layers_give_the_same_gradients(model, talks):
    expected = gradients(model, [talks[:3]])
    for every in (1, 2, 0):
        gradient_check.set_checkpointing(model, every)
        layers = [
            m.gradient_checkpointing
            for m in model.modules()
            if type(m).__name__ == "LlamaDecoderLayer"
        ]
        assert layers == [bool(every) and i % every == 0 for i in range(2)]
        found = gradients(model, [talks[:3]])
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_probe_passes_a_sound_model_and_leaves_it_as_it_was(tiny, talks):
    model = preparation.add_lora(
        loading.load_base(tiny, dtype=torch.float32), SETTINGS, "tiny"
    ).train()
    packed_attention.use_packed(model)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    batch, state = on(model, packing.collate(talks[:2])), torch.get_rng_state()
    gradient_check.two_steps(model, lambda: trainer.token_losses(model, batch).mean())
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert torch.equal(state, torch.get_rng_state()) and all(
        w.grad is None for w in model.parameters()
    )


def test_the_probe_names_a_matrix_that_would_never_learn_and_a_gradient_that_is_no_number(
    tiny, talks
):
    model = packed_model(tiny)
    batch = on(model, packing.collate(talks[:2]))
    down = next(
        m for n, m in model.named_modules() if n.endswith("layers.1.mlp.down_proj.lora_A.default")
    )
    hook = down.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(
        UserError, match="1 of 28 adapter matrices get no gradient, .*layers.1.mlp.down_proj.lora_A"
    ):
        gradient_check.two_steps(model, lambda: trainer.token_losses(model, batch).mean())
    hook.remove()
    with pytest.raises(UserError, match="not finite"):
        gradient_check.two_steps(
            model, lambda: trainer.token_losses(model, batch).mean() * math.inf
        )


def test_checkpointing_goes_up_until_it_fits(monkeypatch):
    """The GPU and its memory are made up: there is none where the tests run."""
    monkeypatch.setattr(hardware, "gpu", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=100)
    )
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: held[tried[-1]])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    held, tried = {}, []

    def step(every):
        tried.append(every)
        if held[every] is None:
            raise torch.OutOfMemoryError

    for memory, chosen in (({0: 80}, 0), ({0: 95, 2: 60}, 2), ({0: None, 2: 99, 1: 95}, 1)):
        held.update(memory)
        assert gradient_check.choose_checkpointing("auto", step) == chosen
    held.update({0: None, 2: None, 1: None})
    with pytest.raises(UserError, match="--batch-tokens"):
        gradient_check.choose_checkpointing("auto", step)
    assert gradient_check.choose_checkpointing("3", lambda every: None) == 3
