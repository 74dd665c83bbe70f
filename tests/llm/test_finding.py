"""Models found, named and told apart."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import chat, finding, loading
from mimic_qlora.step.errors import UserError


def test_a_model_that_is_not_here_or_not_whole_is_named_with_its_remedy(tmp_path, tiny):
    with pytest.raises(UserError, match="hf download some/model"):
        finding.model_path("some/model", tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "half" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="tokenizer.json, model-00001-of-00002.safetensors"):
        finding.model_path(str(tmp_path / "half"), tmp_path)
    assert finding.model_path(str(tiny), tmp_path) == tiny


def test_models_of_one_shape_have_different_fingerprints(tiny, tmp_path):
    assert finding.fingerprint(tiny) == finding.fingerprint(write_tiny_model(tmp_path / "same"))
    assert finding.fingerprint(tiny) != finding.fingerprint(
        write_tiny_model(tmp_path / "other", seed=1)
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("file", "damage", "use"),
    [
        ("config.json", cut, finding.describe),
        ("tokenizer.json", cut, chat.load_tokenizer),
        ("model.safetensors", cut, finding.fingerprint),
        ("model.safetensors", cut, loading.load_base),
        (
            "config.json",
            lambda path: path.write_text('{"model_type": "no such"}'),
            loading.load_base,
        ),
    ],
)
def test_a_damaged_model_is_named_in_one_sentence(tiny, tmp_path, file, damage, use):
    folder = shutil.copytree(tiny, tmp_path / "model")
    damage(folder / file)
    with pytest.raises(UserError, match=f"{folder}.*anew") as refused:
        use(folder)
    assert "\n" not in str(refused.value)
