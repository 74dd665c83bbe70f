"""A script that several processes share, of work that costs nothing: squares of numbers.

    python squares.py STORE NUMBERS SECONDS [--processes N] [--fail RANK]

Each number takes so many seconds and leaves a file `made-NUMBER-RANK`, another where it was made
before.
"""

import argparse
import os
import signal
import time
from functools import partial
from pathlib import Path

from mimic_qlora.processes import entries, launch, meeting
from mimic_qlora.step import command_line
from mimic_qlora.step.errors import UserError


def main() -> int:
    if patience := os.environ.get("SQUARES_PATIENCE"):
        meeting.STALLED = meeting.ABSENT = float(patience)
    parser = command_line.Parser(__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("numbers", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--how", default="")
    parser.add_argument("--rank", type=int, default=-1, help="of the one that does as --how says")
    command_line.add_processes(parser)
    args = parser.parse_args()
    if launch.wanted(args.processes):
        return launch.start(args.processes)
    with meeting.joined(args.store) as team:
        how = args.how if team.rank == args.rank else ""
        print("one line")
        return work(args, team, how)


def work(args: argparse.Namespace, team: meeting.Team, how: str) -> int:
    if how == "refuse":
        raise UserError("this one has no model")
    path = args.store / "squares.jsonl"
    if team.is_first:
        entries.begin(path, {}, anew=False)
    team.meet({"set of arguments": "another" if how == "differ" else "same"})
    works = [
        entries.Work(i, [str(i)], partial(make, args, team, how, i)) for i in range(args.numbers)
    ]
    try:
        done = entries.in_order(entries.each(works, entries.Journal(path, team)))
        found = [one.entries[0]["value"] for one in done]
        team.meet({})
    except KeyboardInterrupt:
        if not team.is_first:
            raise
        print("stopped")
        return 130
    if team.is_first:
        entries.gather(path)
        print(found)
    return 0


def make(args: argparse.Namespace, team: meeting.Team, how: str, i: int) -> list[entries.Entry]:
    if how == "die" and i > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "break" and i > 2:
        raise ValueError("a fault of the software")
    if how == "fill" and i > 2:
        raise UserError("the disk is full")
    time.sleep(args.seconds)
    with open(args.store / f"made-{i}-{team.rank}", "a") as file:
        file.write("x")
    return [{"key": str(i), "value": i * i}]


if __name__ == "__main__":
    command_line.run(main)
