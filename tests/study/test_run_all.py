"""run_all.py: the steps as processes, their exit codes, the log, Ctrl-C, and what it refuses.

Small programs stand in for the scripts where the point is how they are run.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.paths import ROOT
from helpers.scripts import load_script, run_here
from mimic_qlora.step.files import file_identity, write_json
from mimic_qlora.step.step_commands import COMMANDS
from mimic_qlora.study import running
from mimic_qlora.study.commands import Command

STEP = """
import json, os, signal, sys, time
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as command_line.run does
print("told by", sys.argv[0], *sys.argv[1:], flush=True)
if "wait" in sys.argv:
    try:
        open(sys.argv[-1], "w").close()
        while True:  # one long sleep misses a signal that comes just before it
            time.sleep(0.1)
    except KeyboardInterrupt:
        print("stopped well", flush=True)
        sys.exit(130)
names = ("STORAGE_DIR", "MIMIC_DIR", "STUDY")
print(json.dumps({name: os.environ.get(name) for name in names}), flush=True)
sys.exit(int(sys.argv[1]) if sys.argv[1:2] and sys.argv[1].isdigit() else 0)
"""
RUN = """
import sys
from pathlib import Path
from mimic_qlora.step import command_line
from mimic_qlora.study import running
from mimic_qlora.study.commands import Command
root = Path(sys.argv[1])
def main():
    log = root / "log" if sys.argv[3] == "log" else None
    step = Command(5, "adapters", ("wait", sys.argv[2]), log)
    ended = running.run_all([step], root, {})
    return ended.code if ended else 0
command_line.run(main)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with stand-ins for the scripts."""
    for command in COMMANDS.values():
        name = command.split()[-1]
        path = tmp_path / ("run_files" if "run.sh" in name else ".") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"exec python - \"$@\" <<'E'{STEP}E\n" if "run.sh" in name else STEP)
    return tmp_path


def test_the_steps_run_in_their_order_and_the_first_that_fails_is_the_last(
    root, capfd, monkeypatch
):
    monkeypatch.setenv("STORAGE_DIR", "/elsewhere")
    log = root / "train.log"
    steps = [
        Command(1, "subjects", ("--seed", "1 2")),
        Command(5, "adapters", (), log),
        Command(7, "validation", ("3",)),
        Command(7, "validation", ("0",)),
    ]
    assert running.run_all(steps[:2], root, {"STUDY": "s"}) is None
    out = capfd.readouterr().out
    assert "=== step 1: python convert_to_jsonl.py --seed '1 2'\n" in out
    assert out.index("=== step 1 took") < out.index("=== step 5: python train_qlora.py\n")
    given = json.loads(log.read_text().splitlines()[1])
    assert given == {"STORAGE_DIR": None, "MIMIC_DIR": None, "STUDY": "s"}
    assert "told by" in log.read_text() and log.read_text() in out
    ended = running.run_all(steps, root, {})
    assert (ended.command, ended.code) == (steps[2], 3)
    out = capfd.readouterr().out
    assert "=== step 7: cd run_files && ./run.sh 3" in out and "./run.sh 0" not in out
    assert log.read_text().count("told by") == 2  # a run that goes on adds to the log


@pytest.mark.parametrize("log", ["log", "none"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_first_and_keeps_its_exit_code(root, number, log, tmp_path):
    there = tmp_path / "there"
    os.mkfifo(there)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, root, there, log],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    there.read_bytes()  # the step has begun
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert ("stopped well" in out) == (number == signal.SIGINT)
    if log == "log":
        assert (root / "log").read_text() in out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_log_that_cannot_be_written_ends_the_step_and_leaves_it_not_waiting(root, tmp_path):
    (root / "log").symlink_to("/dev/full")
    # more than a pipe holds
    (root / "train_qlora.py").write_text("for n in range(50_000): print('a step', flush=True)")
    words = [sys.executable, "-c", RUN, root, tmp_path / "there", "log"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode and "BrokenPipeError" in done.stderr  # of the stand-in
    assert "Exception in thread" not in done.stderr


def test_ctrl_c_as_a_step_ends_does_not_lose_its_exit_code(root, monkeypatch):
    """On a busy machine both come at once; a lost code was read as 0, and the next step began."""
    wait = os.waitpid

    def interrupted(process, flags):
        found = wait(process, flags)
        if found[0]:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(os, "waitpid", interrupted)
    steps = [Command(1, "subjects", ("130",)), Command(2, "summary", ("3",))]
    ended = running.run_all(steps, root, {})
    assert (ended.command.number, ended.code) == (1, 130)


def test_lines_are_copied_whole_so_that_a_terminal_folds_them(root, monkeypatch):
    (root / "train_qlora.py").write_text(
        "import sys\nfor text in ('one ', 'line\\n'):\n    print(text, end='', flush=True)\n"
    )
    copied = []
    stdout = SimpleNamespace(encoding="utf-8", write=copied.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", stdout)
    running.run_all([Command(5, "adapters", (), root / "log")], root, {})
    assert "one line\n" in copied and (root / "log").read_text() == "one line\n"


@pytest.mark.parametrize(("code", "word"), [(2, "put that right"), (137, "memory"), (130, "")])
def test_where_a_study_stopped_is_told_with_what_to_do(code, word):
    said = load_script(ROOT / "run_files" / "run_all.py").stopped(4, code)
    assert said.startswith("Step 4 ") and word in said and said.endswith("goes on from there")


EARLY = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
from mimic_qlora.step import command_line
command_line.run(lambda: 0)
"""


