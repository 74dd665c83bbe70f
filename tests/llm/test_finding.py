"""Models found, named and told apart."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import chat, finding, loading
from mimic_qlora.step.errors import UserError


def test_a_model_that_is_not_here_or_not_whole_is_named_with_its_remedy(tmp_path, tiny):
    with pytest.raises(UserError, match="hf download some/model"):
        finding.model_path("some/model", tmp_path)
    with pytest.raises(UserError, match="hf download 'x; rm -rf ~' --exclude"):
        finding.model_path("x; rm -rf ~", tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "half" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="tokenizer.json, model-00001-of-00002.safetensors"):
        finding.model_path(str(tmp_path / "half"), tmp_path)
    assert finding.model_path(str(tiny), tmp_path) == tiny


@pytest.fixture
def sharded(tiny, tmp_path) -> Path:
    """The tiny model in three files with an index, as the hub has larger ones."""
    folder = shutil.copytree(tiny, tmp_path / "sharded")
    loading.load_base(tiny, four_bit=False).save_pretrained(folder, max_shard_size="90KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def write_index(folder: Path, weight_map) -> None:
    (folder / finding.INDEX).write_text(json.dumps({"weight_map": weight_map}))


def named(folder: Path) -> dict:
    return json.loads((folder / finding.INDEX).read_text())["weight_map"]


@pytest.mark.parametrize(
    ("damage", "lacks"),
    [
        (lambda f: (f / finding.INDEX).unlink(), "lacks model.safetensors.index.json:"),
        (lambda f: shards(f)[1].unlink(), "lacks model-00002-of-"),
        (
            lambda f: [path.unlink() for path in (f / finding.INDEX, shards(f)[1])],
            "lacks model.safetensors.index.json, model-00002-of-",
        ),
        (lambda f: [path.unlink() for path in shards(f)], "lacks model-00001-of-"),
        (lambda f: (f / finding.INDEX).write_text("{"), "index.json is damaged.*anew"),
        (
            lambda f: (f / finding.INDEX).write_text("\ufeff{}"),
            "index.json begins with a byte order",
        ),
        (lambda f: write_index(f, {}), "index.json is damaged.*anew"),
        (lambda f: write_index(f, {"a": 3}), "index.json is damaged.*anew"),
        (lambda f: write_index(f, ["a"]), "index.json is damaged.*anew"),
        (lambda f: dangling(shards(f)[0]), "lacks model-00001-of-"),
        (lambda f: cut(shards(f)[2]), "model-00003-of.* is damaged or cut short"),
        (
            lambda f: write_index(f, {**named(f), "model.layers.9.x": shards(f)[0].name}),
            "lack 1 tensors that model.safetensors.index.json names, model.layers.9.x",
        ),
    ],
)
def test_a_sharded_model_that_is_not_whole_is_refused_in_one_sentence(sharded, damage, lacks):
    assert finding.model_path(str(sharded), sharded) == sharded and finding.fingerprint(sharded)
    damage(sharded)
    with pytest.raises(UserError, match=lacks) as refused:
        finding.fingerprint(finding.model_path(str(sharded), sharded))
    assert "\n" not in str(refused.value)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def dangling(path: Path) -> None:
    """As a download of the hub's cache that was stopped leaves it."""
    path.unlink()
    path.symlink_to(path.with_name("blob"))


def test_a_sharded_model_has_the_fingerprint_of_the_same_in_one_file(sharded, tiny):
    assert finding.fingerprint(sharded) == finding.fingerprint(tiny)


def test_weights_that_transformers_does_not_load_do_not_count(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "other")
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(UserError, match="lacks model.safetensors:"):
        finding.model_path(str(folder), tmp_path)


