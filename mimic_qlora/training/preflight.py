"""Everything that training needs, looked at before minutes are spent on it: what is there and what is missing."""

import contextlib
from pathlib import Path

from mimic_qlora.chart import context
from mimic_qlora.llm import chat, embedded, finding
from mimic_qlora.step import storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import cost, data, hardware, run


def check(args) -> int:
    """Print one line for each need, go on after what is missing; 0 when nothing is, else 2."""
    missing, found = [], {}

    @contextlib.contextmanager
    def need(what: str):
        try:
            yield
            print(f"ok       {what}")
        except UserError as error:
            missing.append(what)
            print(f"missing  {what}: {error}")
        except KeyError:
            print(f"not seen {what}: first mend what is missing above")

    with need("storage folder with subjects and prompts"):
        found["store"] = storage.open_storage(args.storage)
        storage.read_manifest(found["store"], "subjects")
        storage.read_manifest(found["store"], "prompts")
        context.load_settings(found["store"])
        found["records"] = data.read(found["store"], args.limit)
    with need("every patient in the split of step 1"):
        data.check_split(found["store"], found["records"])
    with need("model on this machine, whole"):
        path = finding.model_path(
            args.model, found["store"] if args.model in (None, embedded.EMBEDDED) else Path()
        )
        finding.fingerprint(path)
        found["model"] = path
    with need("tokenizer with a chat template"):
        found["tokenizer"] = chat.load_tokenizer(found["model"])
    with need("prompts made for this model"):
        data.check_model(found["store"], found["model"], found["tokenizer"])
    with need("every prompt whole, its answer and end token supervised"):
        wanted = (found["tokenizer"], found["records"], args.max_length, found["model"])
        data.describe(data.encode(*wanted), found["tokenizer"])
    with need("driver and number type"):
        hardware.check_driver()
        print(
            f"         {hardware.name()} computing in {hardware.dtype(args.compute)}, recipe {args.recipe}"
        )
    with need("memory and disk"):
        shape = cost.shape(finding.read_json(found["model"] / "config.json"))
        run.check_room(shape, args, found["store"])
        print(f"         {hardware.free_memory() / 1e9:.1f} GB free")
    print("Nothing is missing" if not missing else f"{len(missing)} missing: {'; '.join(missing)}")
    return 2 if missing else 0
