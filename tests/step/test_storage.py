"""The storage folder: outputs are whole, checked before they are read, and written by one run."""

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.scripts import run_script
from helpers.storage_folders import SUBJECTS_FACTS
from mimic_qlora.features.settings import FeatureSettings
from mimic_qlora.llm import loading
from mimic_qlora.llm.embedded import EMBEDDED_ORIGIN
from mimic_qlora.step import ending, errors, faults, files, manifests, step_commands, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import CARRIED, command_for
from mimic_qlora.study import next_step
from mimic_qlora.study.state import StepState
from mimic_qlora.study.study_file import USUAL_TASKS
from mimic_qlora.subjects.manifest import subjects_manifest
from mimic_qlora.validation import plan


def stored(place, files: dict):
    """A step's output made of these files."""
    with storage.step_output(place, "features", {}, {}) as output:
        for name, text in files.items():
            (output.path / name).parent.mkdir(exist_ok=True)
            (output.path / name).write_text(text)


DAMAGES = {"gone": Path.unlink, "truncated": lambda path: path.write_text("")}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_output_is_refused_by_the_next_step_and_written_anew_by_its_own(tmp_path, damage):
    files = {"columns_least.csv": "column\nlabevents.priority\n", "tables/part-00000.csv": "1\n"}
    stored(tmp_path, files)
    storage.verified_manifest(tmp_path, "features")
    with pytest.raises(errors.UpToDate):
        stored(tmp_path, files)
    for name in files:
        spoiled = tmp_path / "features" / name
        DAMAGES[damage](spoiled)
        with pytest.raises(
            UserError, match=f"{name} is missing or was changed.*feature_select_xgb_columns.py"
        ):
            storage.verified_manifest(tmp_path, "features")
        stored(tmp_path, files)
        assert spoiled.read_text() == files[name]


def test_a_run_is_written_again_by_a_command_that_names_it(tmp_path):
    assert command_for("adapters/default") == "python train_qlora.py"
    for name in ("whole", "copied"):
        with storage.step_output(tmp_path, f"adapters/{name}", {}, {}) as out:
            (out.path / "weights").write_text("a")
    again = "`python train_qlora.py --run copied`"
    (tmp_path / "adapters/copied/weights").write_text("b")
    with pytest.raises(UserError, match=f"was changed since.*{again}"):
        storage.check_adapters(tmp_path, ["whole", "copied"])
    (tmp_path / "adapters/copied/manifest.json").unlink()
    with pytest.raises(UserError, match=rf"copied/manifest\.json is missing: run {again}"):
        storage.check_adapters(tmp_path, ["whole", "copied"])
    with storage.step_output(tmp_path, "adapters/no word", {}, {}):
        pass
    with pytest.raises(UserError, match="there is no adapter 'other': give --run whole, or"):
        storage.check_adapters(tmp_path, ["other"])


def test_a_command_that_a_refusal_names_finds_what_this_one_has_opened(tmp_path, monkeypatch):
    monkeypatch.delenv("STORAGE_DIR", raising=False)
    store = storage.open_storage(str(tmp_path / "my store"), create=True)
    with storage.step_output(store, "subjects", {}, {}) as out:
        out.facts["source"] = {"kind": "mimic", "folder": "/data/3.1"}
        (out.path / "split.csv").write_text("a")
    (store / "subjects/split.csv").write_text("b")
    again = f"run `python convert_to_jsonl.py --mimic-dir /data/3.1 --storage '{store}'` to write"
    with pytest.raises(UserError, match=again):
        storage.verified_manifest(store, "subjects")
    with pytest.raises(UserError, match=f"train_qlora.py --run b --storage '{store}'` first"):
        loading._check_adapter(store / "adapters/b", store)
    with pytest.raises(UserError, match=f"run.sh --freeze copy.yaml --storage '{store}'`"):
        plan.frozen(store, "")
    monkeypatch.setenv("STORAGE_DIR", str(store))
    assert command_for("summary") == "python summarize_jsonl.py"


