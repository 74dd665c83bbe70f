"""Encoded prompts kept beside the prompts."""

import json
import os
import shutil
import stat
import threading

import numpy as np
import pytest

from helpers.training_runs import PATIENTS, record, write_prompts
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import data, hardware
from mimic_qlora.training.encoding import in_parallel, kept


@pytest.fixture
def wanted(store, tiny, tokenizer) -> data.Wanted:
    return data.Wanted(store, tiny, tokenizer, 2048, None)


@pytest.fixture
def counted(monkeypatch) -> list:
    """The number of prompts that were encoded so far, by call."""
    encode, calls = in_parallel.encode, []

    def spied(tokenizer, rows, *rest):
        calls.append(len(rows))
        return encode(tokenizer, rows, *rest)

    monkeypatch.setattr(in_parallel, "encode", spied)
    return calls


def test_prompts_are_encoded_once_and_kept_in_private(wanted, counted):
    first = data.read_samples(wanted)
    assert counted == [12, 4]
    assert data.read_samples(wanted) == first and counted == [12, 4]
    assert first["train"][0].ids.typecode == "i"
    folder = wanted.kept.parent
    assert folder.parent.name == "prompts"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


def other_prompts(wanted):
    rows = [record(s, "- Sleep.") for s, split in PATIENTS.items() if split == "train"]
    write_prompts(wanted.store, "train", rows)


def other_template(wanted):
    path = wanted.model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unk_token": "a"}))


def fewer(wanted):
    object.__setattr__(wanted, "limit", 3)


@pytest.mark.parametrize("change", [other_prompts, other_template, fewer])
def test_other_prompts_another_tokenizer_and_fewer_are_encoded_anew(
    wanted, tmp_path, counted, change
):
    object.__setattr__(wanted, "model", shutil.copytree(wanted.model, tmp_path / "own"))
    data.read_samples(wanted)
    before = wanted.kept
    change(wanted)
    assert wanted.kept != before
    data.read_samples(wanted)
    assert len(counted) == 4


def test_the_same_model_in_another_folder_is_the_same(wanted, tmp_path):
    copied = shutil.copytree(wanted.model, tmp_path / "copied")
    assert kept.place(wanted.store, copied, data.SPLITS, None) == wanted.kept


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", ["ids", "numbers", "end", "cut", "empty"])
def test_what_is_damaged_is_encoded_anew(wanted, counted, place):
    first = data.read_samples(wanted)
    content = wanted.kept.read_bytes()
    if place in ("ids", "numbers"):
        flip(wanted.kept, content.index(f"train.{place}.npy".encode()) + 200)
    elif place == "end":
        flip(wanted.kept, len(content) - 30)
    else:
        wanted.kept.write_bytes(content[: len(content) // 2] if place == "cut" else b"")
    assert data.read_samples(wanted) == first and len(counted) == 4


def one_token(arrays):
    arrays["train.ids"][5] += 1


def longer(arrays):
    arrays["train.numbers"][:, 0] *= 2


def without_validation(arrays):
    del arrays["validation.ids"], arrays["validation.numbers"]


@pytest.mark.parametrize("change", [one_token, longer, without_validation])
def test_what_is_written_by_another_hand_is_encoded_anew(wanted, counted, change):
    """Its parts have right checksums of their own, as any program writes them."""
    first = data.read_samples(wanted)
    arrays = dict(np.load(wanted.kept))
    change(arrays)
    np.savez(wanted.kept, **arrays)
    assert data.read_samples(wanted) == first and len(counted) == 4


def test_kept_prompts_of_a_wrong_split_are_refused_too(wanted):
    data.read_samples(wanted)
    path = wanted.store / "subjects" / "split.csv"
    path.write_text(path.read_text().replace("10000000,train", "10000000,test"))
    with pytest.raises(UserError, match="line 1 is of a patient whom step 1 put into test"):
        data.read_samples(wanted)


def test_only_the_newest_few_are_left(wanted, tmp_path):
    samples = data.read_samples(wanted)
    for name in ("0.17.tmp", "0.running"):  # of runs that were killed
        wanted.kept.with_name(name).touch()
        os.utime(wanted.kept.with_name(name), (0, 0))
    places = [wanted.kept.with_name(f"{n}.npz") for n in range(6)]
    for n, place in enumerate(places):
        kept.write(place, samples)
        os.utime(place, (n, n))
    left = {path.name for path in wanted.kept.parent.iterdir()}
    assert len(left) == kept.MOST and places[-1].name in left and wanted.kept.name in left


def test_a_folder_that_cannot_be_written_costs_one_process_nothing_but_time(
    wanted, monkeypatch, capsys
):
    def full(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(kept, "write", full)
    assert len(data.read_samples(wanted)["train"]) == 12
    assert "cannot be written (Read-only file system)" in capsys.readouterr().out
    monkeypatch.setattr(hardware, "n_processes", lambda: 2)  # the others wait for the file
    with pytest.raises(OSError, match="Read-only"):
        data.read_samples(wanted)


def test_another_process_waits_for_the_first_one_without_encoding(wanted, counted, monkeypatch):
    samples = data.read_samples(wanted)
    place = wanted.kept
    content = place.read_bytes()
    place.unlink()
    counted.clear()
    waiting, found = threading.Event(), []
    monkeypatch.setattr(kept.time, "sleep", lambda seconds: waiting.set() or go.wait(60))
    go = threading.Event()
    monkeypatch.setattr(hardware, "is_main", lambda: False)
    thread = threading.Thread(target=lambda: found.append(data.read_samples(wanted)))
    thread.start()
    assert waiting.wait(60)
    place.write_bytes(content)
    go.set()
    thread.join(60)
    assert found == [samples] and counted == []


def test_a_first_process_that_shows_no_life_is_given_up_with_a_sentence(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(kept.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(kept.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match="first process has not encoded the prompts"):
        kept.wait_for(tmp_path / "prompts" / ".encoded" / "0.npz")
    assert next(clock) < 2000


def test_one_that_shows_life_is_waited_for_however_long_it_takes(tmp_path, monkeypatch, talks):
    """Each look is ten minutes later; a sign has come between."""
    place, looks = tmp_path / "prompts" / ".encoded" / "0.npz", []
    clock = iter(range(0, 1_000_000, 500))
    (tmp_path / "prompts").mkdir()

    def later(seconds):
        looks.append(seconds)
        kept.sign_of_life(place)
        os.utime(kept._sign(place), (len(looks), len(looks)))
        if len(looks) == 20:
            kept.write(place, {"train": talks})

    monkeypatch.setattr(kept.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(kept.time, "sleep", later)
    assert kept.wait_for(place) == {"train": talks}
    assert [path.name for path in place.parent.iterdir()] == ["0.npz"]
