"""transformers and datasets: cut off from the network, and named when they are missing."""

import errno
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


def test_prompts_are_cached_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    """No such file system is at hand: `flock` fails as it does there."""
    fcntl = pytest.importorskip("fcntl", reason="Windows locks otherwise")

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    rows = offline.quiet_datasets().Dataset.from_generator(
        lambda: iter([{"a": 1}]), cache_dir=str(tmp_path)
    )
    assert rows.to_list() == [{"a": 1}]
