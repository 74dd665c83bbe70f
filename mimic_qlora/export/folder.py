"""The folder of a merged model: what other programs load, and what readers must know."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mimic_qlora.export import merging
from mimic_qlora.llm import chat, finding, tokenizer_files
from mimic_qlora.step import files, manifests, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.plain_text import in_markdown
from mimic_qlora.subjects.manifest import SubjectsManifest, data_line
from mimic_qlora.training import adapter_folder
from mimic_qlora.training.data import BaseModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARD = "5GB"  # largest file of weights


def export(
    store: Path, subjects: SubjectsManifest, run: str, base: Path, force: bool = False
) -> Path:
    """Write `exports/<run>/`: the base in a folder and an adapter of step 5 as one model.

    Raises UserError for an adapter of another base or one that is replaced meanwhile, and UpToDate
    when the folder is there.
    """
    adapter = storage.verified_manifest(store, f"adapters/{run}")
    tokenizer = chat.load_tokenizer(base)
    chat.check_tokenizer(store, base, tokenizer, [run])
    model = BaseModel.of(base, tokenizer)
    step, beside = f"exports/{run}", finding.beside_weights(base)
    del beside["config.json"]  # model.computing is of it, however it is written
    settings = {"base_model": asdict(model), "weights": "bfloat16", "beside_weights": beside}
    inputs = {f"adapters/{run}": adapter["id"]}
    files.private_folder(store / "exports")
    _say_replaced(files.linked_place(store / step), run, adapter["id"])
    with storage.step_output(store, step, settings, inputs, force) as out:
        merged = merging.merge(base, store / "adapters" / run, tokenizer)
        if manifests.damaged_files(store / "adapters" / run, adapter):
            raise UserError(
                f"the adapter {run} was replaced while it was merged: the same command merges the "
                "new one"
            )
        out.facts["divergence_nats_per_token"] = merged.divergence
        write(out.path, merged.model, tokenizer)
        text = card(run, model, merged.divergence, data_line(subjects["source"], False))
        (out.path / "README.md").write_text(text, encoding="utf-8")
        print(
            f"Merged and base with adapter side by side differ by {merged.divergence:.4f} nats a "
            f"token on {len(merging.CHECKED)} prompts (rounding; up to {merging.TOLERANCE} passes)"
        )
    return store / step


def _say_replaced(place: Path, run: str, adapter: str) -> None:
    """Say that a merged model of another adapter gives way: nothing else may hold that one."""
    found = manifests.read(place)
    if found and found["inputs"].get(f"adapters/{run}") != adapter:
        print(
            f"note: {place} is of another adapter {run} than is there now, and this run replaces "
            "it at its end: to keep it, stop and move it out of the storage folder",
            flush=True,
        )


def write(folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Write weights as safetensors, config, tokenizer and chat template.

    Other programs end an answer where generation_config.json says, and some a model's own does not
    name the token that ends a turn.
    """
    model.generation_config.eos_token_id = chat.end_token_ids(tokenizer, model)
    model.save_pretrained(folder, max_shard_size=SHARD)
    _name_rope_twice(folder / "config.json")
    tokenizer_files.save(tokenizer, folder)
    for path in folder.iterdir():
        path.chmod(files.PRIVATE)


def _name_rope_twice(path: Path) -> None:
    """Give a config the keys by which transformers 4 and the vLLM releases on it know RoPE.

    They do not read `rope_parameters`, and take 10,000 for a theta that they do not find: another
    model than the one merged, without a word.
    """
    config = files.read_json(path)
    rope = dict(config.get("rope_parameters") or {})
    for key in {"rope_theta", "partial_rotary_factor"} & rope.keys():
        config[key] = rope.pop(key)
    config["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    files.write_json(path, config)


def card(run: str, base: BaseModel, divergence: float, data: str) -> str:
    """Return the card of a merged model, in Markdown. It names no patient."""
    lines = [
        f"# {in_markdown(base.name)} with the adapter {run}, merged",
        "",
        f"The 4-bit NF4 weights that the adapter was trained beside, unpacked, with the adapter "
        f"added, in bfloat16. Base: weights {base.fingerprint}, chat template "
        f"{base.template_sha256[:16]}. {in_markdown(data)}.",
        "",
        f"Mean divergence from base and adapter side by side: {divergence:.4f} nats a token, which "
        "is rounding. Added to the unquantised checkpoint, the same adapter gives another model.",
        "",
        "Not for patients, not a medical device.",
        "",
        adapter_folder.TERMS,
    ]
    lines += [line for one in manifests.study_sentences() for line in ("", in_markdown(one))]
    return "\n".join([*lines, ""])
