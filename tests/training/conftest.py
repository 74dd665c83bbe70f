"""Fixtures of step 5: a tiny model, a storage folder, a run in this process."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import train_qlora
from helpers.packed_model import packed_model
from helpers.tiny_model import write_tiny_model
from helpers.training_runs import OPTIONS, PATIENTS, record, write_store
from mimic_qlora.llm import chat
from mimic_qlora.training import (
    packing,
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return chat.load_tokenizer(tiny)


@pytest.fixture(scope="module")
def talks(tokenizer) -> list:
    return [packing.encode(tokenizer, record(s)["messages"], "here", s) for s in PATIENTS]


@pytest.fixture(scope="module")
def model(tiny):
    return packed_model(tiny)


@pytest.fixture
def store(tmp_path, tiny) -> Path:
    return write_store(tmp_path / "storage", tiny)


@pytest.fixture
def train(store, tiny, monkeypatch):
    """Run step 5 in this process: train("--epochs", 2) -> the adapter's folder."""

    def main(*options) -> Path:
        name_arguments(*options)
        train_qlora.main()
        return store / "adapters" / "default"

    def name_arguments(*options):
        arguments = ["--storage", store, "--model", tiny, *OPTIONS, *options]
        monkeypatch.setattr(sys, "argv", ["train_qlora.py", *map(str, arguments)])

    def check(*options) -> int:
        name_arguments("--check", *options)
        return train_qlora.main()

    main.check = check
    return main


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> SimpleNamespace:
    """A whole run in this process: `store`, the adapter's `folder`, what it `said`, `manifest`."""
    store = write_store(tmp_path_factory.mktemp("finished") / "storage", tiny)
    options = ["--storage", store, "--model", tiny, *OPTIONS, "--epochs", 4]
    said, old = io.StringIO(), os.umask(0o077)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), no_network():
        patch.setattr(sys, "argv", ["train_qlora.py", *map(str, options)])
        train_qlora.main()
    os.umask(old)
    folder = store / "adapters" / "default"
    manifest = json.loads((folder / "manifest.json").read_text())
    return SimpleNamespace(store=store, folder=folder, said=said.getvalue(), manifest=manifest)


@contextlib.contextmanager
def no_network():
    """Fail at any attempt to reach beyond this machine; Python reports them to an audit hook."""
    watch = {"on": True}

    def hook(event, arguments):
        outward = event in (
            "socket.getaddrinfo",
            "socket.gethostbyname",
            "socket.sendto",
            "socket.connect",
        )
        # a path is a Unix socket
        if outward and watch["on"] and not isinstance(arguments[-1], (str, bytes)):
            raise AssertionError(f"a network call: {event} {arguments}")

    sys.addaudithook(hook)
    try:
        yield
    finally:
        watch["on"] = False
