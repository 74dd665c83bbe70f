"""Fixtures of a tiny model."""

from pathlib import Path

import pytest

from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import chat, loading


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def with_adapter(tiny, tmp_path_factory):
    """The tiny model in float32 with an adapter that changes its answers, and its tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        loading.load_base(tiny, four_bit=False), LoraConfig(r=4, target_modules="all-linear")
    )
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    loaded = loading.load_adapter(loading.load_base(tiny, four_bit=False), folder)
    return loaded, chat.load_tokenizer(tiny)
