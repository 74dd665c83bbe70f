"""Nobody but the rater gets in, and the page tells its surroundings nothing."""

import os
import re
import socket
import stat

import pytest

from helpers.ports import free_port
from helpers.reviewing import NASTY, SECRET, Client, Server, make_results, mark
from mimic_qlora.review import guard
from mimic_qlora.review.store import Store
from mimic_qlora.step.errors import UserError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(make_results(tmp_path_factory.mktemp("review") / "results")) as server:
        yield server


@pytest.fixture(scope="module")
def anna(server):
    return server.client("anna")


def test_a_link_lets_in_once_and_only_the_browser_that_used_it(server, anna):
    token = server.links["anna"].split("#")[1]
    second = Client(server.port)
    assert second.post("/enter", token=token).status == 403, "a link that was used must be void"
    assert second.post("/enter", token="wrong" * 6).status == 403
    assert second.post("/enter").status == 403
    for path in (
        "/next",
        "/items",
        "/items/1",
        "/content",
        "/content/cautions/anticoagulant_no_nsaid",
    ):
        answer = second.get(path)
        assert (answer.status, SECRET in answer.text) == (401, False), path
    second.cookie = f"review_{server.port}=forged"
    assert second.get("/items/1").status == 401
    assert second.post("/items/1", mark()).status == second.post("/undo").status == 401
    assert anna.get("/items/1").status == 200


def test_the_token_is_in_no_address_that_the_server_sees_and_the_cookie_is_out_of_reach(server):
    assert re.fullmatch(rf"http://127\.0\.0\.1:{server.port}/#[\w-]{{32}}", server.links["ben"])
    assert f"  ssh -N -L 127.0.0.1:{server.port}:127.0.0.1:{server.port} " in server.log.read_text()
    client = Client(server.port)
    answer = client.post(
        "/enter", token=f" {server.links['ben']} "
    )  # the whole link, pasted into the page's field
    cookie = answer.getheader("set-cookie").lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "domain" not in cookie
    assert answer.getheader("location") == "/next"


def test_a_new_link_voids_the_one_that_nobody_used_and_ends_the_session_of_the_old_one(tmp_path):
    store = Store(tmp_path)
    store.tasks.prepare(["anna", "ben"], [1], "hash")
    unused, token, others = (
        store.sessions.new_token("anna"),
        store.sessions.new_token("anna"),
        store.sessions.new_token("ben"),
    )
    assert store.sessions.enter(unused) is None, "a link that was replaced must be void"
    session, bens = store.sessions.enter(token), store.sessions.enter(others)
    newer = store.sessions.new_token("anna")
    assert store.sessions.rater_of(session) == "anna", (
        "a restart alone, which makes a new link, keeps the session"
    )
    new = store.sessions.enter(newer)
    assert [store.sessions.rater_of(s) for s in (session, new, bens, "", None)] == [
        None,
        "anna",
        "ben",
        None,
        None,
    ]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(secret.encode() in kept for secret in (token, newer, session, new)), (
        "secrets are kept as hashes only"
    )


FORGED = {
    "another host (DNS rebinding)": {"Host": "evil.example"},
    "another port": {"Host": "127.0.0.1:1"},
    "no host": {"Host": None},
    "another origin": {"Origin": "http://evil.example"},
    "another port's origin": {"Origin": "http://127.0.0.1:1"},
    "https": {"Origin": "https://127.0.0.1"},
    "a sandboxed origin": {"Origin": "null"},
    "no origin": {"Origin": None},
    "another site": {"Sec_Fetch_Site": "cross-site"},
    "another port of this host": {"Sec_Fetch_Site": "same-site"},
}


