"""Step 6: the context as the model gets it, one question, a conversation, batches, bad input."""

import io
import json
import os
import re
import shutil
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import qa_by_subject
from helpers.scripts import as_it_was
from helpers.storage_folders import TUNED_IDS as IDS
from mimic_qlora.chart import columns, context, prediction_times
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.chart.sections import Item
from mimic_qlora.llm import chat, finding, generation, tokenizer_files
from mimic_qlora.qa import batch, conversation, patient, session
from mimic_qlora.step import command_line
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader

QUESTION = "My head hurts. What should I do?"


@pytest.fixture
def ask(tuned_store, tmp_path, monkeypatch, capsys):
    """Run step 6 here: ask("--once", ..., typed=[lines]) -> (exit code, stdout, stderr)."""
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
        with as_it_was(), pytest.raises(SystemExit) as end:
            command_line.run(qa_by_subject.main)
        return end.value.code, *capsys.readouterr()

    ask.store = store
    return ask


def expected_context(store, subject_id, as_of=None):
    settings = ContextSettings.read(store)
    record = reader.record(store, subject_id, columns.WANTED)
    tokenizer = chat.load_tokenizer(finding.model_path(settings.model, store))

    def count(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    as_of = as_of or prediction_times.latest(record, 42).as_of
    return context.build(record, as_of, settings, context.lab_labels(store), count).text


def model_of(store):
    return ContextSettings.read(store).model


def once(*args):
    return ("--once", "--subject-id", IDS[3], "--question", QUESTION, *args)


# ---------------------------------------------------------------- one question


def test_once_shows_the_exact_context_and_both_arms(ask):
    code, out, err = ask(*once())
    assert code == 0, err
    assert out.splitlines()[0].startswith("Data: ") and out.splitlines()[1].startswith("Model: ")
    split = reader.split_of(ask.store)[IDS[3]]
    assert f"subject_id {IDS[3]} ({split} patient) as of" in out
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
    assert entry["weights"] == session.weights_sha256(ask.store, "default")
    alone = json.loads(ask(*once("--format", "json", "--arm", "base"))[1])
    assert alone["run"] is None and "weights" not in alone


def test_an_adapter_that_is_trained_anew_while_it_is_loaded_is_refused(ask, monkeypatch):
    loaded = session.load_arms

    def load_arms(opened, runs):
        model = loaded(opened, runs)
        (ask.store / "adapters/default/adapter_model.safetensors").write_bytes(b"trained anew")
        return model

    monkeypatch.setattr(session, "load_arms", load_arms)
    code, _, err = ask(*once())
    assert code == 2 and "was replaced while the model was loaded" in err
    assert not (ask.store / "qa").exists()


def test_the_model_gets_what_is_shown(ask, monkeypatch):
    got = []

    def generate(model, tokenizer, conversations, arms, *_):
        got.extend(zip(conversations, arms, strict=True))
        return [generation.Answer("x", 1, True) for _ in arms]

    monkeypatch.setattr(generation, "generate", generate)
    ask(*once())
    shown = expected_context(ask.store, IDS[3])
    turns = [
        {"role": "system", "content": "Help."},
        {"role": "user", "content": f"{shown}\n\nQuestion\n{QUESTION}"},
    ]
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
    assert "Current stay: admitted" in out and "Known conditions: none coded" in out


def test_random_is_a_validation_patient_by_seed(ask):
    split = reader.split_of(ask.store)
    args = (
        "--once",
        "--subject-id",
        "random",
        "--question",
        QUESTION,
        "--arm",
        "base",
        "--format",
        "json",
    )
    opened = [json.loads(ask(*args)[1])["subject_id"] for _ in range(2)]
    assert opened[0] == opened[1] and split[opened[0]] == "validation"


def test_without_an_adapter_the_base_answers(ask):
    shutil.rmtree(ask.store / "adapters")
    code, out, _ = ask(*once())
    assert code == 0 and "--- base ---" in out and "--- adapter ---" not in out


def test_an_answer_cannot_steer_the_terminal(ask, monkeypatch):
    monkeypatch.setattr(
        generation, "generate", lambda *_: [generation.Answer("one\x1b[2J\ntwo\x9b31m", 5, False)]
    )
    _, out, _ = ask(*once("--arm", "base"))
    assert "one[2J\ntwo31m\n[cut at 8 tokens]" in out and "\x1b" not in out


# ---------------------------------------------------------------- a conversation


def test_a_conversation_opens_patients_switches_arms_and_saves(ask):
    typed = [
        "random",
        ":base",
        QUESTION,
        ":both",
        f":patient {IDS[3]}",
        QUESTION,
        ":save",
        ":help",
        ":quit",
    ]
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
    _, out, _ = ask(
        "--subject-id", IDS[3], typed=[":as-of 2150-03-02", ":as-of nonsense", ":as-of"]
    )
    assert "as of 2150-03-02 00:00:00" in out and "error: 'nonsense' is not a date" in out
    assert out.count(expected_context(ask.store, IDS[3])) == 2


def test_a_mistake_in_a_conversation_is_one_sentence_and_it_goes_on(ask):
    code, out, _ = ask(typed=[QUESTION, "999999999", ":save", ":nonsense", "random", ":quit"])
    assert (
        code == 0
        and "error: no patient is open" in out
        and "error: no patient has 999999999 in" in out
    )
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


# ---------------------------------------------------------------- follow-ups


@pytest.fixture
def heard(monkeypatch):
    """The conversations that the model is given; each answer says how many there were before it.

    Stands in for the model, whose answers would say nothing about what it was asked.
    """
    conversations = []

    def stream(model, tokenizer, conversation, who, max_new_tokens):
        conversations.append((who, conversation))
        yield (text := f"answer {len(conversations)}")
        return generation.Answer(text, 5, True)

    monkeypatch.setattr(generation, "stream", stream)
    return conversations


def test_a_follow_up_keeps_the_talk_of_each_arm_until_it_is_forgotten(ask, heard):
    typed = [str(IDS[3]), "one", "two", ":base", "three", ":new", "four", str(IDS[4]), "five"]
    ask(typed=typed)
    said = [
        (who, [turn["content"].rpartition("\n")[2] for turn in talk[1:]]) for who, talk in heard
    ]
    assert said == [
        ("base", ["one"]),
        ("adapter", ["one"]),
        ("base", ["one", "answer 1", "two"]),
        ("adapter", ["one", "answer 2", "two"]),
        ("base", ["one", "answer 1", "two", "answer 3", "three"]),
        ("base", ["four"]),
        ("base", ["five"]),
    ]
    roles = [turn["role"] for turn in heard[4][1]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    charts = [sum("Patient context" in turn["content"] for turn in talk) for _, talk in heard]
    assert charts == [1] * 7, "the chart stands before the first question alone"


def test_an_arm_that_joins_late_is_told_to_know_nothing_of_what_was_asked_before(ask, heard):
    _, out, _ = ask(typed=[str(IDS[3]), ":base", "one", "two", ":both", "three"])
    assert [len(talk) for _, talk in heard] == [2, 4, 6, 2]
    assert out.count("was not asked") == 1
    assert "note: adapter was not asked 2 questions before this one" in out


def test_a_talk_too_long_for_the_model_loses_its_oldest_questions_and_never_the_chart(ask, heard):
    long = "and what about this " * 20
    code, out, err = ask(
        typed=[
            str(IDS[3]),
            ":base",
            "first " + long,
            "second " + long,
            "third " + long,
            "fourth " + long,
        ]
    )
    asked = [[turn["content"] for turn in talk if turn["role"] == "user"] for _, talk in heard]
    assert (
        ["fourth" in text for text in asked[-1]][-1]
        and "first" not in "".join(asked[-1])
        and len(asked[-1]) > 1
    )
    left = 4 - len(asked[-1])  # nothing said so
    words = "the first question has" if left == 1 else f"the first {left} questions have"
    assert f"note: {words} no room in this model" in out.rpartition("--- base ---")[2]
    assert "note:" not in out.partition("--- base ---")[2].partition("--- base ---")[0]
    assert all(turns[0].startswith("Patient context\n- Age: 43") for turns in asked)
    assert all(talk[0]["role"] == "system" for _, talk in heard)
    for length, room in ((1570, r"\d+ tokens of"), (3000, r"no token of .*\([\d,]+ too many\)")):
        code, out, err = ask(typed=[str(IDS[3]), "x" * length])
        assert code == 0
        assert re.search(f"error: the longest prompt leaves {room}", " ".join(out.split())), out


def test_a_conversation_says_once_that_its_adapter_was_trained_anew(ask, heard):
    def typed():
        yield from (str(IDS[3]), "one")
        weights = ask.store / "adapters" / "default" / "adapter_model.safetensors"
        weights.write_bytes(b"trained anew")
        yield from (":base", "two", ":both", "three", "four")

    _, out, _ = ask(typed=typed())
    (note,) = (line for line in out.splitlines() if "was trained again" in line)
    assert "start again to ask the new one" in note
    assert out.index("both answers") < out.index(note) and len(heard) == 7


def test_the_transcript_numbers_the_questions_of_a_talk(ask, heard):
    ask(typed=[str(IDS[3]), "one", "two", ":new", "three", ":save"])
    (saved,) = (ask.store / "qa").glob("*.jsonl")
    assert [json.loads(line)["turn"] for line in saved.read_text().splitlines()] == [1, 2, 1]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["one", "two", ":quit"], "Not kept: 2 questions and the answers"),
        (["one", ":save", "two"], "Not kept: 1 question and the answers"),
        (["one", ":save", ":q"], None),
        ([":quit"], None),
    ],
)
def test_a_conversation_that_ends_says_what_was_not_kept(ask, heard, typed, says):
    code, out, _ = ask(typed=[str(IDS[3]), *typed])
    assert code == 0 and (says in out if says else "Not kept" not in out)


