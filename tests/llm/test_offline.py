"""transformers and datasets: cut off from the network, and named when they are missing."""

import os
import sys

import pytest

from mimic_qlora.llm import chat, offline
from mimic_qlora.step.errors import UserError


def test_the_libraries_are_cut_off_before_they_are_imported(monkeypatch):
    for name in offline.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    offline.cut_off()
    assert {name: os.environ[name] for name in offline.ENVIRONMENT} == offline.ENVIRONMENT


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("transformers", offline.quiet_transformers),
        ("datasets", offline.quiet_datasets),
    ],
)
def test_a_package_that_is_missing_is_named(package, use, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(UserError, match=f"package {package} is not installed for .*: run `pip"):
        use()


def test_a_missing_package_is_not_taken_for_a_damaged_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="package transformers is not installed"):
        chat.load_tokenizer(tmp_path)
