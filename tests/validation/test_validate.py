"""Step 7 and run.sh: which trials are drawn, what a run prints and leaves, and what it says about bad input."""

import csv
import importlib.util
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from helpers.paths import ROOT
from helpers.prompt_records import prompt_record
from helpers.storage_folders import written_otherwise
from helpers.tiny_model import write_tiny_model
from mimic_qlora.clinical import content
from mimic_qlora.llm import generation, loading
from mimic_qlora.qa import session
from mimic_qlora.step import command_line, errors, files
from mimic_qlora.validation import arms, delivery, ledger, power, run, trials
from mimic_qlora.validation import plan as plans
from mimic_qlora.validation.scoring import likeness

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
QUESTIONS = content.load_questions(ROOT / "run_files")


# ---------------------------------------------------------------- trials


@pytest.mark.parametrize(
    ("patients", "questions"), [(1, 1), (6, 8), (8, 8), (20, 8), (7, 3), (3, 7), (12, 9)]
)
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


def answer(model, tokenizer, prompts, who, max_new_tokens, fits):
    """The adapter gives an answer with sections, the base a list that a spreadsheet would run and that was cut.

    Stands in for the model, which would take minutes: tests/test_generation.py has the real one.
    """
    given = []
    for ids, name in zip(prompts, who, strict=True):
        question = (
            tokenizer.decode(ids, skip_special_tokens=True)
            .rpartition("assistant")[0]
            .strip()
            .rpartition("\n")[2]
        )
        if name == "base":
            given.append(
                generation.Answer("=HYPERLINK(1)\n\x1b[31m- Rest.\n" + question, 320, False)
            )
        else:
            text = "What you can try now\n- Rest.\n\nWhen to seek urgent care\n- Call 911 for chest pain or a fever.\n\n"
            given.append(
                generation.Answer(
                    text + "What to track or share with a clinician\n- The time.", 60, True
                )
            )
    return given, fits


@pytest.fixture
def run_validate(tuned_store, tmp_path, monkeypatch, capsys):
    """Run step 7 in this process with ready answers: run_validate("5", "--final") -> (exit code, stdout, stderr)."""
    store = tmp_path / "storage"
    shutil.copytree(tuned_store.path, store)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(loading, "load_base", lambda *_: None)
    monkeypatch.setattr(loading, "unpacked", lambda model: model)
    monkeypatch.setattr(loading, "load_adapter", lambda *_: None)
    folders = []

    monkeypatch.setattr(generation, "answer", answer)
    # stands in for the embedder, which takes seconds; tests/test_scoring.py has the real one
    monkeypatch.setattr(likeness, "cosines", lambda pairs: [0.5] * len(pairs))

    def run_validate(*args):
        model = [] if "--model" in args else ["--model", str(tuned_store.model)]
        monkeypatch.setattr(sys, "argv", ["run.sh", *args, *model, "--storage", str(store)])
        before = os.umask(0o022)
        try:
            with pytest.raises(SystemExit) as end:
                command_line.run(validate.main)
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
            "output.csv",
            "knowledge.csv",
            "results.jsonl",
            "summary.csv",
            "summary.txt",
            "report.html",
            "label.csv",
        }
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


def test_trials_are_of_held_out_patients_only_and_the_same_each_time(run_validate):
    from mimic_qlora.subjects import reader

    split = reader.split_of(run_validate.store)
    drawn = {}
    run_validate("--freeze", write_plan(run_validate.store, n=6))
    for options in ((), ("--final",), ("--seed", "1")):
        _, out, _ = run_validate("6", "--no-knowledge", *options)
        drawn[options] = [
            (int(r["subject_id"]), r["question_id"]) for r in read_csv(results(out) / "output.csv")
        ]
        assert len(set(drawn[options])) == 6
        assert {split[s] for s, _ in drawn[options]} == {
            "test" if "--final" in options else "validation"
        }
    _, again, _ = run_validate("6", "--no-knowledge")
    assert [
        (int(r["subject_id"]), r["question_id"]) for r in read_csv(results(again) / "output.csv")
    ] == drawn[()]
    assert drawn[()] != drawn[("--seed", "1")]


