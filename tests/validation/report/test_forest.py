"""The forest plot of the report, in a real browser."""

from helpers.browser import needs_browser, open_browser
from mimic_qlora.display import html
from mimic_qlora.validation.findings import Comparison
from mimic_qlora.validation.report import forest, page
from mimic_qlora.validation.scoring.rubric import METRICS
from mimic_qlora.validation.statistics import Difference

BOXES = """
return [...document.querySelectorAll("text.name")].map(name => {
  const numbers = name.nextElementSibling;
  return [name.getBoundingClientRect().right, numbers.getBoundingClientRect().left,
          getComputedStyle(numbers).display];
});
"""


@needs_browser
def test_no_name_runs_into_the_sign_of_its_numbers(tmp_path):
    found = Difference(0.5, 0.25, -0.25, -0.75, 0.25, -0.25, 0.5, 24, 24, 15)
    drawn = forest.of(Comparison(dict.fromkeys(METRICS, found), {}, METRICS))
    shown = html.environment(page.PAGES).from_string(
        '<style>{{ page_css }}</style>{% from "forest.html" import plot %}{{ plot(forest) }}'
    )
    (tmp_path / "page.html").write_text(shown.render(forest=drawn), encoding="utf-8")
    browser = open_browser()
    try:
        browser.get((tmp_path / "page.html").as_uri())
        for width in (1100, 700, 480, 400, 360):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            lines = browser.execute_script(BOXES)
            assert len(lines) == len(METRICS)
            for name_ends, numbers_begin, display in lines:
                assert name_ends < numbers_begin or display == "none", width
    finally:
        browser.quit()
