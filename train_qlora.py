"""Step 5: train a QLoRA adapter on the symptom prompts.

    python train_qlora.py --model meta-llama/Meta-Llama-3-8B-Instruct | tee train.log

Leaves `adapters/<run>/` in the storage folder: the adapter in PEFT format with tokenizer and chat
template, a card, the log and its curves. The base model is loaded in 4 bits (NF4, double
quantisation) and stays as it is; only low-rank matrices beside its linear layers learn, from the
assistant's tokens alone. The adapter kept is the one with the lowest loss on half of the validation
patients. An interrupted run goes on from its last checkpoint with the same command.
"""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from mimic_qlora.step import command_line, ending, limits, storage
from mimic_qlora.training import settings

RECIPES = Path(__file__).resolve().parent / "recipes"
EPILOG = "Where no default is given it is the recipe's; the command line goes before the recipe."
HELP = {
    "model": "base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)",
    "recipe": "file in recipes/, or the path of another (default: the one that fits the machine)",
    "run": "name of the run and of its folder; torchrun, which has a --run-path, takes only "
    "--run-name (default: %(default)s)",
    "check": "say what is missing for training, and train nothing",
    "save-base": "write the 4-bit base as a folder for other programs, and train nothing",
    "epochs": "passes over the training prompts",
    "max-steps": "stop after so many optimizer steps, whatever --epochs says",
    "lr": "peak learning rate: 5%% warm-up, then cosine",
    "rank": "rank of the LoRA matrices, on all linear layers: what is to be learned here is a form "
    "of answer (default: %(default)s)",
    "alpha": "LoRA's scale is alpha / rank (default: %(default)s)",
    "rslora": "scale by alpha / sqrt(rank), for ranks of 64 and more",
    "dropout": "before the LoRA matrices; early stopping costs no speed (default: %(default)s)",
    "max-length": "a longer prompt is refused, never cut (default: %(default)s)",
    "batch-tokens": "room of one packed sequence in tokens",
    "accumulate": "packed sequences per optimizer step, of each process",
    "checkpointing": "recompute activations to save memory: none, all, every N-th layer, or auto",
    "compute": "number type of the base's products: auto, bf16, fp16 or fp32 (default: auto)",
    "optimizer": "adamw_torch_fused, paged_adamw_32bit or paged_adamw_8bit",
    "validations": "validations besides the one at the start",
    "patience": "end after so many validations without a lower loss; 0: never (default: "
    "%(default)s)",
    "seed": "seed of the matrices, dropout and order (default: %(default)s)",
    "seeds": "train one adapter for each seed, such as 0,1,2, into RUN-seed0, RUN-seed1, ...",
    "limit": "use only the first N prompts of each split, for a trial",
    "save-minutes": "minutes between checkpoints at most (default: %(default)s)",
    "canaries": "plant N made-up patients, for the audit alone; trains into RUN-canaries",
    "replace-adapter": "replace a finished adapter of other settings, prompts or base, or its "
    "canaries (one of up to 100 steps gives way unasked)",
    "preview": "print a real sample (patient text!) with its supervised part marked",
}


def arguments() -> argparse.Namespace:
    """Read the command line. Raises UserError for a value that is out of range."""
    parser = command_line.Parser(__doc__, epilog=EPILOG)

    def add(name: str, *others: str, **options: Any) -> None:
        parser.add_argument(f"--{name}", *others, help=HELP[name], **options)

    positive_int, positive_number = command_line.positive_int, command_line.positive_number
    defaults = settings.TrainSettings
    add("model")
    add("recipe")
    add("run", "--run-name", type=command_line.folder_name, default="default")
    add("check", action="store_true")
    add("save-base", action="store_true")
    add("epochs", type=positive_number)
    add("max-steps", type=positive_int)
    add("lr", type=command_line.number(*settings.LEARNING_RATES))
    add("rank", type=command_line.whole_number(1, settings.HIGHEST_RANK), default=defaults.rank)
    add("alpha", type=positive_number, default=defaults.alpha)
    add("rslora", action="store_true")
    add("dropout", type=command_line.rate, default=defaults.dropout)
    add("max-length", type=positive_int, default=defaults.max_length)
    add("batch-tokens", type=positive_int)
    add("accumulate", type=positive_int)
    add("checkpointing", type=checkpointing)
    add("compute", choices=settings.COMPUTE, metavar="COMPUTE")
    add("optimizer", choices=settings.OPTIMIZERS, metavar="OPTIMIZER")
    add("validations", type=positive_int)
    add("patience", type=command_line.whole_number(0), default=defaults.patience)
    add("seed", type=command_line.seed, default=defaults.seed)
    add("seeds", type=command_line.seeds)
    add("limit", type=positive_int)
    add("canaries", type=command_line.whole_number(20, 10_000), default=0, metavar="N")
    add("save-minutes", type=command_line.number(0, command_line.MOST), default=10)
    add("replace-adapter", action="store_true")
    add("preview", action="store_true")
    command_line.add_device(parser)
    command_line.add_arguments(parser)
    args = parser.parse_args()
    of_a_base = {"save_base", "model", "recipe", "device", "storage", "force"}
    command_line.check_alone(parser, vars(args), "save_base", sorted(vars(args).keys() - of_a_base))
    command_line.check_alone(parser, vars(args), "seeds", ["seed"])
    if args.recipe == "cpu":
        limits.hide_gpus()
    return args


def checkpointing(text: str) -> str:
    """Read the argument --checkpointing."""
    if not settings.is_checkpointing(text):
        choices = "none, all, auto, or a number of layers"
        raise argparse.ArgumentTypeError(f"must be {choices}, not {text}")
    return text


def prepare_environment() -> None:
    """Set what libraries read when they are imported."""
    if "CUDA_VISIBLE_DEVICES" not in os.environ and "LOCAL_RANK" not in os.environ:
        # the Trainer would split a batch over all GPUs, which 4 bits do not allow
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"


def read_job(args: argparse.Namespace) -> settings.Job:
    """Complete the arguments by the recipe. Raises UserError for a mistake in it."""
    from mimic_qlora.training import hardware, recipes

    name = args.recipe or hardware.recipe()
    recipe = recipes.read_recipe(name, RECIPES)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(settings.TrainSettings)}
    return settings.Job(
        settings=recipes.complete(given, recipe, name),
        storage=args.storage,
        model=args.model or recipe.model,
        run=f"{args.run}-canaries" if args.canaries else args.run,
        recipe=name,
        save_minutes=args.save_minutes,
        force=args.force,
        replace_adapter=args.replace_adapter,
        preview=args.preview,
    )


def main() -> int | None:
    """Train one adapter, or one for each of --seeds; with --check return an exit code."""
    args = arguments()
    prepare_environment()
    if args.save_base:
        from mimic_qlora.export import base_folder

        base_folder.save(args.storage, args.model, args.force)
        return None
    if not args.check:  # before torch takes its seconds to load
        storage.verified_manifest(storage.open_storage(args.storage), "prompts")
    job = read_job(args)
    if args.check:
        from mimic_qlora.training import preflight

        return preflight.check(job)

    from mimic_qlora.training.run import train_one

    jobs = job.of_seeds(args.seeds) if args.seeds else [job]
    for one in jobs:
        train_one(one)
    if len(jobs) > 1:
        runs = ",".join(one.run for one in jobs)
        together = ending.Options(args.storage, job.model, runs)
        print(f"All of them together:\n  {ending.command('validation', together)}")
    return None


if __name__ == "__main__":
    command_line.run(main)
