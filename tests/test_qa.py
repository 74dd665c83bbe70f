"""Step 6: a patient's context as the model gets it, one question or a conversation, what it says about bad input."""

import json
import os
import shutil
import stat
import sys

import pytest
from conftest import TUNED_IDS as IDS

import qa_by_subject
from mimic_qlora import context, facts, generation, models, moments, storage, subjects

QUESTION = "My head hurts. What should I do?"


@pytest.fixture
def ask(tuned_store, tmp_path, monkeypatch, capsys):
    """Run step 6 in this process: ask("--once", ..., typed=[lines]) -> (exit code, stdout, stderr)."""
    store, tiny = tmp_path / "storage", tuned_store.model
    shutil.copytree(tuned_store.path, store)

    def ask(*args, typed=()):
        lines = iter(typed)

        def read(prompt):
            for line in lines:
                if line is KeyboardInterrupt:
                    raise KeyboardInterrupt
                return line
            raise EOFError

        monkeypatch.setattr("builtins.input", read)
        arguments = ["--storage", store, "--model", tiny, "--max-new-tokens", 8, *args]
        monkeypatch.setattr(sys, "argv", ["qa_by_subject.py", *map(str, arguments)])
        before = os.umask(0o022)
        try:
            with pytest.raises(SystemExit) as end:
                storage.run(qa_by_subject.main)
        finally:
            os.umask(before)
        return end.value.code, *capsys.readouterr()

    ask.store = store
    return ask


def expected_context(store, subject_id, as_of=None):
    settings = context.load_settings(store)
    record = subjects.record(store, subject_id, facts.WANTED)
    tokenizer = models.load_tokenizer(models.model_path(settings["model"], store))

    def count(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    as_of = as_of or moments.latest(record, 42).as_of
    return context.build(record, as_of, settings, context.lab_labels(store), count).text


def once(*args):
    return ("--once", "--subject-id", IDS[3], "--question", QUESTION, *args)


# ---------------------------------------------------------------- one question


def test_once_shows_the_exact_context_and_both_arms(ask):
    code, out, err = ask(*once())
    assert code == 0, err
    assert out.splitlines()[0].startswith("Data: ") and out.splitlines()[1].startswith("Model: ")
    assert expected_context(ask.store, IDS[3]) in out and "- Age: 43\n- Sex: male" in out
    assert out.index("--- base ---") < out.index("--- adapter ---") and QUESTION in out


def test_json_is_all_that_stdout_holds_and_the_arms_differ(ask):
    code, out, err = ask(*once("--format", "json"))
    entry = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and out.isascii() and "Data: " in err
    assert entry["subject_id"] == IDS[3] and entry["question"] == QUESTION
    assert entry["context"] == expected_context(ask.store, IDS[3])
    assert set(entry["answers"]) == {"base", "adapter"}
    assert entry["answers"]["base"]["text"] != entry["answers"]["adapter"]["text"]
    assert entry["answers"]["base"]["n_tokens"] <= 8


def test_the_model_gets_what_is_shown(ask, monkeypatch):
    got = []

    def generate(model, tokenizer, conversations, arms, *_):
        got.extend(zip(conversations, arms, strict=True))
        return [generation.Answer("x", 1, True) for _ in arms]

    monkeypatch.setattr(generation, "generate", generate)
    ask(*once())
    shown = expected_context(ask.store, IDS[3])
    turns = [{"role": "system", "content": "Help."}, {"role": "user", "content": f"{shown}\n\nQuestion\n{QUESTION}"}]
    assert got == [(turns, "base"), (turns, "adapter")]


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_the_transcript_is_kept_in_private(ask):
    ask(*once("--arm", "base"))
    ask(*once("--arm", "base"))
    files = list((ask.store / "qa").glob("*.jsonl"))
    assert len(files) == 2
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    assert stat.S_IMODE((ask.store / "qa").stat().st_mode) == 0o700
    (line,) = files[0].read_text().splitlines()
    assert json.loads(line)["question"] == QUESTION and set(json.loads(line)["answers"]) == {"base"}


def test_as_of_shows_what_the_chart_held_then(ask):
    _, out, _ = ask(*once("--arm", "base", "--as-of", "2150-03-02"))
    assert "Last stay: admitted" in out and "Known conditions: none coded" in out


def test_random_is_a_validation_patient_by_seed(ask):
    split = subjects.split_of(ask.store)
    args = ("--once", "--subject-id", "random", "--question", QUESTION, "--arm", "base", "--format", "json")
    opened = [json.loads(ask(*args)[1])["subject_id"] for _ in range(2)]
    assert opened[0] == opened[1] and split[opened[0]] == "validation"


def test_without_an_adapter_the_base_answers(ask):
    shutil.rmtree(ask.store / "adapters")
    code, out, _ = ask(*once())
    assert code == 0 and "--- base ---" in out and "--- adapter ---" not in out


def test_an_answer_cannot_steer_the_terminal(ask, monkeypatch):
    monkeypatch.setattr(generation, "generate", lambda *_: [generation.Answer("one\x1b[2J\ntwo\x9b31m", 5, False)])
    _, out, _ = ask(*once("--arm", "base"))
    assert "one[2J\ntwo31m\n[cut at 8 tokens]" in out and "\x1b" not in out


# ---------------------------------------------------------------- a conversation


def test_a_conversation_opens_patients_switches_arms_and_saves(ask):
    typed = ["random", ":base", QUESTION, ":both", f":patient {IDS[3]}", QUESTION, ":save", ":help", ":quit"]
    code, out, err = ask(typed=typed)
    assert code == 0, err
    assert out.count("--- base ---") == 2 and out.count("--- adapter ---") == 1
    assert out.count("Patient context") == 2 and ":as-of 2150-03-01" in out
    (saved,) = (ask.store / "qa").glob("*.jsonl")
    entries = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [set(e["answers"]) for e in entries] == [{"base"}, {"base", "adapter"}]


def test_streamed_answers_are_those_of_once(ask):
    _, out, _ = ask(typed=[str(IDS[3]), QUESTION, ":save"])
    (saved,) = (ask.store / "qa").glob("*.jsonl")
    streamed = json.loads(saved.read_text())["answers"]
    answered = json.loads(ask(*once("--format", "json"))[1])["answers"]
    assert streamed["base"]["text"] == answered["base"]["text"]


def test_as_of_changes_the_open_patient_and_goes_back(ask):
    _, out, _ = ask("--subject-id", IDS[3], typed=[":as-of 2150-03-02", ":as-of nonsense", ":as-of"])
    assert "as of 2150-03-02 00:00:00" in out and "error: 'nonsense' is not a date" in out
    assert out.count(expected_context(ask.store, IDS[3])) == 2


def test_a_mistake_in_a_conversation_is_one_sentence_and_it_goes_on(ask):
    code, out, _ = ask(typed=[QUESTION, "99", ":save", ":nonsense", "random", ":quit"])
    assert code == 0 and "error: no patient is open" in out and "error: subject_id 99 is not in" in out
    assert "error: nothing has been asked" in out and "Patient context" in out


def test_ctrl_c_stops_the_answer_and_not_the_program(ask, monkeypatch):
    def stream(*_):
        yield "Rest "
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "stream", stream)
    code, out, _ = ask(typed=[str(IDS[3]), QUESTION, KeyboardInterrupt, ":save", ":quit"])
    assert code == 0 and out.count("[stopped]") == 1 and "--- adapter ---" not in out
    (saved,) = (ask.store / "qa").glob("*.jsonl")
    assert json.loads(saved.read_text())["answers"] == {"base": {"text": "Rest", "ended": False}}


