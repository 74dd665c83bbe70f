"""The peak of memory."""

import mmap
import sys

import pytest

from mimic_qlora.step import held_memory

MB = 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep a peak of their own alone")
def test_the_peak_holds_what_was_taken_and_no_page_of_a_mapped_file(tmp_path):
    watch = held_memory.Watch()
    watch.start()
    before = held_memory.held()
    (tmp_path / "model").write_bytes(b"1" * 80 * MB)
    with open(tmp_path / "model", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert sum(mapped[:: mmap.PAGESIZE]) > 0
        assert held_memory.held() - before < 20 * MB
        mapped.close()
    taken = bytearray(b"1" * 80 * MB)
    held = held_memory.held()
    assert held - before > 70 * MB
    seen = watch.most
    while watch.most < held - MB:  # until the thread has looked
        assert watch.thread.is_alive()
    del taken
    assert watch.most >= seen and watch.most - before > 70 * MB
    watch.start()
    assert watch.most - before < 70 * MB, "a second run begins anew"


def test_where_nothing_is_known_of_files_the_systems_own_peak_counts(monkeypatch):
    monkeypatch.setattr(held_memory, "STATUS", held_memory.Path("/no/such/file"))
    assert held_memory.held() is None
    assert held_memory.peak() > MB
