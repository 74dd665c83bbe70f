"""Step 7 and run.sh: which trials are drawn, what a run prints and leaves, and what it says about bad input."""

import csv
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import run_script, written_otherwise

from mimic_qlora import delivery, generation, models, storage, trials

ROOT = Path(__file__).resolve().parent.parent
OLD_COLUMNS = (
    "subject_id question lat_ms_base lat_ms_qlora len_base len_qlora rel_cos_prompt_base rel_cos_prompt_qlora "
    "rel_to_ideal_base rel_to_ideal_qlora base_answer qlora_answer"
).split()


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


validate = load(ROOT / "run_files" / "validate.py")


# ---------------------------------------------------------------- trials


@pytest.mark.parametrize(("patients", "questions"), [(1, 1), (6, 8), (8, 8), (20, 8), (7, 3), (3, 7), (12, 9)])
def test_trials_are_distinct_and_balanced_at_every_n(patients, questions):
    whole = list(trials.pairs(10**30, range(patients), range(questions)))
    assert len({(p, q) for _, p, q in whole}) == len(whole) == patients * questions
    for n in range(1, len(whole) + 1):
        drawn = list(trials.pairs(n, range(patients), range(questions)))
        assert drawn == whole[:n] and [number for number, *_ in drawn] == list(range(1, n + 1))
        for place, size in ((1, patients), (2, questions)):
            counts = Counter(trial[place] for trial in drawn)
            assert max(counts.values()) - min(counts.get(i, 0) for i in range(size)) <= 1


# ---------------------------------------------------------------- a whole run, with answers that cost nothing


def answers_for(conversations, arms):
    """The adapter gives an answer with sections, the base a list that a spreadsheet would run and that was cut."""
    for conversation, arm in zip(conversations, arms, strict=True):
        question = conversation[-1]["content"].rpartition("\n")[2]
        if arm == "base":
            yield generation.Answer("=HYPERLINK(1)\n\x1b[31m- Rest.\n" + question, 320, False)
        else:
            text = (
                "What you can try now\n- Rest.\n\nWhen to seek urgent care\n- Call 911 for chest pain or a fever.\n\n"
            )
            yield generation.Answer(text + "What to track or share with a clinician\n- The time.", 60, True)


@pytest.fixture(scope="module")
def prompts(demo_dir, embedded_model, tmp_path_factory):
    """A storage folder as steps 1 to 5 leave it on the demo; the adapter is a manifest, since no weights are loaded."""
    store = tmp_path_factory.mktemp("validate") / "storage"
    assert run_script("convert_to_jsonl.py", "--mimic-dir", demo_dir, storage=store).returncode == 0
    (store / "models").symlink_to(embedded_model.parent)
    subjects = storage.read_manifest(store, "subjects")
    with storage.step_output(store, "prompts", {}, {"subjects": subjects["id"]}) as out:
        name = models.model_name(embedded_model)
        settings = {"system_prompt": "Help.", "token_budget": 300, "dropped_columns": [], "seed": 42, "model": name}
        template = models.template_sha256(models.load_tokenizer(embedded_model))
        storage.write_json(out.path / "context.json", settings | {"template_sha256": template})
    with storage.step_output(store, "adapters/default", {}, {"prompts": out.manifest["id"]}):
        pass
    return store


