"""Checkpoints that were damaged: an older whole one is taken, never a damaged one."""

import contextlib
import errno
import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import train_qlora
from helpers.training_runs import OPTIONS, adapter_bytes, write_store
from helpers.unreadable import unreadable
from mimic_qlora.step import durable
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import callbacks, loop, trainer, validation_loss
from mimic_qlora.training import run as run_of_step_5

STOP = 3  # the step after which the run is stopped
RUN = ["--epochs", 2, "--save-minutes", 0, "--validations", 4]


def run(store: Path, tiny: Path, *options) -> str:
    """Run step 5 in this process and return what it said."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        arguments = ["--storage", store, "--model", tiny, *OPTIONS, *RUN, *options]
        patch.setattr(sys, "argv", ["train_qlora.py", *map(str, arguments)])
        train_qlora.main()
    return said.getvalue()


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory) -> SimpleNamespace:
    """A `store` with a run that was stopped, and the `adapter` of one that was not."""
    folder, step_end = tmp_path_factory.mktemp("stopped"), callbacks.Pace.on_step_end

    def stop(pace, settings, state, control, **kwargs):
        pace.signal = 15 if state.global_step == STOP else 0
        step_end(pace, settings, state, control, **kwargs)

    store = write_store(folder / "storage", tiny)
    whole = shutil.copytree(store, folder / "whole")
    run(whole, tiny)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(callbacks.Pace, "on_step_end", stop)
        run(store, tiny)
    return SimpleNamespace(store=store, adapter=adapter_bytes(whole))


@pytest.fixture
def work(stopped, tmp_path) -> Path:
    store = shutil.copytree(stopped.store, tmp_path / "storage")
    return store / "adapters" / ".default.training"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
    durable.SEAL,
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_the_newest_whole_checkpoint_is_taken(work, name, damage, capsys):
    found = sorted(work.glob("checkpoint-*"))
    assert [path.name for path in found] == [f"checkpoint-{STOP - 1}", f"checkpoint-{STOP}"]
    assert loop.last_checkpoint(work).path == found[1] and not capsys.readouterr().out
    damage(found[1] / name)
    assert loop.last_checkpoint(work).path == found[0] and not found[1].exists()
    said = capsys.readouterr().out
    if (name, damage) != (durable.SEAL, Path.unlink):  # as a kill leaves it
        assert f"checkpoint-{STOP} is damaged or" in said and said.count("\n") == 1
        assert name in said or name == durable.SEAL


@pytest.mark.parametrize(
    ("name", "damage"), [("adapter_model.safetensors", flip), ("optimizer.pt", cut)]
)
def test_a_run_goes_on_from_the_older_one_to_the_same_adapter(stopped, work, tiny, name, damage):
    damage(work / f"checkpoint-{STOP}" / name)
    said = run(work.parents[1], tiny)
    assert f"checkpoint-{STOP} is damaged or another run's ({name}" in said
    assert f"Going on from step {STOP - 1}" in said
    assert adapter_bytes(work.parents[1]) == stopped.adapter


def test_with_no_whole_checkpoint_a_run_begins_anew(stopped, work, tiny):
    for path in work.glob("checkpoint-*"):
        flip(path / "rng_state.pth")
    said = run(work.parents[1], tiny)
    assert said.count("is damaged") == 2 and "Going on from" not in said
    assert adapter_bytes(work.parents[1]) == stopped.adapter


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_validation_that_was_damaged_is_not_relied_on(work, damage):
    damage(work / "validation-0.json")
    assert loop.last_checkpoint(work) is None


def test_a_checkpoint_whose_best_adapter_is_damaged_is_not_gone_on_from(work, capsys):
    last = loop.last_checkpoint(work)
    state = work / f"checkpoint-{STOP}" / "trainer_state.json"
    text, best = state.read_text(), last.state.best_global_step
    changed = text.replace(f'"best_global_step": {best}', f'"best_global_step": {STOP - 1}')
    state.write_text(changed)
    durable.seal(state.parent)
    assert loop.last_checkpoint(work).state.best_global_step == STOP - 1
    flip(work / f"checkpoint-{STOP - 1}" / "adapter_model.safetensors")
    assert loop.last_checkpoint(work) is None
    assert f"checkpoint-{STOP - 1}/adapter_model.safetensors" in capsys.readouterr().out


def test_a_checkpoint_of_another_run_is_not_gone_on_from(work, capsys):
    """As copied in from beside: until the second validation all seeds have the same files."""
    draft = work / "draft.json"
    draft.write_text(draft.read_text().replace('"seed": 42', '"seed": 7'))
    assert loop.last_checkpoint(work) is None
    assert "another run's (../draft.json is not as it was written)" in capsys.readouterr().out


@pytest.mark.parametrize("name", [f"checkpoint-{STOP}.bak", "checkpoint-old", "checkpoint-9"])
def test_what_a_user_keeps_beside_the_checkpoints_is_none_of_them(work, name):
    if name.endswith("9"):
        (work / name).write_text("notes")
    else:
        shutil.copytree(work / f"checkpoint-{STOP}", work / name)
    assert loop.last_checkpoint(work).path.name == f"checkpoint-{STOP}"
    assert (work / name).exists()


@pytest.mark.parametrize(
    ("best", "left"), [(0, {"2", "10"}), (1, {"1", "10"}), (2, {"2", "10"}), (10, {"2", "10"})]
)
def test_the_newest_and_the_best_checkpoint_stay_and_copies_under_other_names(tmp_path, best, left):
    """transformers took a copy for a checkpoint, and removed it when it saved the next one."""
    for name in ("1", "2", "10", "old", "1.bak"):
        (tmp_path / f"checkpoint-{name}").mkdir()
    trainer.drop_older(tmp_path, best)
    found = {path.name.removeprefix("checkpoint-") for path in tmp_path.iterdir()}
    assert found == left | {"old", "1.bak"}


def test_a_link_in_the_place_of_the_checkpoints_is_refused(stopped, work, tiny):
    elsewhere = work.rename(work.parents[2] / "elsewhere")
    work.symlink_to(elsewhere)
    with pytest.raises(UserError, match="training is a link"):
        run(work.parents[1], tiny)
    assert list(elsewhere.glob("checkpoint-*"))


LOST = "is gone or damaged: .* --force, which removes the checkpoints beside it"


def test_checkpoints_without_the_draft_of_their_run_are_not_dropped_unasked(stopped, work, tiny):
    (work / "draft.json").unlink()
    with pytest.raises(UserError, match=f"draft.json {LOST}"):
        run(work.parents[1], tiny)
    assert list(work.glob("checkpoint-*"))


def test_a_run_of_another_number_of_processes_is_not_gone_on_from(stopped, work, tiny):
    """Its steps are others: the rate of learning would jump, and prompts be passed over."""
    draft = work / "draft.json"
    assert '"processes": 1' in draft.read_text()
    draft.write_text(draft.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(UserError, match=r"unfinished run with other settings \(processes\)"):
        run(work.parents[1], tiny)
    assert list(work.glob("checkpoint-*"))


def test_a_removal_that_is_killed_leaves_the_draft_of_the_run(work, monkeypatch):
    monkeypatch.setattr(run_of_step_5.shutil, "rmtree", lambda path: sys.exit("killed"))
    with pytest.raises(SystemExit, match="killed"):
        run_of_step_5.remove_work(work)
    assert (work / "draft.json").exists()


def test_a_link_among_the_checkpoints_goes_with_them_and_what_it_names_stays(work, tmp_path):
    """It ended each run of this name in a traceback, after its adapter was in place."""
    (tmp_path / "own").mkdir()
    (work / "notes").symlink_to(tmp_path / "own")
    run_of_step_5.remove_work(work)
    assert not work.exists() and (tmp_path / "own").is_dir()


@pytest.mark.parametrize("options", [["--force"], []])
def test_what_a_user_keeps_among_the_checkpoints_stays_when_these_go(stopped, work, tiny, options):
    shutil.copytree(work / f"checkpoint-{STOP}", work / "checkpoint-best")
    (work / "notes.txt").write_text("mine")
    said, kept = run(work.parents[1], tiny, *options), work.with_name("default.kept1")
    assert {path.name for path in kept.iterdir()} == {"checkpoint-best", "notes.txt"}
    assert f"held checkpoint-best, notes.txt: now in {kept}" in said
    assert (kept / "checkpoint-best" / "adapter_model.safetensors").is_file()
    assert not work.exists() and not work.with_name("default.kept2").exists()


@pytest.mark.parametrize("name", ["draft.json", "about.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 1}', "null"])
def test_what_is_known_of_a_run_is_named_when_damaged_and_force_begins_anew(
    stopped, work, tiny, name, content
):
    (work / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} {LOST}"):
        run(work.parents[1], tiny)
    if (name, content) == ("draft.json", "{"):
        run(work.parents[1], tiny, "--force")
        assert adapter_bytes(work.parents[1]) == stopped.adapter


@pytest.mark.parametrize(
    "read",
    [
        run_of_step_5.draft_of,
        loop.read_setup,
        lambda work: validation_loss.read(work, 0),
        lambda work: run_of_step_5.check_replaced(SimpleNamespace(place=work)),
    ],
    ids=["draft", "about", "validation", "finished"],
)
def test_what_cannot_be_read_now_is_neither_damaged_nor_missing(tmp_path, monkeypatch, read):
    """Without the manifest of the finished adapter, another training began."""
    for name in ("draft.json", "about.json", "manifest.json"):
        (tmp_path / name).touch()
    monkeypatch.setattr(Path, "read_text", unreadable(errno.ESTALE))
    with pytest.raises(OSError, match="Stale file handle"):
        read(tmp_path)
