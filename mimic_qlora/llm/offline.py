"""transformers and datasets, cut off from the network and quiet; import them through here."""

import contextlib
import importlib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from mimic_qlora.step import faults, limits
from mimic_qlora.step.errors import UserError

# Patient text passes through these libraries: no hub, no telemetry, no kernels fetched at run time.
# Each library reads its variables once, when it is imported.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "USE_HUB_KERNELS": "NO",
}


# With 1.0 GB of addresses the tokenizers abort the process; with 1.5 memory runs out in order.
LEAST_ADDRESSES = 1_500_000_000

# How every model and tokenizer is opened: from this machine, and without running the code that may
# come with it. Left open, transformers asks on the terminal, and a "y" typed ahead runs it.
FROM_HERE = {"local_files_only": True, "trust_remote_code": False}


def refuse_own_code(path: Path, error: Exception) -> None:
    """Raise UserError if transformers failed since a model's folder comes with code of its own."""
    if "custom code" in str(error) or "trust_remote_code" in str(error):
        raise UserError(
            f"{path} comes with code of its own, which is never run here: use a model that "
            "transformers itself knows, such as meta-llama/Meta-Llama-3-8B-Instruct"
        ) from None


def check_kind(path: Path) -> None:
    """Raise UserError unless transformers knows a model's config.json, as one that writes text.

    It reads the config for a tokenizer too, whose fault it then seems to be, or for the weights
    alone, which is after all prompts are encoded.
    """
    transformers = quiet_transformers()
    use = "use a model such as meta-llama/Meta-Llama-3-8B-Instruct"
    try:
        config = transformers.AutoConfig.from_pretrained(path, **FROM_HERE)
    except Exception as error:  # of many kinds, by what stands in it
        if faults.of_the_machine(error):
            raise
        refuse_own_code(path, error)
        reason = " ".join(str(error).split())[:200]
        if "does not recognize this architecture" in reason:
            version = transformers.__version__
            reason = f"transformers {version} does not know this model_type: update it, or {use}"
        else:
            reason = f"{reason}: fetch or copy the model anew"
        raise UserError(f"{path / 'config.json'} cannot be used: {reason}") from None
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{path / 'config.json'} is of a model that does not go on with a text "
            f"({config.model_type}): {use}"
        )


def cut_off() -> None:
    """Keep Hugging Face's libraries from the network; called before the first is imported."""
    os.environ.update(ENVIRONMENT)
    # the threads of its tokenizers do not survive a later fork
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# At import too, so that whoever imports a module of `llm` is cut off, whatever it imports next.
cut_off()


def quiet_transformers() -> Any:
    """Return the module transformers, cut off and without notices and bars; the run itself reports.

    `Any`, since transformers makes its attributes when they are asked for. Raises UserError when it
    or a package of its own is missing, or addresses (`ulimit -v`) or docstrings are.
    """
    cut_off()
    limits.check_addresses(LEAST_ADDRESSES)
    if sys.flags.optimize > 1:
        raise UserError(
            "transformers reads docstrings, which `python -OO` and PYTHONOPTIMIZE=2 take away: "
            "leave these out"
        )
    # deprecations inside peft, and its vain look on the hub for the config of a local base model
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.|peft\.")
    warnings.filterwarnings("ignore", message="Could not find a config file")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers = _imported("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def quiet_datasets() -> Any:
    """Return the module datasets, cut off and without notices and bars.

    Raises UserError when it is not installed.
    """
    cut_off()
    datasets = _imported("datasets")
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    # a cache is the private folder of one run; Lustre and NFS may have no locks
    builder = importlib.import_module("datasets.builder")
    builder.FileLock = lambda path, *_, **__: contextlib.nullcontext()  # type: ignore[attr-defined]
    return datasets


def _imported(name: str) -> Any:
    """Import a package. Raises UserError that names the missing one, as in a Python without any."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the Python package {error.name} is not installed for {sys.executable}: run "
            "`pip install -r requirements.txt`, or use the environment that has it"
        ) from None
