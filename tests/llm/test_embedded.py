"""The embedded model: converted once, asked for when its package is missing."""

import json
import shutil
from pathlib import Path

import pytest

from mimic_qlora.llm import chat, embedded, finding, generation, loading
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import preflight


def test_the_embedded_model_is_converted_once_and_answers_in_4_bits(tmp_path):
    path = finding.model_path(None, tmp_path)
    written = (path / "model.safetensors").stat().st_mtime_ns
    assert finding.model_path(embedded.EMBEDDED, tmp_path) == path
    assert (path / "model.safetensors").stat().st_mtime_ns == written
    assert "quantization_config" not in json.loads((path / "config.json").read_text())
    assert [p.name for p in path.parent.iterdir()] == [embedded.EMBEDDED], (
        "the temporary folder is gone"
    )
    assert all(file.stat().st_mode & 0o077 == 0 for file in path.iterdir())
    assert "never for results" in finding.describe(path)
    tokenizer = chat.load_tokenizer(path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    [answer] = generation.generate(
        loading.load_base(path), tokenizer, [question], ["base"], max_new_tokens=12
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
def converted(tiny, tmp_path, monkeypatch):
    """The embedded model as it was converted; a tiny one stands in for it, which takes a second."""

    def convert(_, folder):
        shutil.copytree(tiny, folder, dirs_exist_ok=True)

    monkeypatch.setattr(embedded, "convert_gguf", convert)
    monkeypatch.setattr(embedded, "_packaged_gguf", lambda: tmp_path / "model.gguf")
    return finding.model_path(None, tmp_path)


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
    assert [path.name for path in converted.parent.iterdir()] == [embedded.EMBEDDED]


def test_whole_weights_of_an_earlier_version_are_recorded(converted, tmp_path):
    (converted / embedded.SUM).unlink()
    assert preflight.find_whole_model(None, tmp_path) == converted
    assert (converted / embedded.SUM).is_file()


def test_no_model_is_loaded_from_weights_with_a_flipped_byte(converted):
    loading.load_base(converted)
    flipped(converted / embedded.WEIGHTS)
    with pytest.raises(UserError, match="damaged since they were converted"):
        loading.load_base(converted)
