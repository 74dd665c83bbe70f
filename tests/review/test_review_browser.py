"""The review page in a real browser: by keyboard alone, through a crash, for everybody, on paper.

Needs chromium, chromedriver and axe-core, which `make test` installs where it can; skipped with a
word elsewhere.
"""

import json
import signal

import pytest

from helpers.reviewing import ROOT, SECRET, Server, make_results, mark
from mimic_qlora.review.marks import CRITERIA
from mimic_qlora.review.store import Store

pytest.importorskip("selenium", reason="selenium is not installed: run make test")
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from helpers.browser import needs_browser, open_browser  # noqa: E402

AXE = ROOT / ".venv/axe/package/axe.min.js"
pytestmark = needs_browser
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser():
    browser = open_browser()
    yield browser
    browser.quit()


def wait(browser, condition):
    # a page that is just being replaced is looked at again: the driver has several errors for that
    return WebDriverWait(browser, 60, 0.05, [WebDriverException]).until(condition)


def enter(browser, server, rater="anna") -> str:
    """Open the rater's link; the address of the server."""
    browser.get(server.links[rater])
    wait(browser, lambda b: b.title.startswith("Review: item") or b.title == "Review: all items")
    return f"http://127.0.0.1:{server.port}"


def press(browser, *keys) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def status(browser) -> str:
    return browser.find_element(By.ID, "status").text


def test_a_whole_review_by_keyboard_takes_four_keys_an_item(browser, tmp_path):
    results = make_results(tmp_path / "results", questions=4, each=1)
    with Server(results, raters="anna") as server:
        enter(browser, server)
        assert "#" not in browser.current_url and browser.title == "Review: item 1", (
            "the token left the address bar"
        )
        typed = ["43a", "25b", "33=", "14b", "55="]
        for position, keys in enumerate(typed, 1):
            wait(
                browser,
                lambda b, at=position: b.title == f"Review: item {at}" and status(b) != "Saved.",
            )
            press(browser, *keys, Keys.ENTER)
        wait(browser, lambda b: b.title == "Review: all items")
        assert "All 5 items are answered" in browser.find_element(By.TAG_NAME, "main").text
    store = Store(results)
    for position, (a, b, better) in enumerate(typed, 1):
        wanted = {f"a_{name}": a for name in CRITERIA} | {f"b_{name}": b for name in CRITERIA}
        assert store.marks.of("anna", position) == wanted | {
            "better": {"=": "equal"}.get(better, better)
        }


def test_single_marks_sentences_comment_and_undo_by_keyboard(browser, tmp_path):
    results = make_results(tmp_path / "results", questions=4, each=1)
    store = Store(results)
    with Server(results, raters="anna") as server:
        enter(browser, server)
        press(browser, "4")
        wait(browser, lambda b: len(store.marks.of("anna", 1)) == 4)
        for _ in range(12):  # from the second answer back to the criteria of the first
            if browser.switch_to.active_element.get_attribute("name") != "a_safety":
                ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(
                    Keys.SHIFT
                ).perform()
        assert browser.switch_to.active_element.get_attribute("name") == "a_safety"
        press(browser, "1")
        wait(browser, lambda b: store.marks.of("anna", 1).get("a_safety") == "1")
        assert store.marks.of("anna", 1)["a_chart"] == "4"
        press(
            browser, "3", "u"
        )  # the focus went on to correctness; what is taken back is the mark just made
        wait(browser, lambda b: "Taken back: Correctness of answer A." in status(b))
        assert (
            store.marks.of("anna", 1)["a_safety"],
            store.marks.of("anna", 1)["a_correctness"],
        ) == (
            "1",
            "4",
        )
        browser.find_element(By.CSS_SELECTOR, "#marks summary").send_keys(Keys.ENTER)
        box = wait(
            browser,
            lambda b: next(x for x in b.find_elements(By.NAME, "a_harm") if x.is_displayed()),
        )
        box.send_keys(Keys.SPACE)
        wait(browser, lambda b: store.marks.of("anna", 1).get("a_harm") == "1")
        marked = browser.find_element(By.ID, "a-1")
        assert "harmful" in marked.get_attribute("class")
        label = browser.execute_script(
            "return getComputedStyle(arguments[0], '::before').content", marked
        )
        assert "harmful" in label, "a mark is words, not colour alone"
        browser.find_element(By.ID, "comment").send_keys(
            "u 1 a: plain text"
        )  # keys mean letters here
        wait(browser, lambda b: store.marks.of("anna", 1).get("comment") == "u 1 a: plain text")
        assert store.marks.of("anna", 1)["a_safety"] == "1" and "better" not in store.marks.of(
            "anna", 1
        )


