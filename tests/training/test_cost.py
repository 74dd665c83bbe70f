"""Computed costs."""

import pytest

from mimic_qlora.llm import finding, loading
from mimic_qlora.training import (
    cost,
)


def test_costs_are_those_of_the_tiny_model_and_of_llama_3_8b(tiny, model):
    shape = cost.shape(finding.read_json(tiny / "config.json"))
    trained = sum(w.numel() for n, w in model.named_parameters() if "lora_" in n)
    assert 4 * shape.lora_per_rank == trained
    plain = loading.load_base(tiny, four_bit=False)
    assert shape.linear + shape.embeddings == sum(
        w.numel() for w in plain.parameters() if w.ndim == 2
    )
    llama = dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32
    )
    llama |= dict(num_key_value_heads=8, vocab_size=128256)
    shape = cost.shape(llama)
    assert (
        shape.linear + shape.embeddings == 8_029_995_008 and 16 * shape.lora_per_rank == 41_943_040
    )
    needed = cost.flops_per_token(shape, 16, 1024, 1.0)
    assert needed == pytest.approx(31.9e9, rel=0.01)
    assert needed + cost.recomputed_flops_per_token(shape, 16, 1024, 1) == pytest.approx(
        46.5e9, rel=0.01
    )
    assert cost.fixed_bytes(shape, 16) / 2**30 == pytest.approx(5.96, abs=0.05)
