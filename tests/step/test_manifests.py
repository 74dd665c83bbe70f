"""What identifies a step's output: its content; paths and times only shorten the check."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from helpers.unreadable import unreadable
from mimic_qlora.step import errors, files, manifests, storage
from mimic_qlora.subjects import replacement
from mimic_qlora.training.memorisation import audited


def made(place, settings=None, inputs=None, force=False, **contents):
    """Run a step that writes these files; returns its id, and whether it was up to date."""
    try:
        with storage.step_output(place, "features", settings or {}, inputs or {}, force) as out:
            for name, text in (contents or {"columns_least": "a"}).items():
                (out.path / "tables").mkdir(exist_ok=True)
                (out.path / "tables" / f"{name}.part").write_text(text)
                (out.path / f"{name}.csv").write_text(text)
        fresh = True
    except errors.UpToDate:
        fresh = False
    return storage.verified_manifest(place, "features")["id"], fresh


def test_an_output_whose_manifest_cannot_be_read_now_is_not_made_anew(tmp_path, monkeypatch):
    """It may be whole: only --force makes it again."""
    made(tmp_path)
    with monkeypatch.context() as bad_disk:
        bad_disk.setattr(Path, "read_text", unreadable(errno.EIO))
        for what in (lambda: made(tmp_path), lambda: replacement.earlier(tmp_path)):
            with pytest.raises(OSError, match=r"Input/output error: .*manifest\.json"):
                what()
        with storage.step_output(tmp_path, "features", {}, {}, force=True):
            pass


def as_by_an_earlier_version(place, identity="0123456789abcdef"):
    """Change the manifest into one whose id is a hash of settings, without sums of parts."""
    path = place / "features" / manifests.NAME
    manifest = json.loads(path.read_text()) | {"id": identity}
    for name, file in manifest["files"].items():
        if "/" in name:
            del file["sha256"]
    path.write_text(json.dumps(manifest))
    return identity


def test_equal_content_has_one_id_whatever_the_settings_the_folder_and_the_time(tmp_path):
    first, _ = made(tmp_path / "a", {"seed": 1})
    assert made(tmp_path / "b" / "c", {"seed": 2}) == (first, True)
    assert made(tmp_path / "a", {"seed": 3}) == (first, True), "done again, with the same bytes"
    other, _ = made(tmp_path / "a", {"seed": 3}, force=True, columns_least="b")
    assert other != first
    assert made(tmp_path / "a", force=True, another="a")[0] not in (first, other)


def test_a_part_decides_and_a_page_does_not(tmp_path):
    def content(part, page):
        with storage.step_output(tmp_path, "features", {}, {}, force=True) as out:
            (out.path / "tables").mkdir()
            (out.path / "tables" / "part-00000.parquet").write_text(part)
            (out.path / "features.html").write_text(page)
            (out.path / "README.md").write_text(page)
        return storage.verified_manifest(tmp_path, "features")["id"]

    assert content("1", "of /project/mimic") == content("1", "of /scratch/mimic")
    assert content("1", "") != content("2", "")


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ({"folder": "/project/mimic"}, {"folder": "/scratch/mimic"}, True),
        ({"bucket_bytes": 1}, {"bucket_bytes": 2}, True),
        ({"device": "cuda"}, {"device": "cpu"}, True),
        ({"subjects_file": "a.txt"}, {"subjects_file": "/b/a.txt"}, True),
        ({"seed": 1}, {"seed": 2}, False),
        ({"sample": 1.0}, {"sample": 0.5}, False),
        (
            {"base_model": {"name": "/a", "fingerprint": "1"}},
            {"base_model": {"name": "/b", "fingerprint": "1"}},
            True,
        ),
        (
            {"base_model": {"name": "/a", "fingerprint": "1"}},
            {"base_model": {"name": "/a", "fingerprint": "2"}},
            False,
        ),
        (
            {"base_model": {"fingerprint": "1", "computing": "1"}},
            {"base_model": {"fingerprint": "12", "computing": "1"}},
            True,
        ),
        (
            {"base_model": {"fingerprint": "1", "computing": "1"}},
            {"base_model": {"fingerprint": "21", "computing": "1"}},
            False,
        ),
        (
            {"base_model": {"fingerprint": "1"}},
            {"base_model": {"fingerprint": "1", "computing": "1"}},
            True,
        ),
        (
            {"base_model": {"fingerprint": "1", "computing": "1"}},
            {"base_model": {"fingerprint": "1", "computing": "2"}},
            False,
        ),
    ],
)
def test_settings_that_say_where_and_how_redo_nothing(tmp_path, before, now, same):
    made(tmp_path, before)
    assert made(tmp_path, now)[1] == (not same)


@pytest.mark.parametrize(
    ("model", "tokenizer", "same"),
    [
        ("/scratch/Llama", "1", True),
        ("/project/Llama", "1", True),
        ("/project/Llama", "2", False),
        ("/project/Llama", None, True),
        ("/scratch/Llama", None, False),
    ],
)
def test_a_model_is_known_by_its_tokenizer_where_that_was_recorded(
    tmp_path, model, tokenizer, same
):
    def run(name, sha256):
        inputs = {} if sha256 is None else {"tokenizer": sha256}
        return manifests.new_manifest("prompts", {"model": name, "seed": 1}, inputs)

    assert manifests.is_same_run(run("/project/Llama", "1"), run(model, tokenizer)) == same
    assert manifests.is_same_run(run(model, tokenizer), run("/project/Llama", "1")) == same


def test_what_was_made_from_an_earlier_versions_folder_stays_usable(tmp_path):
    made(tmp_path)
    old = as_by_an_earlier_version(tmp_path)
    assert made(tmp_path) == (old, False), "it opens without a redo"
    assert made(tmp_path, {"seed": 2}) == (old, True), "done again with the same bytes"
    assert made(tmp_path, force=True) == (old, True), "and again, now that all sums are there"
    assert made(tmp_path, force=True, columns_least="b")[0] != old


def test_a_part_of_an_earlier_version_that_differs_ends_its_id(tmp_path):
    made(tmp_path)
    old = as_by_an_earlier_version(tmp_path)
    part = tmp_path / "features" / "tables" / "columns_least.part"
    part.write_text("b")  # the same size, which is all that is recorded
    assert made(tmp_path, force=True)[0] != old


def source(path, text="subject_id\n1\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return files.summed(path, files.file_identity(path))


def test_a_file_of_the_recorded_path_size_and_time_is_not_read(tmp_path, monkeypatch):
    recorded = source(tmp_path / "a.csv")
    monkeypatch.setattr(files, "file_sha256", None)
    assert files.recognised(tmp_path / "a.csv", recorded, same_path=True) == recorded


@pytest.mark.parametrize("change", ["path", "time", "both"])
def test_a_file_elsewhere_or_of_another_time_is_told_by_its_sum(tmp_path, change):
    recorded = source(tmp_path / "a.csv")
    for text, same in (("subject_id\n1\n", True), ("subject_id\n2\n", False)):
        (tmp_path / "a.csv").write_text(text)
        status = recorded["mtime_ns"] + (10**9 if change != "path" else 0)
        os.utime(tmp_path / "a.csv", ns=(status, status))
        now = files.recognised(tmp_path / "a.csv", recorded, same_path=change == "time")
        runs = [manifests.new_manifest("subjects", {}, {"a": one}) for one in (recorded, now)]
        assert manifests.is_same_run(*runs) == same


def test_a_record_without_a_sum_is_told_by_size_and_time_wherever_it_lies(tmp_path):
    recorded = files.file_identity(tmp_path) and {
        k: v for k, v in source(tmp_path / "a.csv").items() if k != "sha256"
    }
    shutil.copy2(tmp_path / "a.csv", tmp_path / "b.csv")
    assert files.recognised(tmp_path / "b.csv", recorded, same_path=False) == recorded
    os.utime(tmp_path / "b.csv", ns=(1, 1))
    assert files.recognised(tmp_path / "b.csv", recorded, same_path=False) != recorded


def test_the_place_at_which_inputs_were_found_last_is_recorded(tmp_path):
    recorded = source(tmp_path / "a.csv")
    made(tmp_path, {"folder": "/project"}, {"a": recorded})
    made(tmp_path, {"folder": "/scratch"}, {"a": recorded | {"mtime_ns": 5}})
    manifest = storage.verified_manifest(tmp_path, "features")
    assert manifest["settings"]["folder"] == "/scratch"
    assert manifest["inputs"]["a"]["mtime_ns"] == 5


@pytest.mark.parametrize("content", ["[1]", "5", "{}", '{"inputs": 3, "settings": null}', "{"])
def test_a_damaged_manifest_is_of_no_run_and_written_anew(tmp_path, content):
    identity, _ = made(tmp_path)
    (tmp_path / "features" / manifests.NAME).write_text(content)
    assert made(tmp_path) == (identity, True)


def test_a_step_whose_folder_is_a_link_is_written_where_it_points_to(tmp_path):
    store, far = tmp_path / "store", tmp_path / "disk" / "features"
    made(store)
    far.parent.mkdir()
    shutil.move(store / "features", far)
    (store / "features").symlink_to(far)
    assert not made(store)[1] and made(store, {"seed": 2}, columns_least="b")[1]
    assert (store / "features").readlink() == far
    assert (far / "columns_least.csv").read_text() == "b"
    with pytest.raises(RuntimeError), storage.step_output(store, "features", {}, {}, True):
        raise RuntimeError("while it writes")
    left = {path.name for folder in (store, far.parent) for path in folder.iterdir()}
    assert {name for name in left if not name.endswith(".lock")} == {"features"}


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("force", [True, False])
def test_the_output_of_another_step_is_not_replaced(tmp_path, linked, force):
    """A link or a copy in the wrong place: the training of an adapter would be gone."""
    with storage.step_output(tmp_path, "adapters/default", {}, {}) as out:
        (out.path / "adapter_model.safetensors").write_text("learned")
    adapter, place = tmp_path / "adapters" / "default", tmp_path / "exports" / "default"
    place.parent.mkdir()
    place.symlink_to(adapter) if linked else shutil.copytree(adapter, place)
    with pytest.raises(errors.UserError, match=f"{place} holds the output of adapters/default"):
        with storage.step_output(tmp_path, "exports/default", {}, {}, force):
            pass
    for folder in (adapter, place):
        assert (folder / "adapter_model.safetensors").read_text() == "learned"


def test_the_output_of_another_step_is_not_taken_for_that_of_one(tmp_path):
    """As an export in the place of its adapter is, which it rests on: that had no end."""
    with storage.step_output(tmp_path, "exports/default", {}, {"adapters/default": "an id"}):
        pass
    shutil.copytree(tmp_path / "exports", tmp_path / "adapters")
    with pytest.raises(errors.UserError, match="adapters/default holds the output of exports/def"):
        storage.verified_manifest(tmp_path, "adapters/default")


@pytest.mark.parametrize("linked", [True, False])
def test_a_folder_that_no_step_wrote_is_kept_when_its_place_is_taken(tmp_path, capsys, linked):
    """Somebody's own folder of that name, or one to which a link was made by mistake."""
    there = tmp_path / ("thesis" if linked else "features")
    for name in ("kept1", "kept2"):
        there.mkdir()
        (there / "chapter.tex").write_text(name)
        if linked and name == "kept1":
            (tmp_path / "features").symlink_to(there)
        made(tmp_path)
        kept = there.with_name(f"{there.name}.{name}")
        assert (kept / "chapter.tex").read_text() == name and (there / "manifest.json").is_file()
        assert f"{there} held files that were added or edited" in capsys.readouterr().out
        shutil.rmtree(there)
    there.mkdir()
    made(tmp_path)
    assert capsys.readouterr().out == "" and not there.with_name(f"{there.name}.kept3").exists()


