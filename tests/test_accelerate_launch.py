"""Steps 5 to 7 by `accelerate launch` itself, on two hosts: loopback, and network namespaces."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from helpers.paths import ROOT
from helpers.ports import free_port
from helpers.step7 import results, same_answers
from helpers.storage_folders import TUNED_IDS as IDS
from helpers.tiny_model import write_tiny_model
from helpers.training_runs import OPTIONS, adapter_bytes, write_store

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's"),
]


class Host(NamedTuple):
    """What a command on a host begins with, and the address of the first host."""

    begins: list[str]
    first: str


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"network namespaces need root and iproute2: {done.stderr.strip()}")


@contextlib.contextmanager
def namespaces() -> Iterator[list[Host]]:
    """Yield two hosts, each with an address of its own in its network namespace."""
    names = [f"mimic{os.getpid()}{place}" for place in (1, 2)]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        first, second = names
        ip(*f"link add to2 netns {first} type veth peer name to1 netns {second}".split())
        for number, (name, device) in enumerate(zip(names, ("to2", "to1"), strict=True), 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", device)
            for each in (device, "lo"):
                ip("-n", name, "link", "set", each, "up")
        yield [Host(["ip", "netns", "exec", name], "10.77.0.1") for name in names]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture(params=["loopback", "namespaces"])
def hosts(request) -> Iterator[list[Host]]:
    if request.param == "loopback":
        yield [Host([], "127.0.0.1")] * 2
    else:
        with namespaces() as found:
            yield found


def launch(hosts: list[Host], script: str, *options: object, each: int = 1) -> list[tuple]:
    """Run a script on all hosts, each with so many processes: (exit code, stdout, stderr) each."""
    port, started = free_port(), []
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    for number, (begins, first) in enumerate(hosts):
        command = [*begins, *accelerate, "--num_machines", len(hosts), "--machine_rank", number]
        command += ["--num_processes", each * len(hosts), "--main_process_ip", first]
        command += ["--main_process_port", port, ROOT / script, *options]
        interface = {"GLOO_SOCKET_IFNAME": ("to2", "to1")[number]} if begins else {}
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", **interface},
        )
        started.append(process)
    texts = [process.communicate(timeout=1800) for process in started]
    return [(one.returncode, *text) for one, text in zip(started, texts, strict=True)]


def test_step_7_and_batches_on_two_hosts_are_those_of_one_process(hosts, tuned_store, tmp_path):
    stores = [shutil.copytree(tuned_store.path, tmp_path / name) for name in ("one", "two")]
    options = ["6", "--batch-size", 2, "--max-new-tokens", 20, "--no-knowledge"]
    options += ["--model", tuned_store.model, "--storage"]
    made = []
    for store, on, each in ((stores[0], [Host([], "127.0.0.1")], 1), (stores[1], hosts, 2)):
        if each == 1:
            command = [sys.executable, ROOT / "run_files" / "validate.py", *options, store]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            ends = [(done.returncode, done.stdout, done.stderr)]
        else:
            ends = launch(on, "run_files/validate.py", *options, store, each=each)
        assert all(code == 0 for code, *_ in ends), ends
        made.append(same_answers(ends[0][1]))
        shutil.rmtree(results(ends[0][1]))
    assert made[0] == made[1] and len(made[0]) == 12
    assert not any(out for _, out, _ in ends[1:]), "the first process speaks for all"
    path = tmp_path / "questions.jsonl"
    asked = [{"subject_id": IDS[i], "question": "What now?"} for i in range(7)]
    path.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    options = ["--batch", path, "--batch-size", 1, "--max-new-tokens", 9, "--storage", stores[1]]
    ends = launch(hosts, "qa_by_subject.py", *options, "--model", tuned_store.model, each=2)
    lines = [json.loads(line) for line in ends[0][1].splitlines()]
    assert [line["line"] for line in lines] == [*range(1, 8)] and not ends[1][1]


def test_step_5_on_two_hosts_leaves_an_adapter(hosts, tmp_path):
    tiny = write_tiny_model(tmp_path / "tiny")
    store = write_store(tmp_path / "storage", tiny)
    options = ["--storage", store, "--model", tiny, *OPTIONS, "--max-steps", 2]
    ends = launch(hosts, "train_qlora.py", *options)
    assert all(code == 0 for code, *_ in ends), ends
    assert adapter_bytes(store) and "2 x CPU" in ends[0][1] and not ends[1][1]
