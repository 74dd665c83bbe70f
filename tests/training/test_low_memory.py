"""Functions that keep less for backward equal PyTorch's own."""

import pytest
import torch

from mimic_qlora.training.low_memory import CHUNK, CrossEntropy, SwiGLU


@pytest.mark.parametrize("n", [0, 1, CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_cross_entropy_equals_pytorchs_own(n, dtype, tolerance):
    torch.manual_seed(0)
    drawn, targets, weights = 4 * torch.randn(n, 300), torch.randint(300, (n,)), torch.rand(n)

    def plain(logits, targets):
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")

    found = []
    for function in (CrossEntropy.apply, plain):
        logits = drawn.to(dtype, copy=True).requires_grad_()
        losses = function(logits * 1, targets)  # what is overwritten may be no leaf
        (losses * weights).sum().backward()
        found.append((losses, logits.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    given = drawn.to(dtype, copy=True)
    CrossEntropy.apply(given, targets)
    assert torch.equal(given, drawn.to(dtype)), "what needs no gradient is left alone"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_equals_pytorchs_own_to_the_last_bit(dtype):
    torch.manual_seed(0)
    found = []
    drawn = [3 * torch.randn(5, 70), torch.randn(5, 70), torch.randn(5, 70)]
    for function in (SwiGLU.apply, lambda gate, up: torch.nn.functional.silu(gate) * up):
        gate, up = (tensor.to(dtype).requires_grad_() for tensor in drawn[:2])
        output = function(gate, up)
        output.backward(drawn[2].to(dtype))
        found.append((output, gate.grad, up.grad))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
