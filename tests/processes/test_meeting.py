"""Several processes share work: each part is done once, and nobody waits for one that is gone.

The processes are real, and so are signals and kills; the work costs nothing (helpers/squares.py).
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import launched, squares
from helpers.paths import ROOT
from mimic_qlora.processes import launch

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
N = 9
SQUARES = str([i * i for i in range(N)])


@pytest.fixture
def start(tmp_path):
    """start(seconds, "--processes", 2): a run of helpers/squares.py; those left are killed."""
    started = []

    def start(seconds=0.0, *options, numbers=N, **variables):
        command = [sys.executable, squares.__file__, tmp_path, numbers, seconds, *options]
        own = {k: v for k, v in os.environ.items() if k not in launched.variables(0)}
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**own, **variables},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process, seconds=60) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def made(folder: Path) -> dict[int, str]:
    """Return who made each number, in the order of the process."""
    return {
        int(path.name.split("-")[1]): path.name.split("-")[2] * len(path.read_text())
        for path in folder.glob("made-*")
    }


@pytest.mark.parametrize("n", [1, 2, 4])
def test_each_part_is_done_once_by_its_process_and_one_speaks(start, tmp_path, n):
    code, out, err = ended(start(0.0, "--processes", n))
    assert (code, out, err) == (0, f"one line\n{SQUARES}\n", "")
    assert made(tmp_path) == {i: str(i % n) for i in range(N)}
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {"", ".jsonl"}
    assert not (tmp_path / ".processes").exists()
    again = ended(start(0.0, "--processes", 2))
    assert again == (0, f"one line\n{SQUARES}\n", "") and len(made(tmp_path)) == N


def test_more_processes_than_parts_leave_some_without_work(start, tmp_path):
    assert ended(start(0.0, "--processes", 3, numbers=1))[:2] == (0, "one line\n[0]\n")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run_in_a_sentence_and_the_next_goes_on(
    start, tmp_path, rank
):
    code, out, err = ended(start(0.01, "--processes", 2, "--how", "die", "--rank", rank))
    says = f"error: process {rank} of 2 was killed (signal 9): the same command goes on from here\n"
    assert (code, out, err) == (2, "one line\n", says)
    before = made(tmp_path)
    assert 0 < len(before) < N
    assert ended(start(0.0, "--processes", 3))[:2] == (0, f"one line\n{SQUARES}\n")
    after = made(tmp_path)
    assert before.items() <= after.items() and all(len(who) == 1 for who in after.values())


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("refuse", "this one has no model"),
        ("differ", "has another set of arguments than the first"),
        ("fill", "the disk is full"),
    ],
)
def test_what_stops_one_process_is_said_once_by_the_first(start, how, says):
    code, out, err = ended(start(0.0, "--processes", 3, "--how", how, "--rank", 1))
    assert (code, out) == (2, "one line\n") and err.count("\n") == 1
    assert err.startswith("error: process 1 of 3 on ") and says in err


def test_the_first_that_ends_between_two_looks_has_said_why():
    """Processes are made up: no real ones end at this moment each time."""

    class Ending:
        def __init__(self, *codes):
            self.codes, self.returncode = iter(codes), codes[-1]

        def poll(self):
            return next(self.codes, self.returncode)

    assert launch._watched([Ending(None, 2), Ending(None, None, 2)], []) == 2


def test_a_fault_of_the_software_in_one_process_keeps_its_traceback(start):
    code, out, err = ended(start(0.0, "--processes", 2, "--how", "break", "--rank", 1))
    assert code == 2 and "a fault of the software" in err
    assert "error: process 1 of 2 on" in err and "ValueError, see its traceback" in err


def test_an_error_of_the_first_process_ends_all(start):
    code, out, err = ended(start(0.0, "--processes", 3, "--how", "refuse", "--rank", 0))
    assert (code, out, err) == (2, "one line\n", "error: this one has no model\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_all_once_and_what_was_done_stays(start, tmp_path, number, code):
    process = start(0.2, "--processes", 2)
    while len(made(tmp_path)) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    found, out, err = ended(process)
    assert found == code and "Traceback" not in err
    assert out == ("one line\nstopped\n" if number == signal.SIGINT else "one line\n")
    assert ended(start(0.0))[:2] == (0, f"one line\n{SQUARES}\n")
    again = sum(len(who) - 1 for who in made(tmp_path).values())
    assert again <= 2  # each of two may be stopped between making a number and writing it down


INTERRUPTED = """
import os, random, signal, subprocess
from mimic_qlora.processes import launch