def test_a_model_without_the_config_of_its_tokenizer_is_not_whole(tiny, tmp_path):
    """With a template of its own it would load, and write conversations without their BOS."""
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    (copy / "tokenizer_config.json").unlink()
    assert (copy / "chat_template.jinja").is_file()
    assert chat.load_tokenizer(copy).bos_token is None
    with pytest.raises(UserError, match="lacks tokenizer_config.json: give a folder"):
        finding.model_path(str(copy), tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_a_model_that_is_quantised_already_is_refused(tiny, tmp_path, method):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": method, "bits": 4}}
    (copy / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(UserError, match=f"is quantised already \\(by {method}\\)"):
        finding.model_path(str(copy), tmp_path)


def test_a_base_with_an_adapter_among_its_files_is_refused(tiny, tmp_path):
    """transformers loads the base that the adapter names, and the adapter, in its place."""
    copy = shutil.copytree(tiny, tmp_path / "copy")
    config = {"peft_type": "LORA", "base_model_name_or_path": "another/base"}
    (copy / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="holds an adapter .*whatever weights lie beside it"):
        finding.model_path(str(copy), tmp_path)


def test_a_file_that_a_stopped_download_left_at_its_full_size_is_not_whole(tiny, tmp_path):
    """As aria2 leaves it: its header is there, and zeros stand for what did not come."""
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    path = copy / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    for use in (finding.fingerprint, loading.load_base):
        with pytest.raises(UserError, match="holds zeros in the place of .*weight, as a download"):
            use(copy)


def test_models_of_one_shape_have_different_fingerprints(tiny, tmp_path):
    assert finding.fingerprint(tiny) == finding.fingerprint(write_tiny_model(tmp_path / "same"))
    assert finding.fingerprint(tiny) != finding.fingerprint(
        write_tiny_model(tmp_path / "other", seed=1)
    )


def test_a_model_tuned_in_a_few_matrices_is_another_model(tiny, tmp_path):
    """A merged adapter on some projections leaves all else as it was."""
    tuned = Path(shutil.copytree(tiny, tmp_path / "tuned"))
    weights = load_file(tuned / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] += 1
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    assert finding.fingerprint(tuned) != finding.fingerprint(tiny)
    assert finding.is_of(tiny, finding.fingerprint(tiny))
    assert not finding.is_of(tuned, finding.fingerprint(tiny))


def test_a_model_with_a_mended_special_token_is_another_model(tiny, tmp_path):
    """Copies of Llama 3's base differ from it in the rows of tokens that it never saw."""
    mended = Path(shutil.copytree(tiny, tmp_path / "mended"))
    weights = load_file(mended / "model.safetensors")
    weights["model.embed_tokens.weight"][-3] += 1
    save_file(weights, mended / "model.safetensors", {"format": "pt"})
    assert finding.fingerprint(mended) != finding.fingerprint(tiny)
    assert not finding.is_of(mended, finding.fingerprint(tiny))
    assert finding.is_of(mended, finding.fingerprint(tiny)[:16])  # all that older manifests have


def test_an_older_fingerprint_is_still_known(tiny):
    """As manifests until 2026-11 have it, here computed apart."""
    weights = load_file(tiny / "model.safetensors")
    names = sorted(n for n in weights if n.endswith(("q_proj.weight", "embed_tokens.weight")))
    whole = hashlib.sha256()
    for name in (names[0], names[-1]):
        whole.update(name.encode() + weights[name][:16].float().numpy().tobytes())
    assert finding.is_of(tiny, whole.hexdigest()[:16])
    assert finding.is_of(tiny, finding.fingerprint(tiny)[:16])
    assert not finding.is_of(tiny, None) and not finding.is_of(tiny, "")


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


@pytest.mark.parametrize(
    ("file", "use"),
    [
        ("config.json", finding.describe),
        ("tokenizer.json", chat.load_tokenizer),
        ("model.safetensors", finding.fingerprint),
    ],
)
def test_a_clone_without_git_lfs_is_told_to_pull(tiny, tmp_path, file, use):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    with pytest.raises(
        UserError, match=f"are pointers of Git LFS, so run `git lfs pull` in {folder}"
    ):
        use(folder)


def change_config(model: Path, place: Path, **changed) -> Path:
    """A copy of a model with other values in config.json; None takes a name out."""
    copy = shutil.copytree(model, place)
    config = json.loads((copy / "config.json").read_text()) | changed
    kept = {name: value for name, value in config.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(kept))
    return copy


def test_a_model_is_described_whatever_stands_for_its_architectures(tiny, tmp_path):
    assert "LlamaForCausalLM, 2 layers" in finding.describe(tiny)
    for n, kinds in enumerate((7, "x", {}, [None])):
        assert "2 layers" in finding.describe(
            change_config(tiny, tmp_path / str(n), architectures=kinds)
        )


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_no_whole_numbers_are_refused(tiny, tmp_path, kind):
    """As quantised exports leave them; transformers would take them for the values themselves."""
    copy = shutil.copytree(tiny, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].to(
        kind
    )
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="holds model.layers.0.mlp.up_proj.weight as"):
        finding.fingerprint(copy)


SCALED = {"factor": 8.0, "low_freq_factor": 1, "rope_type": "llama3"}


def test_what_config_says_of_computing_is_known_however_it_is_written(tiny, tmp_path):
    """As transformers 4 and 5 write it."""
    as_is = finding.computing(tiny)
    plain = {"rope_parameters": None, "rope_theta": 10000, "torch_dtype": "float16"}
    assert finding.computing(change_config(tiny, tmp_path / "old", **plain)) == as_is
    assert finding.computing(change_config(tiny, tmp_path / "dim", head_dim=16)) == as_is
    old = plain | {"rope_scaling": SCALED}
    new = {"rope_parameters": {**SCALED, "rope_theta": 10000.0}}
    both = [change_config(tiny, tmp_path / n, **rope) for n, rope in (("a", old), ("b", new))]
    assert finding.computing(both[0]) == finding.computing(both[1]) != as_is
    others = ({"rms_norm_eps": 1e-3}, {"num_attention_heads": 8, "num_key_value_heads": 4})
    for n, changed in enumerate((*others, {"hidden_act": "gelu"}, {"rope_theta": 5e5})):
        assert finding.computing(change_config(tiny, tmp_path / str(n), **changed)) != as_is


def test_what_the_config_of_other_kinds_says_of_computing_counts_too(tiny, tmp_path):
    """Granite's multipliers: the same weights beside others answer otherwise."""
    kind = {"model_type": "granite", "logits_scaling": 1.0}
    places = [change_config(tiny, tmp_path / "as is", **kind)]
    for name in ("logits_scaling", "attention_multiplier", "residual_multiplier"):
        places.append(change_config(tiny, tmp_path / name, **kind | {name: 8.0}))
    assert len({finding.computing(place) for place in places}) == 4


def test_what_config_leaves_out_is_what_transformers_takes_for_it(tiny, tmp_path):
    """Llama 2 names no base of RoPE; saved again, the same model names it."""
    left_out = ("rope_parameters", "head_dim", "hidden_act", "rms_norm_eps")
    short = change_config(tiny, tmp_path / "short", **dict.fromkeys(left_out))
    assert finding.computing(short) == finding.computing(tiny)


@pytest.mark.parametrize(
    "rope",
    [
        [{"rope_theta": 1e4, "partial_rotary_factor": share} for share in (0.5, 1.0)],
        [{"full_attention": {"rope_theta": theta}} for theta in (1e4, 1e6)],
    ],
    ids=["share", "layers"],
)
def test_all_that_is_said_of_rope_tells_models_apart(tiny, tmp_path, rope):
    """Of a share of each head, as in GLM, and of kinds of layers, as in Gemma 3."""
    places = [
        change_config(tiny, tmp_path / str(n), rope_parameters=said) for n, said in enumerate(rope)
    ]
    assert finding.computing(places[0]) != finding.computing(places[1])


def test_the_window_of_a_model_that_sees_images_is_that_of_its_text(tmp_path):
    text = {"sliding_window": 512, "num_hidden_layers": 2}
    for config, window in (
        ({"model_type": "gemma3", "text_config": text}, 512),
        ({"model_type": "gemma3_text", **text}, 512),
        ({"model_type": "llama"}, None),
        ({"model_type": "qwen2", "sliding_window": 512, "use_sliding_window": False}, None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert finding.attention_window(tmp_path) == window
