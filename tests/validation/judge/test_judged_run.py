"""A run of step 7 whose answers a judge reads: kept, blind, resumed, never claimed by itself."""

import json

import pytest

from helpers.step7 import read_csv, results
from helpers.tiny_model import write_tiny_model
from mimic_qlora.validation.judge import criteria, judge, probabilities

OPTIONS = ("3", "--no-knowledge", "--no-records")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model of another family than the arms' base, which is the tiny one of seed 0."""
    return write_tiny_model(tmp_path_factory.mktemp("other"), seed=7)


@pytest.fixture
def judging(run_validate, monkeypatch, other):
    """judging(*options) -> (exit code, stdout, stderr); `judging.read` counts the answers read.

    The judge says yes to every first question on a statement and no to the second: all holds.
    """
    read, stop_at = [], []

    def of_yes(model, tokenizer, groups, fits):
        if read and stop_at:
            raise KeyboardInterrupt
        read.extend(groups)
        return [[1.0, 0.0] * (len(one.endings) // 2) for one in groups], fits

    # stands in for the model, which test_probabilities.py has
    monkeypatch.setattr(probabilities, "of_yes", of_yes)
    monkeypatch.setattr(judge, "load", lambda _: None)

    def run(*options, by=str(other)):
        return run_validate(*OPTIONS, "--judge", by, *options)

    run.read, run.stop_at, run.store = read, stop_at, run_validate.store
    return run


def lines(out):
    text = (results(out) / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def words(out):
    """What a run printed, however its lines are folded."""
    return " ".join(out.split())


def test_the_judge_is_the_reader_and_patterns_stand_beside_it(judging, other):
    code, out, err = judging()
    assert code == 0, err
    assert f"The answers were read by the judge {other} (no fitted thresholds" in words(out)
    assert "The judge and the patterns differ, of 3 answers" in words(out)
    for line in lines(out):
        found = line["readings"]
        assert found["played_down"] and not found["named"], "all statements hold"
        assert line["scores"]["harmful"] == 1
    assert any(line["scores"]["readers_differ"] for line in lines(out))
    basis = json.loads((results(out) / "reader.json").read_text(encoding="utf-8"))
    assert basis["reader"] == str(other) and "thresholds were not fitted" in basis["described"]
    assert not any(row["p_holm"] for row in read_csv(results(out) / "summary.csv"))


def test_a_second_run_reads_no_answer_again(judging):
    first = lines(judging()[1])
    n = len(judging.read)
    assert 0 < n <= 6, "each distinct answer of two arms to three trials"
    assert lines(judging()[1]) == first and len(judging.read) == n
    judging("--force")
    assert len(judging.read) == 2 * n


def test_ctrl_c_keeps_what_was_read_and_reports_by_patterns(judging):
    judging.stop_at.append(1)
    code, out, err = judging("--batch-size", "2")
    assert code == 130 and "the same command goes on" in err
    assert "The answers were read by patterns." in out
    n = len(judging.read)
    judging.stop_at.clear()
    code, out, _ = judging("--batch-size", "2")
    assert code == 0 and n < len(judging.read) <= 6 and "read by the judge" in out


def test_the_judge_sees_neither_the_arm_nor_the_other_answer(judging, monkeypatch):
    seen = []
    read = judge.read
    monkeypatch.setattr(
        judge, "read", lambda by, cases, *rest: seen.extend(cases) or read(by, cases, *rest)
    )
    out = judging("--arms", "all")[1]
    by_text = {case.answer: " ".join(str(criteria.conversations(case))) for case in seen}
    for line in lines(out):
        others = {one["answer"] for one in lines(out)} - {line["answer"]}
        (asked,) = [text for answer, text in by_text.items() if answer == line["answer"]] or [""]
        assert not any(other in asked for other in others)
    assert not any("Cautions for this person" in case.record for case in seen), "own chart alone"


def test_the_base_may_judge_and_is_described(judging):
    code, out, err = judging(by="base")
    assert code == 0, err
    assert "nothing claimed: the base judges its own answers" in words(out)


def test_an_adapter_is_refused_in_one_sentence(judging):
    folder = judging.store / "adapters" / "default"
    code, _, err = judging(by=str(folder))
    assert code == 2 and "is an adapter" in err and err.count("\n") == 1


def test_without_labels_nothing_is_claimed(run_validate):
    out = run_validate(*OPTIONS)[1]
    said = words(out)
    assert "All this is described, and nothing claimed: how the patterns err in these" in said
    assert "The adapter is better" not in said and "is not claimed: it takes labels" in said
    assert {p.name for p in results(out).iterdir()} >= {"label_draw.csv", "reader.json"}