# ---------------------------------------------------------------- finding a patient


def test_a_part_of_a_number_opens_the_one_patient_or_lists_those_that_have_it(ask):
    code, out, err = ask(typed=["413", "10000", "1000002", ":context"])
    assert code == 0 and IDS[59] == 10000413 and out.count(f"subject_id {IDS[59]} (") == 2
    assert (
        f"60 patients have 10000 in their number: {IDS[0]}, {IDS[1]}," in out
        and "and 52 more: type more digits" in out
    )
    assert "2 patients have 1000002 in their number: 10000021, 10000028\n" in out


@pytest.mark.parametrize("as_of", ["1800-01-01", "2150-03-01", "2151-03-16", "2400-01-01"])
def test_a_time_of_which_the_chart_cannot_tell_is_refused(ask, as_of):
    code, _, err = ask(*once("--as-of", as_of))
    assert (
        code == 2
        and "tells of 2150-03-01 10:00:00 to 2151-03-15 12:00:00" in err
        and err.count("\n") == 1
    )
    _, out, _ = ask("--subject-id", IDS[3], typed=[f":as-of {as_of}", ":context"])
    assert "error: the chart" in out and out.count(expected_context(ask.store, IDS[3])) == 2


def test_a_patient_opens_in_milliseconds(ask):
    """Of CPU time, so that a busy machine changes nothing; it takes some 1 ms."""
    loaded = session.load(ask.store, model_of(ask.store))
    patient.find(loaded, IDS[0], None)
    began = time.process_time()
    for subject_id in IDS[:20]:
        patient.find(loaded, subject_id, None)
    assert (time.process_time() - began) / 20 < 0.1