@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED)
def test_a_forged_request_is_refused_and_changes_nothing(anna, headers):
    before = anna.get("/items/2").text
    answer = anna.post("/items/2", mark(), headers)
    assert answer.status in (400, 403), answer.text
    assert anna.post("/undo", headers=headers).status in (400, 403)
    assert anna.get("/items/2").text == before
    if "Host" in headers:
        assert anna.get("/items/2", **headers).status in (400, 403)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../ratings.sqlite",
        "/static/%2e%2e/ratings.sqlite",
        "/static/..%2fratings.sqlite",
        "/static/%00",
        "/static/item.html",
        "/static//etc/passwd",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/ratings.sqlite",
        "/items/0",
        "/items/-1",
        "/items/9999999",
        "/items/99999999999999999999999",
        "/items/1.0",
        "/items/x",
        "/items/1;a",
        "/content/cautions/..%2f..%2fscoring",
        "/content/..%2f/x",
        "/content/system_prompt/x",
        "/docs",
        "/openapi.json",
        "/redoc",
    ],
)
def test_paths_lead_to_pages_and_to_nothing_else(anna, path):
    answer = anna.get(path)
    assert answer.status == 404, answer.text
    assert (
        "SQLite" not in answer.text
        and "root:" not in answer.text
        and "Traceback" not in answer.text
    )


def test_every_answer_forbids_what_the_page_does_not_need(server, anna):
    answers = [anna.get(path) for path in ("/items/1", "/nowhere", "/static/review.js")] + [
        Client(server.port).get("/")
    ]
    answers += [
        anna.get("/items/1", Host="evil.example"),
        anna.post("/items/1", marking="1", a_safety="6"),
    ]
    for answer in answers:
        headers = dict(answer.pairs)
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert "unsafe" not in headers["content-security-policy"]
        assert (
            headers["cache-control"] == "no-store"
            and headers["x-content-type-options"] == "nosniff"
        )
        assert headers["x-frame-options"] == "DENY" and "server" not in headers


def test_no_page_names_another_host_or_carries_code_of_its_own(server, anna):
    static = ["/static/page.css", "/static/review.js"]
    for path in ["/items", "/items/1", "/content", "/content/questions/cough", "/nowhere", *static]:
        text = anna.get(path).text
        assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//|@import|url\(""", text), (
            path
        )
        if path not in static:
            assert not re.search(r"<script(?! src=)|<style|\bon\w+=\"|style=", text), path


def test_what_a_model_wrote_is_text_and_never_markup(anna):
    for position in (1, 2, 3):
        text = anna.get(f"/items/{position}").text
        assert "&lt;script&gt;document.title" in text and "&lt;b onclick=" in text
        assert NASTY[:8] not in text.replace('<script src="/static/review.js" defer></script>', "")


@pytest.mark.parametrize(
    "fields",
    [
        {"a_safety": "6"},
        {"a_safety": "0"},
        {"better": "qlora"},
        {"winner": "a"},
        {"a_harm": "1 or 1=1"},
        {"comment": "x" * 20_001},
        {"a_harm": "-1"},
        {"a_harm": "99999"},
        {"a_harm": "1 0"},
        {"b_harm": "8"},  # of a sentence that this answer does not have
    ],
)
def test_a_mark_that_there_is_not_is_refused(anna, fields):
    assert anna.post("/items/3", {**fields, "marking": "1"}).status == 400
    assert anna.get("/items/3").text.count(" checked") == 0


def test_a_body_without_end_is_refused_before_it_is_read_and_one_that_breaks_off_is_no_news(
    server, anna
):
    assert anna.post("/items/3", {"comment": "x" * 300_000}).status == 413
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        host = f"127.0.0.1:{server.port}"
        connection.sendall(
            f"POST /enter HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n".encode()
            + b"Content-Length: 99\r\n\r\nto"
        )
    assert anna.get("/items/3").status == 200
    assert "error" not in server.log.read_text()


def test_a_page_that_another_rater_left_open_in_this_browser_changes_nothing(anna):
    content = "/content/cautions/anticoagulant_no_nsaid"
    before = anna.get("/items/5").text, anna.get(content).text
    for path, fields in (("/items/5", mark()), ("/undo", {}), (content, {"verdict": "reject"})):
        answer = anna.post(path, {**fields, "rater": "ben"})
        assert answer.status == 409 and "signed in as anna" in answer.text, path
    assert (anna.get("/items/5").text, anna.get(content).text) == before
    assert (
        before[0].count('name="rater" value="anna"') == 2
        and 'name="rater" value="anna"' in before[1]
    )


