"""Any terminal, pipe or closed stream: nothing that is printed ends a run or steers a terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

RUN = """
import sys
from mimic_qlora.step import command_line
def main():
    {body}
command_line.run(main)
"""
ODD = "\\u2026 \\u27e6x\\u27e7 \\u23ce \\u6f22 \\U0001f600 \\udce9 caf\\xe9"


def leave(body: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | options.pop("env", {})
    command = [sys.executable, "-c", RUN.format(body=body)]
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=600, **options)


LOCALES = {
    "a Windows code page": {"PYTHONIOENCODING": "cp1252"},
    "another": {"PYTHONIOENCODING": "cp437"},
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "strict ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
    "a C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("locale", LOCALES)
def test_what_a_terminal_cannot_show_is_replaced(locale):
    body = f"print('{ODD}'); print('{ODD}', file=sys.stderr); return 0"
    done = leave(body, capture_output=True, env=LOCALES[locale])
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert b" x" in done.stdout.replace(b"?x", b" x").replace("⟦x".encode(), b" x")


@pytest.mark.parametrize("locale", LOCALES)
def test_an_error_is_one_line_under_every_locale(locale):
    body = f"from mimic_qlora.step.errors import UserError; raise UserError('{ODD}')"
    done = leave(body, capture_output=True, env=LOCALES[locale])
    assert done.returncode == 2 and done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


def test_nothing_printed_steers_the_terminal():
    body = (
        "print('ti\\x1b]0;x\\x07\\x1b[2Jtle \\x9b31m \\u202e\\u2066 a\\rb'); "
        "from mimic_qlora.step.errors import UserError; raise UserError('a\\x1b[31m\\u202eb')"
    )
    done = leave(body, capture_output=True, env={"PYTHONIOENCODING": "utf-8"})
    assert done.stdout.decode() == "ti]0;x[2Jtle 31m  ab\n"
    assert done.stderr.decode() == "error: a\\x1b[31m\\u202eb\n"


CLOSED = {"output": (1,), "errors": (2,), "output and errors": (1, 2), "all three": (0, 1, 2)}


@pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")
@pytest.mark.parametrize("which", CLOSED)
def test_a_closed_stream_takes_no_file_and_no_exit_code(tmp_path, which):
    """A file that is opened next must not get the number of the stream."""
    place = tmp_path / "written.txt"
    body = (
        "import os\n"
        "    from tqdm import tqdm\n"
        f"    with open({str(place)!r}, 'w') as file:\n"
        "        print('to the terminal'); print('to errors', file=sys.stderr)\n"
        "        list(tqdm(range(3)))\n"
        "        os.write(1, b'a library prints'); os.write(2, b'another')\n"
        "        os.system('echo a child prints')\n"
        "        sys.stdin.read(0); file.write('content')\n"
        "    return 0"
    )

    def close():
        for number in CLOSED[which]:
            os.close(number)

    done = leave(body, preexec_fn=close, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and place.read_text() == "content"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full of Linux")
@pytest.mark.parametrize(
    "body",
    [
        "print('x'); return 0",
        "print('x' * 100_000); return 0",
        "from mimic_qlora.step.errors import UpToDate; raise UpToDate('x' * 100_000)",
    ],
)
def test_a_full_standard_output_is_named_and_not_the_storage(body):
    with open("/dev/full", "w") as full:
        done = leave(body, stdout=full, stderr=subprocess.PIPE)
    said = done.stderr.decode()
    assert done.returncode == 2 and said.startswith("error: standard output cannot be written")
    assert said.count("\n") == 1