def test_an_adapter_does_not_answer_with_another_tokenizer_than_it_was_trained_with(ask):
    """A newer snapshot of a model may have the same weights, and other words."""
    path = ask.store / "prompts" / "manifest.json"
    manifest = json.loads(path.read_text())
    opened = session.load(ask.store, model_of(ask.store))
    own = finding.tokenizer_sha256(opened.path)
    for counted_by in (own, "0" * 64):
        inputs = manifest["inputs"] | {"tokenizer": counted_by}
        path.write_text(json.dumps(manifest | {"inputs": inputs}))
        if counted_by == own:
            chat.check_tokenizer(ask.store, opened.path, opened.tokenizer, ["default"])
            continue
        with pytest.raises(UserError, match="default was trained with another tokenizer than"):
            session.load_arms(opened, ["default"])


@pytest.mark.parametrize("name, other", [("bos_token", "eos_token"), ("eos_token", "bos_token")])
def test_an_adapter_does_not_answer_where_a_text_begins_or_ends_otherwise(
    ask, tmp_path, name, other
):
    """The sum that step 4 records does not tell: it is of the words and the template."""
    model, mended = Path(model_of(ask.store)), tmp_path / "mended"
    own = ask.store / "adapters" / "default"
    tokenizer_files.save(chat.load_tokenizer(model), own)
    chat.check_tokenizer(ask.store, model, chat.load_tokenizer(model), ["default"])
    shutil.copytree(model, mended)
    config = json.loads((mended / "tokenizer_config.json").read_text())
    (mended / "tokenizer_config.json").write_text(json.dumps(config | {name: config[other]}))
    with pytest.raises(UserError, match=f"was trained with {name} .* has .* now"):
        chat.check_tokenizer(ask.store, mended, chat.load_tokenizer(mended), ["default"])