def test_the_adapter_cannot_be_chosen_where_there_is_none(ask):
    shutil.rmtree(ask.store / "adapters")
    code, out, _ = ask(typed=[":both", ":adapter"])
    assert code == 0 and out.count("error: there is no adapter 'default'") == 2


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--once", "--subject-id", "99", "--question", "x"), "subject_id 99 is not in"),
        (("--once", "--subject-id", "abc", "--question", "x"), "'abc' is not a subject_id"),
        (("--once", "--subject-id", "random"), "--once needs"),
        (("--question", "x"), "go with --once"),
        (once("--as-of", "yesterday"), "'yesterday' is not a date"),
        (once("--as-of", "2150-02-30"), "'2150-02-30' is not a date"),
        (once("--arm", "adapter", "--run", "other"), "run `python train_qlora.py` first"),
        (once("--max-new-tokens", "0"), "is not a positive number"),
        (once("--max-new-tokens", "100000"), "give a smaller --max-new-tokens"),
        (once("--model", "nobody/nothing"), "model nobody/nothing is neither"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2_and_leaves_nothing(ask, args, says):
    code, _, err = ask(*args)
    assert code == 2 and err.startswith("error: ") and says in err and err.count("\n") == 1
    assert not (ask.store / "qa").exists()


@pytest.mark.parametrize(("step", "command"), [("subjects", "convert_to_jsonl"), ("prompts", "make_symptom_prompts")])
def test_a_missing_step_names_its_command(ask, step, command):
    shutil.rmtree(ask.store / step)
    code, _, err = ask(*once())
    assert code == 2 and f"run `python {command}" in err