def let_through():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

launch.POLL = 0
launch._one = lambda rank, variables: subprocess.Popen(["sleep", "60"], preexec_fn=let_through)
# a timer sends it at any moment of a look
signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
for _ in range(60):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.01, 0.02))
    assert launch.start(1) == 130
"""


def test_ctrl_c_while_the_launcher_looks_at_a_process_leaves_no_lock_taken():
    """One in five did, and the launcher waited without end for a process that had ended."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, timeout=60)
    assert done.returncode == 0


def two_hosts(start, patience: float, seconds=0.0, **options):
    """Start two processes as launchers of two hosts do, which know nothing of each other."""
    runs = []
    for rank in range(2):
        variables = launched.variables(rank) | {
            "LOCAL_RANK": "0",
            "SQUARES_PATIENCE": str(patience),
        }
        runs.append(start(seconds, *(f"--{k}={v}" for k, v in options.items()), **variables))
    return runs


def test_a_host_that_is_lost_is_noticed_by_the_other_one(start, tmp_path):
    """Either process is killed, and no launcher tells the other one."""
    for lost in (0, 1):
        began = time.monotonic()
        runs = two_hosts(start, 3, seconds=0.1, how="die", rank=lost)
        codes = [ended(run) for run in runs]
        code, _, err = codes[1 - lost]
        assert codes[lost][0] == -signal.SIGKILL and code == 2, codes
        assert f"error: process {lost} of 2 on " in err and "goes on from here" in err
        assert err.count("\n") == 1 and time.monotonic() - began < 30
    assert [ended(run)[0] for run in two_hosts(start, 60)] == [0, 0]
    assert all(len(who) == 1 for who in made(tmp_path).values())


def test_a_process_that_never_comes_is_not_waited_for_without_end(start):
    alone = start(0.0, **launched.variables(0), SQUARES_PATIENCE="1")
    code, out, err = ended(alone)
    assert code == 2 and err.startswith("error: process 1 of 2 did not come: start all")
    assert err.count("\n") == 1 and "unset RANK" in err


def test_a_launched_script_starts_no_further_processes(start):
    code, _, err = ended(start(0.0, "--processes", 2, **launched.variables(0)))
    assert code == 2 and err == "error: a launcher started this process: leave --processes out\n"


@pytest.mark.soak
def test_kills_of_any_process_at_any_moment_lose_and_double_nothing(start, tmp_path):
    draw = random.Random(3)
    for _ in range(20):
        for path in filter(Path.is_file, tmp_path.iterdir()):  # what a killed run left stays
            path.unlink()
        code = None
        for _ in range(4):
            process = start(0.05, "--processes", 3, SQUARES_PATIENCE="10")
            time.sleep(draw.uniform(0.1, 1.2))
            listed = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
            ).stdout.split()
            victim = draw.choice([*listed, str(process.pid)])
            os.kill(int(victim), signal.SIGKILL)
            if victim == str(process.pid):  # its processes go on, and end
                for pid in listed:
                    while Path(f"/proc/{pid}").exists():
                        time.sleep(0.02)
            code, out, err = ended(process)
            assert code in (0, 2, -signal.SIGKILL), err
        code, out, err = ended(start(0.0, "--processes", 2))
        assert (code, out) == (0, f"one line\n{SQUARES}\n"), err
        assert all(len(who) <= 2 for who in made(tmp_path).values())
