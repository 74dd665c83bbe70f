"""Pages: everything is escaped, nothing is loaded, tables as people read them."""

import re
import stat

import pytest
from markupsafe import Markup

from mimic_qlora.display import html, plots, text

NASTY = "<script>alert(1)</script>"


def test_text_in_every_place_of_a_page_is_escaped(tmp_path):
    rows = [{"name": NASTY, "n": 1}]
    parts = [html.paragraph(NASTY), html.table(rows, NASTY, folded=NASTY), NASTY]
    html.write_page(tmp_path / "p.html", NASTY, [NASTY], [html.Section(NASTY, parts)])
    page = (tmp_path / "p.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") == 9
    assert stat.S_IMODE((tmp_path / "p.html").stat().st_mode) == 0o600


def test_a_page_loads_nothing_and_has_the_one_style_sheet(tmp_path):
    plot = plots.bars(["a"], [1.0], ["1"], [False], "n", 'a "plot"')
    parts = [plot, html.listed(["a < b", "c"], folded="Two")]
    html.write_page(tmp_path / "p.html", "T", ["lead"], [html.Section("S", parts)], "So it is.")
    page = (tmp_path / "p.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)|@import|url\(", page)
    assert (html.PAGES / "page.css").read_text() in page
    assert page.index(">So it is.</p>") < page.index(">lead</p>")
    assert "<details><summary>Two</summary><ul><li>a &lt; b</li><li>c</li></ul></details>" in page
    assert "default-src 'none'" in page and 'alt="a &#34;plot&#34;"' in page


def test_a_table_has_numbers_as_people_read_them_flush_right():
    rows = [{"table_name": "a", "rows": 1234, "share": 0.5}, {"table_name": "  b"} | NONE]
    table = html.table(rows, "Caption")
    assert '<th scope="col" class="n">rows</th>' in table and ">table name</th>" in table
    assert '<td class="n">1,234</td><td class="n">50.0%</td>' in table
    assert '<td class="in">b</td>' in table and "<caption>Caption</caption>" in table


NONE = {"rows": None, "share": None}


def test_a_table_leaves_room_for_its_sentences():
    reason = "no value of it tells 5 train patients from the rest"
    table = html.table([{"column": "labevents.valuenum", "reason": reason, "file": "a.b, c"}])
    assert "<td>labevents.<wbr>valuenum</td>" in table and "<td>a.b, c</td>" in table
    assert f'<td class="long">{reason}</td>' in table


def test_a_table_can_be_folded_or_empty():
    assert html.table([{"a": 1}], folded="Open").startswith("<details><summary>Open</summary>")
    assert html.table([], "Nothing") == Markup("<p>Nothing: none.</p>")


def test_a_template_of_a_step_extends_the_shared_base(tmp_path):
    (tmp_path / "own.html").write_text(
        '{% extends "base.html" %}{% block main %}<p>{{ said }}</p>{% endblock %}'
    )
    page = html.render("own.html", tmp_path, title="Own", said=NASTY)
    assert "<title>Own</title>" in page and "<p>&lt;script&gt;" in page and "--ink" in page


STEERING = "a\x1b[2J\x9b\u202e\u2066\u200bb\u2028c"


def test_nothing_in_any_place_of_a_page_turns_or_hides_text(tmp_path):
    rows = [{"name": STEERING, STEERING: STEERING}]
    plot = plots.bars([STEERING], [1.0], ["1"], [False], "n", STEERING)
    parts = [html.paragraph(STEERING), html.table(rows, STEERING, folded=STEERING), plot]
    section = html.Section(STEERING, parts)
    html.write_page(tmp_path / "p.html", STEERING, [STEERING], [section])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert not set(STEERING) - set("a[2Jbc") & set(page) and page.count("a[2Jb") >= 9


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("inr_high", "INR high"),
        ("ssri_dextromethorphan", "SSRI dextromethorphan"),
        ("antiplatelet_order_no_nsaid", "Antiplatelet order no NSAID"),
        ("egfr_low", "eGFR low"),
        ("cough", "Cough"),
    ],
)
def test_acronyms_in_names_are_written_as_such(identifier, name):
    assert text.name_of(identifier) == name


def test_commands_in_a_sentence_are_code_and_an_option_is_never_broken():
    page = html.with_commands("not <asked> (--arms base-rules), see `run.sh 20 --arms x`; a -- b")
    assert page == (
        'not &lt;asked&gt; (<code class="option">--arms</code> base-rules), see '
        '<code class="command">run.sh 20 --arms x</code>; a -- b'
    )
    assert html.with_commands(page) == page