def test_more_trials_than_pairs_says_so_and_uses_all(run_validate):
    code, out, _ = run_validate("100000", "--no-knowledge")
    used = re.search(
        r"Trials: (\d+) pairs of a validation patient and a question \(100,000 were asked for", out
    )
    rows = read_csv(results(out) / "output.csv")
    assert code == 0 and len(rows) == int(used.group(1)) == len(
        {(r["subject_id"], r["question_id"]) for r in rows}
    )
    assert len(rows) == len(QUESTIONS) * len({r["subject_id"] for r in rows})


def test_the_end_says_what_was_shown_where_it_is_and_how_to_fetch_it(run_validate, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.9 50000 10.1.2.3 2222")
    monkeypatch.setattr(delivery.socket, "getfqdn", lambda: "node7")
    code, out, _ = run_validate("16")
    assert "Reviewed by a clinician: 0 of 16 ideals, 0 of " in out
    assert "Answers cut at 512 tokens: base 16, adapter 0 of 16." in out
    assert re.search(r"The adapter is better at [^\n]*red flags|No difference could be shown", out)
    assert f"  scp -P 2222 {delivery.user()}@10.1.2.3:{results(out)}/output.csv ./results/" in out
    assert re.search(r"sha256 of output.csv: [0-9a-f]{64}", out) and "data use agreement" in out
    assert (results(out) / "summary.txt").read_text(encoding="utf-8").strip() in out


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


# ---------------------------------------------------------------- killed, and going on


def same_answers(out: str) -> list:
    """What a run asked and was answered; the times that it took are another matter."""
    lines = map(
        json.loads, (results(out) / "results.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return [{k: v for k, v in line.items() if k != "scores"} for line in lines]


def test_a_killed_run_goes_on_and_ends_with_the_same_answers(run_validate, monkeypatch):
    batches, last = [], [None]

    def answering(model, tokenizer, prompts, who, max_new_tokens, fits):
        """Says in each answer with which rows it was made, and that memory had room for three of them."""
        if max_new_tokens == run.PROBE_TOKENS:
            return answer(model, tokenizer, prompts, who, max_new_tokens, fits)
        if len(batches) == last[0]:
            raise SystemExit(137)
        batches.append(who)
        return [generation.Answer(f"{[len(ids) for ids in prompts]} {fits}", 5, True)] * len(
            prompts
        ), min(fits, 3)

    monkeypatch.setattr(generation, "answer", answering)
    options = ("12", "--batch-size", "4", "--no-knowledge")
    expected, n_batches = same_answers(run_validate(*options)[1]), len(batches)
    assert n_batches == 6 and {line["answer"][-1] for line in expected} == {"3", "4"}

    batches.clear()
    last[:] = [3]
    assert run_validate(*options, "--force")[0] == 137
    (journal,) = (run_validate.store / "validation" / "answers").glob("*.jsonl")
    assert (
        len(journal.read_bytes().splitlines()) == 4
        and stat.S_IMODE(journal.stat().st_mode) == 0o600
    )
    journal.write_bytes(
        journal.read_bytes()[:-20]
    )  # killed while it wrote the third batch, which is done again

    batches.clear()
    last[:] = [None]
    code, out, err = run_validate(*options)
    assert code == 0 and same_answers(out) == expected and len(batches) == n_batches - 2
    batches.clear()
    monkeypatch.setattr(
        loading, "load_base", None
    )  # with all answers at hand there is nothing to load
    code, out, err = run_validate(*options)
    assert (
        code == 0
        and same_answers(out) == expected
        and not batches
        and "24 of 24 answers were kept" in out
    )


@pytest.mark.soak
def test_a_run_killed_at_any_moment_ends_with_the_answers_of_an_undisturbed_one(
    tuned_store, tmp_path
):
    """With the real (tiny) model in processes of their own, killed by SIGKILL after one more batch each time."""
    command = [
        sys.executable,
        str(ROOT / "run_files" / "validate.py"),
        "8",
        "--model",
        str(tuned_store.model),
    ]
    command += ["--batch-size", "4", "--max-new-tokens", "100", "--no-knowledge"]
    stores = [tmp_path / name for name in ("undisturbed", "killed")]
    for store in stores:
        shutil.copytree(tuned_store.path, store)
    made = []
    for store in stores:
        again = [*command, "--storage", str(store)]
        while store is stores[1]:
            process = subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            size = journal_size(store)
            while process.poll() is None and journal_size(store) < size + 300:
                time.sleep(0.01)
            process.kill()
            if process.wait() == 0:
                break
        done = subprocess.run(again, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.append(same_answers(done.stdout))
        shutil.rmtree(results(done.stdout))
    assert made[0] == made[1] and len(made[0]) == 16


def test_answers_of_adapters_given_in_another_order_are_kept_apart(tuned_store):
    source = SimpleNamespace(path=tuned_store.model, store=tuned_store.path)
    one, other = (
        session.identity(source, list(runs))
        for runs in (("default", "seed.1"), ("seed.1", "default"))
    )
    assert files.digest(one) != files.digest(other)


def journal_size(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "validation" / "answers").glob("*.jsonl"))


def test_another_adapter_or_budget_keeps_no_answer(run_validate):
    run_validate("3", "--no-knowledge")
    assert "were kept" not in run_validate("3", "--no-knowledge", "--run", "seed.1")[1]
    assert "were kept" not in run_validate("3", "--no-knowledge", "--max-new-tokens", "99")[1]
    assert "6 of 6 answers were kept" in run_validate("3", "--no-knowledge")[1]


def test_strict_answers_one_by_one(run_validate, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        generation, "answer", lambda *args: sizes.append(len(args[2])) or answer(*args)
    )
    run_validate("3", "--no-knowledge", "--strict")
    assert sizes == [1] * 9, "three trials of two arms, and the probe"


# ---------------------------------------------------------------- arms


def test_every_arm_is_shown_what_its_name_says(run_validate):
    code, out, err = run_validate("12", "--arms", "all", "--run", "default,seed.1")
    assert code == 0, err
    lines = map(
        json.loads, (results(out) / "results.jsonl").read_text(encoding="utf-8").splitlines()
    )
    by_trial = {}
    for line in lines:
        by_trial.setdefault((line["kind"], line["trial"]), {})[line["arm"]] = line["messages"]
    cautioned = 0
    for (kind, _), shown in by_trial.items():
        if kind == "knowledge":
            assert set(shown) == {"base", "adapter", "adapter@seed.1"}
            continue
        assert set(shown) == {*arms.ARMS, "adapter@seed.1"}
        plain, question = shown["base"], shown["base"][-1]["content"].rpartition("\n")[2]
        chart = plain[-1]["content"].partition("\n\nQuestion\n")[0]
        assert shown["adapter"] == shown["adapter@seed.1"] == plain
        assert [turn["content"][:4] for turn in shown["base-examples"]] == [
            "Help",
            "Pati",
            "Gold",
            "Pati",
            "Gold",
            "Pati",
        ]
        assert shown["base-examples"][-1] == plain[-1]
        other = shown["adapter-other-chart"][-1]["content"]
        assert (
            other.endswith(f"\n\nQuestion\n{question}")
            and chart not in other
            and other.startswith("Patient context\n")
        )
        if shown["base-rules"] != plain:
            cautioned += 1
            rules = shown["base-rules"][-1]["content"].removeprefix(
                chart + "\n\nCautions for this person\n- "
            )
            assert rules.endswith(f"\n\nQuestion\n{question}") and chart not in rules
            if "blood thinner" in rules:
                assert "Warfarin" in chart and "Warfarin" not in other, (
                    "a chart that calls for other cautions"
                )
    assert cautioned
    rows = read_csv(results(out) / "output.csv")
    assert {"rubric_base-examples", "rubric_qlora-other-chart", "qlora@seed.1_answer"} <= set(
        rows[0]
    )
    assert (
        "means over 2 trained adapters" in out
        and "The first adapter minus base-rules: the rubric +" in out
    )


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


def test_an_unknown_arm_or_a_run_twice_is_refused(run_validate):
    assert "--arms 'nobody' is unknown" in run_validate("3", "--arms", "base,nobody")[2]
    assert "names an adapter twice" in run_validate("3", "--run", "default,default")[2]


# ---------------------------------------------------------------- the plan, and the test patients


def write_plan(folder: Path, **changes) -> str:
    plan = (
        yaml.safe_load(plans.TEMPLATE.read_text(encoding="utf-8"))
        | {"arms": ["base", "adapter"]}
        | changes
    )
    path = folder / "my_plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return str(path)


def test_test_patients_are_opened_by_a_frozen_plan_alone_and_it_is_written_down(run_validate):
    store = run_validate.store
    code, _, err = run_validate("--final")
    assert code == 2 and "needs a plan made before" in err and not (store / "validation").exists()

    code, out, _ = run_validate("--freeze", write_plan(store, n=5))
    sha256 = files.file_sha256(store / "validation" / "plan.yaml")
    assert code == 0 and sha256 in out
    code, _, err = run_validate("7", "--final")
    assert code == 2 and "the frozen plan says n 5, not 7" in err
    for _ in range(2):  # going on, or once more the same, opens nothing new
        code, out, err = run_validate("--final", "--no-knowledge")
        assert code == 0 and "not opened under another plan" in out, err
    rows = read_csv(results(out) / "output.csv")
    assert {row["plan_sha256"] for row in rows} == {sha256} and len(rows) == 5
    assert "Primary endpoint, cautions never trained on" in " ".join(out.split())
    assert [entry["event"] for entry in ledger.ledger(store)] == ["frozen", "opened"]

    run_validate("--freeze", write_plan(store, n=6))
    _, out, _ = run_validate("--final", "--no-knowledge")
    assert "had been opened before under another plan" in " ".join(
        out.split()
    ) and "read this as exploration" in " ".join(out.split())


def test_a_plan_or_a_ledger_that_was_edited_is_refused(run_validate):
    place = run_validate.store / "validation"
    run_validate("--freeze", write_plan(run_validate.store))
    (place / "plan.yaml").chmod(0o600)
    (place / "plan.yaml").write_text((place / "plan.yaml").read_text().replace("n: 320", "n: 6"))
    assert "was edited after it was frozen" in run_validate("--final")[2]
    run_validate("--freeze", write_plan(run_validate.store))
    first, *rest = (place / "ledger.jsonl").read_text().splitlines()
    (place / "ledger.jsonl").write_text(
        "\n".join([first.replace("frozen", "frozen "), *rest]) + "\n"
    )
    assert "ledger.jsonl was edited at line 2" in run_validate("--final")[2]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"n": 0}, "n"), ({"arms": ["base", "x"]}, "arms"), ({"margins": {"rubric": -1}}, "margins")],
)
def test_a_plan_that_makes_no_sense_is_not_frozen(run_validate, changes, field):
    code, _, err = run_validate("--freeze", write_plan(run_validate.store, **changes))
    assert code == 2 and f"the field '{field}' is not as in" in err and err.count("\n") == 1


