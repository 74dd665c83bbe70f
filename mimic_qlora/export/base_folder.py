"""The base as adapters are trained beside it, as a folder: 4-bit weights that other programs load.

lm-evaluation-harness and others have no way of their own to load a checkpoint in 4 bits with
transformers 5; a folder that is in 4 bits already they load like any other.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from mimic_qlora.export.folder import write
from mimic_qlora.llm import chat, finding, loading
from mimic_qlora.step import files, manifests, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.plain_text import in_markdown
from mimic_qlora.training.data import BaseModel


def place(store: Path, model: Path) -> Path:
    """Return where the 4-bit folder of a model lies in a storage folder."""
    return store / "models" / f"{Path(finding.model_name(model)).name}-nf4"


def save(argument: str | None, name: str | None, force: bool = False) -> None:
    """Write the 4-bit folder of a model into the storage folder, and say how it is used.

    `argument` is the argument --storage, `name` that of --model. Raises UserError when the model
    is missing or damaged, and when another of its name would be replaced unasked.
    """
    store = storage.open_storage(argument, create=True)
    path = finding.model_path(name, store)
    print(finding.describe(path), flush=True)
    tokenizer = chat.load_tokenizer(path)
    base = BaseModel.of(path, tokenizer)
    folder = place(store, path)
    beside = finding.beside_weights(path)
    del beside["config.json"]  # base.computing is of it, however it is written
    if not force:
        _check_place(folder, path, base, beside)
    files.private_folder(folder.parent)
    step = folder.relative_to(store).as_posix()
    settings = {
        "base_model": asdict(base),
        "weights": "nf4, double quantisation",
        "beside_weights": beside,
    }
    with storage.step_output(store, step, settings, {}, force) as out:
        # the machine that loads it may have a GPU where this one has none
        dtype = loading.compute_dtype(on_cpu=torch.bfloat16)
        write(out.path, loading.load_base(path, dtype=dtype), tokenizer)
        (out.path / "README.md").write_text(card(base), encoding="utf-8")
    print(
        f"\nWrote {folder}\nAn adapter beside it is the model that was trained: "
        "docs/other_programs.md has the commands"
    )


def _check_place(folder: Path, path: Path, base: BaseModel, beside: dict[str, str]) -> None:
    """Raise UserError when a folder holds another model of the same last name.

    One that an earlier version wrote does not tell of all that is compared.
    """
    settings = (manifests.read(folder) or {}).get("settings", {})
    found = settings.get("base_model", {})
    if "fingerprint" not in found:
        return
    other = [] if finding.is_of(path, found["fingerprint"]) else ["weights"]
    parts = {"config.json": "computing", "chat template": "template_sha256"}
    now = asdict(base)
    other += [name for name, key in parts.items() if found.get(key, now[key]) != now[key]]
    before = settings.get("beside_weights", beside)
    names = sorted(beside.keys() | before.keys())
    other += [name for name in names if before.get(name) != beside.get(name)]
    if other:
        raise UserError(
            f"{folder} holds {found.get('name')} in 4 bits, of other {', '.join(other)} than "
            f"{base.name}: give another --storage, or --force if this one shall take its place"
        )


def card(base: BaseModel) -> str:
    """Return the card of the 4-bit base, in Markdown."""
    lines = [
        f"# {in_markdown(base.name)} in 4 bits, as adapters are trained beside it",
        "",
        "Quantised (NF4, double quantisation, by bitsandbytes), for benchmarks and other programs: "
        "peft, TRL and lm-evaluation-harness load this folder like any model, and an adapter of "
        "step 5 beside it is the model that was trained. It holds no patient's data.",
        "",
        f"Made from: weights {base.fingerprint}, chat template {base.template_sha256[:16]}. Beside "
        "the unquantised checkpoint the adapter is another model (docs/other_programs.md).",
        "",
        "Its licence is that of the checkpoint.",
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in manifests.versions().items()),
        "",
    ]
    return "\n".join(lines)
