"""Claim: on a CPU, step 5 trains more tokens a CPU-second than TRL and Unsloth, learning the same.

    python benchmarks/train_cpu.py --storage storage --trl VENV/bin/python --unsloth VENV/bin/python

Takes step 4's prompts of the storage folder, or makes the demo's. Every system runs in the Python
given for it, on the same prompts and the same embedded model, one after the other, repeated in
turn; a system that fails says how. `--fp32` adds TRL computing in float32, which some CPUs multiply
faster than bfloat16. With `--results FILE` rounds add to those of earlier calls, so that a long run
can be cut into short ones.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import measure

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).with_name("train_cpu_worker.py")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--storage", default="storage", help="where step 4's prompts are (default: %(default)s)"
    )
    parser.add_argument(
        "--prompts", type=int, default=24, help="train on the first so many (default: %(default)s)"
    )
    parser.add_argument(
        "--room", type=int, default=1536, help="tokens of a packed row (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=2, help="rounds over all systems (default: %(default)s)"
    )
    parser.add_argument("--trl", help="Python of an environment with TRL")
    parser.add_argument("--unsloth", help="Python of an environment with Unsloth")
    parser.add_argument("--fp32", action="store_true", help="TRL in float32 as well")
    parser.add_argument(
        "--results", type=Path, help="keep all rounds in this file, and take those in it along"
    )
    args = parser.parse_args()

    from mimic_qlora.llm import finding

    prompts = Path(args.storage) / "prompts" / "train.jsonl"
    if not prompts.exists():
        make_prompts(args.storage)
    model = finding.model_path(None, Path(args.storage))
    records = [
        json.loads(line)
        for line in prompts.read_text(encoding="utf-8").splitlines()[: args.prompts]
    ]
    systems = {"ours-auto": sys.executable, "ours-bf16": sys.executable}
    if args.trl:
        systems |= dict.fromkeys(("trl-padded", "trl-packed"), args.trl)
        systems |= dict.fromkeys(
            ("trl-padded-fp32", "trl-packed-fp32") if args.fp32 else (), args.trl
        )
    if args.unsloth:
        systems["unsloth"] = args.unsloth
    runs = json.loads(args.results.read_text()) if args.results and args.results.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prompts.json").write_text(json.dumps(records))
        for n in range(args.repeats):
            for system, python in systems.items():
                run = one_run(python, system, model, Path(folder), n, args.room)
                runs.setdefault(system, []).append(run)
                print(
                    f"round {len(runs[system])}  {system:16}",
                    run.get("failed") or f"{run['cpu_s']:.1f} CPU-s",
                    flush=True,
                )
                if args.results:
                    args.results.write_text(json.dumps(runs))
    table(runs)


def make_prompts(storage: str) -> None:
    """What the demo does before it trains."""
    options = ["--token-budget", "350", "--max-total", "80"]
    for step in (
        ["convert_to_jsonl.py"],
        ["feature_select_xgb_columns.py"],
        ["make_symptom_prompts_ctx_dxpx.py", *options],
    ):
        command = [sys.executable, str(ROOT / step[0]), *step[1:], "--storage", storage]
        environment = {name: value for name, value in os.environ.items() if name != "MIMIC_DIR"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def one_run(python: str, system: str, model: Path, folder: Path, n: int, room: int) -> dict:
    result, errors = folder / f"{system}-{n}.json", folder / f"{system}-{n}.err"
    with open(errors, "w") as file:
        command = [python, WORKER, system, model, folder / "prompts.json", result, room]
        cost = measure([str(part) for part in command], stderr=file)
    if cost.code or not result.exists():
        said = errors.read_text().strip().splitlines() or ["nothing said"]
        return {"failed": f"failed with code {cost.code}: {said[-1][:300]}"}
    return json.loads(result.read_text()) | {"peak_mb": cost.peak_mb}


def table(runs: dict) -> None:
    """Print medians over the rounds, with the range in brackets.

    The tokens of every system are our count of the prompts.
    """
    counts = next(run for run in runs["ours-auto"] if "tokens" in run)
    done = {system: [run for run in rounds if "cpu_s" in run] for system, rounds in runs.items()}
    speeds = {
        system: [counts["tokens"] / run["cpu_s"] for run in rounds]
        for system, rounds in done.items()
    }
    peers = [
        statistics.median(found)
        for system, found in speeds.items()
        if found and not system.startswith("ours")
    ]
    print(
        f"\n{counts['tokens']:,} tokens, {counts['supervised']:,} supervised, "
        "in one epoch of every run\n"
    )
    print(
        "| system | rounds | tokens per CPU-s | supervised | of the best peer | peak MB | loss "
        "| gradient norm |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for system, rounds in runs.items():
        if not done[system]:
            print(f"| {system} | {rounds[0]['failed']} | | | | | | |")
            continue
        speed = statistics.median(speeds[system])
        supervised = speed * counts["supervised"] / counts["tokens"]
        ratio = f"{speed / max(peers):.2f}" if peers else ""
        losses, norms = (
            " ".join(f"{x:.3f}" for x in done[system][0][name]) for name in ("loss", "grad_norm")
        )
        print(
            f"| {system} | {len(done[system])} | {spread(speeds[system])} | {supervised:.0f} "
            f"| {ratio} | {spread([run['peak_mb'] for run in done[system]])} | {losses} | {norms} |"
        )


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


if __name__ == "__main__":
    main()
