"""Text that is shown is inert, text that is read is whole."""

import pytest

from mimic_qlora.step import plain_text

STEERING = {
    "a window's title": "a\x1b]0;owned\x07b",
    "a cleared screen": "a\x1b[2Jb",
    "the one-byte form of ESC [": "a\x9b2Jb",
    "right to left": "a\u202eb\u2066c\u2069",
    "a return over the line": "a\rb",
    "a backspace": "a\b\bb",
    "invisible": "a\u200b\u200d\ufeff\u00adb",
    "private use": "a\ue000b",
    "half of a character": "a\udce9b",
    "a tag": "a\U000e0041b",
}


@pytest.mark.parametrize("kind", STEERING)
def test_no_character_that_steers_or_hides_is_left(kind):
    for change in (plain_text.printable, plain_text.inline):
        assert change(STEERING[kind]).isprintable()


def test_an_error_shows_what_else_would_hide_its_cause():
    assert plain_text.unhidden("no /a é\r: it\nis \x1b[31m\udce9") == (
        "no /a é\\r: it\nis \\x1b[31m\\udce9"
    )


@pytest.mark.parametrize("text", ["plain", "Ménière µg 漢字 ≥ 😀", "  indented", "two\nlines", ""])
def test_all_else_stays(text):
    assert plain_text.printable(text) == text


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"])
def test_every_line_break_is_a_blank_where_there_is_one_line(line_break):
    assert plain_text.inline(f"  one{line_break}two") == "  one two"


def test_what_was_typed_is_read_as_utf_8_or_refused():
    assert plain_text.typed("café") == "café"
    assert plain_text.typed("caf\udcc3\udca9") == "café"  # as a C locale hands it over
    for text in ("caf\udce9", "\ud83d"):  # Latin-1; half of an emoji
        with pytest.raises(UnicodeError):
            plain_text.typed(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_names_the_encoding(encoding):
    assert plain_text.in_utf8("é\n".encode(encoding)) == "é\n".encode()
    assert plain_text.in_utf8("é\n".encode("utf-16-be").join([b"\xfe\xff", b""])) == "é\n".encode()


def test_other_bytes_stay_for_the_line_that_holds_them():
    assert plain_text.in_utf8(b"a\xe9b\n") == b"a\xe9b\n"
    with pytest.raises(UnicodeError):
        plain_text.in_utf8(b"\xff\xfea\x00b")
