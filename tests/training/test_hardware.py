"""Number types and drivers of machines that are made up."""

import pytest
import torch

from helpers.launched import launched
from mimic_qlora.step import limits
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


LISTED = {
    "a GPU that a CPU build cannot use": (limits.Gpus(1, False, "GPU 0: NVIDIA A100"), True),
    "a driver that does not fit": (limits.Gpus(0, True, "Driver/library version mismatch"), True),
    "a login node": (limits.Gpus(0, False, "No devices were found"), False),
    "no nvidia-smi": (None, False),
}


@pytest.mark.parametrize("kind", LISTED)
def test_only_a_gpu_that_is_there_and_unusable_stops_training(monkeypatch, kind):
    """The list of nvidia-smi is made up; tests/step/test_limits.py reads real text of it."""
    listed, is_fault = LISTED[kind]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(limits, "gpus", lambda: listed)
    if is_fault:
        with pytest.raises(UserError, match="sees none .*update the driver.*--device cpu"):
            hardware.check_driver()
    else:
        said = hardware.check_driver()
        assert ("No devices were found): the CPU is used" in said) == (kind == "a login node")


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_gpu_that_the_user_hides_is_no_fault(monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(limits, "gpus", lambda: limits.Gpus(1, False, "GPU 0: NVIDIA A100"))
    assert hardware.check_driver() == ""


def test_memory_that_training_may_take_is_the_jobs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(limits, "free_memory", lambda: 123)
    assert hardware.free_memory() == 123


def test_the_peak_is_that_of_the_models_own_products_where_they_are_faster(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    speeds = {hardware.PRODUCT: 3e9, (64, 128): 7e9, (128, 64): 5e9}
    monkeypatch.setattr(hardware, "matmul_flops", lambda dtype, weight: speeds[weight])
    assert hardware.peak_flops(torch.float32).flops == 3e9
    peak = hardware.peak_flops(torch.float32, [(64, 128), (128, 64)])
    assert peak.flops == 7e9 and "7 GFLOP/s" in peak.source


def test_a_measurement_that_other_work_disturbed_does_not_choose_the_number_type(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    disturbed = {torch.float32: [1e9], torch.bfloat16: [2e9]}
    usual = {torch.float32: 3e9, torch.bfloat16: 2e9}

    def measured(dtype):
        return disturbed[dtype].pop() if disturbed[dtype] else usual[dtype]

    monkeypatch.setattr(hardware, "matmul_flops", measured)
    assert hardware.dtype("auto") is torch.float32
    usual[torch.float32] = 2.2e9  # not clearly faster
    assert hardware.dtype("auto") is torch.bfloat16


@pytest.mark.parametrize("weight", [(8, 16), (100_000, 64)])
def test_a_product_is_measured_whatever_the_size_of_its_weight(weight):
    assert hardware.matmul_flops(torch.float32, weight) > 0


def test_of_several_processes_one_says_that_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    launched(monkeypatch, rank=1)
    with pytest.raises(SystemExit) as ended:
        hardware.check_sharding("fsdp")
    # a failure of this one would let the launcher stop the first before it has said a word
    assert not ended.value.code
    launched(monkeypatch, rank=0)
    with pytest.raises(UserError):
        hardware.check_sharding("recipes/fsdp.yaml")
    hardware.check_sharding("multi_gpu")


def test_a_way_of_sharding_that_training_does_not_know_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="asks for DEEPSPEED, .*--multi_gpu"):
        hardware.check_sharding("multi_gpu")
