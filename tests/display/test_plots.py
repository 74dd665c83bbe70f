"""Plots name their lines by text of charts, which is neither mathematics nor steers anything."""

import base64
import re

import pytest

from mimic_qlora.display import plots

NAMES = {
    "a broken formula": r"A$\frac{1}{$B",
    "a formula": "dose $x^2$ each",
    "one dollar": "5$ a tablet",
    "a dollar with a backslash": r"a\$b$c",
    "control characters": "ti\x1b]0;x\x07tle\u202e",
    "lines": "one\ntwo\u2028three",
    "long": "$" * 200,
}


def drawn(label: str) -> str:
    image = plots.bars([label, "b"], [1.0, 2.0], ["1", "2"], [False, True], "n", label)
    (data,) = re.findall('base64,([^"]+)', image)
    return base64.b64decode(data).decode()


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.filterwarnings("error")
def test_a_name_of_any_text_is_drawn_as_it_is(kind):
    figure, axes = plots.figure(1)
    plots.name_lines(axes, [NAMES[kind]])
    (label,) = axes.get_yticklabels()
    figure.canvas.draw()
    shown, is_math = label._preprocess_math(label.get_text())
    assert not is_math and len(shown) <= plots.LONGEST_NAME and shown.isprintable()
    assert shown.count("$") == min(NAMES[kind].count("$"), plots.LONGEST_NAME - 1)
    assert "<svg" in drawn(NAMES[kind])


def test_powers_of_ten_beside_a_logarithmic_axis_stay():
    image = plots.bars(["a$b$"], [1000.0], ["1000"], [False], "rows", "alt", log=True)
    svg = base64.b64decode(re.findall('base64,([^"]+)', image)[0]).decode()
    assert "mathdefault{10^{3}}" in svg
