"""Attention within each sample of a packed sequence: nothing leaks between samples, and no mask is ever built.

A mask over the whole pack would cost its length squared; this costs the sum of the samples' lengths squared, halved,
since attention is causal. On a GPU it is one call of PyTorch's varlen kernel, elsewhere one causal call a sample.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

try:  # PyTorch 2.10 and newer
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

NAME = "packed"
BLOCK = 192  # queries: larger ones waste work above the diagonal, smaller ones make small products


def packed_attention(module, query, key, value, attention_mask, scaling=None, boundaries=None, longest=None, **_):
    """transformers' attention interface: [1, heads, tokens, width] each in, ([1, tokens, heads, width], None) out.

    `boundaries` [samples + 1] are where each sample begins and the last one ends, as int32; `longest` is the length of
    the longest. Query may have a multiple of the heads of key and value.
    """
    if varlen_attn and query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and has_flash(query.device):
        tokens_first = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        ends = {"cu_seq_q": boundaries, "cu_seq_k": boundaries, "max_q": longest, "max_k": longest}
        output = varlen_attn(*tokens_first, **ends, scale=scaling, window_size=(-1, 0), enable_gqa=True)
        return output.unsqueeze(0), None
    ends = boundaries.tolist()
    # PyTorch's CPU kernel is made for float32: in bfloat16 plain matrix products are faster
    attend = in_blocks if query.device.type == "cpu" and query.dtype is torch.bfloat16 else in_one
    parts = [
        attend(*(tensor[:, :, start:end] for tensor in (query, key, value)), scaling)
        for start, end in zip(ends, ends[1:], strict=False)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def in_one(query, key, value, scaling):
    """Causal attention over one sample by PyTorch's own kernel."""
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)


def in_blocks(query, key, value, scaling):
    """Causal attention over one sample, `BLOCK` queries at a time; its weights are computed again in backward."""
    return checkpoint(block_products, query, key, value, scaling, use_reentrant=False, preserve_rng_state=False)


def block_products(query, key, value, scaling):
    """[1, heads, tokens, width] in and out. The heads that share a key stand below each other in one product."""
    queries = (query * scaling)[0].unflatten(0, (key.shape[1], -1))
    key, value = key[0].transpose(1, 2), value[0]
    future = torch.full((BLOCK, BLOCK), -torch.inf, dtype=query.dtype).triu(1)
    parts = []
    for start, block in zip(range(0, query.shape[2], BLOCK), queries.split(BLOCK, dim=2), strict=True):
        n = block.shape[2]
        scores = block.flatten(1, 2) @ key[:, :, : start + n]
        scores.unflatten(1, (-1, n))[..., start:] += future[:n, :n]
        parts.append((scores.softmax(-1) @ value[:, : start + n]).unflatten(1, (-1, n)))
    return torch.cat(parts, dim=2).flatten(0, 1).unsqueeze(0)


def has_flash(device) -> bool:
    """Whether the GPU can run the varlen kernel, which needs compute capability 8 (Ampere) or newer."""
    return torch.cuda.get_device_capability(device)[0] >= 8


def use_packed(model) -> None:
    """Let the model attend so from now on. It then needs `boundaries` and `longest` in every forward, and no mask.

    transformers builds no mask for an implementation whose masks it does not know.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