def test_the_detectable_difference_is_found_four_times_out_of_five():
    import numpy as np
    from scipy import stats

    rng, n, k, between, within = np.random.default_rng(0), 48, 8, 0.1, 0.25
    size = power.detectable(n, k, power.Spread(between, within))
    means = (
        size + rng.normal(0, between, (4000, k)) + rng.normal(0, within / np.sqrt(n / k), (4000, k))
    )
    assert 0.78 < np.mean(stats.ttest_1samp(means, 0, axis=1).pvalue < 0.05) < 0.82
    rows = [
        {"question_id": q, "x_base": "0.0", "x_qlora": str(b + rng.normal(0, within))}
        for q, b in enumerate(rng.normal(0, between, 400))
        for _ in range(6)
    ]
    rows[0]["x_base"] = "0"
    assert np.allclose(
        power.estimated([*rows, {"question_id": 1, "x_base": "", "x_qlora": ""}], "x"),
        (0.1, 0.25),
        atol=0.02,
    )
    assert (
        power.detectable(5, 1, power.Spread(0.1, 0.1)) is None
        and power.estimated(rows[:6], "x") is None
    )


def test_plan_says_what_n_trials_can_show_and_takes_the_spread_from_the_last_run(run_validate):
    _, out, _ = run_validate("50", "--plan")
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d", line)]
    assert [row[0] for row in rows] == ["50", "100", "200", "1000"] and "assumed" in out
    assert all(float(a) > float(b) for a, b in zip(rows[0][1:], rows[0][2:], strict=False))
    assert all(float(a) >= float(b) for a, b in zip(rows[0][1:], rows[3][1:], strict=True))
    run_validate("64", "--no-knowledge")
    assert re.search(r"\(taken from 2\d{7}-", run_validate("--plan")[1])


