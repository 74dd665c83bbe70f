"""The report of a review finds what raters preferred, and how far they agree."""

import csv
import json
import random
import re
from collections import Counter

import pytest

from helpers.reviewing import Server, make_results, mark, store_of
from mimic_qlora.display import html
from mimic_qlora.review import report as ratings_report


@pytest.fixture
def results(tmp_path):
    return make_results(tmp_path / "results")


def test_what_a_rater_preferred_on_the_page_is_what_the_report_names(tmp_path):
    """Who always takes the adapter's words is found to have preferred the adapter."""
    results = make_results(tmp_path / "results", questions=4, each=2)
    with Server(results) as server:
        for rater in ("anna", "ben"):
            client = server.client(rater)
            for position in range(1, 10):
                text = client.get(f"/items/{position}").text
                first = {
                    side: re.search(f'<span id="{side}-1">(.*?)</span>', text)[1] for side in "ab"
                }
                (better,) = [side for side, said in first.items() if said == "See a doctor."]
                (worse,) = {"a", "b"} - {better}
                marks = {
                    f"{better}_all": "5",
                    f"{worse}_all": "2",
                    "better": better,
                    f"{worse}_harm": "2",
                }
                assert client.post(f"/items/{position}", marks).status == 303
    store, items = store_of(results, "anna", "ben")
    rows = ratings_report.unblind(store, items)
    assert len(rows) == 18 and {row["better"] for row in rows} == {"qlora"}
    assert {(row["safety_base"], row["safety_qlora"]) for row in rows} == {(2, 5)}
    assert {row["harmful_sentences_base"] for row in rows} == {"Take ibuprofen."}
    assert {row["answer_a"] for row in rows} == {"base", "qlora"}, "and it stood on both sides"


def rate(store, seed: int, wins=(0.6, 0.2, 0.2), slip=0.0) -> Counter:
    """Mark as raters with a known taste would: adapter better, equal, base better with
    probabilities `wins`, the same for all raters except that each, with probability `slip`, judges
    at random. Marks follow the taste. The same for every draw of orders.
    """
    seen, choices = Counter(), ["adapter", "equal", "base"]
    for rater in store.tasks.raters():
        for task in store.tasks.of(rater):
            (better,) = random.Random(f"{seed}:{task.item}").choices(choices, wins)
            own = random.Random(f"{seed}:{task.item}:{rater}:{task.again}")
            if own.random() < slip:
                (better,) = own.choices(choices, wins)
            adapter, base = ("a", "b") if task.swapped else ("b", "a")
            side = {"adapter": adapter, "base": base, "equal": "equal"}[better]
            high, low = (adapter, base) if side == "equal" else (side, "ab".replace(side, ""))
            marks = {
                f"{high}_all": "4",
                f"{low}_all": "4" if side == "equal" else "2",
                "better": side,
            }
            store.marks.save(
                rater,
                task.position,
                {**marks, **({f"{base}_harm": "2"} if better == "adapter" else {})},
            )
            if not task.again:
                seen[better] += 1
    return seen


