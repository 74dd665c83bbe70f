"""A file of the results that is made again: somebody's edits are kept, and nothing of our own."""

import pytest

from mimic_qlora.step import files
from mimic_qlora.validation import edited


@pytest.mark.parametrize("n", range(3))  # writes before the kill
def test_what_a_killed_run_wrote_is_not_taken_for_somebodys(tmp_path, monkeypatch, n):
    path, real, calls = tmp_path / "labelled.txt", files.atomic_write, []
    edited.write(path, "old")

    def killed(*args):
        calls.append(args)
        if len(calls) > n:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(files, "atomic_write", killed)
        edited.write(path, "new")
    edited.keep(path)
    assert path.read_text() == ("new" if n == 2 else "old")
    path.write_text("by hand")
    edited.keep(path)
    assert path.with_name("labelled.txt.kept1").read_text() == "by hand" and not path.exists()