def test_patients_are_written_again_by_a_command_that_chooses_the_same(tmp_path, monkeypatch):
    """Pasted without, it converted everybody, and dealt them to other splits."""
    monkeypatch.setenv("STORAGE_DIR", str(tmp_path))
    storage.open_storage()
    usual = {"sample": 1.0, "seed": 42, "subjects_file": None, "folder": "/data", "bucket_bytes": 9}
    for chosen, options in (
        ({}, ""),
        ({"sample": 0.1, "seed": 0}, " --sample 0.1 --seed 0"),
        ({"subjects_file": "/my lists/a.txt"}, " --subjects-file '/my lists/a.txt'"),
    ):
        with storage.step_output(tmp_path, "subjects", usual | chosen, {}) as out:
            (out.path / "split.csv").write_text("a")
        (tmp_path / "subjects/split.csv").write_text("b")
        with pytest.raises(UserError, match=f"run `python convert_to_jsonl.py{options}` to write"):
            storage.verified_manifest(tmp_path, "subjects")


def test_built_in_patients_are_written_again_as_many(tmp_path, monkeypatch):
    """Pasted without, the command made 400 others, and none of the emergency department."""
    monkeypatch.setenv("STORAGE_DIR", str(tmp_path))
    storage.open_storage()
    command = "python convert_to_jsonl.py"
    for n, emergency, options in (
        (400, False, ""),
        (60, True, " --synthetic-patients 60 --synthetic-emergency"),
    ):
        settings = {"patients": n, "seed": 42, "emergency": emergency}
        with storage.step_output(tmp_path, "synthetic", settings, {}):
            pass
        assert command_for("subjects") == command + options
        assert next_step.command(tmp_path, [StepState("subjects", "stale")], ROOT) == (
            command + options
        )


def test_prompts_are_written_again_by_a_command_that_makes_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("STORAGE_DIR", str(tmp_path))
    storage.open_storage()
    usual = dict(CARRIED["prompts"])
    command = "python make_symptom_prompts_ctx_dxpx.py"
    for chosen, options in (
        ({}, ""),
        ({"tasks": ["chart_qa", "guidance"], "seed": 0}, " --tasks chart_qa guidance --seed 0"),
        ({"token_budget": 560, "model": "/my llama"}, " --token-budget 560 --model '/my llama'"),
    ):
        with storage.step_output(tmp_path, "prompts", usual | chosen, {}):
            pass
        assert command_for("prompts") == command + options
    assert command_for("prompts", model="b") == f"{command} --token-budget 560 --model b"
    usual = asdict(FeatureSettings())
    assert (
        CARRIED["features"].items() <= usual.items()
        and CARRIED["prompts"].items()
        >= {"tasks": list(USUAL_TASKS), "model": EMBEDDED_ORIGIN}.items()
    )


def test_an_adapter_with_canaries_is_written_again_with_as_many(tmp_path, monkeypatch):
    monkeypatch.setenv("STORAGE_DIR", str(tmp_path))
    storage.open_storage()
    for name, n in (("a-canaries", 20), ("a-canaries-seed3", 30), ("my-canaries", 0)):
        with storage.step_output(tmp_path, f"adapters/{name}", {"canaries": n}, {}):
            pass
    expected = {
        "default-canaries": "--canaries 200",  # it is not there: as the documents have it
        "a-canaries": "--run a --canaries 20",
        "a-canaries-seed3": "--run a --canaries 30 --seeds 3",
        "my-canaries": "--run my-canaries",
    }
    for name, options in expected.items():
        assert command_for(f"adapters/{name}") == f"python train_qlora.py {options}"
    again = "python run_files/audit_adapter.py --run a-canaries"
    assert command_for("privacy/a-canaries") == again
    with storage.step_output(tmp_path, "canaries", {"n": 24}, {}) as out:
        (out.path / "canaries.jsonl").write_text("a")
    assert command_for("canaries") == "python train_qlora.py --canaries 24"


def test_a_file_that_was_edited_is_refused_whatever_its_size(tmp_path):
    stored(tmp_path, {"columns_least.csv": "labevents.priority"})
    (tmp_path / "features" / "columns_least.csv").write_text("labevents.valuenum")
    with pytest.raises(UserError, match="columns_least.csv is missing or was changed"):
        storage.verified_manifest(tmp_path, "features")


