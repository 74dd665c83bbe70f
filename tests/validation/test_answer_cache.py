"""Answers are kept: a killed run resumes and ends with the same answers."""

import re
import shutil
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from helpers.paths import ROOT
from helpers.step7 import answer, journal_size, results, same_answers
from mimic_qlora.llm import finding, generation, loading
from mimic_qlora.processes import entries
from mimic_qlora.qa import session
from mimic_qlora.step import files
from mimic_qlora.validation import run
from mimic_qlora.validation.judge import judge


def test_a_killed_run_goes_on_and_ends_with_the_same_answers(run_validate, monkeypatch):
    batches, last = [], [None]

    def answering(model, tokenizer, prompts, who, max_new_tokens, fits):
        """Says in each answer which rows shared its batch, and that memory has room for three."""
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


def test_answers_that_a_run_does_not_ask_anew_are_kept(run_validate):
    """A small run with --force emptied the file, and the large one had all to ask once more."""
    large, small = ("12", "--no-knowledge"), ("2", "--no-knowledge", "--force")
    expected = same_answers(run_validate(*large)[1])
    code, out, _ = run_validate(*small)
    assert code == 0 and "were kept" not in out
    folder = run_validate.store / "validation" / "answers"
    assert not [*folder.glob("*.before")]
    assert "24 of 24 answers were kept" in (again := run_validate(*large)[1])
    assert same_answers(again) == expected


@pytest.mark.soak
def test_a_run_killed_at_any_moment_ends_with_the_answers_of_an_undisturbed_one(
    tuned_store, tmp_path
):
    """With the real (tiny) model in processes of their own, killed after one more batch each."""
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


FLIPPED = b'{"key": "b", "value": 9, "sum": "0123456789abcdef"}\n'


@pytest.mark.parametrize(
    "odd", [b"[1]\n", b"null\n", b"[" * 5000 + b"\n", b"\xff\n", b"\n", FLIPPED]
)
def test_an_odd_line_of_the_cache_costs_its_own_answer_alone_and_is_told(tmp_path, odd, capsys):
    path = tmp_path / "answers.jsonl"
    entries.begin(path, {}, anew=True)
    entries.once(path, "a", lambda: 1)
    with open(path, "ab") as file:
        file.write(odd)
    entries.add(path, {"key": "c", "value": 5})
    assert entries.once(path, "a", lambda: 2) == 1
    assert f"1 of the lines of {path} are damaged" in capsys.readouterr().err
    assert entries.once(path, "b", lambda: 3) == entries.once(path, "b", lambda: 4) == 3
    assert entries.once(path, "c", lambda: 6) == 5
    with open(path, "ab") as file:
        file.write(b'{"key": "d", "val')  # as a kill leaves it
    assert entries.once(path, "c", lambda: 6) == 5 and not capsys.readouterr().err


def test_answers_of_adapters_given_in_another_order_are_kept_apart(tuned_store):
    source = SimpleNamespace(path=tuned_store.model, store=tuned_store.path)
    one, other = (
        session.identity(source, list(runs))
        for runs in (("default", "seed.1"), ("seed.1", "default"))
    )
    assert files.digest(one) != files.digest(other)


@pytest.mark.parametrize("name", finding.BESIDE_WEIGHTS)
def test_a_model_of_the_same_weights_with_other_files_beside_them_is_another(
    tuned_store, tmp_path, name
):
    """A mended end token, another RoPE or other words: the answers kept were the earlier ones."""
    model = shutil.copytree(tuned_store.model, tmp_path / "tiny")
    sources = [SimpleNamespace(path=path, store=tmp_path) for path in (tuned_store.model, model)]
    before = [session.identity(source, []) for source in sources]
    assert before[0] == before[1]  # a model that was moved is the same
    with open(model / name, "a", encoding="utf-8") as file:
        file.write("\n")
    after = session.identity(sources[1], [])
    assert after["fingerprint"] == before[1]["fingerprint"]
    assert files.digest(after) != files.digest(before[1])
    chosen = [judge.choose(str(source.path), tmp_path, None).identity for source in sources]
    assert chosen[0]["fingerprint"] == chosen[1]["fingerprint"]
    assert files.digest(chosen[0]) != files.digest(chosen[1])


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


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((), ("--no-knowledge", "--no-records")),
        (("--no-knowledge", "--no-records"), ()),
        (("--no-records",), ("--no-knowledge",)),
    ],
)
def test_trials_are_answered_once_whatever_is_asked_beside_them(run_validate, first, then):
    before = same_answers(run_validate("5", "--batch-size", "4", *first)[1])
    out = run_validate("5", "--batch-size", "4", *then)[1]
    after = same_answers(out)
    assert int(re.search(r"(\d+) of \d+ answers were kept", out)[1]) >= 10
    kinds = [[line for line in lines if line["kind"] == "trial"] for lines in (before, after)]
    assert kinds[0] == kinds[1] and len(kinds[0]) == 10
