"""Getting the open demo: resumed, checked, refused in a sentence. The server is on this machine."""

import errno
import hashlib
import http.server
import os
import stat
import threading

import pytest

from mimic_qlora.mimic import download
from mimic_qlora.step.errors import UserError

FILES = {f"hosp/table{n}.csv.gz": bytes([n]) * (300_000 + n) for n in range(3)} | {
    "README.txt": b"open data\n"
}


def sums_of(files):
    return "".join(
        f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in files.items()
    ).encode()


@pytest.fixture
def server(monkeypatch):
    """PhysioNet on 127.0.0.1. `server.faults[path]` lists the fault of each next answer."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.lstrip("/")
            start = int((self.headers["Range"] or "bytes=0-")[6:-1])
            queue = self.server.faults.get(name, [])
            fault = queue.pop(0) if queue else None
            self.server.requests.append((name, start, fault))
            if name not in self.server.files or isinstance(fault, int):
                return self.send_error(fault or 404)
            data = self.server.files[name]
            if fault == "wrong file":
                data = b"x" * len(data)
            if fault == "ignores Range":
                start = 0
            if start and start >= len(data):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + (len(data) - start) // 2 if fault == "breaks off" else len(data)
            self.wfile.write(data[start:end])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files = {**FILES, download.SUMS: sums_of(FILES)}
        running.faults, running.requests = {}, []
        running.url = f"http://127.0.0.1:{running.server_port}/"
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


def fetch(server, folder):
    return download.fetch(folder, server.url, wait=0)


def here(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_all_files_come_and_a_second_call_asks_for_nothing(server, tmp_path):
    folder = fetch(server, tmp_path / "demo")
    assert here(folder) == server.files
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    server.requests.clear()
    fetch(server, folder)
    assert server.requests == []
    assert download.verify_checksums(folder) == []


def test_the_demo_comes_with_the_emergency_tables_of_the_same_patients(
    server, tmp_path, monkeypatch
):
    tables = {"ed/edstays.csv.gz": b"visits", "ed/triage.csv.gz": b"complaints"}
    of_ed = {**tables, "README.txt": b"about MIMIC-IV-ED\n"}
    sums = sums_of(of_ed)
    server.files |= {f"later/{name}": data for name, data in of_ed.items()}
    server.files[f"later/{download.SUMS}"] = sums
    monkeypatch.setattr(download, "DEMO_URL", server.url)
    monkeypatch.setattr(download, "ED_DEMO_URL", f"{server.url}later")
    monkeypatch.setattr(download, "DEMO_ALONE", "README.txt")
    folder = download.fetch_demo(tmp_path / "demo")
    whole = {name: data for name, data in server.files.items() if not name.startswith("later/")}
    assert here(folder) == whole | tables | {f"ed/{download.SUMS}": sums}
    server.requests.clear()
    download.fetch_demo(folder)
    assert server.requests == [] and download.verify_checksums(folder) == []
    (folder / "ed/triage.csv.gz").write_bytes(b"changed")
    with pytest.raises(UserError, match="ed/triage.csv.gz in .* download them again"):
        download.verify_checksums(folder)


@pytest.mark.parametrize(
    "faults",
    [
        ["breaks off"],
        ["breaks off", "breaks off", 503],
        ["breaks off", "ignores Range"],
        ["wrong file"],
        ["breaks off", "wrong file"],
        [429],
    ],
)
def test_a_break_or_a_wrong_file_is_mended(server, tmp_path, faults):
    for name in server.files:
        server.faults[name] = [
            fault for fault in faults if name != download.SUMS or fault != "wrong file"
        ]
    assert here(fetch(server, tmp_path / "demo")) == server.files
    resumed = [start for name, start, _ in server.requests if start]
    assert bool(resumed) == ("breaks off" in faults)


def test_after_a_break_only_the_rest_is_asked_for(server, tmp_path):
    server.faults["hosp/table1.csv.gz"] = ["breaks off"] + [503] * 4
    with pytest.raises(UserError, match="table1.csv.gz cannot be downloaded.*503.*run it again"):
        fetch(server, tmp_path / "demo")
    assert (tmp_path / "demo/hosp/table1.csv.gz.part").stat().st_size == 150_000
    server.requests.clear()
    assert here(fetch(server, tmp_path / "demo")) == server.files
    assert ("hosp/table1.csv.gz", 150_000, None) in server.requests and len(server.requests) == 3


@pytest.mark.parametrize(
    "leftover", [FILES["README.txt"], b"much longer than the file that it is to become", b"ope"]
)
def test_what_an_earlier_run_left_is_used_or_replaced(server, tmp_path, leftover):
    (tmp_path / "README.txt.part").write_bytes(leftover)
    assert here(fetch(server, tmp_path)) == server.files


def test_a_file_that_was_damaged_or_edited_since_comes_again_and_is_kept(server, tmp_path, capsys):
    folder = fetch(server, tmp_path / "demo")
    (folder / "README.txt").write_bytes(b"changed")
    server.requests.clear()
    found = here(fetch(server, folder))
    assert found.pop("README.txt.kept1") == b"changed"
    assert found == server.files and len(server.requests) == 1
    assert "README.txt was damaged or edited: it is kept as README.txt.kept1" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["hosp/table1.csv.gz", "hosp/table1.csv", "README.txt"])
def test_a_folder_with_other_tables_is_left_as_it_is(server, tmp_path, name):
    """As that of the real ones, named by mistake: the demo's took the place of those it has too."""
    put(tmp_path / "mimiciv", {name: b"real patients"})
    (tmp_path / "mimiciv" / download.SUMS).unlink()
    with pytest.raises(UserError, match=f"{name} is there and is not the demo's: give --fetch-dem"):
        fetch(server, tmp_path / "mimiciv")
    assert here(tmp_path / "mimiciv") == {name: b"real patients"}


