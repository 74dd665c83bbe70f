"""A tokenizer's files, written so that transformers 4 reads them too."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = "tokenizer_config.json"
# how transformers 5 loaded the tokenizer, which is nothing that a reader needs
OF_LOADING = ("backend", "is_local", "local_files_only")


def save(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write a tokenizer with its chat template into a folder.

    transformers 5 names a class, and writes a list of tokens, that transformers 4 and the vLLM
    releases on it fail at; older ones look for the chat template in the config alone.
    """
    tokenizer.save_pretrained(folder)
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in OF_LOADING:
        config.pop(key, None)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if isinstance(tokenizer.chat_template, str):
        config["chat_template"] = tokenizer.chat_template
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
