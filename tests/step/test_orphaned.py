"""A run that replaces what a trained adapter rests on says so first."""

import errno

import pytest

from helpers.unreadable import unreadable
from mimic_qlora.step import errors, files, manifests, storage


def write(store, step, settings=None, force=False, **inputs):
    """Write an output of a step that names its settings; return the id of its content."""
    with storage.step_output(store, step, settings or {}, inputs, force) as out:
        (out.path / "file").write_text(f"{step} {settings}")
    return storage.verified_manifest(store, step)["id"]


@pytest.fixture
def store(tmp_path):
    """Steps 1, 4 and 5, with two adapters on these prompts, and canaries of one of them."""
    subjects = write(tmp_path, "subjects")
    prompts = write(tmp_path, "prompts", subjects=subjects)
    canaries = write(tmp_path, "canaries", {"n": 20}, prompts=prompts)
    write(tmp_path, "adapters/one", prompts=prompts)
    write(tmp_path, "adapters/two-canaries", prompts=prompts, canaries=canaries)
    return tmp_path


@pytest.mark.parametrize(
    ("step", "adapters"),
    [
        ("subjects", "the adapters one, two-canaries were trained on the subjects"),
        ("prompts", "the adapters one, two-canaries were trained on the prompts"),
        ("canaries", "the adapter two-canaries was trained on the canaries"),
    ],
)
def test_the_adapters_that_rest_on_what_is_replaced_are_named_before_it_is(
    store, step, adapters, capsys
):
    with pytest.raises(KeyboardInterrupt), storage.step_output(store, step, {"seed": 2}, {}):
        said = capsys.readouterr().out
        assert f"note: {adapters} that this run replaces" in said and "--storage" in said
        raise KeyboardInterrupt
    for run in ("one", "two-canaries"):
        storage.verified_manifest(store, f"adapters/{run}")


def test_nothing_is_said_where_no_adapter_is_lost(store, tmp_path_factory, capsys):
    with pytest.raises(errors.UpToDate):
        write(store, "prompts", subjects=storage.verified_manifest(store, "subjects")["id"])
    write(store, "prompts", force=True, subjects=storage.verified_manifest(store, "subjects")["id"])
    write(store, "features", {"seed": 2})
    write(store, "adapters/one", {"lr": 2})
    assert "note" not in capsys.readouterr().out
    write(store, "prompts", {"seed": 2})
    assert "note: the adapter two-canaries" in capsys.readouterr().out, "one was of no prompts"
    write(store, "prompts", {"seed": 3})
    assert "note" not in capsys.readouterr().out, "it rested on others already"
    (store / "adapters" / "two-canaries" / "manifest.json").write_text("[]")
    assert manifests.adapters_on(store, "canaries") == []


@pytest.mark.parametrize("cut", ["", '{"step": "adapters/one"'])
def test_an_adapter_with_a_damaged_manifest_is_named_as_that(store, cut, capsys):
    (store / "adapters/one/manifest.json").write_text(cut)
    write(store, "summary")
    write(store, "summary", {"min_cell": 5})
    assert "note" not in capsys.readouterr().out
    write(store, "prompts", {"seed": 2})
    said = capsys.readouterr().out
    assert f"note: one in {store / 'adapters'} (damaged manifest) may rest on the prompts" in said
    assert "the adapter two-canaries was trained on" in said


@pytest.mark.parametrize("place", ["storage", "disk"])
def test_an_output_of_another_storage_folder_is_not_replaced_by_a_link_without_a_word(
    store, tmp_path_factory, capsys, place
):
    other = tmp_path_factory.mktemp("other")
    there = store / "prompts" if place == "storage" else tmp_path_factory.mktemp("disk") / "prompts"
    if place == "disk":
        (store / "prompts").rename(there)
    (other / "prompts").symlink_to(there)
    write(other, "prompts", {"seed": 2})
    said = capsys.readouterr().out
    assert f"note: {other / 'prompts'} is a link, and this run replaces {there}" in said
    assert ("the adapters one, two-canaries of" in said) == (place == "storage")
    write(other, "prompts", {"seed": 2}, force=True)
    assert "note" not in capsys.readouterr().out


def test_a_stopped_run_that_cannot_be_read_now_is_not_begun_anew(store, monkeypatch):
    def stopped():
        with storage.step_output(store, "summary", {}, {}, resumable=True) as out:
            (out.path / "hours of work").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with monkeypatch.context() as bad_disk, pytest.raises(OSError, match="Input/output"):
        bad_disk.setattr(storage, "read_json", unreadable(errno.EIO))
        stopped()
    assert (files.partial_of(store / "summary") / "hours of work").exists()


@pytest.mark.parametrize("link", ["adapters", "adapters/one"])
def test_an_adapter_whose_disk_is_away_is_not_orphaned(store, tmp_path_factory, link):
    (store / link).rename(tmp_path_factory.mktemp("disk") / "away")
    (store / link).symlink_to(store / "not mounted" / "away")
    with pytest.raises(errors.UserError, match="mount its disk"):
        write(store, "prompts", {"seed": 2})
    assert storage.verified_manifest(store, "prompts")["settings"] == {}


def test_an_adapter_that_cannot_be_read_now_is_not_orphaned(store, monkeypatch):
    read_json = files.read_json

    def of_a_bad_disk(path):
        return (unreadable(errno.EIO) if path.parent.name == "one" else read_json)(path)

    monkeypatch.setattr(manifests, "read_json", of_a_bad_disk)
    with pytest.raises(OSError, match="Input/output"):
        write(store, "prompts", {"seed": 2})
    monkeypatch.undo()
    assert storage.verified_manifest(store, "prompts")["settings"] == {}
