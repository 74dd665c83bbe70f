"""Attention within each sample of a packed row: nothing leaks between samples, and no mask over the row is built.

A mask over the whole pack would cost its length squared; this costs the sum of each sample's own tokens times all that
it has, halved where they are the same, since attention is causal. What samples share at their start (`samples.collate`)
is attended to by each, and computed once. On a GPU it is one call of PyTorch's varlen kernel, elsewhere one a sample.
"""

import functools

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

try:  # PyTorch 2.10 and newer
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

NAME = "packed"
BLOCK = 192  # queries: larger ones waste work above the diagonal, smaller ones make small products


def packed_attention(module, query, key, value, attention_mask, scaling=None, layout=None, **_):
    """transformers' attention interface: [1, heads, tokens, width] each in, ([1, tokens, heads, width], None) out.

    `layout` is that of `samples.collate`. Query may have a multiple of the heads of key and value.
    """
    if layout["order"] != list(range(len(layout["pieces"]))):
        pieces = (tensor.split(layout["pieces"], dim=2) for tensor in (key, value))
        key, value = (torch.cat([cut[n] for n in layout["order"]], dim=2) for cut in pieces)
    if query.is_cuda and has_varlen(query.device, query.dtype):
        return varlen(query, key, value, scaling, layout).unsqueeze(0), None
    # PyTorch's CPU kernel is made for float32: in bfloat16 plain matrix products are faster
    attend = in_blocks if query.device.type == "cpu" and query.dtype is torch.bfloat16 else in_one
    own, whole = (layout[name].diff().tolist() for name in ("queries", "keys"))
    parts = zip(query.split(own, 2), key.split(whole, 2), value.split(whole, 2), strict=True)
    return torch.cat([attend(*part, scaling) for part in parts], dim=2).transpose(
        1, 2
    ).contiguous(), None


def varlen(query, key, value, scaling, layout):
    """All samples in one call; the last query stands at the last key of its sample. [tokens, heads, width] out."""
    tokens_first = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    ends = {"cu_seq_q": layout["queries"], "cu_seq_k": layout["keys"]}
    longest = dict(zip(("max_q", "max_k"), layout["longest"], strict=True))
    return varlen_attn(
        *tokens_first, **ends, **longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
    )


@functools.cache
def has_varlen(device, dtype) -> bool:
    """Whether the GPU has the varlen kernel (compute capability 8, Ampere, or newer) and it agrees with `in_one`, in
    backward too.
    """
    if (
        varlen_attn is None
        or dtype is torch.float32
        or torch.cuda.get_device_capability(device)[0] < 8
    ):
        return False
    draw = torch.Generator(device).manual_seed(0)
    kind = {"generator": draw, "device": device, "dtype": dtype}
    inputs = [
        torch.randn(1, heads, n, 64, **kind).requires_grad_()
        for heads, n in ((4, 3), (2, 8), (2, 8))
    ]
    ends = torch.tensor(
        [[0, 3], [0, 8]], dtype=torch.int32, device=device
    )  # three tokens of a sample's eight
    layout = {"queries": ends[0], "keys": ends[1], "longest": (3, 8)}
    found = []
    with torch.enable_grad():
        try:
            for output in (
                varlen(*inputs, 0.125, layout).transpose(0, 1)[None],
                in_one(*inputs, 0.125),
            ):
                found.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
        except torch.OutOfMemoryError:
            raise
        except (TypeError, RuntimeError):  # of another version of PyTorch
            return False
    return all(torch.allclose(a, b, rtol=0.05, atol=0.05) for a, b in zip(*found, strict=True))


def in_one(query, key, value, scaling):
    """Causal attention over one sample by PyTorch's own kernel; the last query stands at the last key."""
    n, m = query.shape[2], key.shape[2]
    mask = None if n == m else torch.ones(n, m, dtype=torch.bool, device=query.device).tril(m - n)
    settings = {"scale": scaling, "enable_gqa": True}
    return scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, **settings)


def in_blocks(query, key, value, scaling):
    """Causal attention over one sample, `BLOCK` queries at a time; its weights are computed again in backward."""
    return checkpoint(
        block_products, query, key, value, scaling, use_reentrant=False, preserve_rng_state=False
    )


def block_products(query, key, value, scaling):
    """[1, heads, tokens, width] in and out. The heads that share a key stand below each other in one product."""
    queries = (query * scaling)[0].unflatten(0, (key.shape[1], -1))
    key, value = key[0].transpose(1, 2), value[0]
    future = torch.full((BLOCK, BLOCK), -torch.inf, dtype=query.dtype).triu(1)
    parts, before = [], value.shape[1] - query.shape[2]
    for start, block in zip(
        range(before, value.shape[1], BLOCK), queries.split(BLOCK, dim=2), strict=True
    ):
        n = block.shape[2]
        scores = block.flatten(1, 2) @ key[:, :, : start + n]
        scores.unflatten(1, (-1, n))[..., start:] += future[:n, :n]
        parts.append((scores.softmax(-1) @ value[:, : start + n]).unflatten(1, (-1, n)))
    return torch.cat(parts, dim=2).flatten(0, 1).unsqueeze(0)


def use_packed(model) -> None:
    """Let the model attend so from now on. It then needs `layout` in every forward, and no mask.

    transformers builds no mask for an implementation whose masks it does not know.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
