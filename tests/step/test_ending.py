"""How a step ends: what it wrote, how to look at it, and the command of the next step."""

import pytest

from helpers.storage_folders import write_bare_manifest
from mimic_qlora.step import ending, errors, manifests, ssh

REMOTE = ("SSH_CONNECTION", "SSH_TTY", *ssh.SUBMITTED_FROM)


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    """Nobody came over SSH, and the storage folder is the usual one."""
    for name in (*REMOTE, "STORAGE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_each_command_takes_the_options_that_it_knows(tmp_path):
    (tmp_path / "my model").mkdir()
    options = ending.Options(str(tmp_path / "other"), "my model", "seed1")
    assert ending.next_lines("subjects", options).split() == (
        f"Next: python summarize_jsonl.py --storage {tmp_path / 'other'}".split()
    )
    told = ending.next_lines("adapters", options)
    named = ending.next_lines("subjects", ending.Options("~nobody-of-this-name/x"))
    assert named.split()[-1] == f"'{tmp_path}/~nobody-of-this-name/x'"
    model = f"--model '{tmp_path / 'my model'}' --run seed1"
    assert f"python qa_by_subject.py --storage {tmp_path / 'other'} {model}" in told
    assert "cd run_files && ./run.sh 50 --storage" in told and told.endswith(model)


def test_what_is_the_default_is_not_repeated(monkeypatch, tmp_path):
    assert ending.next_lines("subjects", ending.Options("storage")) == (
        "Next: python summarize_jsonl.py"
    )
    monkeypatch.setenv("STORAGE_DIR", str(tmp_path / "mine"))
    assert ending.Options(str(tmp_path / "mine"), "owner/hub-name", "default").of("qa") == [
        "--model",
        "owner/hub-name",
    ]


@pytest.mark.parametrize(
    ("tasks", "asked"), [(["urgency"], True), (["guidance", "urgency"], False), (None, False)]
)
def test_an_adapter_trained_on_urgency_alone_is_asked_about_urgency(tmp_path, tasks, asked):
    (tmp_path / "prompts").mkdir()
    write_bare_manifest(tmp_path / "prompts", "prompts", {"tasks": tasks}, {})
    options = ending.Options(str(tmp_path))
    assert ("--tasks urgency" in ending.command("validation", options)) is asked
    assert "--tasks" not in ending.command("qa", options)


def test_a_step_that_is_up_to_date_names_the_next_one_too(tmp_path, capsys):
    with ending.told("summary", tmp_path, ending.Options()):
        raise errors.UpToDate("summary is up to date")
    assert capsys.readouterr().out == (
        "summary is up to date\nNext: python feature_select_xgb_columns.py\n"
    )


def test_a_step_of_a_study_names_no_next_one(tmp_path, capsys, monkeypatch):
    (tmp_path / "study.yaml").touch()
    monkeypatch.setenv(manifests.STUDY, str(tmp_path / "study.yaml"))
    with ending.told("summary", tmp_path, ending.Options()):
        pass
    assert "Wrote" in (said := capsys.readouterr().out) and "Next" not in said


def test_a_step_that_fails_names_nothing(tmp_path, capsys):
    with (
        pytest.raises(errors.UserError),
        ending.told("summary", tmp_path, ending.Options(), "summary.html"),
    ):
        raise errors.UserError("no")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("variable", REMOTE)
def test_over_ssh_a_page_comes_with_the_line_that_fetches_it(
    tmp_path, capsys, monkeypatch, variable
):
    (tmp_path / "summary").mkdir()
    page = tmp_path / "summary" / "summary.html"
    page.touch()
    with ending.told("summary", tmp_path, ending.Options(), page.name):
        pass
    assert f"Open {page} in a browser" in capsys.readouterr().out
    monkeypatch.setenv(variable, "login1")
    with ending.told("summary", tmp_path, ending.Options(), page.name):
        pass
    told = capsys.readouterr().out
    assert f":{page} results/" in told and "mkdir -p results && scp " in told


def test_a_host_that_cannot_be_one_costs_no_step_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "x; rm -rf /")
    assert ending.seen(tmp_path) == f"Open {tmp_path} in a browser"
