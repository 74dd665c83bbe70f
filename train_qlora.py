"""Step 5: train a QLoRA adapter on the symptom prompts.

    python train_qlora.py --model meta-llama/Meta-Llama-3-8B-Instruct | tee train.log

Leaves `adapters/<run>/` in the storage folder: the adapter in PEFT format with tokenizer and chat
template, a card, the log and its curves. The base model is loaded in 4 bits (NF4, double
quantisation) and stays as it is; only low-rank matrices beside its linear layers learn, from the
assistant's tokens alone. The adapter kept is the one with the lowest loss on the validation
patients. An interrupted run goes on from its last checkpoint with the same command.
"""

import argparse
import copy
import os
from pathlib import Path

from mimic_qlora.step import command_line, errors, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.training.run import train_one

RECIPES = Path(__file__).resolve().parent / "recipes"
CHOICES = {
    "compute": ("auto", "bf16", "fp16", "fp32"),
    "optimizer": ("adamw_torch_fused", "paged_adamw_32bit", "paged_adamw_8bit"),
}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Where no default is given it is the recipe's; what the command line says goes before the recipe.",
    )
    add = parser.add_argument
    add(
        "--model",
        help="base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)",
    )
    add(
        "--recipe",
        help="file in recipes/, or the path of another (default: the one that fits the machine)",
    )
    add("--run", default="default", help="name of the run and of its folder (default: %(default)s)")
    add("--check", action="store_true", help="say what is missing for training, and train nothing")
    add("--epochs", type=float, help="passes over the training prompts")
    add("--max-steps", type=int, help="stop after so many optimizer steps, whatever --epochs says")
    add("--lr", type=float, help="peak learning rate: 5%% warm-up, then cosine")
    add(
        "--rank",
        type=int,
        default=16,
        help="rank of the LoRA matrices, on all linear layers: more ranks hold "
        "more, but what is to be learned here is a form of answer (default: %(default)s)",
    )
    add(
        "--alpha",
        type=float,
        default=32,
        help="LoRA's scale is alpha / rank (default: %(default)s)",
    )
    add(
        "--rslora",
        action="store_true",
        help="scale by alpha / sqrt(rank), for ranks of 64 and more",
    )
    add(
        "--dropout",
        type=float,
        default=0.0,
        help="before the LoRA matrices; early stopping guards against "
        "learning by heart as well and costs no speed (default: %(default)s)",
    )
    add(
        "--max-length",
        type=int,
        default=2048,
        help="a longer prompt is refused, never cut (default: %(default)s)",
    )
    add("--batch-tokens", type=int, help="room of one packed sequence in tokens")
    add("--accumulate", type=int, help="packed sequences per optimizer step, of each process")
    add(
        "--checkpointing",
        help="recompute activations to save memory: none, all, every N-th layer, or auto",
    )
    add(
        "--compute",
        help="number type of the base's products: auto, bf16, fp16 or fp32 (default: auto)",
    )
    add("--optimizer", help="adamw_torch_fused, paged_adamw_32bit or paged_adamw_8bit")
    add("--validations", type=int, help="validations besides the one at the start")
    add(
        "--patience",
        type=int,
        default=2,
        help="end after so many validations without a lower loss; 0: never (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=42,
        help="seed of the matrices, dropout and order (default: %(default)s)",
    )
    add(
        "--seeds",
        help="train one adapter for each seed, such as 0,1,2, into RUN-seed0, RUN-seed1, ...",
    )
    add("--limit", type=int, help="use only the first N prompts of each split, for a trial")
    add(
        "--save-minutes",
        type=float,
        default=10,
        help="minutes between checkpoints at most (default: %(default)s)",
    )
    add(
        "--preview",
        action="store_true",
        help="print a real sample (patient text!) with its supervised part marked",
    )
    command_line.add_arguments(parser)
    return parser.parse_args()


def complete(args) -> None:
    """Fill in from the recipe what the command line left open. Raises UserError for what cannot be meant."""
    from mimic_qlora.training import hardware

    args.recipe = args.recipe or hardware.recipe()
    for name, value in {"compute": "auto", **read_recipe(args.recipe, vars(args))}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if missing := [
        n
        for n in ("epochs", "lr", "batch_tokens", "accumulate", "validations")
        if getattr(args, n) is None
    ]:
        raise UserError(
            f"neither the recipe {args.recipe} nor the command line gives {', '.join(missing)}"
        )
    command_line.check_positive(
        args, "epochs", "max_steps", "lr", "rank", "alpha", "max_length", "batch_tokens"
    )
    command_line.check_positive(args, "accumulate", "validations", "limit")
    command_line.check_range(args, "save_minutes", 0, 1_000_000)
    command_line.check_range(args, "patience", 0, 1_000_000)
    if not 0 <= args.dropout < 1:
        raise UserError(f"--dropout {args.dropout} is not a share from 0 up to 1")
    for name, allowed in CHOICES.items():
        if getattr(args, name) not in allowed:
            raise UserError(f"--{name} {getattr(args, name)} is none of {', '.join(allowed)}")
    args.checkpointing = str(args.checkpointing)
    if (
        args.checkpointing not in ("none", "all", "auto")
        and not args.checkpointing.isdigit()
        or args.checkpointing == "0"
    ):
        raise UserError(
            f"--checkpointing {args.checkpointing} is none of none, all, auto, or a number of layers"
        )
    command_line.check_run(args.run)


def read_recipe(name: str, known: dict) -> dict:
    """The settings in a recipe file. Raises UserError when it is missing, damaged, or has a key that is no argument."""
    import yaml

    path = next((p for p in (RECIPES / f"{name}.yaml", Path(name)) if p.is_file()), None)
    if path is None:
        names = ", ".join(
            sorted(p.stem for p in RECIPES.glob("*.yaml") if "accelerate" not in p.stem)
        )
        raise UserError(
            f"there is no recipe {name}: give one of {names}, or the path of a YAML file"
        )
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(recipe, dict) or (unknown := sorted(set(recipe) - set(known))):
        raise UserError(
            f"{path} is no recipe: {', '.join(unknown) if isinstance(recipe, dict) else 'it'} is no setting"
        )
    return recipe


def main():
    args = arguments()
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # spinning threads are ten times slower on a busy machine
    if "CUDA_VISIBLE_DEVICES" not in os.environ and "LOCAL_RANK" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = (
            "0"  # the Trainer would split a batch over all, which 4 bits don't allow
        )
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else [args.seed]
    except ValueError:
        raise UserError(f"--seeds {args.seeds} is no list of whole numbers such as 0,1,2") from None
    for seed in seeds:
        command_line.check_range(argparse.Namespace(seed=seed), "seed", 0, 2**32 - 1)
    if not args.check:
        storage.read_manifest(
            storage.open_storage(args.storage), "prompts"
        )  # before torch takes its seconds to load
    complete(args)
    if args.check:
        from mimic_qlora.training import preflight

        return preflight.check(args)
    for seed in seeds:
        one = copy.copy(args)
        one.seed, one.seeds = seed, None
        if args.seeds:
            one.run = f"{args.run}-seed{seed}"
        try:
            train_one(one)
        except errors.UpToDate as message:
            if len(seeds) == 1:
                raise
            print(message)


if __name__ == "__main__":
    command_line.run(main)
