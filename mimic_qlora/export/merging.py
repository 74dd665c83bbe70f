"""Merge an adapter into the weights that it was trained beside: the base's 4-bit values.

QLoRA trains beside NF4 weights. Added to the checkpoint's own weights, or packed into 4 bits again,
the same matrices give another model (docs/other_programs.md has the figures).
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from tqdm import tqdm

from mimic_qlora.llm import chat, likelihood, loading
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Rounding to bfloat16 changes every probability a little: 0.002 to 0.004 nats a token with the
# demo's adapter. The naive merges differ by 0.27 to 0.92.
TOLERANCE = 0.05  # mean Kullback-Leibler divergence, nats a token
# Sentences without a patient; the answers begin as any would, so that both models predict them.
CHECKED = (
    ("What helps against a sore throat?", "Warm drinks, honey and rest often help. See a"),
    ("Why does the sky look blue?", "Sunlight is scattered by the air, and blue light is"),
    ("Name three kinds of fruit.", "Apples, bananas and oranges are three kinds of fruit that"),
)


class Merged(NamedTuple):
    """A merged model, and its mean divergence from base plus adapter in nats a token."""

    model: "PreTrainedModel"
    divergence: float


def merge(base: Path, adapter: Path, tokenizer: "PreTrainedTokenizerBase") -> Merged:
    """Load the base in 4 bits, unpack it, and add the adapter to each of its linear layers.

    Raises UserError when the merged model does not answer as base and adapter do.
    """
    four_bit = loading.load_base(base, dtype=torch.bfloat16)
    dense = four_bit.dequantize(dtype=torch.bfloat16).eval()
    model = loading.load_adapter(dense, adapter)
    rows = _rows(tokenizer)
    before = likelihood.log_probabilities(model, rows)
    add(model)
    whole = model.unload()
    found = likelihood.divergence(before, likelihood.log_probabilities(whole, rows))
    if not found <= TOLERANCE:
        raise UserError(
            f"merged, base and adapter differ from what they are side by side by {found:.4f} nats "
            f"a token, more than the {TOLERANCE} of rounding: load the adapter in {adapter} beside "
            "its base instead"
        )
    return Merged(whole, found)


def add(model: "PeftModel") -> None:
    """Add each LoRA update to the weight that it stands beside, in float32, rounded once."""
    layers = [layer for layer in model.modules() if hasattr(layer, "get_delta_weight")]
    with torch.no_grad():
        for layer in tqdm(layers, "merging", unit="layer", leave=False, disable=None):
            weight = layer.base_layer.weight
            added = layer.get_delta_weight("default").to(weight.device, torch.float32)
            weight.data = (weight.data.float() + added).to(weight.dtype)


def _rows(tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    return [
        chat.chat_ids(
            tokenizer,
            [{"role": "user", "content": asked}, {"role": "assistant", "content": told}],
        )
        for asked, told in CHECKED
    ]
