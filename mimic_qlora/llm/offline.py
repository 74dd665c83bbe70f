"""transformers, cut off from the network and quiet: import it through `quiet_transformers`, never directly."""

import os
import warnings

# transformers reads these when it is imported, so they are set before any function here imports it; patient text
# passes through these libraries, hence no hub, no telemetry, no kernels fetched at run time
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    USE_HUB_KERNELS="NO",
)
os.environ.setdefault(
    "TOKENIZERS_PARALLELISM", "false"
)  # its threads and a later fork do not go together


def quiet_transformers():
    """transformers, without its notices and bars: what a run says is said by the run."""
    import logging

    # deprecations inside peft, and its vain look on the hub for a base model that is not there under its own name
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.|peft\.")
    warnings.filterwarnings("ignore", message="Could not find a config file")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
