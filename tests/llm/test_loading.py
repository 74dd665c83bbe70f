"""Models and adapters loaded in 4 bits, and refused when damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_model import TALK
from mimic_qlora.llm import chat, finding, generation, loading
from mimic_qlora.step.errors import UserError


def test_gradients_are_the_same_before_and_after_an_evaluation(tiny):
    """The trap of bitsandbytes on CPUs with AVX512-BF16 (see `guard_linear4bit`).

    Elsewhere this passes by itself.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        loading.load_base(tiny),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
    )
    ids = torch.arange(20, 60).unsqueeze(0)

    def gradients():
        model.train()
        model.zero_grad()
        with torch.autocast(model.device.type, torch.bfloat16):
            model(input_ids=ids.to(model.device), labels=ids.to(model.device)).loss.backward()
        return {
            name: weight.grad.clone()
            for name, weight in model.named_parameters()
            if weight.grad is not None
        }

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids.to(model.device))
    after = gradients()
    assert before and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_of_another_base_is_refused(with_adapter, tiny, tmp_path):
    base = loading.load_base(tiny, four_bit=False)
    with pytest.raises(UserError, match="train_qlora.py"):
        loading.load_adapter(base, tmp_path)
    with_adapter[0].save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.rename(tmp_path / "adapter_model.bin")  # a pickle could run code as it is loaded
    with pytest.raises(UserError, match="no adapter as safetensors"):
        loading.load_adapter(base, tmp_path)
    (tmp_path / "adapter_model.bin").rename(weights)
    trained_on = {"name": "some/model", "fingerprint": "0" * 16}
    (tmp_path / "manifest.json").write_text(json.dumps({"base_model": trained_on}))
    with pytest.raises(UserError, match="trained on some/model"):
        loading.load_adapter(base, tmp_path)
    trained_on = {"fingerprint": finding.fingerprint(tiny), "computing": "0" * 16}
    (tmp_path / "manifest.json").write_text(json.dumps({"base_model": trained_on}))
    with pytest.raises(UserError, match="was trained beside another .*config.json"):
        loading.load_adapter(base, tmp_path)
    with pytest.raises(ValueError, match="no adapter"):
        generation.generate(base, chat.load_tokenizer(tiny), [TALK], ["adapter"], 4)


@pytest.mark.parametrize("change", ["renamed", "left out"])
def test_an_adapter_that_lacks_matrices_does_not_answer_as_its_base(
    with_adapter, tiny, tmp_path, change
):
    """peft leaves them at zero, without a word."""
    from safetensors.torch import load_file, save_file

    with_adapter[0].save_pretrained(tmp_path)
    loading.load_adapter(loading.load_base(tiny, four_bit=False), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    if change == "renamed":
        weights = {f"base_model.{name}": weight for name, weight in weights.items()}
    else:
        weights.popitem()
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=f"{tmp_path} lacks [0-9]+ of 28 matrices.*train it again"):
        loading.load_adapter(loading.load_base(tiny, four_bit=False), tmp_path)


@pytest.mark.parametrize(
    "part",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0]},
        {"r": 8},
    ],
)
def test_an_adapter_is_not_loaded_in_part(with_adapter, tiny, tmp_path, part):
    """As an adapter_config.json of another run lets peft; it drops the other matrices."""
    with_adapter[0].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | part))
    says = "does not fit" if "r" in part else "holds [0-9]+ matrices that its adapter_config.json"
    with pytest.raises(UserError, match=says):
        loading.load_adapter(loading.load_base(tiny, four_bit=False), tmp_path)


@pytest.mark.parametrize("name", ["norm.weight", "layers.0.self_attn.q_proj.bias"])
def test_an_adapter_does_not_bring_weights_for_the_base(with_adapter, tiny, tmp_path, name):
    """peft puts them over the base's own, which then answers otherwise, or drops them."""
    with_adapter[0].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights[f"base_model.model.model.{name}"] = torch.full((64,), 9.0)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=f"no place for, base_model.model.model.{name}"):
        loading.load_adapter(loading.load_base(tiny, four_bit=False), tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_model_without_all_its_tensors_is_refused(tiny, tmp_path):
    """transformers alone would fill the gap with random numbers and go on."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lack 1 tensors, model.layers.1.mlp.up_proj.weight"):
        loading.load_base(folder)


def test_biases_that_the_config_leaves_out_are_not_dropped_without_a_word(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.ones(64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="no place for, model.layers.0.self_attn.q_proj.bias"):
        loading.load_base(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 1}, "hold 9 tensors that its config.json has no place for, model.l"),
        ({"num_hidden_layers": 3}, "lack 9 tensors, model.layers.2.input_layernorm.weight"),
        ({"hidden_size": 128}, "its config.json gives another shape than its weights have"),
        ({"vocab_size": 100}, "its config.json gives another shape than its weights have"),
        ({"eos_token_id": "x"}, "cannot be loaded .*eos_token_id"),
    ],
)
def test_a_config_of_another_model_is_refused(tiny, tmp_path, change, says):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=says) as refused:
        loading.load_base(copy, four_bit=False)
    assert str(refused.value).endswith(f": fetch {copy} anew, or copy it again")


def test_a_damaged_adapter_is_named_in_one_sentence(with_adapter, tiny, tmp_path):
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        with_adapter[0].save_pretrained(tmp_path)
        cut(tmp_path / file)
        with pytest.raises(UserError, match=f"{tmp_path}.*train it again"):
            loading.load_adapter(loading.load_base(tiny, four_bit=False), tmp_path)


def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(monkeypatch):
    """The capabilities of the processors are made up."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for found, expected in (
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, torch.float32),
        ({"architecture": "aarch64"}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert loading.compute_dtype() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # PyTorch before 2.11
    assert loading.compute_dtype() is torch.float32
