"""The loss of packed rows and its gradients."""

import os
from types import SimpleNamespace

import pytest
import torch

from helpers.packed_model import SETTINGS, about_charts, gradients, on, packed_model
from mimic_qlora.llm import loading
from mimic_qlora.training import (
    hardware,
    loop,
    packed_attention,
    packing,
    trainer,
)
from mimic_qlora.training.low_memory import CrossEntropy, use_swiglu


def test_packed_loss_and_gradients_equal_unpacked_ones_of_the_plain_model(tiny, talks):
    """The reference knows no packs: transformers' own attention, full logits, a sample a time."""
    model = loading.load_base(tiny, four_bit=False).float()
    loss = 0
    for sample in talks:
        ids = torch.tensor([sample.ids], device=model.device)
        labels = ids.clone()
        labels[0, : sample.n_prompt] = -100
        loss = (
            loss + model(input_ids=ids, labels=labels, use_cache=False).loss * sample.n_supervised
        )
    loss.backward()
    expected = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    packed_attention.use_packed(model)
    use_swiglu(model)
    assert all("forward" in vars(layer.mlp) for layer in model.model.layers)
    packed = trainer.token_losses(model, on(model, packing.collate(talks))).sum()
    packed.backward()
    assert packed.item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(
        model.model.layers[0].mlp.up_proj.weight.grad, expected, rtol=1e-3, atol=1e-3
    )


def test_nothing_leaks_from_one_sample_of_a_pack_into_another(model, talks):
    with torch.no_grad():
        alone = trainer.token_losses(model, on(model, packing.collate([talks[1]])))
        for neighbour in talks[2:4]:
            pack = on(model, packing.collate([neighbour, talks[1], neighbour]))
            among = trainer.token_losses(model, pack)[neighbour.n_supervised :][
                : talks[1].n_supervised
            ]
            torch.testing.assert_close(among, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_samples_share_is_computed_once_and_changes_neither_loss_nor_gradients(
    tiny, tokenizer, dtype
):
    model, talks = packed_model(tiny, dtype), about_charts(tokenizer)
    (together,) = packing.pack(talks, 10_000)
    with torch.autocast(
        next(model.parameters()).device.type, torch.bfloat16, enabled=dtype is torch.bfloat16
    ):
        with torch.no_grad():
            losses = trainer.token_losses(model, on(model, packing.collate(together)))
            alone = [
                trainer.token_losses(model, on(model, packing.collate([sample])))
                for sample in together
            ]
        found, expected = (
            gradients(model, [together]),
            gradients(model, [[sample] for sample in together]),
        )
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(losses, torch.cat(alone), rtol=tolerance, atol=tolerance)
    for name in expected:
        difference = (found[name] - expected[name]).norm() / expected[name].norm()
        assert difference < tolerance, (name, difference)


def test_in_training_the_logits_are_no_float32_copy(tiny, talks, tmp_path, monkeypatch):
    seen = []
    apply = CrossEntropy.apply

    def spied(logits, targets):
        made, place = logits._base, logits.data_ptr()
        made.register_hook(lambda gradient: seen.append((made.dtype, gradient.data_ptr() == place)))
        return apply(logits, targets)

    monkeypatch.setattr(trainer, "CrossEntropy", SimpleNamespace(apply=spied))
    settings = dict(
        per_device_train_batch_size=1,
        max_steps=2,
        bf16=True,
        use_cpu=not hardware.gpu(),
        report_to="none",
    )
    settings = trainer.transformers.TrainingArguments(
        tmp_path, remove_unused_columns=False, **settings
    )
    model = packed_model(tiny, torch.bfloat16)
    trainer.PackedTrainer(
        model, settings, [talks[:2], talks[2:4]], [], [], lambda seen: 1.0, 1.0
    ).train()
    assert seen == [(torch.bfloat16, True)] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accelerates_own_configuration_does_not_change_what_training_computes_in(
    talks, tmp_path, monkeypatch, dtype
):
    for name, value in (("MIXED_PRECISION", "bf16"), ("DYNAMO_BACKEND", "INDUCTOR")):
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    plan = loop.make_plan(SETTINGS, {"train": talks, "validation": talks})
    made = loop.arguments(SETTINGS, plan, dtype, tmp_path, fresh=True)
    assert made.mixed_precision == {torch.float32: "no", torch.bfloat16: "bf16"}[dtype]
    assert os.environ["ACCELERATE_DYNAMO_BACKEND"] == "no"
