"""The model made ready: room, LoRA, the probe; gradients through 4 bits."""

import pytest
import torch

from helpers.packed_model import gradients, on, packed_model
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import (
    gradient_check,
    packing,
    preparation,
    trainer,
)


def test_too_little_memory_is_noticed_before_training(train, monkeypatch):
    monkeypatch.setattr("mimic_qlora.training.hardware.free_memory", lambda: 1000)
    with pytest.raises(UserError, match="GB of memory free, training needs"):
        train()
    with pytest.raises(
        UserError, match="GB of memory free"
    ):  # and not that a run with other settings is unfinished
        train("--seed", 7)


def test_a_full_disk_is_noticed_before_training(train, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="MB free"):
        train()


def test_gradients_through_4_bit_weights_equal_those_of_a_dequantised_copy(tiny, talks, model):
    from bitsandbytes.functional import dequantize_4bit

    reference = packed_model(tiny, four_bit=False)
    ours = {n.replace(".base_layer", ""): w for n, w in model.named_parameters()}
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            source = ours[name.replace(".base_layer", "")]
            state = getattr(source, "quant_state", None)
            weight.copy_(dequantize_4bit(source.data, state) if state else source)
    found, expected = gradients(model, [talks[:4]]), gradients(reference, [talks[:4]])
    trainable = [name for name in expected if "lora_" in name]
    assert len(trainable) == len(found) == 2 * 2 * 7
    for name in trainable:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-3, atol=1e-4 * expected[name].norm().item()
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_before_and_after_an_evaluation(tiny, talks, dtype):
    """The trap of bitsandbytes on CPUs with AVX512-BF16 (see `guard_linear4bit`)."""
    model = packed_model(tiny, dtype)
    with torch.autocast(
        next(model.parameters()).device.type, torch.bfloat16, enabled=dtype is torch.bfloat16
    ):
        before = gradients(model, [talks[:3]])
        model.eval()
        with torch.no_grad():
            trainer.token_losses(model, on(model, packing.collate(talks[3:6])))
        model.train()
        after = gradients(model, [talks[:3]])
    assert before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )


def test_the_probe_has_all_of_its_batch_where_the_model_is(talks, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        preparation, "token_losses", lambda model, batch: seen.update(batch) or torch.zeros(1)
    )
    monkeypatch.setattr(gradient_check, "set_checkpointing", lambda model, every: None)
    monkeypatch.setattr(gradient_check, "two_steps", lambda model, loss, scale: loss())
    elsewhere = torch.nn.Linear(1, 1, device="meta")
    preparation.prepare(elsewhere, "none", [talks[:2]], torch.float32)
    tensors = [value for value in (*seen.values(), *seen["layout"]) if torch.is_tensor(value)]
    assert len(tensors) == 6 and all(tensor.is_meta for tensor in tensors)