# ---------------------------------------------------------------- attacks from beside it on a shared host


@pytest.mark.skipif(os.name == "nt", reason="links and owners are those of POSIX")
@pytest.mark.parametrize("place", ["validation", "validation/answers"])
def test_a_link_planted_where_answers_go_is_refused(run_validate, tmp_path, place):
    target, link = tmp_path / "of_the_attacker", run_validate.store / place
    target.mkdir()
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    code, out, err = run_validate("2", "--no-knowledge")
    assert code == 2 and f"{link} is a link" in err and not list(target.iterdir())


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away"
)
def test_a_folder_of_another_user_is_refused(run_validate):
    place = run_validate.store / "validation"
    place.mkdir(mode=0o777)
    os.chown(place, 12345, -1)
    code, out, err = run_validate("2", "--no-knowledge")
    assert code == 2 and "another user's folder" in err and not list(place.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_a_tmp_in_which_others_can_swap_folders_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "TEMPORARY", tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(errors.UserError, match="chmod 1777"):
        delivery.fresh_folder()
    tmp_path.chmod(0o1777)
    assert len({delivery.fresh_folder() for _ in range(3)}) == 3
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in tmp_path.iterdir())


def test_no_socket_is_opened(run_validate, monkeypatch):
    def reach(self, address):
        raise AssertionError(f"reached out to {address}")

    monkeypatch.setattr(socket.socket, "connect", reach)
    assert run_validate("3")[0] == 0


