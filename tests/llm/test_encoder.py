"""Texts encoded word by word: the same ids as whole."""

import random

import pytest
from tokenizers import AddedToken

from helpers.tiny_model import SPECIAL
from mimic_qlora.llm import chat, encoder

PARTS = (
    *("Sodium", "mg/dL", "it's", "é中", "140.5", "-", "(low,", "x);", "'ll", "a\u0301", "\n- Age:"),
    *("<", "<|", "|>", "<|eot", "\u2028", "\x1c", "Sodium" * 9),
    *(" ", " ", "  ", "\t ", " \n", "\n ", "\n\n"),
)


def text_of(draw) -> str:
    """Words, blanks, breaks and control tokens in random order."""
    gaps = (" ",) * 8 + ("", "\n", "\u00a0")
    parts = (*PARTS, *SPECIAL, "<|im_start|>", "<|im_end|>")
    return "".join(draw.choice(parts) + draw.choice(gaps) for _ in range(draw.randrange(60)))


@pytest.fixture(params=["tiny", "embedded_model", "llama_3"])
def tokenizer(request):
    return chat.load_tokenizer(request.getfixturevalue(request.param))


def agrees(tokenizer, texts) -> bool:
    encode, alone = encoder.encoder(tokenizer), chat.token_ids(tokenizer, texts)
    return all(encode(texts[i : i + 7]) == alone[i : i + 7] for i in range(0, len(texts), 7))


@pytest.mark.parametrize("remembered", [5, chat.WORDS_REMEMBERED])
def test_texts_have_the_same_ids_word_by_word_as_whole(tokenizer, monkeypatch, remembered):
    monkeypatch.setattr(chat, "WORDS_REMEMBERED", remembered)
    draw = random.Random(0)
    assert chat.cuts_at_blanks(tokenizer)
    assert agrees(tokenizer, [text_of(draw) for _ in range(300)])


def test_each_word_is_asked_for_once_and_long_ones_are_forgotten(tiny, monkeypatch):
    tokenizer, asked = chat.load_tokenizer(tiny), []
    alone = chat.token_ids
    monkeypatch.setattr(
        chat, "token_ids", lambda tokenizer, texts: asked.extend(texts) or alone(tokenizer, texts)
    )
    encode = encoder.encoder(tokenizer)
    text = f"one two{SPECIAL[5]}one two {'x' * 50}"
    assert encode([text, text]) == 2 * encode([text]) == alone(tokenizer, [text, text])
    assert sorted(asked) == sorted(["one", " two", SPECIAL[5], *[" " + "x" * 50] * 2])


def test_a_tokenizer_whose_added_tokens_take_blanks_encodes_whole(tiny):
    tokenizer = chat.load_tokenizer.__wrapped__(tiny)
    tokenizer.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True)})
    draw = random.Random(1)
    assert agrees(tokenizer, [text_of(draw) + " <mask> " + text_of(draw) for _ in range(50)])