def test_somebodys_files_in_a_steps_folder_are_kept_when_it_is_written_anew(tmp_path, capsys):
    made(tmp_path)
    there, kept = tmp_path / "features", tmp_path / "features.kept1"
    (there / "mine" / "deep").mkdir(parents=True)
    (there / "__pycache__").mkdir()  # as lm_eval leaves beside our documents.py
    names = ("notes.md", "mine/deep/figure.svg", "README.md", ".DS_Store", "__pycache__/a.pyc")
    for name in (".git", ".dvc"):
        (there / name).mkdir()
    for name in (*names, ".git/HEAD", ".dvc/config", ".RData"):
        (there / name).write_text(f"my {name}")
    (there / "data").symlink_to(tmp_path)
    (there / "columns_least.csv").write_text("by hand")  # a step's own file
    made(tmp_path, {"seed": 2})
    left = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if not path.is_dir()}
    assert left == {
        "columns_least.csv",
        "notes.md",
        "mine/deep/figure.svg",
        "README.md",
        ".git/HEAD",
        ".dvc/config",
        ".RData",
    }
    assert (kept / "data").is_symlink()
    assert (kept / "notes.md").read_text() == "my notes.md"
    assert not (there / "mine").exists() and not (there / "notes.md").exists()
    assert f"they are now in {kept}" in capsys.readouterr().out
    made(tmp_path, {"seed": 3})
    assert capsys.readouterr().out == "" and not (tmp_path / "features.kept2").exists()


