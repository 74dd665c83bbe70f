"""Number types and drivers of machines that are made up."""

import pytest
import torch

from mimic_qlora.step.errors import UserError
from mimic_qlora.training import (
    hardware,
)


def test_a_gpu_without_bfloat16_gets_float16(monkeypatch):
    """The GPU is made up: there is none where the tests run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert hardware.dtype("auto") is torch.float16
    assert hardware.peak_flops(torch.float16)[0] == 65e12
    with pytest.raises(UserError, match="T4 has no bfloat16 of its own: give --compute fp16"):
        hardware.dtype("bf16")


def test_a_gpu_that_pytorch_cannot_use_is_named(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees no GPU"):
        hardware.check_driver()
