"""Lines that a person reads: within the terminal, broken between words."""

import io
import shlex
import shutil
import subprocess

import pytest

from mimic_qlora.step import streams, terminal

LINE = (
    "Data: MIMIC-IV Clinical Database Demo (2.2) in /somewhere/far/away, 100 patients, of whom 40"
)


class Terminal(io.BytesIO):
    def isatty(self):
        return True


def printed(text, monkeypatch, columns, stream):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = streams.Inert(stream, "utf-8")
    monkeypatch.setattr("sys.stdout", out)
    print(text, flush=True)
    return stream.getvalue().decode()


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("line", [LINE, f"- Known conditions: {LINE}; {LINE}", f"  {LINE} " * 3])
def test_a_terminal_gets_whole_words_under_a_hanging_indent(monkeypatch, columns, line):
    shown = printed(line, monkeypatch, columns, Terminal()).splitlines()
    assert max(map(len, shown)) <= columns and " ".join(shown).split() == line.split()
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    assert all(further.startswith(indent) for further in shown[1:])


def test_what_is_no_terminal_gets_lines_as_they_are(monkeypatch):
    assert printed(LINE * 9, monkeypatch, 60, io.BytesIO()) == LINE * 9 + "\n"


def test_a_path_is_never_broken(monkeypatch):
    path = "/a/" + "long-name/" * 20
    shown = printed(f"Wrote {path} at last", monkeypatch, 60, Terminal())
    assert f"\n  {path}\n" in shown
    assert printed(f"  {path}", monkeypatch, 60, Terminal()) == f"  {path}\n"


def test_what_is_said_aside_is_folded_on_a_terminal_alone(monkeypatch):
    aside = io.StringIO()
    monkeypatch.setattr("sys.stderr", aside)
    terminal.say_aside(LINE)
    assert aside.getvalue() == f"{LINE}\n"
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    monkeypatch.setattr(terminal, "width", lambda: 60)
    terminal.say_aside(LINE)
    assert max(map(len, aside.getvalue().splitlines()[1:])) <= 60


@pytest.mark.parametrize(
    ("told", "width"), [("60", 60), ("7", 40), ("300", 100), ("", 100), ("x", 100)]
)
def test_the_width_is_that_of_the_terminal_within_limits(monkeypatch, told, width):
    monkeypatch.setenv("COLUMNS", told)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert terminal.width() == width


def test_a_long_command_is_pasted_as_one(monkeypatch):
    command = (
        "mkdir -p results && scp -r -J me@login 'me@host:/a folder/of/mine' results/ " + "x" * 40
    )
    assert terminal.pasteable(command * 3) == f"  {command * 3}"  # in a file it stays whole
    monkeypatch.setattr(terminal, "_seen", io.StringIO)
    monkeypatch.setattr(terminal, "width", lambda: 60)
    shown = terminal.pasteable(command)
    assert max(map(len, shown.splitlines())) <= 60 and shown.count("\\\n") >= 1
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(command)
    monkeypatch.setattr(terminal, "width", lambda: 200)
    assert terminal.pasteable(command) == f"  {command}"


@pytest.mark.skipif(not shutil.which("bash"), reason="needs a shell")
@pytest.mark.parametrize("width", [40, 60, 100])
def test_a_shell_reads_a_long_question_as_it_was_though_it_is_cut(monkeypatch, width):
    monkeypatch.setattr(terminal, "_seen", io.StringIO)
    monkeypatch.setattr(terminal, "width", lambda: width)
    words = ["--question", f"I have {LINE}. What should  I do?", "--once", "--storage", "/a b"]
    shown = terminal.pasteable(" ".join(["printf '%s|'", *map(shlex.quote, words)]))
    assert max(map(len, shown.splitlines())) <= width
    read = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    assert read.stdout.split("|")[:-1] == words


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_answer_that_comes_in_pieces_is_folded_between_words(size):
    text = "Rest today.\n\n- Call 911 for chest pain, or a fever above 103 F that stays.\nThe end"
    flow = terminal.Flow(20)
    shown = "".join(flow.add(text[i : i + size]) for i in range(0, len(text), size)) + flow.end()
    assert max(map(len, map(str.rstrip, shown.splitlines()))) <= 20
    assert shown.split() == text.split() and "today.\n\n- Call" in shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "utf-8"])
@pytest.mark.parametrize(
    "name",
    # as Python reads a byte that is no UTF-8, and what no terminal shows
    ["it's stö \udcff", "so\u00adft", "a\u200bb", "\u202etxt", "\U0001f469\u200d\U0001f52c"],
)
def test_a_command_names_its_folder_where_a_terminal_cannot_show_its_letters(
    tmp_path, monkeypatch, encoding, name
):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "in").write_text("here")
    command = f"cat {shlex.quote(str(folder / 'in'))}"
    stream = io.BytesIO()
    monkeypatch.setattr("sys.stdout", streams.Inert(stream, encoding, "replace"))
    print(terminal.pasteable(command), flush=True)
    done = subprocess.run(["bash", "-c", stream.getvalue()], capture_output=True, text=True)
    assert done.stdout == "here"
    monkeypatch.setattr("sys.stdout", streams.Inert(io.BytesIO(), "utf-8"))
    assert terminal.shown("ls stö") == "ls stö"
