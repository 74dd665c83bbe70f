"""Which process this one is, and variables that stayed behind in a shell."""

import socket
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from helpers.launched import alone as nobodys
from helpers.launched import launched, variables
from mimic_qlora.processes import environment, launch
from mimic_qlora.processes.environment import Place
from mimic_qlora.step.errors import UserError


def test_the_place_is_that_of_the_launchers_variables(monkeypatch):
    nobodys(monkeypatch)
    assert environment.place() == Place(0, 0, 1)
    launched(monkeypatch, rank=3, n=4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert environment.place() == Place(3, 1, 4)


def test_more_processes_than_cores_are_refused_before_any_begins(monkeypatch):
    nobodys(monkeypatch)
    monkeypatch.setattr("mimic_qlora.step.limits.cores", lambda: 2)
    assert launch.wanted(2) and launch.wanted(launch.FEW) and not launch.wanted(1)
    with pytest.raises(UserError, match=f"--processes 1024 .* give {launch.FEW} or fewer"):
        launch.wanted(1024)
    monkeypatch.setattr("mimic_qlora.step.limits.cores", lambda: 64)
    assert launch.wanted(64)


STRAYS = {
    "a rank": {"RANK": "1"},
    "a local rank": {"LOCAL_RANK": "0"},
    "no address": {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"},
    "a rank beyond the number": {**variables(0), "RANK": "2"},
    "no number": {**variables(0), "WORLD_SIZE": "two"},
    "an empty one": {**variables(0), "RANK": ""},
}


@pytest.mark.parametrize("stray", STRAYS)
def test_variables_of_no_launcher_are_refused_in_one_sentence(monkeypatch, stray):
    nobodys(monkeypatch)
    for name, value in STRAYS[stray].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^the variables of a launcher .* `unset RANK LOCAL_RANK"):
        environment.place()


@pytest.mark.parametrize("rank", [1, 3])
def test_more_processes_than_gpus_are_refused(monkeypatch, rank):
    """The GPUs are made up: there are none where the tests run."""
    import torch

    launched(monkeypatch, rank=rank, n=4)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    if rank == 3:
        with pytest.raises(UserError, match="process 3 of 4 .* finds 2 GPUs .*: start 2 here"):
            environment.take_gpu()
    else:
        environment.take_gpu()
        assert chosen == [1]


@pytest.mark.parametrize(
    ("variables", "alone"),
    [
        ({}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),
        ({"MASTER_PORT": "29500"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, True),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "WORLD_SIZE": "2"},
            False,
        ),
    ],
)
def test_a_process_that_accelerate_started_alone_knows_it(monkeypatch, variables, alone):
    nobodys(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (environment.alone() is not None) == alone
    monkeypatch.setattr(environment, "asked_for", lambda: 1)  # with a port of the user's own
    assert environment.alone() is None


@pytest.mark.parametrize(
    ("options", "number"),
    [(["--num_processes", "2"], 2), (["--num-processes=4", "x.py"], 4), (["x.py"], None)],
)
def test_the_launchers_command_line_names_the_processes(monkeypatch, options, number):
    launcher = SimpleNamespace(cmdline=lambda: ["accelerate", "launch", *options])
    monkeypatch.setattr("psutil.Process.parent", lambda self: launcher)
    assert environment.asked_for() == number
    monkeypatch.setattr("psutil.Process.parent", lambda self: None)
    assert environment.asked_for() is None


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70, "a..b"])
def test_a_meeting_place_that_is_no_host_is_refused_at_once(monkeypatch, host):
    """PyTorch would try for minutes to reach it."""
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    for name, value in {**launched, "MASTER_ADDR": host}.items():
        monkeypatch.setenv(name, value)
    no_name = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    asked = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=no_name))
    with pytest.raises(UserError, match=r"^MASTER_ADDR=.* is no host that this machine knows"):
        environment.check_meets_at()
    busy = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=busy))
    environment.check_meets_at()
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    environment.check_meets_at()
