"""Shared by tests of the review page: results to judge, a server as users start it, a client."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

from helpers.paths import ROOT
from helpers.ports import free_port
from mimic_qlora.review import items as review_items
from mimic_qlora.review.store import Store

# stands in the patients' context: it must be nowhere but on the page
SECRET = "Longstanding-Secret-Finding"
NASTY = '<script>document.title = "owned"</script><b onclick="x()">bold</b> & "quotes"'


def make_results(folder: Path, questions: int = 8, each: int = 3) -> Path:
    """Return a results folder as step 7 leaves it, with made-up answers of both arms."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(folder / "results.jsonl", "w", encoding="utf-8") as file:
        for n in range(questions * each):
            context = f"Patient context\n- Age: {40 + n}\n- {SECRET} {n}"
            user = f"{context}\n\nQuestion\nWhat about symptom {n % questions}?"
            for arm, said in (
                ("base", "Rest. Take ibuprofen."),
                ("adapter", f"See a doctor. {NASTY}"),
            ):
                row = {
                    "trial": n + 1,
                    "kind": "trial",
                    "arm": arm,
                    "question_id": f"q{n % questions}",
                    "subject_id": 10_000_000 + n,
                    "messages": [{"role": "user", "content": user}],
                    "answer": f"{said} Number {n}.",
                }
                file.write(json.dumps(row) + "\n")
    return folder


class Server:
    """review.py in a process of its own. `links` maps a rater to the link that it printed."""

    def __init__(self, results: Path, *args, raters="anna,ben", port=None, environment=None):
        self.port = port or free_port()
        command = [
            sys.executable,
            "run_files/review.py",
            "--results",
            str(results),
            "--port",
            str(self.port),
        ]
        self.log = results / "server.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, "--raters", raters, *args],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=environment,
            )
        while "Ctrl-C" not in (printed := self.log.read_text()):
            assert self.process.poll() is None, printed
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        self.links = dict(re.findall(r"^  (\S+): (http\S+)$", printed, re.M))

    def stop(self, number=signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)

    def client(self, rater: str | None = None) -> "Client":
        client = Client(self.port)
        if rater:
            assert client.post("/enter", token=self.links[rater].split("#")[1]).status == 303
        return client


class Client:
    """A client with a browser's manners: one cookie, a Host, an Origin where something is sent."""

    def __init__(self, port: int):
        self.port, self.cookie = port, None

    def request(self, method: str, path: str, body: str | None = None, **headers):
        """Return the response, with `text` and `pairs` (its headers) read.

        A header given as None is left out.
        """
        given = {
            "Host": f"127.0.0.1:{self.port}",
            "Origin": f"http://127.0.0.1:{self.port}" if method == "POST" else None,
            "Content-Type": "application/x-www-form-urlencoded" if body is not None else None,
            "Cookie": self.cookie,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            data = (body or "").encode()
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            if method == "POST":
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            response = connection.getresponse()
            response.text, response.pairs = response.read().decode(), response.getheaders()
        if (cookie := response.getheader("set-cookie")) and response.status == 303:
            self.cookie = cookie.split(";")[0]
        return response

    def get(self, path: str, **headers):
        return self.request("GET", path, **headers)

    def post(self, path: str, fields=None, headers=None, **more):
        return self.request(
            "POST", path, urlencode([*(fields or {}).items(), *more.items()]), **(headers or {})
        )


def mark(value="4", **fields) -> dict:
    """All that an item needs: both answers with the same marks, neither better."""
    return {"a_all": value, "b_all": value, "better": "equal", **fields}


def store_of(folder: Path, *raters) -> tuple:
    """The store of a results folder with these raters, and its items."""
    items, sha256 = review_items.read(folder)
    store = Store(folder)
    store.tasks.prepare(raters, list(items), sha256)
    return store, items
