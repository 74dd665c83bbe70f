"""A whole run of step 7: what it prints, what it leaves, and how it ends."""

import json
import os
import re
import shutil
import socket
import stat
from collections import Counter
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.prompt_records import prompt_record
from helpers.step7 import answer, read_csv, results
from helpers.storage_folders import written_otherwise
from helpers.tiny_model import write_tiny_model
from mimic_qlora.clinical import content
from mimic_qlora.llm import generation, loading
from mimic_qlora.step import files, ssh

OLD_COLUMNS = (
    "subject_id question lat_ms_base lat_ms_qlora len_base len_qlora rel_cos_prompt_base "
    "rel_cos_prompt_qlora rel_to_ideal_base rel_to_ideal_qlora base_answer qlora_answer"
).split()


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_results_lie_in_a_fresh_private_folder_with_a_copy_in_storage(run_validate):
    code, out, err = run_validate("5")
    assert code == 0, err
    folder, copy = results(out), Path(re.search(r"\(copy: (\S+)\)", out).group(1))
    for place in (folder, copy):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        numbered = {"number.txt"} if place == copy else set()
        assert {p.name for p in place.iterdir()} == numbered | {
            "output.csv",
            "knowledge.csv",
            "results.jsonl",
            "summary.csv",
            "summary.txt",
            "report.html",
            "label.csv",
            "label_draw.csv",
            "reader.json",
        }
        assert {stat.S_IMODE(p.stat().st_mode) for p in place.iterdir()} == {0o600}
    assert folder.parent == Path("/tmp") and copy.parent == run_validate.store / "validation"
    assert results(run_validate("5")[1]) != folder


def test_the_old_columns_come_first_and_no_cell_runs(run_validate):
    code, out, err = run_validate("8")
    urgent = {q.id for q in content.load_questions(ROOT / "run_files") if q.signs}
    rows = read_csv(results(out) / "output.csv")
    assert list(rows[0])[: len(OLD_COLUMNS)] == OLD_COLUMNS and len(rows) == 8
    for row in rows:
        assert row["base_answer"].startswith("'=HYPERLINK") and "\x1b" not in row["base_answer"]
        assert (row["cut_base"], row["cut_qlora"]) == ("1.0", "0.0")
        # the ready answer has all three headings, and not the line that care is needed now
        assert row["sections_qlora"] == ("0.75" if row["question_id"] in urgent else "1.0")
        assert row["ideal"] and row["prompt"].endswith(row["question"])
        assert float(row["rel_to_ideal_qlora"] or 0) <= 1 and 0 <= float(row["rouge_l_base"]) <= 1
    assert len(read_csv(results(out) / "knowledge.csv")) == 8
    summary = {row["metric"]: row for row in read_csv(results(out) / "summary.csv")}
    assert float(summary["cut"]["mean"]) == -1 and summary["rubric"]["trials"] == "8"
    assert summary["rubric"]["questions"] == str(len({row["question_id"] for row in rows}))


def test_results_note_of_which_patients_and_adapters_they_are(run_validate):
    _, out, _ = run_validate("3")
    store, noted = run_validate.store, json.loads((results(out) / "reader.json").read_text())
    subjects = json.loads((store / "subjects" / "manifest.json").read_text())
    weights = files.file_sha256(store / "adapters/default/adapter_model.safetensors")
    assert "look 1 at validation patients" in noted["opened"]
    assert noted["subjects"] == subjects["id"] and noted["adapters"] == {"default": weights}
    lines = (results(out) / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert noted["answers"] == len(lines)


def train_again(store):
    shutil.rmtree(store / "adapters" / "default")
    shutil.copytree(store / "adapters" / "seed.1", store / "adapters" / "default")


def test_an_adapter_that_is_trained_again_meanwhile_is_not_taken_for_the_one_before(
    run_validate, monkeypatch
):
    """Its answers were kept, and stood in the ledger, under the hash of the other."""
    store = run_validate.store
    monkeypatch.setattr(loading, "load_adapter", lambda *_: train_again(store))
    code, _, err = run_validate("3")
    assert code == 2 and "default was replaced while the model was loaded" in err
    assert not (store / "validation" / "ledger.jsonl").exists()
    assert all("answers" not in path.read_text() for path in answers_of(store))


@pytest.mark.parametrize("change", [train_again, lambda s: shutil.rmtree(s / "adapters/default")])
def test_answers_of_an_adapter_that_was_replaced_since_are_told_as_that(
    run_validate, monkeypatch, change
):
    store = run_validate.store

    def last(*given):
        if (store / "adapters" / "default").exists():
            change(store)
        return answer(*given)

    monkeypatch.setattr(generation, "answer", last)
    code, out, err = run_validate("3")
    assert code == 0, err
    said = " ".join(out.split())
    assert (
        "The adapter default was replaced since it answered: these are answers of the one" in said
    )


def test_prompts_that_are_written_anew_meanwhile_cost_no_report(run_validate, monkeypatch):
    """All had been answered, and nobody could ask that adapter again."""
    store = run_validate.store

    def last(*given):
        path = store / "prompts" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "another"}))
        return answer(*given)

    monkeypatch.setattr(generation, "answer", last)
    code, out, err = run_validate("3")
    assert code == 0, err
    assert results(out).is_dir()
    code, _, err = run_validate("3")
    assert code == 2 and "was made from an older version of prompts" in err


