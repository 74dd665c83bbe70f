"""status.py: the state of a storage folder in words and as JSON, and what --clean removes.

The folders are written by the writers of the steps, with small files in place of their content.
"""

import errno
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.paths import ROOT
from helpers.scripts import run_here
from helpers.storage_folders import SUBJECTS_FACTS
from mimic_qlora.clinical import content
from mimic_qlora.features import inputs as feature_inputs
from mimic_qlora.llm import embedded
from mimic_qlora.processes import entries
from mimic_qlora.prompts import audit, records
from mimic_qlora.step import files, manifests, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import leftovers, overview, running_now, state
from mimic_qlora.subjects import manifest as manifest_of_1
from mimic_qlora.training.memorisation import audited
from mimic_qlora.validation import delivery, ledger, results

PROMPT = (ROOT / "run_files" / "system_prompt.txt").read_text(encoding="utf-8").strip()
SOURCE = {"kind": "mimic", "version": "MIMIC-IV 2.2", "patients": 60, "unexpected": []}
SETTINGS = {
    "subjects": {"sample": 0.5, "seed": 42, "subjects_file": None},
    "features": {"seeds": 3, "margin": 0.01},
    "prompts": {"tasks": ["guidance"], "token_budget": 700, "model": "meta/L"},
    "adapters/default": {"lr": 0.001, "seed": 7, "base_model": {"name": "meta/L"}},
}
RESULTS = {"validation_loss_base": 3.0, "validation_loss_adapter": 1.5, "steps": 33}


