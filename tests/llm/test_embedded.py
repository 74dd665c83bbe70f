"""The embedded model: converted once, asked for when its package is missing."""

import json

import pytest

from mimic_qlora.llm import chat, embedded, finding, generation, loading
from mimic_qlora.step.errors import UserError


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
