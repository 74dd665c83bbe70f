"""The computed cost of training: floating-point operations a token, and bytes of memory.

The shape is that of a model's config.json. The formulas count the layers of the Llama family, with
LoRA on all seven linear layers.
"""

from typing import Any, NamedTuple

from mimic_qlora.training.low_memory import CHUNK

# bytes of a weight: 4 bits, an 8-bit scale for 64, a float32 scale for 256 of those
NF4_BYTES = 0.5 + 1 / 64 + 4 / 64 / 256


# bytes that a process on a CPU holds for each byte of activations, measured: glibc keeps what was
# freed between blocks in use (benchmarks/README.md, in fresh processes)
HEAP = 2.5
EMBEDDINGS = "embed_tokens"


class Shape(NamedTuple):
    """The sizes that costs depend on."""

    linear: int  # weights of the linear layers without the head
    head: int  # weights
    embeddings: int  # weights, with the head's unless the two are tied
    lora_per_rank: int  # weights of the LoRA matrices of rank 1
    layers: int
    width: int
    ffn: int  # width inside the MLP
    first: int = 0  # weights of the first layer's q, k and v, whose inputs need no gradient


def sizes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the sizes (outputs, inputs) of a layer's weights and the embeddings, by their names.

    Raises KeyError for a config.json of another family, and ValueError for a size that cannot be.
    """
    d, f = _size(config, "hidden_size"), _size(config, "intermediate_size")
    heads = _size(config, "num_attention_heads")
    head_dim = _size(config, "head_dim", d // heads)
    q, kv = heads * head_dim, _size(config, "num_key_value_heads", heads) * head_dim
    return {
        "q_proj": (q, d),
        "k_proj": (kv, d),
        "v_proj": (kv, d),
        "o_proj": (d, q),
        "gate_proj": (f, d),
        "up_proj": (f, d),
        "down_proj": (d, f),
        EMBEDDINGS: (_size(config, "vocab_size"), d),
    }


def _size(config: dict[str, Any], name: str, default: int | None = None) -> int:
    """Return a size of a config.json; the default stands for null and for none."""
    value = config[name] if default is None else config.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is no whole number above zero")
    return value


def shape(config: dict[str, Any]) -> Shape:
    """Return the shape in a config.json. Raises KeyError and ValueError as `sizes` does."""
    found, n = sizes(config), _size(config, "num_hidden_layers")
    vocabulary, d = found.pop(EMBEDDINGS)
    linears = found.values()
    return Shape(
        linear=n * sum(a * b for a, b in linears),
        head=vocabulary * d,
        embeddings=vocabulary * d * (1 if config.get("tie_word_embeddings") else 2),
        lora_per_rank=n * sum(a + b for a, b in linears),
        layers=n,
        width=d,
        ffn=found["up_proj"][0],
        first=d * sum(found[name][0] for name in ("q_proj", "k_proj", "v_proj")),
    )


def flops(s: Shape, rank: int, tokens: float, supervised: float, attended: float) -> float:
    """Return the operations that training so many tokens needs, the numerator of MFU.

    Forward takes 2 for each weight, backward 2 more for the frozen ones (their inputs' gradients)
    and 4 for LoRA's. The head counts only where a token is supervised. Causal attention goes to
    `attended` tokens in all (half a sample's for each token, unless its start is shared), forward
    once and backward twice. Recomputation is not counted (Chowdhery et al., PaLM, appendix B;
    arXiv:2204.02311).
    """
    weights = 4 * s.linear - 2 * s.first + 6 * rank * s.lora_per_rank
    return tokens * weights + supervised * 4 * s.head + attended * 3 * 4 * s.layers * s.width


def flops_per_token(s: Shape, rank: int, attended: float, supervised_share: float) -> float:
    """Return the operations that training one token needs, which attends to others (`flops`)."""
    return flops(s, rank, 1, supervised_share, attended)


def recomputed_flops_per_token(
    s: Shape, rank: int, attended: float, checkpointing: int | None
) -> float:
    """Return the operations a token that checkpointing every n-th layer adds: its forward again."""
    forward = 2 * s.linear + 2 * rank * s.lora_per_rank + 4 * s.layers * s.width * attended
    return forward / checkpointing if checkpointing else 0.0


def fixed_bytes(s: Shape, rank: int, dtype_bytes: int = 2) -> float:
    """Return the memory that does not depend on the batch, in bytes.

    It holds NF4 weights, embeddings, head, and float32 LoRA with its gradients and AdamW's moments.
    """
    return NF4_BYTES * s.linear + dtype_bytes * s.embeddings + 16 * rank * s.lora_per_rank


class Row(NamedTuple):
    """The longest packed row of a run, in tokens."""

    tokens: int
    supervised: int


def training_bytes(
    s: Shape, rank: int, row: Row, checkpointing: int, dtype_bytes: int = 2, on_cpu: bool = False
) -> float:
    """Return the memory that training takes at least, with every n-th layer checkpointed (0: none).

    Besides what is always held and what grows with the row, one layer's weights are unpacked. On a
    CPU it is what was seen to be held: a layer's backward leaves as much behind as one kept layer,
    and the heap has holes.
    """
    unpacked = dtype_bytes * s.width * s.ffn
    kept, heap = kept_layers(s, checkpointing) + on_cpu, HEAP if on_cpu else 1.0
    grown = activation_bytes(s, row.tokens, row.supervised, kept, dtype_bytes)
    return fixed_bytes(s, rank, dtype_bytes) + heap * grown + unpacked


def activation_bytes(
    s: Shape, tokens: int, supervised: int, kept_layers: float, dtype_bytes: int = 2
) -> float:
    """Return the memory that grows with the batch, in bytes.

    It holds what backward needs of `kept_layers` layers, the inputs of the others, and the logits
    where supervised. `CHUNK` rows of these are widened to float32 twice (`low_memory`). A kept
    layer has two float32 inputs of its norms, five and a half widths around attention, three of
    the MLP.
    """
    layer = 8 * s.width + dtype_bytes * (5.5 * s.width + 3 * s.ffn)
    kept = min(s.layers, max(1.0, kept_layers))
    vocabulary = s.head // s.width
    logits = (supervised * dtype_bytes + CHUNK * 8) * vocabulary
    return tokens * (kept * layer + s.layers * dtype_bytes * s.width) + logits


def kept_layers(s: Shape, checkpointing: int | None) -> float:
    """Return the layers whose activations are kept when every n-th is checkpointed.

    Without checkpointing all are kept, with 1 only the one that is being recomputed.
    """
    return s.layers - s.layers // checkpointing + 1 if checkpointing else s.layers
