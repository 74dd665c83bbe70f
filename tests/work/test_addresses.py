"""Which cluster a command takes: encrypted, or on this machine alone; its certificates."""

import json
import shlex
import stat
import threading

import pytest
import yaml

from mimic_qlora.step.errors import UserError
from mimic_qlora.work import certificates, cluster, remote


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://10.1.2.3:8786", "is not encrypted"),
        ("tcp://0.0.0.0:8786", "is not encrypted"),
        ("tcp://scheduler:8786", "is not encrypted"),
        ("tcp://[2001:db8::1]:8786", "is not encrypted"),
        ("ws://127.0.0.1:8786", "must be an address such as tls://host:8786"),
        ("inproc://127.0.0.1/1/2", "must be an address"),
        ("127.0.0.1:8786", "must be an address"),
        ("tls://host", "must be an address"),
        ("tls://host:port", "must be an address"),
        ("tls://10.1.2.3:8786", "takes certificates"),
    ],
)
def test_a_scheduler_that_others_can_reach_is_refused(address, words, tmp_path):
    with pytest.raises(UserError, match=words):
        cluster.target(address, None, None)
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address}))
    with pytest.raises(UserError, match=words):
        cluster.target(None, str(file), None)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tcp://[::1]:1", "tcp://localhost:1"])
def test_a_scheduler_of_this_machine_needs_no_certificates(address):
    assert cluster.target(address, None, None) == cluster.Target(address, None)
    assert cluster.target(None, None, None) is None


def test_the_file_of_a_scheduler_that_has_just_been_started_is_waited_for(tmp_path):
    file = tmp_path / "scheduler.json"
    file.touch()
    text = json.dumps({"address": "tcp://127.0.0.1:8786"})
    threading.Timer(0.3, file.write_text, [text]).start()
    assert cluster.target(None, str(file), None) == cluster.Target("tcp://127.0.0.1:8786", None)


def test_a_file_of_a_scheduler_that_is_none_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.0)
    file = tmp_path / "scheduler.json"
    with pytest.raises(UserError, match="start `dask scheduler --scheduler-file"):
        cluster.target(None, str(file), None)
    for text in ("{", "[]", '{"id": 1}', "[" * 200_000):
        file.write_text(text)
        with pytest.raises(UserError, match="is not what `dask scheduler"):
            cluster.target(None, str(file), None)
    with pytest.raises(UserError, match="name one cluster"):
        cluster.target("tcp://127.0.0.1:1", str(file), None)


def test_settings_of_dask_are_not_replaced(tmp_path):
    """As in ~/.config/dask, where a dask.yaml lies without certificates."""
    pytest.importorskip("cryptography")
    (tmp_path / "dask.yaml").write_text("mine")
    with pytest.raises(UserError, match="dask.yaml is there already: give another folder"):
        certificates.make(str(tmp_path))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("dask.yaml", "mine")]


def test_certificates_are_private_and_not_replaced(tmp_path):
    pytest.importorskip("cryptography")
    folder = certificates.make(str(tmp_path / "tls"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    names = ("ca.pem", "node.pem", "node.key", "dask.yaml")
    assert modes == dict.fromkeys(names, 0o600) and stat.S_IMODE(folder.stat().st_mode) == 0o700
    found = cluster.target("tls://10.1.2.3:8786", None, str(folder))
    assert found.certificates == certificates.files_in(folder)
    with pytest.raises(UserError, match="is there already"):
        certificates.make(str(folder))
    (folder / "node.key").chmod(0o640)
    with pytest.raises(UserError, match="others can read .*node.key: run `chmod 600"):
        cluster.target("tls://10.1.2.3:8786", None, str(folder))
    (folder / "ca.pem").unlink()
    with pytest.raises(UserError, match="there is no .*ca.pem"):
        cluster.target("tls://10.1.2.3:8786", None, str(folder))


@pytest.mark.parametrize("name", ["tls: x", "a, b", "it's #1", "{x}"])
def test_dask_reads_the_paths_of_certificates_whatever_their_folder_is_called(name, tmp_path):
    pytest.importorskip("cryptography")
    folder = certificates.make(str(tmp_path / name))
    tls = yaml.safe_load((folder / "dask.yaml").read_text())["distributed"]["comm"]["tls"]
    files = certificates.files_in(folder)
    assert tls["ca-file"] == str(files.ca)
    own = {"cert": str(files.cert), "key": str(files.key)}
    assert [tls[part] for part in ("scheduler", "worker", "client")] == [own] * 3
    files.key.chmod(0o644)
    with pytest.raises(UserError) as error:
        certificates.checked(folder)
    command = str(error.value).split("`")[1]
    assert shlex.split(command) == ["chmod", "600", str(files.key)]


def test_the_allocator_of_workers_keeps_what_is_freed(tmp_path):
    """In a worker that `dask worker` starts; --no-nanny has no such variable anyway."""
    pytest.importorskip("cryptography")
    distributed = pytest.importorskip("distributed")
    import dask

    written = dask.config.collect([str(certificates.make(str(tmp_path / "tls")))], env={})
    nanny = dask.config.merge(dask.config.config, written)["distributed"]["nanny"]
    with dask.config.set({"distributed.nanny": nanny}):
        found = distributed.nanny._get_env_variables("distributed.nanny.pre-spawn-environ")
    assert "MALLOC_TRIM_THRESHOLD_" not in found and "OMP_NUM_THREADS" in found


def test_a_scheduler_without_a_worker_is_a_sentence(monkeypatch, tmp_path):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("logging.disable", lambda level: None)
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as empty:
        target = cluster.Target(empty.scheduler_address, None)
        with (
            pytest.raises(UserError, match="no worker has been there for 0 seconds: start some"),
            cluster.Cluster(target, print, [tmp_path], 1),
        ):
            pytest.fail("it goes on")


def test_versions_that_differ_are_named():
    own = remote.versions()
    assert remote.difference(own, dict(own)) == ""
    assert remote.difference(own, own | {"numpy": "1.0"}) == f"numpy 1.0 and not {own['numpy']}"
    assert "orjson None and not" in remote.difference(own, {**own, "orjson": None})
