"""Samples and packs."""

import pytest

from helpers.packed_model import EARLY_TEMPLATE, about_charts, gradients
from helpers.tiny_model import TEMPLATE, write_tiny_model
from helpers.training_runs import record
from mimic_qlora.llm import chat
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import (
    packing,
)


@pytest.mark.parametrize("template", [TEMPLATE, EARLY_TEMPLATE])
def test_exactly_the_answer_and_its_end_token_are_supervised(tmp_path, template):
    tokenizer = chat.load_tokenizer(write_tiny_model(tmp_path, template=template))
    messages = record(10000000)["messages"]
    sample = packing.encode(tokenizer, messages, "here")
    assert (
        tokenizer.decode(sample.ids[sample.n_prompt :])
        == messages[-1]["content"].strip() + "<|eot_id|>"
    )
    assert tokenizer.decode(sample.ids[: sample.n_prompt]).endswith(
        "assistant<|end_header_id|>\n\n"
    )
    assert packing.mark_supervised(tokenizer, sample).endswith("<|eot_id|>⟧")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            TEMPLATE.replace("{% if loop.first %}", "{% if not loop.last %}"),
            "rewrites earlier turns",
        ),
        (TEMPLATE.replace("<|eot_id|>", "\n"), "ends no answer"),
        (
            TEMPLATE.replace(
                "m['content'] | trim", "m['content'] if m['role'] != 'assistant' else ''"
            ),
            "drops the answer",
        ),
    ],
)
def test_a_template_that_hides_drops_or_never_ends_the_answer_is_refused(tmp_path, change, message):
    tokenizer = chat.load_tokenizer(write_tiny_model(tmp_path, template=change))
    with pytest.raises(UserError, match=message):
        packing.encode(tokenizer, record(10000000)["messages"], "prompts/train.jsonl line 1")


def test_every_sample_is_in_one_pack_and_no_pack_overflows(talks):
    longest = max(len(sample.ids) for sample in talks)
    for room in (1, longest, 3 * longest):
        packs = packing.pack(talks, room)
        assert sorted(sample for pack in packs for sample in pack) == sorted(talks)
        rows = [packing.collate(pack)["input_ids"].numel() for pack in packs]
        assert rows == [packing.row_length(pack) for pack in packs]
        assert all(len(pack) == 1 or row <= room for pack, row in zip(packs, rows, strict=True))
    assert len(packs) < len(talks) / 2


def test_questions_about_one_chart_share_a_row_in_which_the_chart_stands_once(tokenizer):
    talks = about_charts(tokenizer)
    rows = [packing.row_length(talks[n : n + 3]) for n in range(0, 12, 3)]
    packs = packing.pack(talks[::-1], max(rows))
    assert sorted(sorted(sample.patient for sample in pack) for pack in packs) == [
        [n] * 3 for n in range(4)
    ]
    assert rows[0] < 0.7 * sum(len(sample.ids) for sample in talks[:3])
    assert packing.totals(packs)[2] == sum(sample.n_supervised for sample in talks)
    (together,) = packing.pack(talks, 10_000)
    assert packing.row_length(together) < sum(rows)  # the start of all of them stands once


def test_packs_that_fill_up_for_other_processes_teach_nothing(talks, model):
    packs = packing.pack(talks[:3], 1, n_processes=2)
    assert len(packs) == 4 and packs[:3] == packing.pack(talks[:3], 1)
    found = gradients(model, packs[3:])
    assert found and not any(gradient.any() for gradient in found.values())