def answers_of(store):
    return (store / "validation" / "answers").glob("*.jsonl")


def test_results_jsonl_is_lossless_with_a_line_per_trial_and_arm(run_validate):
    _, out, _ = run_validate("3")
    lines = [
        json.loads(line)
        for line in (results(out) / "results.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert Counter((line["kind"], line["arm"]) for line in lines) == {
        ("trial", "base"): 3,
        ("trial", "adapter"): 3,
        ("knowledge", "base"): 8,
        ("knowledge", "adapter"): 8,
    }
    base = next(line for line in lines if line["kind"] == "trial" and line["arm"] == "base")
    assert (
        base["answer"].startswith("=HYPERLINK(1)\n\x1b[31m")
        and base["ended"] is False
        and base["n_tokens"] == 320
    )
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
            assert (
                line.startswith(f'{label}"')
                and line.endswith('"')
                and len(line) <= 100
                and line.isprintable()
            )
        assert lines[start + 4] == ""
    assert (
        max(len(line) for line in out[out.index("mean over") : out.index("Results: ")].splitlines())
        <= 100
    )


def test_the_end_says_what_was_shown_where_it_is_and_how_to_fetch_it(run_validate, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.9 50000 10.1.2.3 2222")
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    code, out, _ = run_validate("16")
    asked = len({row["question_id"] for row in read_csv(results(out) / "output.csv")})
    assert f"Reviewed by a clinician: 0 of {asked} ideals, 0 of " in out
    assert "Answers cut at 512 tokens: base 16, adapter 0 of 16." in out
    assert "Primary endpoint, " in out and "nothing claimed" in out
    fetch = f"scp -P 2222 {ssh.user()}@10.1.2.3:{results(out)}/output.csv results/"
    assert f"  mkdir -p results && {fetch}\n" in out
    assert re.search(r"sha256 of output.csv: [0-9a-f]{64}", out) and "data use agreement" in out
    summary = (results(out) / "summary.txt").read_text(encoding="utf-8")
    assert all(part.strip() in out for part in summary.split("\n\n"))
    # the verdict, then the table, then where the report is and what to run next
    ends = ("Did the adapter help?", "Is it safe?", "Seen on ", "mean over questions", "Report: ")
    places = [out.index(part) for part in (*ends, "review.py --raters", "label.py --results")]
    assert places == sorted(places) and summary.startswith("Did the adapter help? ")
    assert "Answering 16 trials, 8 knowledge prompts, 2 arms: 48 answers" in out


def test_ctrl_c_keeps_and_names_what_was_finished(run_validate, monkeypatch):
    calls = []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(*args, **kwargs)

    monkeypatch.setattr(generation, "answer", stopping)
    code, out, err = run_validate("12", "--batch-size", "4")
    assert code == 130 and "Stopped after 4 of 12 trials" in err
    assert len(read_csv(results(out) / "output.csv")) == 4
    # what is left of it is not taken for a run of four trials, by labels either
    why = "he run was stopped after 4 of 12 trials"
    noted = json.loads((results(out) / "reader.json").read_text(encoding="utf-8"))
    assert why in noted["described"] and why in noted["opened"]
    summary = (results(out) / "summary.txt").read_text(encoding="utf-8")
    head, _, told = " ".join(summary.split()).partition("mean over questions")
    assert why in head and why in told and why in (results(out) / "report.html").read_text()


def test_ctrl_c_before_the_first_answer_leaves_nothing(run_validate, monkeypatch):
    def stopping(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "answer", stopping)
    code, out, err = run_validate("3")
    assert code == 130 and "Results: " not in out and "the same command goes on" in err
    assert [p.name for p in (run_validate.store / "validation").iterdir()] == ["answers"]


def test_an_answer_budget_beyond_the_model_is_refused(run_validate):
    code, out, err = run_validate("2", "--max-new-tokens", "100000")
    assert code == 2 and err.startswith("error: the longest prompt leaves") and err.count("\n") == 1


def test_chart_questions_and_diagnoses_are_asked_apart_and_scored_exactly(run_validate):
    tags = [["condition", "known", "hypertension"], ["condition", "new", "heart_failure"]]
    turns = [
        {"role": "system", "content": "Read."},
        {"role": "user", "content": "Patient context\n- Age: 3\n\nQuestion\nOld?"},
    ]
    golds = {
        "chart_qa": "What you can try now",
        "diagnoses": "Known before: high blood pressure",
        "guidance": "Rest",
    }
    records = [
        prompt_record(
            [*turns, {"role": "assistant", "content": gold}],
            subject_id=i,
            task=task,
            rubric=[{"criterion": "names it", "points": 1, "tags": t} for t in tags],
            split="validation",
        )
        for task, gold in golds.items()
        for i in range(3)
    ]
    path = run_validate.store / "prompts" / "validation.jsonl"
    written_otherwise(path, "".join(json.dumps(r) + "\n" for r in records))
    code, out, err = run_validate("4", "--no-knowledge", "--arms", "all")
    assert code == 0, err
    rows = read_csv(results(out) / "records.csv")
    assert Counter(row["task"] for row in rows) == {"chart_qa": 2, "diagnoses": 2}
    for row in rows:
        if row["task"] == "chart_qa":  # the adapter's first line is the gold answer
            assert (row["chart_qa_base"], row["chart_qa_qlora"], row["question_id"]) == (
                "0.0",
                "1.0",
                "age",
            )
        else:
            assert (
                row["diagnoses_base"] == "0.0"
                and row["question_id"] == f"patient {row['subject_id']}"
            )
        assert row["question"] == "Old?" and row["split"] == "validation"
    lines = list(
        map(json.loads, (results(out) / "results.jsonl").read_text(encoding="utf-8").splitlines())
    )
    asked = [line for line in lines if line["kind"] == "record"]
    assert Counter(line["arm"] for line in asked) == {"base": 4, "adapter": 4}
    assert all(line["messages"] == turns and line["ideal"] == golds[line["task"]] for line in asked)
    assert re.search(r"chart QA: answered right +0.00 +1.00 +\+1.00 +one question only", out)
    page = (results(out) / "report.html").read_text(encoding="utf-8")
    assert "chart QA: answered right" in page and "Asked apart" in page
    assert "chart QA" not in run_validate("4", "--no-knowledge", "--no-records")[1]


def test_no_socket_is_opened(run_validate, monkeypatch):
    def reach(self, address):
        raise AssertionError(f"reached out to {address}")

    monkeypatch.setattr(socket.socket, "connect", reach)
    assert run_validate("3")[0] == 0


def test_a_missing_adapter_names_the_command(run_validate):
    shutil.rmtree(run_validate.store / "adapters")
    code, out, err = run_validate("2")
    command = f"python train_qlora.py --storage {run_validate.store}"
    assert code == 2 and f"run `{command}` first" in err and err.count("\n") == 1


def test_another_chat_template_than_the_prompts_is_refused(run_validate, tuned_store, tmp_path):
    other = write_tiny_model(tmp_path / "other", template="{{ messages[0]['content'] }}")
    code, out, err = run_validate("2", "--model", str(other))
    assert code == 2 and f"give --model {tuned_store.model}" in err


def test_a_model_that_is_not_there_is_one_sentence(run_validate):
    code, _, err = run_validate("2", "--model", "nobody/nothing")
    assert code == 2 and err.startswith("error: model nobody/nothing") and err.count("\n") == 1