@pytest.mark.parametrize("n", range(5))  # renames before the kill
def test_a_kill_leaves_somebodys_files_together(tmp_path, monkeypatch, n):
    """Part of them lay in one folder, and part in another."""
    made(tmp_path)
    names, real, calls = {"README.md", "notes.md"}, Path.rename, []
    for name in names:
        (tmp_path / "features" / name).write_text("mine")

    def killed(*args):
        calls.append(args)
        if len(calls) > n:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Path, "rename", killed)
        made(tmp_path, {"seed": 2})
    made(tmp_path, {"seed": 2})
    (kept,) = tmp_path.glob("features.kept*")
    assert {path.name for path in kept.iterdir()} == names


def test_an_output_whose_removal_is_cut_off_is_not_taken_for_somebodys_files(
    tmp_path, monkeypatch, capsys
):
    """Its manifest tells whose the files are, and goes last."""
    made(tmp_path, **{f"file{n}": "a" for n in range(20)})
    unlink, old = os.unlink, tmp_path / ".features.old"

    def killed(path, *args, **kwargs):
        if Path(path).name == manifests.NAME and old.exists():
            raise KeyboardInterrupt
        unlink(path, *args, **kwargs)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(os, "unlink", killed)
        made(tmp_path, {"seed": 2})
    assert [path.name for path in old.iterdir()] == [manifests.NAME]
    made(tmp_path, {"seed": 3})
    assert not list(tmp_path.glob("*.kept*")) and not old.exists()
    assert "held files" not in capsys.readouterr().out


