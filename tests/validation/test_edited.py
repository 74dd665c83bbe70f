"""A file of the results that is made again: somebody's edits are kept, and nothing of our own."""

from types import SimpleNamespace

import pytest

from mimic_qlora.review import report
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
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


def test_a_report_of_ratings_waits_for_label_py(tmp_path, monkeypatch):
    """Both write report.html: one would take away what the other had put into it."""
    monkeypatch.setattr(edited, "WAIT", 0.0)
    monkeypatch.setattr(report, "unblind", lambda *_: [])
    nobody = SimpleNamespace(tasks=SimpleNamespace(raters=list))
    with edited.alone(tmp_path, "python run_files/label.py"):
        with pytest.raises(UserError, match="another run"):
            report.write(nobody, {}, tmp_path)
        assert not (tmp_path / "ratings.csv").exists()