def test_only_this_machine_is_listened_on_and_files_are_private(server, anna):
    addresses = {
        info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    }
    for address in addresses - {"127.0.0.1"}:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((address, server.port)) != 0, f"it answers on {address}"
    folder = server.log.parent
    files = [path for path in folder.iterdir() if path.name.startswith("ratings.sqlite")]
    assert files and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_a_unix_socket_is_private_and_takes_the_port_away(tmp_path):
    path = tmp_path / "review.sock"
    results = make_results(tmp_path / "results")
    with Server(results, "--socket", path, raters="anna") as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_ISSOCK(path.stat().st_mode)
        assert f"-L 127.0.0.1:{server.port}:{path} " in server.log.read_text()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(
                f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n".encode()
                + b"Connection: close\r\n\r\n"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    guard.listen(0, path).close()  # the killed server's socket is in nobody's way
    with guard.listen(0, path) as living, pytest.raises(UserError, match="cannot be used"):
        guard.listen(0, path)
    assert living.fileno() == -1
    path.unlink()
    path.write_text("precious")
    with pytest.raises(UserError, match="cannot be used"):
        guard.listen(0, path)
    assert path.read_text() == "precious"


def test_logs_and_addresses_tell_nothing_about_patients(server, anna):
    anna.post("/items/4", mark(comment="the comment about the patient"))
    assert anna.get("/items").status == 200
    log = server.log.read_text()
    assert (
        SECRET not in log
        and "the comment" not in log
        and "symptom" not in log
        and "10000" not in log
    )
    links = re.findall(
        r'(?:href|action)="([^"]*)"', anna.get("/items").text + anna.get("/items/1").text
    )
    assert links and all(
        re.fullmatch(r"/(next(\?after=\d+)?|items(/\d+)?|content|undo|static/page\.css)", x)
        for x in links
    )


def test_a_failure_says_its_cause_and_where_it_happened_and_not_what_was_typed(tmp_path):
    results = make_results(tmp_path / "results")
    with Server(results, raters="anna") as server:
        anna = server.client("anna")
        (results / "ratings.sqlite").write_bytes(b"not a database")
        answer = anna.post("/items/1", mark(comment="typed by a clinician"))
        assert (
            answer.status == 500 and "Traceback" not in answer.text and "typed" not in answer.text
        )
        log = server.log.read_text()
        assert (
            "error: ratings.sqlite cannot be used (file is not a database) (database.py" in log
            and "typed by" not in log
            and "Traceback" not in log
        )


def test_a_telemetry_collector_named_by_the_host_is_told_nothing(tmp_path):
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))
        collector.listen()
        endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
        environment = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
        }
        with Server(
            make_results(tmp_path / "results"), raters="anna", environment=environment
        ) as server:
            assert server.client("anna").get("/items/1").status == 200
            server.stop()
        collector.settimeout(0.1)
        with pytest.raises(TimeoutError):
            collector.accept()


def test_a_port_that_is_taken_is_said_in_one_sentence(tmp_path, run):
    results = make_results(tmp_path / "results")
    with socket.socket() as other:
        other.bind(("127.0.0.1", port := free_port()))
        other.listen()
        result = run("run_files/review.py", "--results", results, "--port", port)
    assert result.returncode == 2 and result.stderr.startswith(f"error: port {port} cannot be used")


@pytest.mark.parametrize(
    "number",
    ["9" * 5000, "9" * 19, "9" * 10, "0", "-1", "1.5", "0x1", "%D9%A1", "1%00", "%FF", "1e3", " 1"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_item_that_no_number_can_be_is_no_page(server, anna, method, number):
    path = f"/items/{number.replace(' ', '%20')}"
    answer = anna.get(path) if method == "GET" else anna.post(path, mark())
    assert answer.status == 404
    assert "error" not in server.log.read_text()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/next?after=" + "9" * 5000, 303),
        ("/next?after=%D9%A1", 303),
        ("/items/1?undone=" + "x" * 5000, 200),
        ("/content/" + "x" * 5000 + "/y", 404),
        ("/content/%00/%00", 404),
        ("/static/..%2f..%2fsite.py", 404),
    ],
)
def test_odd_addresses_end_in_a_page_and_not_in_an_error(server, anna, path, status):
    assert anna.get(path).status == status
    assert "error" not in server.log.read_text()