# ---------------------------------------------------------------- many questions, and the check


def test_a_batch_answers_each_line_in_order_and_says_which_it_could_not(ask, tmp_path):
    lines = [
        json.dumps({"subject_id": IDS[5], "question": QUESTION}),
        "no json",
        json.dumps({"subject_id": 99, "question": QUESTION}),
        "",
        json.dumps({"subject_id": str(IDS[3]), "question": QUESTION, "as_of": "2150-03-02"}),
        json.dumps({"subject_id": IDS[3], "question": "x" * 3000}),
        json.dumps({"subject_id": IDS[3], "question": ["x"]}),
        json.dumps({"subject_id": IDS[3], "question": QUESTION, "as_of": 0}),
        json.dumps({"subject_id": IDS[3], "question": QUESTION}),
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines))
    code, out, err = ask("--batch", path)
    replies = [json.loads(line) for line in out.splitlines()]
    assert (
        code == 1
        and "6 of 8 lines could not be answered" not in err
        and "5 of 8 lines could not be answered" in err
    )
    assert [reply["line"] for reply in replies] == [1, 2, 3, 5, 6, 7, 8, 9] and out.isascii()
    wrong = [reply["line"] for reply in replies if "error" in reply]
    assert wrong == [2, 3, 6, 7, 8]
    assert (
        replies[3]["as_of"] == "2150-03-02 00:00:00"
        and "Known conditions: none coded" in replies[3]["context"]
    )
    alone = json.loads(ask(*once("--format", "json"))[1])
    assert replies[-1]["answers"] == alone["answers"]
    path.write_text("\n".join([lines[0], lines[-1]]))
    assert ask("--batch", path)[0] == 0


def test_a_batch_that_is_stopped_keeps_its_answers_and_goes_on_from_them(
    ask, tmp_path, monkeypatch
):
    line = json.dumps({"subject_id": IDS[3], "question": QUESTION})
    path, answer, calls = tmp_path / "questions.jsonl", generation.answer, []
    path.write_text("\n".join([line] * 5))

    def stopped(*args):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(args)
        return answer(*args)

    monkeypatch.setattr(generation, "answer", stopped)
    options = ("--batch", path, "--batch-size", 1, "--arm", "base")
    code, out, err = ask(*options)
    assert code == 130 and out.count("\n") == 4
    (kept,) = (ask.store / "qa").glob("*.jsonl")
    assert f"Saved {kept}" in err and len(kept.read_text().splitlines()) == 4
    calls.clear()
    code, whole, err = ask(*options)
    assert code == 0 and whole.startswith(out) and whole.count("\n") == 5 and len(calls) == 1
    assert not [*(ask.store / "qa" / ".answers").iterdir()]


def test_a_batch_may_come_from_standard_input(ask, monkeypatch):
    line = json.dumps({"subject_id": IDS[3], "question": QUESTION})
    given = io.TextIOWrapper(io.BytesIO(f"{line}\n".encode()))
    monkeypatch.setattr(sys, "stdin", given)
    code, out, err = ask("--batch", "-")
    assert code == 0 and json.loads(out)["subject_id"] == IDS[3]


def batch_of(tmp_path, content: bytes):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(content)
    return path