def test_the_demo_is_not_mixed_with_another_release(server, tmp_path, monkeypatch):
    put(tmp_path, {"hosp/a.csv.gz": b"real"})
    (tmp_path / download.SUMS).write_bytes(sums_of({"hosp/a.csv.gz": b"real"}))
    real = here(tmp_path)
    monkeypatch.setattr(download, "DEMO_URL", server.url)
    monkeypatch.setattr(download, "ED_DEMO_URL", server.url)
    with pytest.raises(UserError, match="another release than the demo, by its SHA256SUMS.txt"):
        download.fetch_demo(tmp_path)
    assert here(tmp_path) == real and not server.requests


def wrong_for_good(server):
    server.files["hosp/table2.csv.gz"] = b"something else"
    return "its SHA-256 is not the one"


def not_there(server):
    del server.files["hosp/table0.csv.gz"]
    return "404"


def no_demo_there(server):
    server.files.clear()
    return "SHA256SUMS.txt cannot be downloaded"


def a_login_page(server):
    server.files[download.SUMS] = b"<html>please log in</html>"
    return "is not a list of SHA-256 sums"


def a_name_that_leads_out(server):
    server.files[download.SUMS] = sums_of({"../README.txt": b""})
    return "is not a list of SHA-256 sums"


def server_gone(server):
    server.url = "http://127.0.0.1:9/"  # nobody listens there
    return "cannot be downloaded"


@pytest.mark.parametrize(
    "spoil",
    [wrong_for_good, not_there, no_demo_there, a_login_page, a_name_that_leads_out, server_gone],
)
def test_what_cannot_be_mended_is_said_in_a_sentence_and_no_wrong_file_stays(
    server, tmp_path, spoil
):
    expected = spoil(server)
    with pytest.raises(UserError, match=expected) as error:
        fetch(server, tmp_path / "demo")
    assert "\n" not in str(error.value)
    assert not set(here(tmp_path / "demo")) - FILES.keys() - {download.SUMS}
    assert all(
        FILES[name] == data
        for name, data in here(tmp_path / "demo").items()
        if name != download.SUMS
    )


def test_a_full_disk_is_said_in_a_sentence(server, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_append", full)
    with pytest.raises(UserError, match="the disk of .* is full"):
        fetch(server, tmp_path / "demo")


def test_without_a_network_no_folder_and_no_lock_is_left(server, tmp_path):
    server.faults[download.SUMS] = [503] * download.ATTEMPTS
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch(server, tmp_path / "new" / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be_is_refused(server, tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(UserError, match="is a file"):
        fetch(server, tmp_path / "demo")


def put(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / download.SUMS).write_bytes(sums_of(FILES))


def test_sums_are_checked_nested_or_flat_and_absent_files_named(tmp_path):
    put(tmp_path / "nested", {name: data for name, data in FILES.items() if "table1" not in name})
    assert download.verify_checksums(tmp_path / "nested") == ["hosp/table1.csv.gz"]
    put(tmp_path / "flat", {name.split("/")[-1]: data for name, data in FILES.items()})
    assert download.verify_checksums(tmp_path / "flat") == []


def test_a_wrong_sum_names_the_file(tmp_path):
    put(tmp_path, {**FILES, "hosp/table1.csv.gz": b"cut off", "hosp/table2.csv.gz": b""})
    with pytest.raises(
        UserError, match="hosp/table1.csv.gz, hosp/table2.csv.gz in .* download them again"
    ):
        download.verify_checksums(tmp_path)


def test_nothing_to_check_is_not_taken_for_all_right(tmp_path):
    with pytest.raises(UserError, match="has no SHA256SUMS.txt"):
        download.verify_checksums(tmp_path)
    put(tmp_path, {})
    with pytest.raises(UserError, match="none of the files"):
        download.verify_checksums(tmp_path)


@pytest.mark.parametrize("prefix", ["", "./", "*"])
def test_a_file_unlike_its_sum_is_told_however_the_list_names_it(tmp_path, prefix):
    lines = "".join(f"{'0' * 64} {prefix}{name}\n" for name in FILES)
    (tmp_path / download.SUMS).write_text(lines)
    flat = {name.split("/")[-1]: {"sha256": "1" * 64} for name in FILES}
    for inputs in (dict.fromkeys(FILES, {"sha256": "1" * 64}), flat):
        told = download.unlike_listed(tmp_path, inputs)
        assert [sentence.split(":")[0] for sentence in told] == list(inputs)


def test_a_pipe_in_the_place_of_the_list_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / download.SUMS)
    assert download.unlike_listed(tmp_path, {"a": {"sha256": "1"}}) == []
    with pytest.raises(UserError, match="has no SHA256SUMS.txt"):
        download.verify_checksums(tmp_path)


def test_the_real_demo_has_the_sums_that_it_came_with(demo_dir):
    # a copy without the largest table will do
    assert download.verify_checksums(demo_dir) in ([], ["icu/chartevents.csv.gz"])