@pytest.mark.parametrize(
    ("environment", "jump", "option"),
    [
        ({}, None, ""),
        ({}, "me@login.example", "-J me@login.example "),
        ({"SLURM_SUBMIT_HOST": "login1"}, None, "-J {user}@login1 "),
        ({"SLURM_SUBMIT_HOST": "node7.cluster"}, None, ""),
        (
            {"SLURM_SUBMIT_HOST": "login1", "SSH_CONNECTION": "1.2.3.4 5 6.7.8.9 2222"},
            "gate",
            "-J gate -P 2222 ",
        ),
    ],
)
def test_the_scp_line_goes_by_way_of_the_login_host(
    monkeypatch, tmp_path, environment, jump, option
):
    for name in ("SLURM_SUBMIT_HOST", "PBS_O_HOST", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(delivery.socket, "getfqdn", lambda: "node7.cluster")
    (tmp_path / "output.csv").touch()
    option = option.format(user=delivery.user())
    assert (
        f"  scp {option}{delivery.user()}@node7.cluster:{tmp_path}/output.csv"
        in delivery.farewell(tmp_path, tmp_path, jump)
    )


# ---------------------------------------------------------------- bad input, and run.sh


@pytest.mark.parametrize("n", ["abc", "0", "-3", "2.5", "", "٣", "1e3"])
def test_n_that_is_no_positive_whole_number_is_one_sentence_and_exit_2(n, tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "run_files" / "run.sh"), n],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: n must be a positive whole number")
        and f"'{n}'" in done.stderr
        and done.stderr.count("\n") == 1
    )


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
            command,
            cwd=tmp_path / "run_files",
            capture_output=True,
            text=True,
            env=environment | more,
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


def test_another_chat_template_than_the_prompts_is_refused(run_validate, tuned_store, tmp_path):
    other = write_tiny_model(tmp_path / "other", template="{{ messages[0]['content'] }}")
    code, out, err = run_validate("2", "--model", str(other))
    assert code == 2 and f"give --model {tuned_store.model}" in err


def test_a_model_that_is_not_there_is_one_sentence(run_validate):
    code, _, err = run_validate("2", "--model", "nobody/nothing")
    assert code == 2 and err.startswith("error: model nobody/nothing") and err.count("\n") == 1


def test_help_takes_less_than_a_second_of_work():
    before = os.times().children_user
    done = subprocess.run(
        ["bash", str(ROOT / "run_files" / "run.sh"), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "number of trials" in done.stdout
    assert os.times().children_user - before < 1
