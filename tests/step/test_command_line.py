"""The command line that scripts share: what ends in one sentence, what a signal leaves, help."""

import argparse
import os
import signal
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import command_line
from mimic_qlora.step.errors import UserError

MAIN = """
import os, signal, sys
from mimic_qlora.step import command_line, storage
def main():
    {body}
command_line.run(main)
"""


def leave(body: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a main with this body in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", MAIN.format(body=body), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_that_a_library_swallows_still_ends_as_one(name, code):
    swallow = f"""try: os.kill(os.getpid(), signal.{name})
    except BaseException: pass
    raise ValueError("half imported")"""
    ended = leave(swallow)
    assert ended.returncode == code and "Traceback" not in ended.stderr


@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_of_a_library_that_gets_no_thread_is_told_as_that(swallowed):
    """OpenBLAS sends itself one as numpy is imported under a small `ulimit -u`."""
    body = """import threading
    def refused(thread): raise RuntimeError("can't start new thread")
    threading.Thread.start = refused
    try: os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt: raise """
    ended = leave(body + ("ValueError('half imported')" if swallowed else "KeyboardInterrupt"))
    assert ended.returncode == 2 and ended.stderr.startswith("error: no further process or thread")


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_in_the_midst_of_a_step_leaves_no_half_written_folder(tmp_path, name, code):
    body = """from pathlib import Path
    with storage.step_output(Path(sys.argv[1]), "features", {}, {}) as out:
        (out.path / "half.csv").write_text("a")
        print("writing", flush=True)
        sys.stdin.read()"""
    command = [sys.executable, "-c", MAIN.replace("{body}", body), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as step:
        assert step.stdout.readline() == "writing\n"  # the folder is there: now the signal comes
        assert (tmp_path / ".features.partial" / "half.csv").exists()
        step.send_signal(getattr(signal, name))
        assert "Traceback" not in step.stderr.read()
    assert step.returncode == code
    assert not (tmp_path / ".features.partial").exists() and not (tmp_path / "features").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_after_the_end_is_no_traceback(name):
    """What Python closes at its end unwinds nothing: an exception there would be printed whole."""
    ended = leave(f"import atexit; atexit.register(os.kill, os.getpid(), signal.{name})")
    assert ended.returncode == -getattr(signal, name) and not ended.stderr


@pytest.mark.parametrize("first", ["KeyboardInterrupt", "command_line.UserError('no')"])
def test_ctrl_c_once_more_while_it_says_why_it_ends_is_no_traceback(first):
    body = f"""command_line.print = command_line._say_error = (
        lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    raise {first}"""
    ended = leave(body)
    assert ended.returncode == -signal.SIGINT and not ended.stderr


@pytest.mark.parametrize("given", [["--model", ""], ["--model="], ["--mod", ""]])
def test_an_option_that_a_shell_made_empty_is_refused_and_takes_no_default(given):
    parser = command_line.Parser("A script.")
    parser.add_argument("--model")
    parser.add_argument("n", nargs="?")
    with pytest.raises(UserError, match="--model is empty: give it a value, or leave it out"):
        parser.parse_args(given)
    assert parser.parse_args([]).model is None and parser.parse_args([""]).n == ""


@pytest.mark.parametrize("value", ["../x", ""])
@pytest.mark.parametrize("typed", ["--run", "--run-name"])
def test_the_option_is_named_that_was_typed(monkeypatch, typed, value):
    monkeypatch.setattr(sys, "argv", ["a.py", f"{typed}={value}"])
    parser = command_line.Parser("A script.")
    parser.add_argument("--run", "--run-name", type=command_line.folder_name)
    with pytest.raises(UserError, match=f"^{typed} must be a name of letters" if value else typed):
        parser.parse_args()


def test_a_file_that_cannot_be_opened_is_named_in_one_sentence(tmp_path):
    ended = leave(f"open({str(tmp_path / 'gone.csv')!r})")
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: ") and "gone.csv" in ended.stderr


@pytest.mark.parametrize("epoch", ["yesterday", "", "9" * 12, "1.5"])
def test_a_date_that_libraries_fail_at_is_one_sentence(epoch, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    ended = leave("pass")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: SOURCE_DATE_EPOCH is {epoch!r}, ")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert leave("pass").returncode == 0


def test_a_fault_of_the_software_keeps_its_traceback():
    assert "Traceback" in leave("raise ValueError('a bug')").stderr


def test_a_reader_that_has_gone_ends_the_command_in_one_sentence():
    body = """sys.stdin.readline()
    for _ in range(100_000): print("x" * 100)"""
    command = [sys.executable, "-c", MAIN.format(body=body)]
    reading, writing = os.pipe()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as step:
        os.close(writing)
        os.close(reading)
        _, errors = step.communicate("go\n", timeout=600)
    assert step.returncode == 141 and errors.count("\n") == 1 and errors.startswith("error: ")


# ---------------------------------------------------------------- types of arguments

TYPES = {
    "positive_int": (
        command_line.positive_int,
        {"7": 7, " 7 ": 7},
        ["0", "-1", "1.5", "x", "", "9" * 20],
    ),
    "positive_number": (
        command_line.positive_number,
        {"0.5": 0.5, "1e3": 1000.0},
        ["0", "-1", "nan", "inf", "x", "1e308"],
    ),
    "whole_number": (
        command_line.whole_number(0, 10),
        {"0": 0, "10": 10},
        ["-1", "11", "0.5", "nan", "9" * 5000],
    ),
    "number": (command_line.number(0.5, 2), {"0.5": 0.5, "2": 2.0}, ["0.4", "2.1", "nan", "inf"]),
    "share": (command_line.share, {"0.1": 0.1, "1": 1.0}, ["0", "1.1", "nan", "-0.5"]),
    "rate": (command_line.rate, {"0": 0.0, "0.99": 0.99}, ["1", "-0.1", "nan"]),
    "seed": (command_line.seed, {"0": 0, str(2**32 - 1): 2**32 - 1}, ["-1", str(2**32), "x"]),
    "seeds": (command_line.seeds, {"0,1,2": (0, 1, 2)}, ["0,0", "0,", "a", ""]),
    "text": (command_line.text, {"é 漢": "é 漢", "caf\udcc3\udca9": "café"}, []),
    "folder_name": (
        command_line.folder_name,
        {"seed.1": "seed.1"},
        ["", "../x", ".x", "a b", "a" * 101],
    ),
    "folder_names": (command_line.folder_names, {"a,b": ("a", "b")}, ["a,", "a,../b"]),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_type_reads_what_it_takes_and_refuses_all_else_in_one_sentence(name):
    read, taken, refused = TYPES[name]
    parser = command_line.Parser("What it does.")
    parser.add_argument("--value", "-v", type=read)
    for text, value in taken.items():
        assert parser.parse_args([f"--value={text}"]).value == value
    for text in refused:
        with pytest.raises(UserError, match=r"^--value must .*, not ") as error:
            parser.parse_args([f"--value={text}"])
        assert "\n" not in str(error.value)


def test_a_question_with_a_latin_1_byte_is_refused_in_one_sentence():
    parser = command_line.Parser("What it does.")
    parser.add_argument("--question", type=command_line.text)
    with pytest.raises(UserError, match="--question must be UTF-8 text: type it in a terminal"):
        parser.parse_args(["--question", "caf\udce9"])  # as Python reads the byte 0xE9


@pytest.mark.parametrize(("value", "hidden"), [("cpu", True), ("auto", False)])
def test_device_cpu_hides_the_gpus_before_any_library_looks(monkeypatch, value, hidden):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    parser = command_line.Parser("What it does.")
    command_line.add_device(parser)
    assert parser.parse_args(["--device", value]).device == value
    assert (os.environ.get("CUDA_VISIBLE_DEVICES") == "") is hidden


def test_every_other_mistake_on_the_command_line_is_one_sentence_too():
    parser = command_line.Parser("What it does.")
    parser.add_argument("--arm", choices=("base", "adapter"))
    for arguments in (["--arm", "x"], ["--arm"], ["--unknown"], ["extra"]):
        with pytest.raises(UserError) as error:
            parser.parse_args(arguments)
        assert "\n" not in str(error.value) and "--help" in str(error.value)


def test_a_type_says_what_it_wants_in_plain_english():
    with pytest.raises(argparse.ArgumentTypeError, match="must be a positive whole number, not 0"):
        command_line.positive_int("0")
    with pytest.raises(argparse.ArgumentTypeError, match="a whole number from 0 to 1,000,000, not"):
        command_line.whole_number(0)("-1")


# ---------------------------------------------------------------- all scripts

OUT_OF_RANGE = {
    "convert_to_jsonl.py": ["--memory", "nan"],
    "summarize_jsonl.py": ["--min-cell", "99999999999999999999999"],
    "feature_select_xgb_columns.py": ["--landmark-hours", "nan"],
    "make_symptom_prompts_ctx_dxpx.py": ["--preview", "-1"],
    "train_qlora.py": ["--seed", "-1"],
    "qa_by_subject.py": ["--run", "../../elsewhere"],
    "run_files/validate.py": ["--run", "../../elsewhere"],
}


@pytest.mark.parametrize("script", OUT_OF_RANGE)
def test_arguments_that_cannot_be_are_refused_before_anything_is_read(run, script, tmp_path):
    ended = run(script, *OUT_OF_RANGE[script])
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert OUT_OF_RANGE[script][0] in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("script", OUT_OF_RANGE)
def test_help_fits_into_100_columns(run, script):
    lines = run(script, "--help", COLUMNS="100").stdout.splitlines()
    assert lines and max(map(len, lines)) <= 100


def test_a_script_loads_no_library_before_ctrl_c_is_handled():
    """Ctrl-C during an import at the top of a script ends in a traceback."""
    load = """
import importlib.util, sys
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("script", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
print([name for name in ("numpy", "pyarrow", "pydantic", "torch", "yaml") if name in sys.modules])
"""
    scripts = [*ROOT.glob("*.py"), *(ROOT / "run_files").glob("*.py")]
    done = subprocess.run(
        [sys.executable, "-c", load, *scripts], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "[]\n" and len(scripts) > 9, done.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "run_files").glob("*.py")))
def test_a_script_beside_run_sh_finds_its_library_without_an_environment(script, tmp_path):
    path = ROOT / "run_files" / script
    bare = {"env": {"STORAGE_DIR": str(tmp_path)}, "capture_output": True, "text": True}
    helped = subprocess.run([sys.executable, "-S", path, "--help"], **bare)  # no site-packages
    assert helped.returncode == 0 and helped.stderr == "" and "--help" in helped.stdout


def test_what_a_python_lacks_is_a_sentence_in_the_scripts_beside_run_sh_too(tmp_path):
    bare = {"env": {"STORAGE_DIR": str(tmp_path)}, "capture_output": True, "text": True}
    ended = subprocess.run([sys.executable, "-S", ROOT / "run_files" / "status.py"], **bare)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"error: {sys.executable} lacks the package ")


VALIDATE, REVIEW = "run_files/validate.py", "run_files/review.py"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ((VALIDATE, "--freeze", "p", "--final"), "--freeze leaves --final"),
        ((VALIDATE, "5", "--freeze", "p"), "--freeze leaves n"),
        ((VALIDATE, "--freeze", "p", "--plan"), "--freeze leaves --plan"),
        ((VALIDATE, "5", "--plan", "--seed", "0"), "--plan leaves --seed"),
        ((VALIDATE, "--plan", "--no-records"), "--plan leaves --no-records"),
        (
            (VALIDATE, "--strict", "--batch-size", "4"),
            "--strict leaves --batch-size",
        ),
        (("train_qlora.py", "--seeds", "1,2", "--seed", "3"), "--seeds leaves --seed"),
        ((REVIEW, "--report", "--raters", "anna"), "--report leaves --raters"),
        ((REVIEW, "--export", "--port", "9000"), "--export leaves --port"),
        (
            (REVIEW, "--results", "a", "--storage", "b"),
            "--results leaves --storage",
        ),
        (
            ("run_files/label.py", "--results", "a", "--storage", "b"),
            "--results leaves --storage",
        ),
    ],
)
def test_an_option_that_another_leaves_without_effect_is_refused(run, command, says):
    done = run(*command)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert f"{says} without effect: " in done.stderr
