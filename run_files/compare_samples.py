"""Compare two runs of lm-evaluation-harness document by document: what did the adapter forget?

    python run_files/compare_samples.py storage/lm_eval_results/base storage/lm_eval_results/adapter

Both folders were an --output_path of lm_eval with --log_samples. Documents are paired. Right or
wrong ones get a score interval of the paired difference (Tango, 1998) and McNemar's exact test; our
own tasks are clustered by question and patient, as in step 7. "Forgot nothing" takes every score to
be at most 0.03 lower (0.02 for MedMCQA and for all right-or-wrong tasks pooled), with 97.5%
confidence each; claims about single tasks are corrected by Holm over the tasks. Arms that differ in
precision, chat template or prompts are told so, and nothing is claimed. It prints no document.

Exit codes: 0 done, 2 something to put right.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library of this checkout

from mimic_qlora.step import command_line, files, terminal


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("base", metavar="BASE", help="folder of the base's samples")
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter's samples")
    return parser.parse_args()


def main() -> None:
    """Read, pair, compare and tell."""
    args = arguments()

    from mimic_qlora.validation.samples import pairing, sample_files, verdict

    base, adapter = (
        sample_files.read(files.given_path(name)) for name in (args.base, args.adapter)
    )
    verdict.check_arms(base, adapter)
    for name, ran in (("Base", base), ("Adapter", adapter)):
        beside = f", adapter {ran.adapter}" if ran.adapter else ""
        print(f"{name}: {ran.model or 'unknown model'}{beside} ({ran.precision})")
        if ran.passed_over:
            print(
                f"note: not compared, as {ran.folder} holds earlier runs of them alone: "
                f"{', '.join(ran.passed_over)}; run all tasks in one"
            )
        if ran.lost:
            print(
                f"note: {ran.folder} holds fewer documents than its results count, so copy its "
                f"samples once more, unless --samples chose some: {', '.join(ran.lost)}"
            )
        if ran.incomplete:
            print(
                f"note: not compared, as not every document in {ran.folder} has a score: "
                f"{', '.join(ran.incomplete)}"
            )
    pairs = pairing.pair(base, adapter)
    found = pairing.compare(base, pairs)
    print(f"\n{verdict.table(found)}\n")
    differ = verdict.differences(base, adapter, pairs)
    for sentence in verdict.sentences(found, differ):
        print(terminal.fitted(sentence, terminal.width()))


if __name__ == "__main__":
    command_line.run(main)
