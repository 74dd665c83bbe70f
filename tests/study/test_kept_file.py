"""The study under which a step runs: its manifest has the file, also when nothing is new."""

import re

import pytest

from mimic_qlora.export import base_folder, folder
from mimic_qlora.step import manifests, storage
from mimic_qlora.step.errors import UpToDate
from mimic_qlora.study import kept_file
from mimic_qlora.training.data import BaseModel

TEXT = "data:\r\n  from: synthetic\r\n"


def write(store, word="x"):
    with storage.step_output(store, "summary", {}, {}) as out:
        (out.path / "a.txt").write_text(word)


def test_a_manifest_names_the_study_and_the_content_s_id_does_not_depend_on_it(
    tmp_path, monkeypatch
):
    write(tmp_path / "plain")
    ((variable, path),) = kept_file.keep(tmp_path / "s", "my study.yaml", TEXT).items()
    monkeypatch.setenv(variable, path)
    write(tmp_path / "s")
    found = manifests.read(tmp_path / "s" / "summary")
    assert found["study"]["file"] == "my study.yaml" and found["study"]["text"] == TEXT
    assert found["study"]["sha256"] in manifests.study_sentences()[0]
    assert found["id"] == manifests.read(tmp_path / "plain" / "summary")["id"]
    other = kept_file.keep(tmp_path / "s", "other.yaml", "b: 2\n")
    monkeypatch.setenv(variable, other[variable])
    with pytest.raises(UpToDate):
        write(tmp_path / "s")
    assert manifests.read(tmp_path / "s" / "summary")["study"]["file"] == "other.yaml"


def test_the_name_of_a_study_is_no_link_and_no_html_in_a_card(tmp_path, monkeypatch):
    name = "a\n<img src=x>[b](c)|`\x1b[31m.yaml"
    ((variable, path),) = kept_file.keep(tmp_path, name, TEXT).items()
    monkeypatch.setenv(variable, path)
    base = BaseModel("/models/<b>", "1", "2", "3")
    for card in (base_folder.card(base), folder.card("run", base, 0.0, "data in <i>")):
        assert not re.search(r"(?<!\\)[<\[|`]|\x1b", card)
    assert r"a \<img src=x\>\[b\](c)\|\`\[31m.yaml (SHA" in card


def test_without_a_study_or_with_one_that_is_gone_nothing_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv(manifests.STUDY, raising=False)
    assert manifests.study_facts() == {} and manifests.study_sentences() == []
    monkeypatch.setenv(manifests.STUDY, str(tmp_path / "gone.yaml"))
    assert manifests.study_facts() == {}


def test_a_copy_is_private_and_kept_once(tmp_path):
    first = kept_file.keep(tmp_path, "a.yaml", TEXT)
    assert kept_file.keep(tmp_path, "a.yaml", TEXT) == first
    (path,) = (tmp_path / "studies").iterdir()
    assert path.stat().st_mode & 0o077 == 0 and path.read_bytes() == TEXT.encode()