BREAKS = ["\u2028", "\u2029", "\x85", "\x7f", "\ufeff"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_line_ends_at_newlines_alone_in_any_encoding(tmp_path, encoding, line_end):
    lines = [json.dumps({"question": f"a{x}b"}, ensure_ascii=False) for x in BREAKS]
    text = "".join(f"{line}{line_end}" for line in [*lines, "", "last"])
    read = batch.read_lines(str(batch_of(tmp_path, text.encode(encoding))))
    assert [(n, json.loads(line)["question"]) for n, line in read[:-1]] == [
        (n, f"a{x}b") for n, x in enumerate(BREAKS, 1)
    ]
    assert read[-1] == (len(BREAKS) + 2, "last")


BAD_LINES = {
    "a byte of Latin-1": (b'{"subject_id": 7, "question": "caf\xe9"}', "this is not UTF-8 text"),
    "half of a character": (b'{"subject_id": 7, "question": "\\ud83d"}', "half of a character"),
    "far too deep": (b"[" * 100_000, "this is not JSON"),
    "a number of 5,000 digits": (b'{"subject_id": ' + b"9" * 5000 + b"}", "this is not JSON"),
    "a text of 5,000 digits": (
        b'{"question": "x", "subject_id": "' + b"9" * 5000 + b'"}',
        "is not a subject_id",
    ),
    "a question twice": (
        b'{"subject_id": 7, "question": "a", "question": "b"}',
        "question twice: keep one",
    ),
    "a patient twice": (b'{"subject_id": 7, "subject_id": 8, "question": "b"}', "subject_id twice"),
    "a time as the option is spelled": (
        b'{"subject_id": 7, "question": "a", "as-of": "2150-03-02"}',
        "'as-of' is not read: write as_of",
    ),
    "a time in capitals": (b'{"subject_id": 7, "question": "a", "As Of": "2150-03-02"}', "as_of"),
    "a control character": (b'{"question": "a\x0bb", "subject_id": 7}', "this is not JSON"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_its_own_error_and_the_others_go_on(ask, tmp_path, kind):
    line, says = BAD_LINES[kind]
    own = {"id": 7, "Question": {"as-of": "somebody's own"}}  # names count in the line itself
    asked = {"own": own, "subject_id": IDS[3], "question": f"{QUESTION}\u2028Yes."}
    good = json.dumps(asked, ensure_ascii=False).encode()
    code, out, err = ask("--batch", batch_of(tmp_path, b"\n".join([good, line, good])))
    replies = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and "1 of 3 lines could not be answered" in err and "Traceback" not in err
    assert ["error" in reply for reply in replies] == [False, True, False]
    assert says in replies[1]["error"] and replies[0]["question"].endswith("\u2028Yes.")


def test_a_byte_of_another_encoding_in_a_typed_question_leaves_the_conversation_open(ask):
    typed = [str(IDS[3]), "caf\udce9", "caf\udcc3\udca9?", ":save"]
    code, out, err = ask(typed=typed)
    assert code == 0 and "error: this is not UTF-8 text" in out
    (saved,) = (ask.store / "qa").glob("*.jsonl")
    assert [json.loads(x)["question"] for x in saved.read_text().splitlines()] == ["café?"]


def ended(*args):
    return [generation.Answer("Rest.", 5, True) for _ in args[3]]


def test_the_check_passes_where_all_is_well(ask, monkeypatch):
    monkeypatch.setattr(
        generation, "generate", ended
    )  # the tiny model's answers do not end by themselves
    code, out, err = ask("--check", "4")
    rows = [line for line in out.splitlines() if " ms " in line]
    assert code == 0 and len(rows) == 4 and all(row.endswith(" ok") for row in rows), out
    assert "4 of 4 patients passed" in out and max(map(len, rows)) <= 100
    assert "6 of 6 patients passed (60 were asked for)" in ask("--check", "60")[1]


def test_the_check_fails_for_a_cut_answer_and_says_whose(ask):
    code, out, err = ask("--check", "2", "--arm", "base")
    cut = out.count("base: cut at 8 tokens")  # an answer of the tiny model may end by itself
    assert code == 1 and cut and f"{2 - cut} of 2 patients passed" in out


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda chart: {"facts": replace(chart.facts, age=None)}, "age unknown"),
        (lambda chart: {"facts": replace(chart.facts, sex=None)}, "sex unknown"),
        (
            lambda chart: {
                "cuts": {},
                "shown": {"Age": chart.shown["Age"], "Last stay": [Item("none on record")]},
            },
            "the context is empty",
        ),
        (
            lambda chart: {"text": "Patient context\n- Last stay: " + "x" * 999},
            "the context has more than 900 tokens",
        ),
    ],
)
def test_the_check_fails_for_a_broken_context(ask, monkeypatch, broken, says):
    whole = session.build

    def build(*args):
        built = whole(*args)
        return built._replace(**broken(built))

    monkeypatch.setattr(generation, "generate", ended)
    monkeypatch.setattr(session, "build", build)
    code, out, _ = ask("--check", "2")
    assert code == 1 and out.count(says) == 2


