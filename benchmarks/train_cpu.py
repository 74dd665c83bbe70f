"""Claim: on a CPU, step 5 trains more tokens a CPU-second than TRL and Unsloth do, and learns the same.

    python benchmarks/train_cpu.py --storage storage --trl VENV/bin/python --unsloth VENV/bin/python

Takes step 4's prompts of the storage folder, or makes the demo's. Every system runs in the Python given for it, on
the same prompts and the same embedded model, one after the other, repeated in turn; a system that fails says how.
`--fp32` adds TRL computing in float32, which some CPUs multiply faster than bfloat16.
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
sys.path.insert(0, str(ROOT))
WORKER = Path(__file__).with_name("train_cpu_worker.py")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default="storage", help="where step 4's prompts are (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=8, help="train on the first so many (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="rounds over all systems (default: %(default)s)")
    parser.add_argument("--trl", help="Python of an environment with TRL")
    parser.add_argument("--unsloth", help="Python of an environment with Unsloth")
    parser.add_argument("--fp32", action="store_true", help="TRL in float32 as well")
    args = parser.parse_args()

    from mimic_qlora import models

    prompts = Path(args.storage) / "prompts" / "train.jsonl"
    if not prompts.exists():
        make_prompts(args.storage)
    model = models.model_path(None, Path(args.storage))
    records = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()[: args.prompts]]
    systems = {"ours-auto": sys.executable, "ours-bf16": sys.executable}
    if args.trl:
        systems |= dict.fromkeys(("trl-padded", "trl-packed"), args.trl)
        systems |= dict.fromkeys(("trl-padded-fp32", "trl-packed-fp32") if args.fp32 else (), args.trl)
    if args.unsloth:
        systems["unsloth"] = args.unsloth
    runs = {system: [] for system in systems}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prompts.json").write_text(json.dumps(records))
        for n in range(args.repeats):
            for system, python in systems.items():
                run = one_run(python, system, model, Path(folder), n)
                runs[system].append(run)
                print(f"round {n + 1}  {system:16}", run.get("failed") or f"{run['cpu_s']:.1f} CPU-s", flush=True)
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


def one_run(python: str, system: str, model: Path, folder: Path, n: int) -> dict:
    result, errors = folder / f"{system}-{n}.json", folder / f"{system}-{n}.err"
    with open(errors, "w") as file:
        cost = measure(
            [python, str(WORKER), system, str(model), str(folder / "prompts.json"), str(result)], stderr=file
        )
    if cost.code or not result.exists():
        said = errors.read_text().strip().splitlines() or ["nothing said"]
        return {"failed": f"failed with code {cost.code}: {said[-1][:300]}"}
    return json.loads(result.read_text()) | {"peak_mb": cost.peak_mb}


def table(runs: dict) -> None:
    """Medians over the rounds; tokens are our count of the same prompts for every system."""
    counts = next(run for run in runs["ours-auto"] if "tokens" in run)
    best = 0
    for rounds in (r for s, r in runs.items() if not s.startswith("ours")):
        done = [run["cpu_s"] for run in rounds if "cpu_s" in run]
        best = max(best, counts["tokens"] / statistics.median(done) if done else 0)
    print(f"\n{counts['tokens']:,} tokens, {counts['supervised']:,} supervised, in one epoch of every run\n")
    print(
        "| system | tokens per CPU-s | supervised | of the best peer | peak MB | first and last loss | gradient norms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for system, rounds in runs.items():
        done = [run for run in rounds if "cpu_s" in run]
        if not done:
            print(f"| {system} | {rounds[0]['failed']} | | | | | |")
            continue
        cpu = statistics.median(run["cpu_s"] for run in done)
        peak = statistics.median(run["peak_mb"] for run in done)
        speed, losses = counts["tokens"] / cpu, [x for x in done[0]["loss"]]
        ratio = f"{speed / best:.2f}" if best else ""
        norms = " ".join(f"{x:.2f}" for x in done[0]["grad_norm"])
        print(
            f"| {system} | {speed:.1f} | {counts['supervised'] / cpu:.1f} | {ratio} | {peak:,.0f} "
            f"| {losses[0]:.3f} {losses[-1]:.3f} | {norms} |"
        )


if __name__ == "__main__":
    main()
