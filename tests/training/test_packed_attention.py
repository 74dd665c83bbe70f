"""Attention within the samples of a row."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from mimic_qlora.step.errors import UserError
from mimic_qlora.training import (
    packed_attention,
)


def test_a_kernel_that_lets_the_wrong_tokens_attend_is_not_used(monkeypatch):
    """The GPU and its kernel are made up: there is none where the tests run."""

    def kernel(query, key, value, scale, diagonal, **_):
        query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(diagonal)
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, key, value, mask, scale=scale, enable_gqa=True)[0].transpose(0, 1)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for diagonal, right in ((5, True), (0, False), (6, False)):
        monkeypatch.setattr(packed_attention, "varlen_attn", partial(kernel, diagonal=diagonal))
        assert packed_attention.has_varlen.__wrapped__(torch.device("cpu"), torch.bfloat16) is right


@pytest.mark.parametrize("before", [0, 7, packed_attention.BLOCK + 3])
@pytest.mark.parametrize("n", [1, packed_attention.BLOCK, 2 * packed_attention.BLOCK + 5])
def test_attention_in_blocks_equals_pytorchs_own(n, before):
    torch.manual_seed(0)
    found = []
    tensors = [
        torch.randn(1, heads, length, 16)
        for heads, length in ((6, n), (2, before + n), (2, before + n))
    ]
    for attend in (packed_attention.in_blocks, packed_attention.in_one):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        output = attend(*inputs, 0.3)
        (output * torch.arange(1.0, n + 1)[:, None]).sum().backward()
        found.append([output, *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-4, atol=1e-6 + 1e-4 * theirs.abs().max().item()
        )


def test_a_model_that_passes_no_layout_to_its_attention_is_refused():
    module = SimpleNamespace(config=SimpleNamespace(model_type="stablelm"))
    row = torch.zeros(1, 2, 3, 8)
    with pytest.raises(UserError, match="a model of the kind stablelm does not tell"):
        packed_attention.packed_attention(module, row, row, row, None, 1.0)