def test_ctrl_c_while_a_step_starts_ends_it_with_a_sentence(root, capfd):
    (root / "convert_to_jsonl.py").write_text(EARLY)
    steps = [Command(1, "subjects", ()), Command(2, "summary", ())]
    ended = running.run_all(steps, root, {"PYTHONPATH": str(ROOT)})
    assert (ended.command.number, ended.code) == (1, 130)
    said = capfd.readouterr().err
    assert said == "\nstopped; nothing that earlier runs finished is lost\n"


def run_all(storage, *args, **environment):
    return run_here("run_files/run_all.py", *args, storage=storage, **environment)


def study(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_dry_run_checks_and_makes_nothing(tmp_path):
    done = run_all(tmp_path / "storage", "demo.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "python train_qlora.py" in done.stdout and not (tmp_path / "storage").exists()


@pytest.mark.parametrize("source", [{"kind": "mimic"}, ["damaged"], None, "unfinished"])
def test_real_patients_are_not_replaced_by_the_demo(tmp_path, source):
    subjects = tmp_path / "storage" / "subjects"
    if source == "unfinished":  # and the record of the run is gone
        (subjects.with_name(".subjects.partial") / "parts").mkdir(parents=True)
    else:
        subjects.mkdir(parents=True)
        write_json(subjects / "manifest.json", {"source": source})
    done = run_all(tmp_path / "storage", "demo.yaml")
    assert done.returncode == 2 and "holds real patients" in done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1


@pytest.mark.parametrize("how", [(), ("--dry-run",)])
def test_real_patients_are_not_replaced_by_those_of_another_folder(tmp_path, tiny_mimic, how):
    """Those of the same tables in another place are no others."""
    subjects = tmp_path / "storage" / "subjects"
    subjects.mkdir(parents=True)
    tables = {f"hosp/{path.name}": file_identity(path) for path in tiny_mimic.glob("hosp/*.gz")}
    source = {"kind": "mimic", "version": "3.1", "folder": "/elsewhere", "patients": 7}
    path = study(tmp_path, f"data: {{from: {tiny_mimic}}}")
    for sizes, code in ((0, 0), (1, 2)):
        other = {name: {**one, "bytes": one["bytes"] + sizes} for name, one in tables.items()}
        write_json(subjects / "manifest.json", {"source": source, "inputs": other})
        if code == 0 and not how:
            continue  # it would run all seven steps
        done = run_all(tmp_path / "storage", path, *how)
        assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1 and "/elsewhere, which those of" in done.stderr


WRONG = {
    "mimic": ("data: {from: nowhere}", "line 1, data.from: "),
    "subjects": ("data: {from: MIMIC, subjects_file: x}", "data.subjects_file: there is no file"),
    "made up": ("data: {from: MIMIC, synthetic_patients: 60}", "synthetic_patients: needs data"),
    "made up visits": ("data: {from: MIMIC, synthetic_emergency: true}", "emergency: needs data"),
    "judge": ("data: {from: synthetic}\nvalidation: {judge: ./x}", "line 2, validation.judge: "),
    "demo": ("data: {from: synthetic, fetch_demo: true}", "data.fetch_demo: needs a folder"),
    "model": ("data: {from: synthetic}\nmodel: ./no/model", "line 2, model: "),
    "recipe": ("data: {from: synthetic}\ntraining: {recipe: x}", "training.recipe: there is no"),
    "one by one": (
        "data: {from: synthetic}\nvalidation: {strict: true, batch_size: 4}",
        "line 2, validation.batch_size: strict answers one by one",
    ),
    "urgency": (
        "data: {from: synthetic}\nvalidation: {tasks: urgency, judge: base}",
        "line 2, validation.judge: tasks: urgency takes none",
    ),
    "plan": ("data: {from: synthetic}\nvalidation: {plan: x}", "validation.plan: there is no"),
    "few runs": ("data: {from: synthetic}\nvalidation: {plan: PLAN}", "its runs are"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_step_would_miss_is_told_before_the_first(name, tmp_path, tiny_mimic):
    text, said = WRONG[name]
    plan = str(ROOT / "run_files" / "plan.yaml")
    path = study(tmp_path, text.replace("MIMIC", str(tiny_mimic)).replace("PLAN", plan))
    done = run_all(tmp_path / "storage", path)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert done.stderr.startswith(f"error: {path}") and done.stderr.count("\n") == 1
    assert done.stdout == "" and not (tmp_path / "storage").exists()