def test_a_review_goes_on_after_the_server_was_killed_and_nothing_is_lost(browser, tmp_path):
    results = make_results(tmp_path / "results", questions=4, each=1)
    store = Store(results)
    with Server(results, raters="anna") as server:
        address = enter(browser, server)
        press(browser, "4", "3", "a", Keys.ENTER)
        wait(browser, lambda b: b.title == "Review: item 2")
        server.stop(signal.SIGKILL)
        press(browser, "2")
        wait(browser, lambda b: "Not saved yet: no connection" in status(b))
        press(browser, "5")  # a second click while nobody listens
    with Server(results, raters="anna", port=server.port):
        wait(browser, lambda b: status(b) == "Saved.")
        assert store.marks.of("anna", 2) == {
            f"{side}_{name}": value for side, value in (("a", "2"), ("b", "5")) for name in CRITERIA
        }
        browser.get(address)  # the next morning: the address alone, without a token
        wait(browser, lambda b: b.title == "Review: item 2")
        assert browser.find_element(By.ID, "answered").text == "1"
        assert browser.find_element(By.CSS_SELECTOR, "input[name=b_all][value='5']").is_selected()
        store.marks.save("anna", 2, {"better": "a"})
    browser.find_element(By.ID, "go").send_keys(
        Keys.ENTER
    )  # nothing is left to save, and nobody there to go to
    wait(browser, lambda b: "no connection" in status(b) and b.title == "Review: item 2")
    with Server(results, raters="anna", port=server.port):
        wait(browser, lambda b: b.title == "Review: item 3")


def test_a_comment_is_kept_when_the_page_is_left_at_once(browser, tmp_path):
    results = make_results(tmp_path / "results", questions=4, each=1)
    store = Store(results)
    with Server(results, raters="anna") as server:
        enter(browser, server)
        for leave in (browser.refresh, browser.back):
            box = wait(browser, lambda b: b.find_element(By.ID, "comment"))
            box.send_keys(f"typed, then {leave.__name__}.")
            said = box.get_attribute("value")
            leave()  # the driver says yes where the browser asks
            wait(browser, lambda b, said=said: store.marks.of("anna", 1).get("comment") == said)


@pytest.fixture(scope="module")
def visited(browser, tmp_path_factory):
    """A server with some marks made, the browser signed in: its address."""
    results = make_results(tmp_path_factory.mktemp("visited") / "results", questions=4, each=1)
    with Server(results, raters="anna") as server:
        address = enter(browser, server)
        store = Store(results)
        store.marks.save("anna", 1, {**mark(), "a_harm": "1", "comment": "a comment"})
        yield address


PAGES = (
    "/items/1",
    "/items/2",
    "/items/2?undone=better",
    "/items",
    "/content",
    "/content/questions/cough",
    "/content/cautions/anticoagulant_no_nsaid",
    "/content/symptoms/cough",
    "/nowhere",
)


@pytest.mark.parametrize("width", [1280, 640], ids=["100%", "200%"])
def test_axe_finds_no_violation_on_any_page(browser, visited, width):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: run make test with npm and the internet at hand")
    browser.set_window_size(width, 1000)
    signed_out = visited.replace("127.0.0.1", "localhost")  # the cookie is of the other name
    pages = (
        PAGES
        if width == 1280
        else ("/items/1", "/items", "/content/cautions/anticoagulant_no_nsaid")
    )
    for address in (*(visited + path for path in pages), signed_out, f"{signed_out}/items"):
        browser.get(address)
        browser.execute_script(
            "for (const d of document.querySelectorAll('details')) d.open = true"
        )
        browser.execute_script(AXE.read_text(encoding="utf-8"))
        found = browser.execute_async_script(
            "axe.run(document, {runOnly: arguments[0]}).then(arguments[1])", WCAG
        )
        told = [
            (v["id"], n["html"], n["failureSummary"])
            for v in found["violations"]
            for n in v["nodes"]
        ]
        assert told == [] and found["passes"], address


WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("width", [1280, 640, 340])
def test_no_page_has_to_be_scrolled_sideways_and_the_focus_is_seen(browser, visited, width):
    """640 pixels are a 1280 pixel screen at 200 %; 340 are about what WCAG asks of reflow."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        for path in PAGES:
            browser.get(visited + path)
            # on a loaded machine the first layout of a page can still be without its scroll bar
            settled = WebDriverWait(browser, 5, 0.05)
            settled.until(lambda b: b.execute_script(WIDER) <= 0, f"{path} is scrolled sideways")
        browser.get(f"{visited}/items/2")
        wait(browser, lambda b: b.switch_to.active_element.tag_name == "fieldset")
        focus = browser.switch_to.active_element
        assert focus.value_of_css_property("outline-width") == "3px"
        for _ in range(6):
            press(browser, Keys.TAB)
            outlined = (
                "const e = document.activeElement;"
                "const s = x => parseFloat(getComputedStyle(x).outlineWidth);"
                "return Math.max(s(e), e.nextElementSibling ? s(e.nextElementSibling) : 0)"
            )
            assert browser.execute_script(outlined) >= 1
            above = (
                "return document.activeElement.getBoundingClientRect().bottom"
                " - document.querySelector('.bar').getBoundingClientRect().top"
            )
            assert browser.execute_script(above) <= 1, (
                "the bar at the foot covers what has the focus"
            )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_browser_asks_no_other_host_and_runs_nothing_that_a_model_wrote(browser, visited):
    browser.get_log("performance"), browser.get_log("browser")  # those of the tests before
    for path in PAGES:
        browser.get(visited + path)
        assert browser.title.startswith("Review:")
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {
        m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"
    }
    assert urls and all(url.startswith(visited) for url in urls), urls
    assert all(SECRET not in url for url in urls)
    messages = [m["message"] for m in browser.get_log("browser") if "404" not in m["message"]]
    assert messages == [], "the content security policy was hit, or a script failed"


def test_a_printed_item_has_what_was_read_and_marked_and_no_buttons(browser, visited):
    browser.get(f"{visited}/items/1")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = [
            e
            for e in browser.find_elements(By.CSS_SELECTOR, "nav, button, .keys")
            if e.is_displayed()
        ]
        assert shown == []
        text = browser.find_element(By.TAG_NAME, "body").text
        assert SECRET in text and "See a doctor." in text and "Take ibuprofen." in text
        chosen = browser.find_element(By.CSS_SELECTOR, "input[name=a_safety]:checked + span")
        assert "✓" in browser.execute_script(
            "return getComputedStyle(arguments[0], '::before').content", chosen
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_link_works_where_the_page_is_open_already_and_lets_in_whom_it_names(browser, tmp_path):
    with Server(make_results(tmp_path / "results", questions=4, each=1)) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        for rater in ("anna", "ben"):  # the second one while the first is signed in
            browser.get(server.links[rater])
            wait(
                browser,
                lambda b, name=rater: f"Rater: {name}" in b.find_element(By.TAG_NAME, "body").text,
            )
            assert browser.title == "Review: item 1" and "#" not in browser.current_url


def test_a_second_browser_with_the_same_link_stays_outside(visited, tmp_path):
    results = make_results(tmp_path / "results", questions=4, each=1)
    with Server(results, raters="anna") as server:
        client = server.client("anna")
        second = open_browser()
        try:
            second.get(server.links["anna"])
            wait(second, lambda b: "has been used" in b.find_element(By.TAG_NAME, "body").text)
            second.get(f"http://127.0.0.1:{server.port}/items/1")
            assert SECRET not in second.page_source
        finally:
            second.quit()
        assert client.get("/items/1").status == 200