def test_the_report_finds_the_taste_of_simulated_raters(tmp_path, monkeypatch):
    results = make_results(tmp_path / "results", questions=30, each=2)
    store, items = store_of(results, "anna", "ben")
    seen = rate(store, 4, slip=0.2)
    rows = ratings_report.unblind(store, items)
    found = ratings_report.summarize(rows, {r: store.tasks.of(r) for r in store.tasks.raters()})
    win = found["win_rate"]
    assert {"adapter": win["qlora"], "equal": win["equal"], "base": win["base"]} == dict(seen)
    assert win["low"] < 0.7 < win["high"] and win["high"] - win["low"] < 0.35 and win["p"] < 0.05
    safety = found["differences"]["safety"]
    assert safety["mean"] > 0 and safety["adapter"] > safety["base"]
    assert found["differences"]["harmful"]["adapter"] == 0 < found["differences"]["harmful"]["base"]
    # with slip s two raters agree for sure with (1 - s)^2, else by chance: alpha and kappa are 0.64
    alpha, kappa = (
        found["between_raters"]["better"]["alpha"],
        found["between_raters"]["better"]["kappa"]["anna and ben"],
    )
    assert alpha["low"] < 0.64 < alpha["high"] and kappa["low"] < 0.64 < kappa["high"]
    assert found["with_oneself"]["anna"]["better"]["units"] == 6
    assert found["marked_at_once"]["share"] == 1.0
    assert 0.3 < found["left_preferred"]["share"] < 0.7
    report = results / "report.html"
    before = html.Section("Before", [html.paragraph("as it was")])
    html.write_page(report, "Base against adapter", [], [before])
    for _ in range(2):  # a second report takes the place of the first
        report.write_text(ratings_report.include(report.read_text(), found))
    shown = report.read_text()
    assert (
        shown.count("Judged blind by people") == 1
        and "as it was" in shown
        and "anna 66 of 66" in shown
    )
    assert f"preferred {seen['adapter']} times" in shown and shown.rstrip().endswith("</html>")
    for columns in (100, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = ratings_report.text(found)
        assert f"preferred {seen['adapter']} times" in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= columns


def test_raters_who_toss_a_coin_are_seen_to_agree_by_chance_and_to_prefer_nothing(tmp_path):
    results = make_results(tmp_path / "results", questions=40, each=1)
    store, items = store_of(results, "anna", "ben")
    rate(store, 5, wins=(1, 1, 1), slip=1.0)
    found = ratings_report.summarize(ratings_report.unblind(store, items), {"anna": [], "ben": []})
    alpha = found["between_raters"]["better"]["alpha"]
    assert (
        alpha["low"] < 0 < alpha["high"]
        and found["win_rate"]["low"] < 0.5 < found["win_rate"]["high"]
    )
    assert any(line.startswith("No difference could be shown") for line in found["statement"])


def test_the_report_of_a_review_that_has_just_begun_says_so(results, run):
    store_of(results, "anna")
    done = run("run_files/review.py", "--results", results, "--report")
    assert done.returncode == 0 and "Nothing is answered yet" in done.stdout


def test_the_csv_is_unblinded_escaped_and_private(results, run):
    store, items = store_of(results, "anna")
    task = store.tasks.of("anna")[0]
    adapter = "a" if task.swapped else "b"
    store.marks.save(
        "anna",
        1,
        {**mark(), "better": adapter, f"{adapter}_harm": "1", "comment": '=HYPERLINK("x")'},
    )
    # as the page once took it: harm that no sentence shows
    store.marks.save("anna", 1, {f"{'ab'[adapter == 'a']}_harm": "99"})
    assert run("run_files/review.py", "--results", results, "--report").returncode == 0
    assert (results / "ratings.csv").stat().st_mode & 0o77 == 0
    (row,) = csv.DictReader((results / "ratings.csv").open(newline=""))
    assert (
        row["comment"] == '\'=HYPERLINK("x")'
        and row["better"] == "qlora"
        and row["rater"] == "anna"
    )
    assert row["harmful_sentences_qlora"] == "See a doctor." and row["harmful_sentences_base"] == ""
    assert (float(row["harmful_qlora"]), float(row["harmful_base"])) == (1, 0)
    assert json.loads((results / "ratings_report.json").read_text())["win_rate"]["qlora"] == 1


def test_ratings_that_somebody_has_edited_are_kept(results, run):
    """A statistician's column of themes was lost at the next report."""
    store, _ = store_of(results, "anna")
    path = results / "ratings.csv"
    for position in (1, 2):  # more marks alone make no other file
        store.marks.save("anna", position, mark())
        done = run("run_files/review.py", "--results", results, "--report")
        assert done.returncode == 0 and "kept" not in done.stderr, done.stderr
    path.write_text(path.read_text() + "theme: tone\n")
    done = run("run_files/review.py", "--results", results, "--report")
    assert f"{path} may have been edited: it is kept as ratings.csv.kept1" in done.stderr
    assert (results / "ratings.csv.kept1").read_text().endswith("theme: tone\n")
    assert "theme" not in path.read_text()
    assert len(list(results.glob("*.kept*"))) == 1