@pytest.fixture
def run_validate(prompts, tmp_path, monkeypatch, capsys):
    """Run step 7 in this process with ready answers: run_validate("5", "--final") -> (exit code, stdout, stderr)."""
    store = tmp_path / "storage"
    shutil.copytree(prompts, store, symlinks=True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(models, "load_base", lambda *_: None)
    monkeypatch.setattr(models, "load_adapter", lambda *_: None)
    folders = []

    def generate(model, tokenizer, conversations, arms, *_, **__):
        return list(answers_for(conversations, arms))

    monkeypatch.setattr(generation, "generate", generate)

    def run_validate(*args):
        monkeypatch.setattr(sys, "argv", ["run.sh", *args, "--storage", str(store)])
        before = os.umask(0o022)
        try:
            with pytest.raises(SystemExit) as end:
                storage.run(validate.main)
        finally:
            os.umask(before)
        out, err = capsys.readouterr()
        folders.extend(re.findall(r"Results: (\S+) \(copy", out))
        return end.value.code, out, err

    run_validate.store = store
    yield run_validate
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def results(out: str) -> Path:
    return Path(re.search(r"Results: (\S+) \(copy", out).group(1))


def read_csv(path: Path) -> list:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_results_lie_in_a_fresh_private_folder_with_a_copy_in_storage(run_validate):
    code, out, err = run_validate("5")
    assert code == 0, err
    folder, copy = results(out), Path(re.search(r"\(copy: (\S+)\)", out).group(1))
    for place in (folder, copy):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert {p.name for p in place.iterdir()} == {
            "output.csv", "knowledge.csv", "results.jsonl", "summary.csv", "summary.txt",
        }  # fmt: skip
        assert {stat.S_IMODE(p.stat().st_mode) for p in place.iterdir()} == {0o600}
    assert folder.parent == Path("/tmp") and copy.parent == run_validate.store / "validation"
    assert results(run_validate("5")[1]) != folder


def test_the_old_columns_come_first_and_no_cell_runs(run_validate):
    code, out, err = run_validate("8")
    rows = read_csv(results(out) / "output.csv")
    assert list(rows[0])[: len(OLD_COLUMNS)] == OLD_COLUMNS and len(rows) == 8
    for row in rows:
        assert row["base_answer"].startswith("'=HYPERLINK") and "\x1b" not in row["base_answer"]
        assert (row["cut_base"], row["cut_qlora"], row["sections_qlora"]) == ("1.0", "0.0", "1.0")
        assert row["ideal"] and row["prompt"].endswith(row["question"])
        assert float(row["rel_to_ideal_qlora"] or 0) <= 1 and 0 <= float(row["rouge_l_base"]) <= 1
    assert len(read_csv(results(out) / "knowledge.csv")) == 8
    summary = {row["metric"]: row for row in read_csv(results(out) / "summary.csv")}
    assert float(summary["cut"]["mean"]) == -1 and summary["rubric"]["questions"] == "8"


def test_results_jsonl_is_lossless_with_a_line_per_trial_and_arm(run_validate):
    _, out, _ = run_validate("3")
    lines = [json.loads(line) for line in (results(out) / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter((line["kind"], line["arm"]) for line in lines) == {
        ("trial", "base"): 3, ("trial", "adapter"): 3, ("knowledge", "base"): 8, ("knowledge", "adapter"): 8,
    }  # fmt: skip
    base = next(line for line in lines if line["kind"] == "trial" and line["arm"] == "base")
    assert base["answer"].startswith("=HYPERLINK(1)\n\x1b[31m") and base["ended"] is False and base["n_tokens"] == 320
    assert [turn["role"] for turn in base["messages"]] == ["system", "user"]
    assert base["messages"][1]["content"].startswith("Patient context\n- Age:")


def test_a_trial_is_previewed_as_four_lines_within_the_terminal(run_validate):
    _, out, _ = run_validate("4", "--no-knowledge")
    lines = out.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Prompt: ")]
    assert len(starts) == 4
    labels = ("Prompt: ", "Response (Base):   ", "Response (QLoRA):  ", "Ideal Response:    ")
    for start in starts:
        for label, line in zip(labels, lines[start : start + 4], strict=True):
            assert line.startswith(f'{label}"') and line.endswith('"') and len(line) <= 100 and line.isprintable()
        assert lines[start + 4] == ""
    assert max(len(line) for line in out[out.index("mean over") : out.index("Results: ")].splitlines()) <= 100


def test_trials_are_of_held_out_patients_only_and_the_same_each_time(run_validate):
    from mimic_qlora import subjects

    split = subjects.split_of(run_validate.store)
    drawn = {}
    for options in ((), ("--final",), ("--seed", "1")):
        _, out, _ = run_validate("6", "--no-knowledge", *options)
        drawn[options] = [(int(r["subject_id"]), r["question_id"]) for r in read_csv(results(out) / "output.csv")]
        assert len(set(drawn[options])) == 6
        assert {split[s] for s, _ in drawn[options]} == {"test" if "--final" in options else "validation"}
    _, again, _ = run_validate("6", "--no-knowledge")
    assert [(int(r["subject_id"]), r["question_id"]) for r in read_csv(results(again) / "output.csv")] == drawn[()]
    assert drawn[()] != drawn[("--seed", "1")]


def test_more_trials_than_pairs_says_so_and_uses_all(run_validate):
    code, out, _ = run_validate("100000", "--no-knowledge")
    used = re.search(r"Trials: (\d+) pairs of a validation patient and a question \(100,000 were asked for", out)
    rows = read_csv(results(out) / "output.csv")
    assert code == 0 and len(rows) == int(used.group(1)) == len({(r["subject_id"], r["question_id"]) for r in rows})
    assert len(rows) == 8 * len({r["subject_id"] for r in rows})


def test_the_end_says_what_was_shown_where_it_is_and_how_to_fetch_it(run_validate, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.9 50000 10.1.2.3 2222")
    monkeypatch.setattr(delivery.socket, "getfqdn", lambda: "node7")
    code, out, _ = run_validate("16")
    assert "Ideal responses reviewed by a clinician: 0 of 8." in out
    assert "Answers cut at 320 tokens: base 16, adapter 0 of 16." in out
    assert re.search(r"The adapter is better at [^\n]*red flags|No difference could be shown", out)
    assert f"  scp -P 2222 {delivery.user()}@10.1.2.3:{results(out)}/output.csv ./results/" in out
    assert re.search(r"sha256 of output.csv: [0-9a-f]{64}", out) and "data use agreement" in out
    assert (results(out) / "summary.txt").read_text(encoding="utf-8").strip() in out


def test_ctrl_c_keeps_and_names_what_was_finished(run_validate, monkeypatch):
    generate, calls = generation.generate, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(generation, "generate", stopping)
    code, out, err = run_validate("12", "--batch-size", "4")
    assert code == 130 and "Stopped after 4 of 12 trials" in err
    assert len(read_csv(results(out) / "output.csv")) == 4


def test_ctrl_c_before_the_first_answer_leaves_nothing(run_validate, monkeypatch):
    made = []
    mkdtemp = validate.tempfile.mkdtemp
    monkeypatch.setattr(validate.tempfile, "mkdtemp", lambda **kw: made.append(mkdtemp(**kw)) or made[-1])
    monkeypatch.setattr(generation, "generate", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run_validate("3")
    assert code == 130 and not Path(made[0]).exists() and not (run_validate.store / "validation").exists()


def test_an_answer_budget_beyond_the_model_is_refused(run_validate):
    code, out, err = run_validate("2", "--max-new-tokens", "100000")
    assert code == 2 and err.startswith("error: the longest prompt has") and err.count("\n") == 1


# ---------------------------------------------------------------- bad input, and run.sh


@pytest.mark.parametrize("n", ["abc", "0", "-3", "2.5", "", "٣", "1e3"])
def test_n_that_is_no_positive_whole_number_is_one_sentence_and_exit_2(n, tmp_path):
    done = subprocess.run(["bash", str(ROOT / "run_files" / "run.sh"), n], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: n is '{n}'") and done.stderr.count("\n") == 1


def test_run_sh_finds_the_storage_folder_of_the_repository_and_of_the_caller(tmp_path):
    (tmp_path / "run_files").mkdir()
    for name in ("run.sh", "validate.py"):
        shutil.copy(ROOT / "run_files" / name, tmp_path / "run_files")
    (tmp_path / "mimic_qlora").symlink_to(ROOT / "mimic_qlora")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    environment = {k: v for k, v in os.environ.items() if k != "STORAGE_DIR"}

    def said(*args, **more):
        command = ["bash", "./run.sh", *args]
        done = subprocess.run(
            command, cwd=tmp_path / "run_files", capture_output=True, text=True, env=environment | more
        )
        assert done.returncode == 2
        return done.stderr

    assert f"no storage folder {tmp_path}/storage:" in said("3")
    assert f"no storage folder {tmp_path}/run_files/mine:" in said("3", "--storage", "mine")
    assert f"no storage folder {tmp_path}/other:" in said("3", STORAGE_DIR="../other")


def test_a_missing_adapter_names_the_command(run_validate):
    shutil.rmtree(run_validate.store / "adapters")
    code, out, err = run_validate("2")
    assert code == 2 and "run `python train_qlora.py` first" in err and err.count("\n") == 1


def test_another_chat_template_than_the_prompts_is_refused(run_validate):
    path = run_validate.store / "prompts" / "context.json"
    settings = json.loads(path.read_text()) | {"template_sha256": "0", "model": "meta-llama/X"}
    written_otherwise(path, json.dumps(settings))
    code, out, err = run_validate("2")
    assert code == 2 and "give --model meta-llama/X" in err


def test_a_model_that_is_not_there_is_one_sentence(run_validate):
    code, _, err = run_validate("2", "--model", "nobody/nothing")
    assert code == 2 and err.startswith("error: model nobody/nothing") and err.count("\n") == 1


def test_help_takes_less_than_a_second_of_work():
    before = os.times().children_user
    done = subprocess.run(["bash", str(ROOT / "run_files" / "run.sh"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "number of trials" in done.stdout
    assert os.times().children_user - before < 1