def test_the_check_fails_for_a_record_that_is_gone(ask, monkeypatch):
    charts = list(session.charts(session.load(ask.store, model_of(ask.store)), "validation", 0))
    monkeypatch.setattr(session, "charts", lambda *_: iter([(99, None, None), *charts[:1]]))
    monkeypatch.setattr(generation, "generate", ended)
    code, out, _ = ask("--check", "2")
    assert code == 1 and "subject_id 99 is not in" in out and "1 of 2 patients passed" in out


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--once", "--subject-id", "99", "--question", "x"), "subject_id 99 is not in"),
        (("--once", "--subject-id", "abc", "--question", "x"), "'abc' is not a subject_id"),
        (("--once", "--subject-id", "random"), "--once needs"),
        (("--question", "x"), "go with --once"),
        (once("--batch-size", "4"), "--once leaves --batch-size without effect: give one"),
        (once("--arm", "base", "--run", "x"), "--arm base leaves --run without effect"),
        (("--batch", "nothing.jsonl", "--seed", "3"), "--batch leaves --seed without effect"),
        (("--batch", "nothing.jsonl"), "--batch nothing.jsonl cannot be read"),
        (("--check", "0"), "--check must be a positive whole number, not 0"),
        (("--check", "3", "--subject-id", "7"), "leave them out with --batch and --check"),
        (once("--as-of", "yesterday"), "'yesterday' is not a date"),
        (once("--as-of", "2150-02-30"), "'2150-02-30' is not a date"),
        (once("--as-of", "0001-01-01"), "'0001-01-01' is not a date"),
        (once("--as-of", "9999-12-31"), "'9999-12-31' is not a date"),
        (
            once("--arm", "adapter", "--run", "other"),
            "default or seed.1 or seed.2, or run `python train_qlora.py --run other --storage ",
        ),
        (once("--max-new-tokens", "0"), "must be a positive whole number, not 0"),
        (once("--max-new-tokens", "100000"), "give a smaller --max-new-tokens"),
        (once("--model", "nobody/nothing"), "model nobody/nothing is neither"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2_and_leaves_nothing(ask, args, says):
    code, _, err = ask(*args)
    assert code == 2 and err.startswith("error: ") and says in err and err.count("\n") == 1
    assert not (ask.store / "qa").exists()


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_a_batch_without_a_line_is_refused(ask, tmp_path, content):
    code, out, err = ask("--batch", batch_of(tmp_path, content))
    assert (code, out) == (2, "") and "holds no line" in err and err.count("\n") == 1
    assert not (ask.store / "qa").exists()


@pytest.mark.parametrize("how", [once(), ("--check", "2", "--question", QUESTION)])
def test_a_prompt_without_room_is_refused_before_the_model_is_loaded(ask, monkeypatch, how):
    monkeypatch.setattr(session, "load_arms", lambda *_: pytest.fail("the model was loaded"))
    code, _, err = ask(*how, "--max-new-tokens", "100000")
    assert code == 2 and "give a smaller --max-new-tokens" in err


@pytest.mark.parametrize(
    ("step", "command"), [("subjects", "convert_to_jsonl"), ("prompts", "make_symptom_prompts")]
)
def test_a_missing_step_names_its_command(ask, step, command):
    shutil.rmtree(ask.store / step)
    code, _, err = ask(*once())
    assert code == 2 and f"run `python {command}" in err


def test_two_windows_keep_the_lines_of_both(tmp_path):
    readline = pytest.importorskip("readline")
    path = tmp_path / ".history"
    path.write_text("before\n")
    readline.clear_history()
    readline.read_history_file(path)
    readline.add_history("typed here")
    with open(path, "a") as other:
        other.write("typed there\n")
    conversation._keep_lines(path, 1)
    assert path.read_text().splitlines() == ["before", "typed there", "typed here"]
