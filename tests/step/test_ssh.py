"""The ssh and scp lines: safe to paste, right on OpenSSH 9, and made without a name server."""

import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from mimic_qlora.step import ssh
from mimic_qlora.step.errors import UserError

HOSTILE = [
    "x; rm -rf ~",
    "$(touch PWNED)",
    "`touch PWNED`",
    "a b",
    "-oProxyCommand=touch",
    "a\nb",
    "a'b",
    "a|b",
    "",
    "me@",
    "@host",
    "höst",
    "a,",
]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in (*ssh.SUBMITTED_FROM, "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "node7.cluster")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_jump_that_is_no_host_is_refused(value):
    with pytest.raises(Exception, match="must be a host such as me@login.example"):
        ssh.jump_host(value)


@pytest.mark.parametrize(
    "value",
    [
        "gate",
        "me@login.example",
        "me@10.0.0.1:2222",
        "a@b,c@d:22",
        "[fe80::1]:22",
        "d.user_1@x-y_z",
    ],
)
def test_a_jump_as_ssh_takes_it_is_taken(value):
    assert ssh.jump_host(value) == value
    assert shlex.split(ssh.route(value).scp(Path("/tmp/x")))[4:7] == ["scp", "-J", value]


@pytest.mark.parametrize("variable", ssh.SUBMITTED_FROM)
@pytest.mark.parametrize("value", [value for value in HOSTILE if value])
def test_a_submit_host_that_is_none_is_refused_by_the_name_of_its_variable(
    monkeypatch, variable, value
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable} is .* no host name"):
        ssh.route()


@pytest.mark.parametrize("value", HOSTILE)
def test_nothing_of_the_environment_is_run_when_a_line_is_pasted(monkeypatch, tmp_path, value):
    if "\0" not in value:
        monkeypatch.setenv("LOGNAME", value)
    monkeypatch.setattr(socket, "gethostname", lambda: value)
    monkeypatch.setenv("SSH_CONNECTION", f"{value} {value} {value} {value}")
    route = ssh.route()
    for line in (route.scp(tmp_path / value), route.tunnel("127.0.0.1:1", f"/{value}")):
        words = shlex.split(line)
        assert not {";", "|", "-oProxyCommand=touch"} & {*words}
        echoed = line.replace("scp ", "echo scp ").replace("ssh ", "echo ssh ")
        subprocess.run(["bash", "-c", echoed], cwd=tmp_path, check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} <= {"results"}


@pytest.mark.parametrize(
    ("connection", "name", "host", "port"),
    [
        ("1.2.3.4 5 6.7.8.9 22", "node7.cluster", "node7.cluster", None),
        ("1.2.3.4 5 6.7.8.9 2222", "node7", "6.7.8.9", "2222"),
        ("::1 5 fe80::2 22", "node7", "[fe80::2]", None),
        ("UNKNOWN 65535 UNKNOWN 65535", "node7", "node7", "65535"),
        ("1.2.3.4", "node7", "node7", None),
        ("", "localhost.localdomain", "localhost.localdomain", None),
    ],
)
def test_the_host_is_the_name_or_the_address_of_the_session(
    monkeypatch, connection, name, host, port
):
    monkeypatch.setenv("SSH_CONNECTION", connection)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert (ssh.route().host, ssh.route().port) == (host, port)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("ann", "ann"), ("WARD\\ann", "'WARD\\ann@"), ("ann@ward.example", "ann@ward.example@")],
)
def test_a_user_of_a_domain_keeps_the_name(monkeypatch, name, shown):
    monkeypatch.setenv("LOGNAME", name)
    assert shown in ssh.route().scp(Path("/tmp/x"))


def test_no_name_server_is_asked(monkeypatch):
    for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr", "getfqdn", "create_connection"):
        monkeypatch.setattr(socket, name, None)
    monkeypatch.setattr(socket.socket, "connect", None)
    assert ssh.route("gate").host == "node7.cluster"


SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
)


@pytest.fixture
def laptop(tmp_path):
    """A folder elsewhere, where scp reaches this machine by its real SFTP server."""
    given = os.environ.get("SFTP_SERVER")
    server = next(
        (path for path in (given, *SFTP_SERVERS) if path and os.access(path, os.X_OK)), None
    )
    scp = shutil.which("scp")
    if server is None or scp is None:
        pytest.skip("scp and OpenSSH's sftp-server are not both installed (set SFTP_SERVER)")
    folder = tmp_path / "laptop"
    (folder / "bin").mkdir(parents=True)
    wrapper = folder / "bin" / "scp"
    wrapper.write_text(f'#!/bin/sh\nexec {scp} -q -D {server} "$@"\n')
    wrapper.chmod(0o755)
    (folder / "empty").mkdir()

    def paste(line: str) -> list[str]:
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder / "empty",
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = (folder / "empty").rglob("*")
        return sorted(str(p.relative_to(folder / "empty")) for p in found if p.is_file())

    return paste


@pytest.mark.parametrize("name", ["mimic_qlora_x", "with blank", "quote's", "$HOME", "a;b"])
def test_the_lines_fetch_from_a_real_server_as_printed_and_again(laptop, tmp_path, name):
    made = tmp_path / name
    made.mkdir()
    (made / "output.csv").write_text("1")
    (made / "report.html").write_text("2")
    route = ssh.Route("you", "host", None, None)
    for _ in range(2):
        assert laptop(route.scp(made / "output.csv")) == ["results/output.csv"]
    for _ in range(2):
        assert {*laptop(route.scp(made, whole=True))} == {
            f"results/{name}/output.csv",
            f"results/{name}/report.html",
            "results/output.csv",
        }
