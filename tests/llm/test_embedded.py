"""The embedded model: converted once, asked for when its package is missing."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from mimic_qlora.llm import chat, embedded, finding, generation, loading
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import preflight


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache, as the test has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mimic_qlora" / "models"


def names(folder):
    """The names in a folder, without the lock."""
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def test_the_embedded_model_is_converted_once_and_answers_in_4_bits(
    embedded_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(embedded_model.parents[2]))
    written = (embedded_model / "model.safetensors").stat().st_mtime_ns
    for name, storage in ((None, "storage"), (embedded.EMBEDDED, "another storage")):
        assert finding.model_path(name, tmp_path / storage) == embedded_model
    assert (embedded_model / "model.safetensors").stat().st_mtime_ns == written
    assert "quantization_config" not in json.loads((embedded_model / "config.json").read_text())
    assert names(embedded_model.parent) == [embedded.EMBEDDED], "the temporary folder is gone"
    assert all(file.stat().st_mode & 0o077 == 0 for file in embedded_model.iterdir())
    assert "never for results" in finding.describe(embedded_model)
    tokenizer = chat.load_tokenizer(embedded_model)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    [answer] = generation.generate(
        loading.load_base(embedded_model), tokenizer, [question], ["base"], max_new_tokens=12
    )
    assert "Paris" in answer.text


def test_without_its_package_the_embedded_model_is_asked_for_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("mimic_qlora.llm.embedded.EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="requirements-embedded"):
        finding.model_path(None, tmp_path)
    assert not list(tmp_path.iterdir())


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shortened(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.fixture
def convertible(tiny, tmp_path, monkeypatch):
    """A tiny model stands in for the embedded one, which takes a minute to convert."""

    def convert(_, folder):
        shutil.copytree(tiny, folder, dirs_exist_ok=True)

    monkeypatch.setattr(embedded, "convert_gguf", convert)
    monkeypatch.setattr(embedded, "_packaged_gguf", lambda: tmp_path / "model.gguf")


@pytest.fixture
def converted(convertible, tmp_path):
    """The embedded model as it was converted."""
    return finding.model_path(None, tmp_path)


def test_what_an_earlier_version_converted_into_the_storage_folder_is_used(converted, tmp_path):
    place = tmp_path / "old" / "models" / embedded.EMBEDDED
    shutil.copytree(converted, place)
    assert finding.model_path(None, tmp_path / "old") == place
    assert finding.config_folder(None, tmp_path / "old") == place
    assert finding.config_folder(None, tmp_path / "new") == converted


OF_ROOT = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a link away"
)


@pytest.mark.parametrize("home", ["a file", pytest.param("another's link", marks=OF_ROOT)])
def test_where_the_cache_cannot_be_used_the_model_lies_in_the_storage_folder(
    convertible, tmp_path, cache, home
):
    if home == "a file":  # as good as read-only, also for root
        cache.parent.parent.write_text("no folder")
    else:
        (tmp_path / "elsewhere").mkdir()
        cache.parent.parent.mkdir()
        cache.parent.symlink_to(tmp_path / "elsewhere")
        os.chown(cache.parent, 12345, -1, follow_symlinks=False)
    path = finding.model_path(None, tmp_path / "storage")
    assert path == tmp_path / "storage" / "models" / embedded.EMBEDDED
    assert finding.config_folder(None, tmp_path / "storage") == path


def test_two_that_need_the_model_at_once_convert_it_once(convertible, tmp_path, monkeypatch):
    began, go_on, convert, times = Event(), Event(), embedded.convert_gguf, []

    def slow(gguf, folder):
        times.append(folder)
        began.set()
        assert go_on.wait(60)
        convert(gguf, folder)

    monkeypatch.setattr(embedded, "convert_gguf", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(finding.model_path, None, tmp_path / "one")
        assert began.wait(60)
        second = pool.submit(finding.model_path, None, tmp_path / "two")
        go_on.set()
        assert first.result() == second.result() and len(times) == 1


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flipped, "damaged since they were converted"),
        (shortened, "damaged"),
        (Path.unlink, "lacks model.safetensors"),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_check_names_weights_that_are_not_as_they_were_converted(
    converted, tmp_path, damage, told, recorded
):
    if not recorded:  # as in a folder of an earlier version
        (converted / embedded.SUM).unlink()
    damage(converted / embedded.WEIGHTS)
    with pytest.raises(UserError, match=f"{told}.*remove {converted}"):
        preflight.find_whole_model(None, tmp_path)
    assert names(converted.parent) == [embedded.EMBEDDED]


def test_whole_weights_of_an_earlier_version_are_recorded(converted, tmp_path):
    (converted / embedded.SUM).unlink()
    assert preflight.find_whole_model(None, tmp_path) == converted
    assert (converted / embedded.SUM).is_file()


def test_no_model_is_loaded_from_weights_with_a_flipped_byte(converted):
    loading.load_base(converted)
    flipped(converted / embedded.WEIGHTS)
    with pytest.raises(UserError, match="damaged since they were converted"):
        loading.load_base(converted)