@pytest.mark.parametrize("edited", [True, False])
def test_a_card_that_somebody_edited_is_kept_when_the_step_is_done_again(tmp_path, edited):
    """What an audit tells in it is none of theirs."""
    for n in range(2):
        with storage.step_output(tmp_path, "features", {"n": n}, {}) as out:
            (out.path / "README.md").write_text(
                f"# {n}\n\n{audited.BEGIN}\nnot audited\n{audited.END}\n"
            )
        card = tmp_path / "features" / "README.md"
        audited.tell_card(card, ("held",))
        if edited:
            card.write_text(card.read_text() + "My words.\n")
    kept = [path.read_text() for path in tmp_path.glob("features.kept*/README.md")]
    assert len(kept) == edited and all(text.endswith("My words.\n") for text in kept)


def test_a_card_is_told_of_an_audit_where_it_lies_and_stays_readable_for_a_group(tmp_path):
    """A link to a repository, or `chmod g+r`, which a file in its place would not have."""
    (tmp_path / "group.md").write_text("# An adapter\n")
    (tmp_path / "group.md").chmod(0o640)
    (tmp_path / "README.md").symlink_to("group.md")
    audited.tell_card(tmp_path / "README.md", ("held",))
    assert (tmp_path / "README.md").is_symlink() and "held" in (tmp_path / "group.md").read_text()
    assert (tmp_path / "group.md").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("left", ["", "[]", '{"files": null}', "denied"])
