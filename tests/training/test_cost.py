"""Computed costs."""

import pytest

from mimic_qlora.llm import finding, loading
from mimic_qlora.training import (
    cost,
)

LLAMA_3_8B = dict(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
)


def test_costs_are_those_of_the_tiny_model_and_of_llama_3_8b(tiny, model):
    shape = cost.shape(finding.read_json(tiny / "config.json"))
    trained = sum(w.numel() for n, w in model.named_parameters() if "lora_" in n)
    assert 4 * shape.lora_per_rank == trained
    plain = loading.load_base(tiny, four_bit=False)
    assert shape.linear + shape.embeddings == sum(
        w.numel() for w in plain.parameters() if w.ndim == 2
    )
    shape = cost.shape(LLAMA_3_8B)
    assert (
        shape.linear + shape.embeddings == 8_029_995_008 and 16 * shape.lora_per_rank == 41_943_040
    )
    needed = cost.flops_per_token(shape, 16, 1024, 1.0)
    assert needed == pytest.approx(31.9e9, rel=0.01)
    assert needed + cost.recomputed_flops_per_token(shape, 16, 1024, 1) == pytest.approx(
        46.5e9, rel=0.01
    )
    assert cost.fixed_bytes(shape, 16) / 2**30 == pytest.approx(5.96, abs=0.05)


def test_operations_are_counted_from_the_tokens_that_were_seen():
    """A row whose answers are short does not count the head as often as the average one."""
    shape = cost.shape(LLAMA_3_8B)
    mean = cost.flops_per_token(shape, 16, 400, 0.25)
    assert cost.flops(shape, 16, 1000, 250, 400_000) == pytest.approx(1000 * mean)
    assert cost.flops(shape, 16, 1000, 0, 0) < 0.97 * 1000 * mean


def test_memory_grows_with_the_layers_that_are_kept():
    shape = cost.shape(LLAMA_3_8B)
    row = cost.Row(4096, 1024)
    none, second, every = (cost.training_bytes(shape, 16, row, n) / 2**30 for n in (0, 2, 1))
    assert every < second < none
    assert none - every > 10 and none == pytest.approx(30, abs=4)
    assert cost.training_bytes(shape, 16, row, 0, 4) > 1.4 * cost.training_bytes(shape, 16, row, 0)


SMALL = dict(
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=4,
    vocab_size=32000,
    num_attention_heads=8,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize(
    ("dtype_bytes", "checkpointing", "taken"),
    [(4, 0, 420e6), (4, 1, 289e6), (2, 0, 224e6), (2, 1, 159e6)],
)
def test_memory_on_a_cpu_is_what_training_was_seen_to_take(dtype_bytes, checkpointing, taken):
    """Measured by benchmarks/training_peak.py, in fresh processes."""
    needed = cost.training_bytes(
        cost.shape(SMALL), 16, cost.Row(600, 150), checkpointing, dtype_bytes, on_cpu=True
    )
    assert needed == pytest.approx(taken, rel=0.15)