@pytest.mark.parametrize("resumable", [True, False])
def test_a_disk_that_is_full_as_a_run_begins_keeps_nothing_of_it(tmp_path, monkeypatch, resumable):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(storage, "write_json", full)
    with (
        pytest.raises(OSError, match="No space left"),
        storage.step_output(tmp_path, "features", {}, {}, resumable=resumable),
    ):
        pass
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*.partial"))


def test_a_disk_of_its_own_below_the_storage_folder_is_named_when_it_is_full(tmp_path, monkeypatch):
    """Libraries do not say which file it was."""
    exports = tmp_path / "exports"
    exports.mkdir()
    monkeypatch.setattr(faults, "_FOLDERS", [])
    monkeypatch.setattr(faults, "has_no_room", lambda path: path == exports)
    monkeypatch.setattr(faults, "_disk", lambda path: int(path == exports))
    with (
        pytest.raises(UserError, match=f"^the disk of {exports} is full"),
        storage.step_output(tmp_path, "exports/default", {}, {}),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_a_manifest_that_a_kill_cut_short_is_no_part_of_the_output(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        storage.step_output(tmp_path, "subjects", {}, {}, resumable=True) as out,
    ):
        (out.path / ".manifest.json.new").write_text("{")
        raise KeyboardInterrupt
    with storage.step_output(tmp_path, "subjects", {}, {}, resumable=True):
        pass
    assert ".manifest.json.new" not in storage.verified_manifest(tmp_path, "subjects")["files"]


@pytest.mark.parametrize("name", ["subjects", ".subjects.partial"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_run_that_is_killed_as_its_output_takes_its_place_is_brought_to_its_end(
    tmp_path, monkeypatch, name, cut
):
    """Hours of work were begun anew: all was written but the name."""

    def written(text):
        with storage.step_output(tmp_path, "subjects", {"seed": text}, {}, resumable=True) as out:
            (out.path / "records").write_text(text)

    written("before")
    rename = Path.rename

    def killed(path, target):
        if path.name == name:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Path, "rename", killed)
        written("after")
    if cut:  # as a power cut leaves a file that was not on the disk yet
        (tmp_path / ".subjects.partial" / "records").write_text("")
        written("after")
    else:
        with pytest.raises(errors.UpToDate):
            written("after")
    assert (tmp_path / "subjects" / "records").read_text() == "after"
    assert not list(tmp_path.glob(".subjects.[po]*"))


@pytest.mark.parametrize(
    ("seed", "record", "work", "told"),
    [
        (1, None, True, ""),
        (2, None, True, "of a stopped run goes, as it has other settings or inputs"),
        (1, "", True, "of a stopped run goes, as its record (.run.json) is gone or damaged"),
        (
            1,
            '{"id": 1}',
            True,
            "of a stopped run goes, as its record (.run.json) is gone or damaged",
        ),
        (1, "", False, ""),  # it was killed as it began
    ],
)
def test_a_stopped_run_that_another_drops_is_told(tmp_path, capsys, seed, record, work, told):
    for asked in (1, seed):
        with (
            pytest.raises(KeyboardInterrupt),
            storage.step_output(tmp_path, "subjects", {"seed": asked}, {}, resumable=True) as out,
        ):
            if work:
                (out.path / "tables").mkdir(exist_ok=True)
            if record is not None:
                (out.path / ".run.json").write_text(record)
            raise KeyboardInterrupt
    assert capsys.readouterr().out == (told and f"note: {out.path} {told}\n")


HOLD = """
import sys
from pathlib import Path
from mimic_qlora.step import storage
with storage.locked(Path(sys.argv[1]) / "features", "features"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_a_second_run_out_and_goes_with_its_process(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        for _ in range(2):
            with (
                pytest.raises(UserError, match="another run of `python feature_select"),
                storage.locked(tmp_path / "features", "features"),
            ):
                pass
        holder.kill()
    with storage.locked(tmp_path / "features", "features"):  # a dead run blocks nobody
        assert (tmp_path / ".features.lock").stat().st_mode & 0o777 == 0o600


def test_facts_of_a_step_are_in_its_manifest_and_no_part_of_its_identity(tmp_path):
    with storage.step_output(tmp_path, "features", {"a": 1}, {}) as output:
        output.facts["patients"] = 5
    manifest = storage.verified_manifest(tmp_path, "features")
    assert manifest["patients"] == 5 and manifest["id"] == output.manifest["id"]
    with pytest.raises(errors.UpToDate), storage.step_output(tmp_path, "features", {"a": 1}, {}):
        pass


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("caf\udce9", "is not text in this locale: set LC_ALL=C.UTF-8"),  # for DuckDB
        ("storage\r", "holds a control character"),  # `source settings.env`, saved on Windows
        ("a::b/storage", "holds `::`, which stands for a chain of file systems"),  # for datasets
    ],
)
def test_a_path_that_a_library_cannot_open_is_refused_at_once(tmp_path, name, says):
    with pytest.raises(UserError, match=says):
        storage.open_storage(f"{tmp_path}/{name}", create=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_made_is_private_and_one_that_was_there_keeps_its_mode(tmp_path):
    before = os.umask(0)
    try:
        assert storage.open_storage(str(tmp_path / "a" / "b"), create=True).is_dir()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    for mode in (0o755, 0o750, 0o700, 0o2770):
        (tmp_path / "a" / "b").chmod(mode)
        for create in (True, False):
            storage.open_storage(str(tmp_path / "a" / "b"), create=create)
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == mode


REFUSED = {
    "no tables": ("convert_to_jsonl.py", "--mimic-dir", "/nowhere"),
    "no model": ("train_qlora.py", "--save-base", "--model", "/nowhere"),
    "nothing rated": ("run_files/review.py", "--report"),
}


@pytest.mark.parametrize("command", REFUSED.values(), ids=REFUSED)
def test_a_first_command_that_is_refused_leaves_no_folder(tmp_path, command):
    done = run_script(*command, storage=tmp_path / "a" / "b")
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702, 0o757])
@pytest.mark.parametrize("create", [True, False])
def test_a_folder_to_which_all_users_can_write_is_refused_and_keeps_its_mode(
    tmp_path, mode, create
):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(UserError, match="every user of this machine can write") as said:
        storage.open_storage(str(tmp_path / "open"), create=create)
    # others work in a folder like /tmp, which must stay open
    assert ("chmod 700" in str(said.value)) == (not mode & stat.S_ISVTX)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == mode
    assert not list((tmp_path / "open").iterdir())


def test_another_users_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UserError, match="belongs to another user"):
        storage.open_storage(str(tmp_path))


def planted_link(path, victim):
    path.symlink_to(victim)


def planted_dangling_link(path, victim):
    path.symlink_to(victim.with_name("not there"))


def planted_hard_link(path, victim):
    path.hardlink_to(victim)


def planted_fifo(path, victim):
    os.mkfifo(path)


def planted_folder(path, victim):
    path.mkdir()


def planted_socket(path, victim):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    "plant",
    [
        planted_link,
        planted_dangling_link,
        planted_hard_link,
        planted_fifo,
        planted_folder,
        planted_socket,
    ],
)
def test_what_is_planted_in_the_place_of_a_lock_is_refused_and_left_alone(
    tmp_path, plant, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    victim = tmp_path / "victim"
    victim.write_text("precious")
    plant(Path(".features.lock"), victim)
    with pytest.raises(UserError, match="features.lock is no lock but"):
        stored(tmp_path, {"a": "b"})
    assert victim.read_text() == "precious" and not (tmp_path / "features").exists()
    assert not (tmp_path / "not there").exists()


def test_the_empty_lock_of_a_copy_made_of_hard_links_is_one(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / ".features.lock").hardlink_to(tmp_path / "a")
    stored(tmp_path, {"a": "b"})


def test_built_in_data_have_a_lock_too(tmp_path):
    with storage.step_output(tmp_path, "synthetic", {}, {}) as output:
        (output.path / "a").touch()
    assert (tmp_path / "synthetic" / "a").exists()


EVERY = ("id", "step", "software", "settings", "inputs", "files", "finished", "seconds", "versions")
GONE = object()


def changed(place, **parts):
    """Change parts of a step's manifest; GONE takes one out."""
    path = place / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | parts
    kept = {name: part for name, part in manifest.items() if part is not GONE}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A storage folder with the manifest of step 1, and no table."""
    store = tmp_path_factory.mktemp("converted")
    with storage.step_output(store, "subjects", {}, {}) as out:
        out.facts.update(SUBJECTS_FACTS)
    return store


@pytest.mark.parametrize("odd", [GONE, None, [1], True])
@pytest.mark.parametrize("part", [*EVERY, *SUBJECTS_FACTS])
def test_a_part_of_a_manifest_that_is_gone_or_of_another_kind_is_named(
    converted, tmp_path, part, odd
):
    shutil.copytree(converted, tmp_path, dirs_exist_ok=True)
    assert subjects_manifest(tmp_path)["rows"] == SUBJECTS_FACTS["rows"]
    changed(tmp_path / "subjects", **{part: odd})
    told = (
        rf"subjects/manifest\.json cannot be read, as its {part} is missing.*convert_to_jsonl\.py"
    )
    with pytest.raises(UserError, match=told):
        subjects_manifest(tmp_path)
    if part in EVERY:
        assert manifests.read(tmp_path / "subjects") is None


@pytest.mark.parametrize(
    ("part", "odd"),
    [
        ("source", {**SUBJECTS_FACTS["source"], "patients": "1"}),
        ("rows", {}),
        ("rows", {**SUBJECTS_FACTS["rows"], "services": {"columnar": 1}}),
        ("rows", {"patients": {"in": 1}}),
        ("columns", {"patients": {"subject_id": "guess"}}),
        ("cells_not_of_their_type", {"services.prev_service": 1}),
        ("quality", [{"check": "c"}]),
        ("files", {"a": {"sha256": "b"}}),
    ],
)
def test_a_part_within_a_part_is_missed_too(converted, tmp_path, part, odd):
    shutil.copytree(converted, tmp_path, dirs_exist_ok=True)
    changed(tmp_path / "subjects", **{part: odd})
    with pytest.raises(UserError, match=f"as its {part}"):
        subjects_manifest(tmp_path)


def test_a_command_is_worded_for_the_folder_that_it_is_pasted_in(tmp_path, monkeypatch):
    """Step 7 runs in run_files/, where there is no convert_to_jsonl.py."""
    step_1, step_7 = "python convert_to_jsonl.py", "cd run_files && ./run.sh"
    monkeypatch.delenv("STORAGE_DIR", raising=False)
    usual = ending.Options(str(ROOT / "storage"))
    for folder, first, last in (
        (ROOT, step_1, step_7),
        (ROOT / "run_files", f"cd .. && {step_1}", "./run.sh"),
    ):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(step_commands, "_OPENED", [])
        assert command_for("subjects") == first and command_for("validation") == last
        step_commands.remember_storage(tmp_path)
        assert command_for("subjects") == f"{first} --storage {tmp_path}"
        assert ending.command("validation", usual) == f"{last} {ending.TRIALS}"


@pytest.mark.parametrize(
    ("folder", "variable", "argument", "opened"),
    [
        ("run_files", "mine", None, "run_files/mine"),
        ("run_files", None, "storage", "run_files/storage"),
        ("run_files", None, None, "run_files/storage"),
        ("run_files", None, "../storage", ""),
        ("run_files", str(ROOT / "mine"), None, ""),
        (".", "mine", None, "mine"),  # step 7 begins with `cd run_files`
        (".", None, None, ""),
    ],
)
def test_a_relative_storage_folder_is_named_whole(monkeypatch, folder, variable, argument, opened):
    """Pasted, a command that begins with `cd` opened another folder."""
    monkeypatch.chdir(ROOT / folder)
    monkeypatch.delenv("STORAGE_DIR", raising=False)
    if variable:
        monkeypatch.setenv("STORAGE_DIR", variable)
    option = f" --storage {ROOT / opened}" * bool(opened)
    assert ending.command("validation", ending.Options(argument)).endswith(f"./run.sh 50{option}")
    store = files.resolved_path(argument or variable or "storage")
    step_commands.remember_storage(store)
    for command in (command_for("summary"), step_commands.step_1(store)):
        assert command.endswith(f".py{option}")
