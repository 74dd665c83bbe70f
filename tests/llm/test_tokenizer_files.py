"""A tokenizer's files as other programs read them."""

import json

import pytest

from helpers.tiny_model import TALK, write_tiny_model
from mimic_qlora.llm import chat, tokenizer_files


@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_transformers_4_finds_a_class_and_tokens_that_it_knows(tmp_path, named):
    """It fails at `TokenizersBackend`, and at a list of `extra_special_tokens`."""
    model = write_tiny_model(tmp_path / "tiny")
    config = json.loads((model / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": named, "extra_special_tokens": ["<|eot_id|>"]}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = chat.load_tokenizer(model)
    tokenizer_files.save(tokenizer, tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in written and "<|eot_id|>" in str(written)
    assert not {"local_files_only", "is_local", "backend"} & written.keys()
    assert written["chat_template"] == tokenizer.chat_template
    again = chat.load_tokenizer(tmp_path)
    assert chat.chat_ids(again, TALK) == chat.chat_ids(tokenizer, TALK)
    assert again.pad_token == tokenizer.pad_token
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert again.get_vocab() == tokenizer.get_vocab()
