"""Merge an adapter of step 5 into its base: one model for programs that load no adapter.

    python run_files/export_adapter.py --run default --model meta-llama/Meta-Llama-3-8B-Instruct

Leaves `exports/<run>/` in the storage folder: weights in bfloat16, tokenizer, chat template and a
card. The adapter is added to the 4-bit values that it was trained beside, and the result is
compared with base and adapter side by side before it is kept. Needs memory for the whole model: two
bytes a weight, 16 GB for 8B. docs/other_programs.md has the commands of vLLM, llama.cpp and Ollama.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library of this checkout

from mimic_qlora.step import command_line, storage


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    command_line.add_adapter(parser)
    command_line.add_device(parser)
    command_line.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Merge, check and write."""
    args = arguments()
    store = storage.open_storage(args.storage, checkout=Path(__file__).resolve().parents[1])
    storage.check_adapters(store, [args.run])  # before torch takes its seconds

    from mimic_qlora.export import folder
    from mimic_qlora.llm import finding
    from mimic_qlora.subjects.manifest import data_line, subjects_manifest

    subjects = subjects_manifest(store)
    base = finding.model_path(args.model, store)
    print(f"{data_line(subjects['source'])}\n{finding.describe(base)}", flush=True)
    written: Path = folder.export(store, subjects, args.run, base, args.force)
    print(
        f"\nWrote {written}\nIt is derived from the patients' data as the adapter is, and stays "
        "where that may be; docs/other_programs.md has the commands that load it"
    )


if __name__ == "__main__":
    command_line.run(main)
