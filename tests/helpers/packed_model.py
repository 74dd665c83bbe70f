"""A tiny model as step 5 trains it, and its gradients."""

import torch
from accelerate.utils import send_to_device

from helpers.tiny_model import TEMPLATE
from helpers.training_runs import PATIENTS, record
from mimic_qlora.llm import loading
from mimic_qlora.training import (
    packed_attention,
    packing,
    preparation,
    trainer,
)
from mimic_qlora.training.low_memory import use_swiglu
from mimic_qlora.training.settings import TrainSettings

SETTINGS = TrainSettings(
    epochs=1,
    lr=0.01,
    rank=4,
    alpha=8,
    batch_tokens=400,
    accumulate=2,
    checkpointing="none",
    compute="fp32",
    optimizer="adamw_torch_fused",
    validations=1,
)


EARLY_TEMPLATE = (
    TEMPLATE.split("{% if add_gen")[0]
    + "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)


def packed_model(path, dtype=torch.float32, four_bit=True):
    """The model as step 5 trains it, with LoRA matrices of which none is zero."""
    model = loading.load_base(path, four_bit=four_bit, dtype=dtype)
    packed_attention.use_packed(model)
    use_swiglu(model)
    model = preparation.add_lora(model, SETTINGS, "tiny")
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.train()


def on(model, batch: dict) -> dict:
    return send_to_device(batch, next(model.parameters()).device)


def gradients(model, packs: list) -> dict:
    model.zero_grad()
    for pack in packs:
        trainer.token_losses(model, on(model, packing.collate(pack))).sum().backward()
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def about_charts(tokenizer) -> list:
    """Three questions about each of four charts; what comes before the chart is the same in all."""
    turns = [record(s)["messages"] for s in PATIENTS]
    talks = []
    for chart in range(4):
        for n in range(3):
            system, question, answer = turns[(chart + 5 * n) % len(turns)]
            question = {
                "role": "user",
                "content": f"Age {20 + chart}. {'Diabetes. ' * 9}{question['content']} {n}",
            }
            talks.append(packing.encode(tokenizer, [system, question, answer], "here", chart))
    return talks