def write(store: Path, step: str, word: str = "") -> None:
    """Write a step's folder as the step does; another `word` is other content."""
    ids = {
        name: storage.verified_manifest(store, name)["id"]
        for name in {
            "subjects": (),
            "summary": ("subjects",),
            "features": ("subjects",),
            "prompts": ("subjects", "features"),
        }.get(step, ("prompts",))
    }
    if step == "summary":
        ids["clinical content"] = content.content_sha256()
    elif step == "features":
        ids |= feature_inputs.of_step(ids["subjects"])
    elif step == "prompts":
        ids["clinical_content"] = records.content_sha256(PROMPT)
    settings = dict(SETTINGS.get(step, {}))
    if step == "subjects":
        settings["folder"] = str(store.parent / "mimic")
    with storage.step_output(store, step, settings, ids, force=True) as out:
        (out.path / "content.txt").write_text(f"{step} {word}")
        if step == "subjects":
            source = SOURCE | {"folder": settings["folder"]}
            split = {"train": 48, "validation": 6, "test": 6}
            out.facts.update({**SUBJECTS_FACTS, "source": source, "split": split})
        if step.startswith("adapters"):
            name = {"base_model": {"name": "meta/L"}}
            out.facts.update({"results": RESULTS, "recipe": "cpu"} | name)
            (out.path / "adapter_model.safetensors").write_text(f"weights {word}")


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """A storage folder in which steps 1 to 5 are done, and an empty folder in place of /tmp."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(delivery, "TEMPORARY", tmp_path / "tmp")
    (tmp_path / "mimic").mkdir()
    store = tmp_path / "storage"
    store.mkdir(mode=0o700)
    for step in ("subjects", "summary", "features", "prompts", "adapters/default"):
        write(store, step)
    return store


def look(store: Path, *args: str) -> SimpleNamespace:
    """Return what status.py says of a folder: its text, and the same as data."""
    done = run_here("run_files/status.py", *args, storage=store)
    assert done.returncode == 0, done.stderr
    data = json.loads(run_here("run_files/status.py", "--json", *args, storage=store).stdout)
    states = {step["step"]: step["state"] for step in data["steps"]}
    return SimpleNamespace(text=" ".join(done.stdout.split()), states=states, **data)


def test_an_empty_folder_says_so_and_names_step_1(tmp_path):
    (tmp_path / "storage").mkdir(mode=0o700)
    said = look(tmp_path / "storage")
    assert set(said.states.values()) == {"missing"} and "none converted yet" in said.text
    assert said.next == "python convert_to_jsonl.py"


@pytest.mark.parametrize("step", ["subjects", "summary", "prompts", "adapters/default"])
@pytest.mark.parametrize("odd", [None, "x", {"a": None}])
def test_a_manifest_with_a_part_of_another_kind_is_damaged_and_shows_nothing(whole, step, odd):
    path = whole / step / "manifest.json"
    manifest = json.loads(path.read_text())
    for part in ("files", "rows") if step == "subjects" else ("files",):
        path.write_text(json.dumps({**manifest, part: odd}))
        said = look(whole)
        assert said.states[step] == "damaged" and "manifest.json cannot be read" in said.text


def test_flags_by_other_checks_and_a_summary_of_earlier_ones_are_told(whole):
    """Bounds of values had changed: nothing said that rows were flagged by those of before."""
    for step in ("subjects", "summary"):
        path = whole / step / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest |= {manifest_of_1.CHECKS: "x"} if step == "subjects" else {}
        manifest["inputs"] |= {manifest_of_1.FLAGS: "x"} if step == "summary" else {}
        said = look(whole)
        assert said.states[step] == "done" and "flags of quality" not in said.text
        path.write_text(json.dumps(manifest))
        said = look(whole)
        found = f"{step}: {'its flags of quality are by' if step == 'subjects' else 'has the'}"
        assert found in said.text
        assert said.states[step] == ("done" if step == "subjects" else "stale")
        manifest.pop(manifest_of_1.CHECKS, None)
        path.write_text(json.dumps(manifest))


def test_a_manifest_that_the_machine_keeps_back_is_told_with_the_reason(whole, monkeypatch):
    real = files.read_json

    def read_json(path):
        if path.parent.name == "features":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(files, "read_json", read_json)
    (features,) = (s for s in state.of_storage(whole, "") if s.step == "features")
    assert "manifest.json cannot be read (Input/output error): fix that" in features.why
    assert look(whole).next == ""  # not the command that would make it anew


@pytest.mark.parametrize("step", ["adapters", "qa", "validation"])
def test_a_folder_of_another_user_is_not_called_missing(whole, monkeypatch, step):
    (whole / step).mkdir(exist_ok=True)

    def kept_from(real):
        def read(path, *more):
            if Path(path) == whole / step:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *more)

        return read

    monkeypatch.setattr(os, "listdir", kept_from(os.listdir))
    monkeypatch.setattr(os, "scandir", kept_from(os.scandir))
    said = look(whole)
    assert said.states[step] == "unreadable" and "cannot be read (Permission denied)" in said.text
    assert said.next == "" and "Next: let what cannot be read be read again" in said.text


@pytest.mark.parametrize("step", ["features", "prompts", "adapters/default", "qa", "validation"])
def test_a_folder_whose_disk_is_away_is_not_called_missing(whole, step):
    """Its command would make it anew, and the ledger would be called edited."""
    shutil.rmtree(whole / step, ignore_errors=True)
    (whole / step).symlink_to(whole / "not mounted" / "away")
    said = look(whole)
    assert said.states[step] == "unreadable" and "mount its disk" in said.text
    assert said.next == ""
    if step == "validation":
        for read in (ledger.ledger, results.newest):
            with pytest.raises(UserError, match="mount its disk"):
                read(whole)


def test_what_is_done_is_told_with_losses_and_the_next_command(whole):
    said = look(whole)
    assert [said.states[step] for step in (*SETTINGS, "validation")] == ["done"] * 4 + ["missing"]
    assert said.next == "cd run_files && ./run.sh 50 --model meta/L"
    assert "48 train, 6 validation, 6 test" in said.text and "MIMIC-IV 2.2" in said.text
    (run,) = said.runs
    assert (run["seed"], run["loss"], run["recipe"], run["steps"]) == (7, 1.5, "cpu", 33)
    assert "3.00 1.50" in said.text


def test_the_audit_is_that_of_the_records_that_are_there(whole):
    said = look(whole)
    assert said.audited is None and "Audit of prompts: none yet" in said.text
    content_id = storage.verified_manifest(whole, "prompts")["id"]
    faults = {"gold": ["train.jsonl line 3, guidance"]}
    audit.keep(whole, audit.Audit({"records": 5}, faults, content_id))
    said = look(whole)
    assert said.audited == {"records": 5, "faults": 1}
    assert "Audit of prompts: 5 records, 1 fault" in said.text
    write(whole, "features", "other")
    write(whole, "prompts", "other")
    assert look(whole).audited is None


def test_a_further_look_is_at_the_newest_adapter_and_its_other_seeds(whole):
    for run in ("a-seed1", "a-seed0"):
        write(whole, f"adapters/{run}")
        (whole / "adapters" / run / "manifest.json").write_text(
            (whole / "adapters" / run / "manifest.json").read_text().replace('": "20', '": "21')
        )
    assert look(whole).next.startswith(
        "cd run_files && ./run.sh 50 --model meta/L --run a-seed0,a-s"
    )


def test_half_done_the_next_step_carries_model_and_settings_over(whole):
    shutil.rmtree(whole / "adapters")
    assert look(whole).next == "python train_qlora.py --model meta/L"
    shutil.rmtree(whole / "features")
    said = look(whole)
    assert said.states["features"] == "missing" and said.states["prompts"] == "stale"
    assert "rests on features, which is missing" in said.text
    assert said.next == "python feature_select_xgb_columns.py"


def test_stale_by_content_names_the_older_step_and_its_own_settings(whole):
    write(whole, "features", "other")
    said = look(whole)
    assert said.states["prompts"] == said.states["adapters/default"] == "stale"
    assert "prompts: made from an older version of features" in said.text
    assert "adapters/default: rests on prompts, which is stale" in said.text
    command = "python make_symptom_prompts_ctx_dxpx.py --tasks guidance --model meta/L"
    assert said.next == command
    assert look(whole, "--storage", str(whole)).next == command  # that is the default here


def test_stale_by_software_and_by_content_files_does_not_stop_later_steps(whole, monkeypatch):
    monkeypatch.setattr(content, "content_sha256", lambda: "other")
    said = look(whole)
    assert said.states["summary"] == said.states["prompts"] == "stale"
    assert said.states["adapters/default"] == "done" and "later steps take it" in said.text
    assert "run.sh" in said.next
    monkeypatch.undo()
    path = whole / "summary" / "manifest.json"
    path.write_text(path.read_text().replace('"software": "', '"software": "0.0.'))
    assert "summary: made by version 0.0." in look(whole).text


def test_a_moved_folder_stays_done_and_names_mimic_where_it_was(whole, tmp_path):
    (tmp_path / "mimic").rmdir()
    moved = whole.rename(tmp_path / "moved")
    said = look(moved)
    assert said.states["adapters/default"] == "done"
    assert f"{tmp_path}/mimic is not there any more" in said.text


def test_a_colleague_who_may_not_see_where_mimic_was_is_told_the_rest(whole):
    hidden = "/" + 300 * "x"  # no stat, by any user: as in a folder of somebody else
    for step, part, key in (("subjects", "source", "folder"), ("prompts", "settings", "model")):
        path = whole / step / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest[part][key] = hidden
        path.write_text(json.dumps(manifest))
    assert f"{hidden} is not there any more, or not for you" in " ".join(look(whole).text.split())


def test_a_read_only_folder_can_be_looked_at(whole, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    before = sorted(whole.rglob("*"))
    said = look(whole).text
    assert "It is read-only for you" in said and "Next, where you can write:" in said
    assert sorted(whole.rglob("*")) == before


@pytest.mark.skipif(not running_now._LOCKS.exists(), reason="no list of locks on this system")
def test_a_step_that_runs_is_told_with_its_process(whole):
    with storage.locked(whole / "features", "features"):
        said = look(whole)
        assert said.states["features"] == "running" and f"process {os.getpid()}" in said.text
        assert said.next == "" and "wait for the step that runs" in said.text
    assert look(whole).states["features"] == "done"
    (whole / ".features.lock.held").write_text("71\nnode3\n")
    assert "process 71 on the host node3 writes it anew" in look(whole).text


def test_a_run_that_stopped_is_told_and_goes_on_with_its_own_settings(whole, monkeypatch):
    work = whole / "adapters" / ".default.training"
    (whole / "adapters" / "default").rename(work)
    (work / "manifest.json").rename(work / "draft.json")
    (work / "checkpoint-12").mkdir()
    said = look(whole)
    assert said.states["adapters/default"] == "stopped" and "after step 12" in said.text
    command = "python train_qlora.py --recipe cpu --seed 7 --model meta/L"
    assert said.next == command
    with monkeypatch.context() as changed:
        changed.setattr(content, "content_sha256", lambda: "other")
        said = look(whole)
    assert said.states["prompts"] == "stale" and said.next == command  # its checkpoint would go
    (whole / ".subjects.partial").mkdir()
    shutil.rmtree(whole / "subjects")
    assert look(whole).states["subjects"] == "stopped"


def test_an_adapter_that_a_kill_left_aside_is_put_back_by_its_own_settings(whole):
    (whole / "adapters/default").rename(whole / "adapters/.default.old")
    said = look(whole)
    assert "between two renames" in said.text
    assert said.next == "python train_qlora.py --recipe cpu --seed 7 --model meta/L"


def test_a_run_of_several_processes_that_stopped_goes_on_with_as_many(whole):
    work = whole / "adapters" / ".pair.training"
    (whole / "adapters" / "default").rename(work)
    draft = json.loads((work / "manifest.json").read_text()) | {"processes": 2}
    draft["settings"] |= {"seed": 0, "patience": 0}  # neither is the default
    (work / "draft.json").write_text(json.dumps(draft))
    (work / "manifest.json").unlink()
    command = "torchrun --nproc-per-node 2 train_qlora.py --recipe cpu --seed 0 --patience 0"
    assert look(whole).next == f"{command} --run-name pair --model meta/L"


def test_another_user_s_folder_is_refused(whole):
    if os.getuid():
        pytest.skip("only root can give a folder away")
    os.chown(whole, 12345, -1)
    done = run_here("run_files/status.py", storage=whole)
    assert done.returncode == 2 and "belongs to another user" in done.stderr


def test_damaged_files_and_manifests_are_told(whole):
    (whole / "prompts" / "content.txt").write_text("edited")
    (whole / "summary" / "manifest.json").write_text("{")
    said = look(whole)
    assert said.states["prompts"] == said.states["summary"] == "damaged"
    assert "content.txt is missing or was changed" in said.text
    assert "rests on prompts, which is damaged" in said.text
    (whole / "subjects" / "manifest.json").write_text('{"source": 3, "files": 7}')
    assert look(whole).states["subjects"] == "damaged"


def test_notes_that_lay_beside_an_adapter_are_no_adapter(whole):
    (whole / "adapters" / "default" / "notes.md").write_text("mine")
    write(whole, "adapters/default", "another")
    assert (whole / "adapters" / "default.kept1" / "notes.md").read_text() == "mine"
    assert "adapters/default" in look(whole).states and "kept1" not in look(whole).text


def test_a_full_disk_is_told(whole, monkeypatch):
    full = SimpleNamespace(total=1, used=1, free=7000)
    monkeypatch.setattr(overview.shutil, "disk_usage", lambda path: full)
    said = look(whole).text
    assert "its disk is FULL: 7.0 kB free Data" in said and "Next, when there is room:" in said


def test_a_study_that_is_not_done_may_go_on_by_its_own_command(whole, monkeypatch, tmp_path):
    (tmp_path / f"mine-{'0' * manifests.STUDY_HASH}.yaml").write_text("data: {from: synthetic}")
    monkeypatch.setenv(manifests.STUDY, str(next(tmp_path.glob("mine-*"))))
    write(whole, "summary", "other")
    said = look(whole).text
    assert "Study: mine.yaml" in said and "or the same run_all.py command, which goes on:" in said


def test_results_that_are_labelled_later_stay_as_old_as_they_are(whole):
    made = whole / "validation" / "20260101-000000-a"
    made.mkdir(parents=True)
    (made / "results.jsonl").write_text("")
    os.utime(made / "results.jsonl", (1e9, 1e9))
    (made / "labelled.txt").write_text("")
    assert look(whole).states["validation"] == "stale"


def test_results_of_an_adapter_that_was_trained_again_are_stale_whatever_the_times_are(whole):
    """A copy of the storage folder by `cp -r` has the time of copying on all files."""
    made = whole / "validation" / "20260101-000000-a"
    made.mkdir(parents=True)
    (made / "results.jsonl").write_text("")
    weights = files.file_sha256(whole / "adapters/default/adapter_model.safetensors")
    for answered_by, is_now in ((weights, "done"), ("f" * 64, "stale")):
        (made / "reader.json").write_text(json.dumps({"adapters": {"default": answered_by}}))
        assert look(whole).states["validation"] == is_now


def test_an_adapter_that_results_do_not_compare_may_be_trained_later(whole):
    made = whole / "validation" / "20260101-000000-a"
    made.mkdir(parents=True)
    (made / "results.jsonl").write_text("")
    weights = files.file_sha256(whole / "adapters/default/adapter_model.safetensors")
    (made / "reader.json").write_text(json.dumps({"adapters": {"default": weights}}))
    write(whole, "adapters/other")
    other = whole / "adapters/other/manifest.json"
    finished = json.loads(other.read_text()) | {"finished": "2200-01-01T00:00:00+0000"}
    other.write_text(json.dumps(finished))
    assert look(whole).states["validation"] == "done"
    (made / "reader.json").unlink()  # of an early version
    assert look(whole).states["validation"] == "stale"


def test_an_audit_by_limits_that_are_no_longer_the_frozen_ones_says_so(whole):
    weights = files.file_sha256(whole / "adapters/default/adapter_model.safetensors")
    folder = audited.folder_of(whole, "default")
    folder.mkdir(parents=True)
    limits = whole / "privacy" / audited.LIMITS
    limits.write_text("auc: 0.6")
    audited.Audited("held", "2026-01-01", weights, (), files.file_sha256(limits)).write(folder)
    assert look(whole).runs[0]["memorisation"] == "held"
    ledger.enter(whole, "audited", plan_sha256="", adapters={"default": weights}, verdict="held")
    (whole / "adapters/default").rename(whole / "adapters/renamed")
    assert look(whole).runs[0]["memorisation"] == "held, audited as default"
    (whole / "adapters/renamed").rename(whole / "adapters/default")
    folder.rename(folder.with_name("aside"))
    assert look(whole).runs[0]["memorisation"] == "held, audited in a folder that is gone"
    folder.with_name("aside").rename(folder)
    limits.write_text("auc: 0.51")
    assert look(whole).runs[0]["memorisation"] == "held by earlier limits"
    limits.unlink()  # a copy of the run's folder alone was "not audited"
    assert look(whole).runs[0]["memorisation"] == "held by limits that are gone"


def test_an_adapter_that_no_command_can_name_is_told_and_not_proposed(whole):
    (whole / "adapters/default").rename(whole / "adapters/my run")
    said = look(whole)
    assert "adapters/my run: rename it: --run takes a name of letters" in said.text
    assert "my run" not in said.next
    write(whole, "subjects", "other")  # so that each step would be done again
    assert "my run" not in look(whole).next


def test_an_audit_that_stopped_is_told_and_what_audits_keep_can_be_removed(whole, capsys):
    """A stopped one was "not audited", and what it had read of charts stayed for ever."""
    weights = files.file_sha256(whole / "adapters/default/adapter_model.safetensors")
    (whole / "privacy/.readings").mkdir(parents=True)
    (whole / "privacy/.control-abc").mkdir()
    path = whole / "privacy/.readings/x.jsonl"
    entries.begin(path, {"adapters": {"default": weights}}, anew=False)
    assert look(whole).runs[0]["memorisation"] == audited.NOT_AUDITED
    entries.add(path, {"key": "k", "value": []})
    assert look(whole).runs[0]["memorisation"] == "audit begun, not finished"
    with storage.locked(whole / "privacy/default", "privacy/default"):
        assert leftovers.of_storage(whole) == []
    found = leftovers.of_storage(whole)
    with storage.locked(whole / "privacy/default", "privacy/default"):  # it goes on meanwhile
        with pytest.raises(UserError, match="another run of"):
            overview.clean(found, lambda question: True)
    assert overview.clean(found, lambda question: True).startswith("Removed 2 of 2, ")
    assert "hours of reading and training" in capsys.readouterr().out
    assert not [path for path in (whole / "privacy").iterdir() if path.suffix != ".lock"]


def test_the_ledger_is_counted_by_adapter_and_an_edited_one_is_told(whole):
    ledger.enter(whole, "frozen", plan_sha256="abc")
    folder = whole / "adapters" / "default"
    weights = files.file_sha256(folder / "adapter_model.safetensors")
    ledger.looked(whole, {"default": weights}, {"n": 3}, "c")
    ledger.opening(whole, "abc", {"default": weights}, "c")
    said = look(whole)
    assert "plan abc frozen, 1 look at validation patients, test patients opened once" in said.text
    assert (said.runs[0]["looks"], said.runs[0]["openings"]) == (1, 1)
    write(whole, "adapters/default", "trained anew")  # nobody has looked at this one
    again = look(whole)
    assert (again.runs[0]["looks"], again.runs[0]["openings"]) == (0, 0)
    assert again.ledger["looks"] == again.ledger["openings"] == 1
    path = ledger.path_of(whole)
    path.write_text(path.read_text().replace("looked", "locked"))
    damaged = look(whole)
    assert "was edited at line" in damaged.text
    assert damaged.runs[0]["looks"] is damaged.runs[0]["openings"] is None  # not 0


def test_test_patients_that_step_6_asked_an_adapter_about_are_counted(whole):
    """They were told to be "never opened" alone, though somebody had read answers about all."""
    (whole / "subjects/split.csv").write_text("subject_id,split\n1,train\n2,test\n3,test\n4,test\n")
    (whole / "qa").mkdir()
    asked = [(1, "default"), (2, "default"), (2, "default"), (3, None)]
    lines = [json.dumps({"subject_id": who, "run": run}) for who, run in asked]
    lines.insert(1, '{"subject_id": 2, "run"')  # an edit: what stood behind it was not counted
    (whole / "qa/a.jsonl").write_text("\n".join(lines) + "\n")
    (whole / "qa/notes.jsonl").write_text("no transcript\n")
    said = look(whole)
    assert "test patients never opened Step 6 asked an adapter about 1 of the test" in said.text
    assert said.ledger["asked"] == 1 and "--batch without an end" not in said.text
    (whole / "qa/.answers").mkdir()
    for name, adapters in (("x", {"default": "sum"}), ("y", {}), ("z", {"default": "sum"})):
        path = whole / "qa/.answers" / f"{name}.jsonl"
        entries.begin(path, {"adapters": adapters}, anew=False)
        if name != "z":  # of which nothing is answered yet
            entries.add(path, {"key": "k", "answers": []})
    said = look(whole)  # its answers were printed: a kill had left them uncounted
    assert said.ledger["stopped"] == 1 and "Step 6 has 1 --batch without an end" in said.text


def test_no_folder_is_one_sentence(tmp_path):
    done = run_here("run_files/status.py", storage=tmp_path / "nowhere")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "there is no storage folder" in done.stderr and not (tmp_path / "nowhere").exists()


def test_clean_removes_what_is_agreed_to_and_nothing_else(whole, tmp_path, capsys):
    old = tmp_path / "tmp" / "mimic_qlora_old"
    young = tmp_path / "tmp" / "mimic_qlora_young"
    for folder in (old, young, whole / "models" / "SmolLM2-135M-Instruct"):
        folder.mkdir(parents=True)
        (folder / "output.csv").write_text("x" * 1000)
    os.utime(old, (0, time.time() - 90_000))
    partial, running = whole / ".summary.partial", whole / ".features.partial"
    partial.mkdir()
    running.mkdir()
    (tmp_path / "tmp" / "mimic_qlora_link").symlink_to(whole)
    own = tmp_path / "tmp" / "mimic_qlora_storage"  # a user's own folders may have such names
    (own / "subjects").mkdir(parents=True)
    filled = tmp_path / "tmp" / "mimic_qlora_filled"
    filled.mkdir()
    for name, seconds in (("output.csv", 90_000), ("label.csv", 80_000)):
        (filled / name).write_text("x")
        os.utime(filled / name, (0, time.time() - seconds))
    rated = tmp_path / "tmp" / "mimic_qlora_rated"  # within the minute in which it was copied
    rated.mkdir()
    for name in ("output.csv", "ratings.sqlite"):
        (rated / name).write_text("x")
        os.utime(rated / name, (0, time.time() - 90_000))
    (whole / ".mine.partial").mkdir()  # no step's
    for folder in (own, filled, rated):
        os.utime(folder, (0, time.time() - 90_000))
    with storage.locked(whole / "features", "features"):
        found = leftovers.of_storage(whole)
    names = {one.path.name for one in found}
    assert names == {"mimic_qlora_old", ".summary.partial", "SmolLM2-135M-Instruct"}
    said = overview.clean(found, lambda question: "1.0 kB" in question)
    assert said == "Removed 2 of 3, 2.0 kB"
    assert partial.exists() and young.exists() and not old.exists()
    assert overview.clean(leftovers.of_storage(whole), lambda question: True).startswith(
        "Removed 2 of 2"
    )
    assert sorted(path.name for path in whole.glob(".*.partial")) == [".mine.partial"]
    left = [
        leftovers.Leftover("a kind", tmp_path / (note or "x"), 1, 0, note) for note in ("", "lost")
    ]
    overview.clean(left, lambda question: False)
    assert "Lost with lost: lost" in capsys.readouterr().out


@pytest.mark.parametrize("converted", [True, False])
def test_clean_calls_no_other_weights_a_copy_of_the_embedded_model(whole, capsys, converted):
    """A download of that name, on which adapters may have been trained."""
    model = whole / "models" / embedded.EMBEDDED
    model.mkdir(parents=True)
    (model / embedded.WEIGHTS).write_text("weights")
    if converted:
        sha256 = files.file_sha256(model / embedded.WEIGHTS)
        (model / embedded.SUM).write_text(f"{sha256}\n")
    overview.clean(leftovers.of_storage(whole), lambda question: False)
    assert (f"Lost with {model.name}: weights that" in capsys.readouterr().out) != converted


def test_clean_says_which_copies_may_be_all_there_is(whole, tmp_path):
    """Those of a storage folder that is gone: they are called copies as the others are."""
    made = whole / "validation" / "20260101-000000-a"
    for folder, text in ((made, "x"), (tmp_path / "tmp" / "mimic_qlora_copy", "x")):
        folder.mkdir(parents=True)
        (folder / "output.csv").write_text(text)
    (made / "results.jsonl").write_text("")
    shutil.copytree(tmp_path / "tmp" / "mimic_qlora_copy", tmp_path / "tmp" / "mimic_qlora_sole")
    (tmp_path / "tmp" / "mimic_qlora_sole" / "output.csv").write_text("other")
    for folder in (tmp_path / "tmp").iterdir():
        os.utime(folder, (0, time.time() - 90_000))
    notes = {one.path.name: one.note for one in leftovers.of_storage(whole)}
    assert notes["mimic_qlora_copy"] == "" and "not in this one" in notes["mimic_qlora_sole"]


def test_clean_asks_apart_about_copies_that_hold_something_of_their_own(whole, tmp_path, capsys):
    """Labels came back from a laptop: `scp -r` gives all files one time."""
    made = whole / "validation" / "20260101-000000-a"
    made.mkdir(parents=True)
    for name in ("output.csv", "results.jsonl", "label.csv"):
        (made / name).write_text("as step 7 wrote it")
    for name in ("plain", "filled", "noted"):
        shutil.copytree(made, tmp_path / "tmp" / f"mimic_qlora_{name}")
    (tmp_path / "tmp/mimic_qlora_filled/label.csv").write_text("filled by a clinician")
    (tmp_path / "tmp/mimic_qlora_noted/notes.txt").write_text("mine")
    for folder in (tmp_path / "tmp").iterdir():
        os.utime(folder, (0, time.time() - 90_000))
    found = leftovers.of_storage(whole)
    overview.clean(found, lambda question: "Remove it" in question)
    assert [path.name for path in sorted((tmp_path / "tmp").iterdir())] == [
        "mimic_qlora_filled",
        "mimic_qlora_noted",
    ]
    said = capsys.readouterr().out
    assert "Lost with mimic_qlora_filled: label.csv, which" in said
    assert "Lost with mimic_qlora_noted: notes.txt, which" in said


def test_an_adapter_on_other_canaries_is_stale(whole):
    def make(n):
        on = {"prompts": storage.verified_manifest(whole, "prompts")["id"]}
        with storage.step_output(whole, "canaries", {"n": n}, on) as out:
            (out.path / "canaries.jsonl").write_text("{}\n" * n)
        return on | {"canaries": storage.verified_manifest(whole, "canaries")["id"]}

    with storage.step_output(whole, "adapters/a-canaries", {"canaries": 20}, make(20)) as out:
        (out.path / "adapter_model.safetensors").write_text("weights")

    def told():
        found = {one.step: one for one in state.of_storage(whole, PROMPT)}
        assert "canaries" not in found and found["adapters/default"].state == state.DONE
        return found["adapters/a-canaries"].state, found["adapters/a-canaries"].why

    assert told() == (state.DONE, "")
    make(30)
    assert "train_qlora.py --canaries 20 --run-name a " in look(whole).next
    assert told() == (state.STALE, "made from an older version of canaries")
    shutil.rmtree(whole / "canaries")
    assert told() == (state.STALE, "rests on canaries, which is missing")


def test_clean_lists_what_a_killed_training_has_left(whole):
    for name in (".training-prompts.abc", ".canaries.abc"):
        (whole / name).mkdir()
    assert not [one for one in leftovers.of_storage(whole) if "abc" in one.path.name]
    for name in (".training-prompts.abc", ".canaries.abc"):
        os.utime(whole / name, (0, time.time() - 4000))
    found = [one for one in leftovers.of_storage(whole) if "abc" in one.path.name]
    assert len(found) == 2
    overview.clean(found, lambda question: True)
    assert not list(whole.glob(".*.abc"))


def test_what_a_kill_left_of_a_finished_training_is_no_training_that_stopped(whole):
    place, work = whole / "adapters/default", whole / "adapters/.default.training"
    (work / "checkpoint-12").mkdir(parents=True)
    shutil.copyfile(place / "manifest.json", work / "draft.json")

    def told():
        why = {one.step: one.why for one in state.of_storage(whole, PROMPT)}["adapters/default"]
        return why.split(";")[0], leftovers.of_storage(whole)[0].note.split(":")[0]

    assert told() == ("finished", "nothing")
    draft = json.loads((work / "draft.json").read_text())
    (work / "draft.json").write_text(json.dumps({**draft, "settings": {"lr": 2}}))
    assert told()[0].startswith("a training stopped") and told()[1] != "nothing"
    shutil.rmtree(work / "checkpoint-12")
    (work / "draft.json").unlink()
    assert told() == ("finished", "nothing")


def test_clean_lists_the_answers_of_a_batch_that_nobody_goes_on_with(whole, capsys):
    folder = whole / "qa" / ".answers"
    folder.mkdir(parents=True)
    for name in ("killed", "running"):
        entries.begin(folder / f"{name}.jsonl", {}, anew=False)
    (folder / "killed.ab-1.part").write_text("{}")
    with storage.locked(folder / "running.jsonl", "qa"):
        found = leftovers.of_storage(whole)
        assert [one.path.name for one in found] == ["killed.jsonl"]
        assert "Leftovers: 1, " in look(whole).text
        with storage.locked(folder / "killed.jsonl", "qa"):  # it goes on meanwhile
            with pytest.raises(UserError, match="another run of"):
                overview.clean(found, lambda question: True)
        assert overview.clean(found, lambda question: True).startswith("Removed 1 of 1, ")
    assert "the same command would go on from it" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} <= {"running.jsonl", ".running.jsonl.lock"}


def test_clean_does_not_take_what_a_run_has_begun_to_write(whole):
    (whole / ".summary.partial").mkdir()
    found = leftovers.of_storage(whole)
    held = storage.locked(whole / "summary", "summary")
    with held, pytest.raises(UserError, match="another run of"):
        overview.clean(found, lambda question: True)
    assert (whole / ".summary.partial").exists()


def test_clean_names_what_cannot_be_removed_and_fails(whole, monkeypatch, capsys):
    for name in (".summary.partial", ".features.partial"):
        (whole / name).mkdir()

    def kept(path):
        if path.name == ".summary.partial":
            raise PermissionError(errno.EACCES, "Permission denied", "a")

    monkeypatch.setattr(shutil, "rmtree", kept)
    said = r"/\.summary\.partial cannot be removed \(a: Permission denied\)"
    with pytest.raises(UserError, match=said):
        overview.clean(leftovers.of_storage(whole), lambda question: True)
    assert "Removed 1 of 2" in capsys.readouterr().out


def test_clean_without_a_terminal_removes_nothing(whole):
    done = run_here("run_files/status.py", "--clean", storage=whole)
    assert done.returncode == 2 and "asks before it removes" in done.stderr


def test_a_merged_model_of_an_adapter_that_was_trained_again_is_named(tmp_path):
    """It stays in exports/, and other programs load it as if it were the new one."""
    store = tmp_path / "storage"
    store.mkdir(mode=0o700)
    for run in ("again", "kept"):
        (store / "adapters").mkdir(exist_ok=True)
        with storage.step_output(store, f"adapters/{run}", {"seed": 1}, {}) as out:
            (out.path / "content.txt").write_text(run)
        adapter = {f"adapters/{run}": storage.verified_manifest(store, f"adapters/{run}")["id"]}
        (store / "exports").mkdir(exist_ok=True)
        with storage.step_output(store, f"exports/{run}", {}, adapter) as out:
            (out.path / "model.txt").write_text(run)
    with storage.step_output(store, "adapters/again", {"seed": 2}, {}) as out:
        (out.path / "content.txt").write_text("other")
    said = run_here("run_files/status.py", storage=store).stdout
    assert "exports/again: of another adapters/again than is there now" in said
    assert "exports/kept:" not in said
