"""Attention within each sample of a packed row: no sample attends to another.

Masking the whole row costs O(row^2). Here each sample costs (its own tokens) x (its full length),
or half of that when it shares no prefix. What samples share at their start (`packing.collate`) is
attended to by each and computed once. On a GPU one call of PyTorch's varlen kernel does it all,
elsewhere one call a sample.
"""

import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from mimic_qlora.step.errors import UserError
from mimic_qlora.training.packing import Layout

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

try:  # PyTorch 2.10 and newer
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

NAME = "packed"
BLOCK = 256  # queries: larger blocks waste work above the diagonal, smaller ones are slow products


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' attention interface asks, by the row's `layout` among the options.

    Query is [1, heads, tokens, width], key and value have a divisor of its heads. Returns
    [1, tokens, heads, width] and no weights. Raises UserError for a model that passes no layout.
    """
    if "layout" not in options:
        raise UserError(
            f"a model of the kind {module.config.model_type} does not tell its attention which "
            "samples share a row: use one such as meta-llama/Meta-Llama-3-8B-Instruct"
        )
    layout: Layout = options["layout"]
    if layout.order != list(range(len(layout.pieces))):
        keys, values = key.split(layout.pieces, dim=2), value.split(layout.pieces, dim=2)
        key = torch.cat([keys[n] for n in layout.order], dim=2)
        value = torch.cat([values[n] for n in layout.order], dim=2)
    if query.is_cuda and has_varlen(query.device, query.dtype):
        return varlen(query, key, value, scaling, layout).unsqueeze(0), None
    # PyTorch's CPU kernel is made for float32: in bfloat16 plain matrix products are faster
    attend = in_blocks if query.device.type == "cpu" and query.dtype is torch.bfloat16 else in_one
    own, whole = layout.queries.diff().tolist(), layout.keys.diff().tolist()
    parts = zip(query.split(own, 2), key.split(whole, 2), value.split(whole, 2), strict=True)
    attended = torch.cat([attend(*part, scaling) for part in parts], dim=2)
    return attended.transpose(1, 2).contiguous(), None


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    layout: Layout,
) -> torch.Tensor:
    """Attend for all samples in one call: [1, heads, tokens, width] in, [tokens, heads, width] out.

    The last query of a sample stands at its last key.
    """
    tokens_first = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return varlen_attn(
        *tokens_first,
        cu_seq_q=layout.queries,
        cu_seq_k=layout.keys,
        max_q=layout.longest[0],
        max_k=layout.longest[1],
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=True,
    )


@functools.cache
def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the GPU has the varlen kernel and it agrees with `in_one`, backward too.

    It needs compute capability 8 (Ampere) or newer.
    """
    if (
        varlen_attn is None
        or dtype is torch.float32
        or torch.cuda.get_device_capability(device)[0] < 8
    ):
        return False
    draw = torch.Generator(device).manual_seed(0)
    inputs = [
        torch.randn(1, heads, n, 64, generator=draw, device=device, dtype=dtype).requires_grad_()
        for heads, n in ((4, 3), (2, 8), (2, 8))
    ]
    # three tokens of a sample's eight
    ends = torch.tensor([[0, 3], [0, 8]], dtype=torch.int32, device=device)
    layout = Layout([8], [0], ends[0], ends[1], (3, 8))
    query, key, value = inputs
    results = []
    with torch.enable_grad():
        try:
            for output in (
                varlen(query, key, value, 0.125, layout).transpose(0, 1)[None],
                in_one(query, key, value, 0.125),
            ):
                results.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
        except torch.OutOfMemoryError:
            raise
        except (TypeError, RuntimeError):  # of another version of PyTorch
            return False
    return all(torch.allclose(a, b, rtol=0.05, atol=0.05) for a, b in zip(*results, strict=True))


def in_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Attend over one sample by PyTorch's own kernel; the last query stands at the last key."""
    n, m = query.shape[2], key.shape[2]
    mask = None if n == m else torch.ones(n, m, dtype=torch.bool, device=query.device).tril(m - n)
    return scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )


def in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Attend over one sample by matrix products of some `BLOCK` queries at a time."""
    return Blocks.apply(query, key, value, scaling)


class Blocks(torch.autograd.Function):
    """Attention of [1, heads, tokens, width] in and out, whose weights backward computes anew.

    The query heads that share a key head stand below each other in one product.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Return for each query the values weighted by the softmax of its scaled products."""
        queries = (query * scaling)[0].unflatten(0, (key.shape[1], -1))
        ctx.save_for_backward(queries, key, value)
        ctx.scaling = scaling
        parts = []
        for rows, seen in spans(queries, key):
            weights = weights_of(queries[:, :, rows], key[0, :, :seen])
            parts.append(apart(weights @ value[0, :, :seen], queries))
        return torch.cat(parts, dim=2).flatten(0, 1).unsqueeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        queries, key, value = ctx.saved_tensors
        gradients = gradient[0].unflatten(0, (key.shape[1], -1))
        of_queries = torch.empty_like(queries)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        for rows, seen in spans(queries, key):
            keys, values = key[0, :, :seen], value[0, :, :seen]
            block, given = queries[:, :, rows].flatten(1, 2), gradients[:, :, rows].flatten(1, 2)
            weights = weights_of(queries[:, :, rows], keys)
            of_scores = torch.ops.aten._softmax_backward_data(
                given @ values.transpose(1, 2), weights, -1, weights.dtype
            )
            of_queries[:, :, rows] = apart(of_scores @ keys, queries)
            of_key[0, :, :seen] += of_scores.transpose(1, 2) @ block
            of_value[0, :, :seen] += weights.transpose(1, 2) @ given
        return (of_queries * ctx.scaling).flatten(0, 1).unsqueeze(0), of_key, of_value, None


def spans(queries: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice, int]]:
    """Yield the blocks of a sample's own queries, and how many keys the last of each sees."""
    own, before = queries.shape[2], key.shape[2] - queries.shape[2]
    size = math.ceil(
        own / math.ceil(own / BLOCK)
    )  # blocks of one size: no small product at the end
    for start in range(0, own, size):
        end = min(start + size, own)
        yield slice(start, end), before + end


def weights_of(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the weights [key heads, queries of all that share it, keys] of a block's queries.

    Its last query stands at the last key.
    """
    n = queries.shape[2]
    scores = queries.flatten(1, 2) @ keys.transpose(1, 2)
    future = torch.full((n, n), -torch.inf, dtype=scores.dtype).triu_(1)
    apart(scores, queries)[..., -n:] += future
    return scores.softmax(-1)


def apart(rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """View the rows of a product with the query heads apart, as `queries` has them."""
    return rows.unflatten(1, (queries.shape[1], -1))


def use_packed(model: "PreTrainedModel | PeftModel") -> None:
    """Let the model attend by `packed_attention`; every forward then needs `layout`, and no mask.

    transformers builds no mask for an implementation whose masks it does not know.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
