"""Claim: step 5 starts in seconds and loses no more than --save-minutes to SIGKILL.

    python benchmarks/training_recovery.py --storage storage

Trains the embedded model on step 4's prompts (`make demo` leaves some), a step a sequence, with a
checkpoint each step, and kills it at random moments. All is read from outside: lines of output and
file times.
"""

import argparse
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEP = re.compile(r"^step +(\d+)/\d+ loss")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--storage", default="storage", help="where step 4's prompts are (default: %(default)s)"
    )
    parser.add_argument(
        "--kills", type=int, default=3, help="how often to kill (default: %(default)s)"
    )
    args = parser.parse_args()
    options = [
        "--storage",
        args.storage,
        "--run",
        "recovery",
        "--max-steps",
        "30",
        "--accumulate",
        "1",
        "--limit",
        "30",
    ]
    command = [sys.executable, "-u", str(ROOT / "train_qlora.py"), *options, "--save-minutes", "0"]
    draw, starts, saves, lost, before = random.Random(0), [], [], [], None
    for kill in range(args.kills):
        last, resumed, first = run(
            command, ["--force"] if not kill else [], kill_after=draw.uniform(2, 12)
        )
        starts.append(first)
        if kill:
            lost.append(before - resumed)
        before = last
        for state in (Path(args.storage) / "adapters" / ".recovery.training").glob(
            "checkpoint-*/trainer_state.json"
        ):
            times = [file.stat().st_mtime for file in state.parent.iterdir()]
            saves.append(max(times) - min(times))
    _, resumed, first = run(command, [], kill_after=0)
    lost.append(before - resumed)
    print(
        "| seconds to the first step's end | seconds a checkpoint takes "
        "| steps lost to each SIGKILL |"
    )
    print("| --- | --- | --- |")
    print(
        f"| {statistics.median(starts + [first]):.0f} | {statistics.median(saves):.2f} | {lost} |"
    )


def run(command: list, more: list, kill_after: float) -> tuple[int, int, float]:
    """Kill the run so many seconds after its first step.

    Returns the last step that it told, the step it went on from, and its start-up seconds.
    """
    began, first, last, resumed = time.time(), 0.0, 0, 0
    process = subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    for line in process.stdout:
        if going_on := re.match(r"Going on from step (\d+)", line):
            last = resumed = int(going_on[1])
        if told := STEP.match(line):
            last, first = int(told[1]), first or time.time() - began
        if first and time.time() - began - first > kill_after:
            process.kill()
    process.wait()
    return last, resumed, first


if __name__ == "__main__":
    main()