def test_an_output_whose_manifest_cannot_be_read_is_kept_whole(tmp_path, monkeypatch, capsys, left):
    """Which of its files are a step's is not known; a disk may be back in a minute."""
    made(tmp_path)
    there, kept = tmp_path / "features", tmp_path / "features.kept1"
    (there / "notes.md").write_text("mine")
    if left == "denied":
        real = files.read_json

        def read_json(path):
            if (found := real(path))["settings"] == {}:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return found

        monkeypatch.setattr(files, "read_json", read_json)
    else:
        (there / "manifest.json").write_text(left)
    made(tmp_path, {"seed": 2})
    assert (kept / "notes.md").read_text() == "mine" and (kept / "manifest.json").is_file()
    assert f"they are now in {kept}" in capsys.readouterr().out


def test_files_that_cannot_be_moved_are_kept_with_the_old_output(tmp_path, monkeypatch, capsys):
    made(tmp_path)
    (tmp_path / "features" / "notes.md").write_text("mine")

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "mine")

    monkeypatch.setattr(storage, "gathered", refused)
    made(tmp_path, {"seed": 2})
    kept = tmp_path / "features.kept1"
    assert (kept / "notes.md").read_text() == "mine" and str(kept) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("link", "step"),
    [
        ("store", "features"),
        ("store/features", "features"),
        ("store/adapters", "adapters/default"),
    ],
)
@pytest.mark.parametrize("is_mount_point", [True, False])
def test_a_link_to_a_disk_that_is_away_is_refused(
    tmp_path, monkeypatch, link, step, is_mount_point
):
    """What a step made there would be hidden when the disk is back; a step that goes on would have
    begun anew.
    """
    disk, link = tmp_path / "disk", tmp_path / link
    if is_mount_point:
        disk.mkdir()
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(disk / link.name)
    monkeypatch.chdir(tmp_path)
    sentence = f"{link} is a link to {disk / link.name}, which is not there: mount its disk, or"
    with pytest.raises(errors.UserError, match=re.escape(sentence)):
        store = storage.open_storage("store", create=True)
        with storage.step_output(store, step, {}, {}):
            pass
    with pytest.raises(errors.UserError, match=re.escape(sentence)):
        files.private_folder(link)
    assert disk.is_dir() == is_mount_point and not list(tmp_path.glob("disk/*"))


def test_a_link_whose_folder_alone_was_removed_gets_a_new_one(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "disk" / "mimic").mkdir(parents=True)
    (tmp_path / "store" / "features").symlink_to(tmp_path / "disk" / "features")
    assert made(tmp_path / "store")[1] and (tmp_path / "disk" / "features").is_dir()


def test_a_link_that_an_earlier_version_left_behind_stands_in_nobodys_way(tmp_path):
    made(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".features.old").symlink_to(tmp_path / "elsewhere")
    assert made(tmp_path, {"seed": 2})[1]
    assert not (tmp_path / ".features.old").is_symlink() and (tmp_path / "elsewhere").is_dir()
