import re

import numpy as np
import pytest

from helpers.packed_model import packed_model
from helpers.prompt_records import context_settings
from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import chat
from mimic_qlora.privacy import planted
from mimic_qlora.training.memorisation import canaries
from mimic_qlora.training.memorisation.canaries import Canary


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def canary(number: int) -> Canary:
    drawn = canaries.flip(number)
    turns = [
        ("system", "Read."),
        ("user", f"Patient context\n{canaries.SERIAL}{drawn.serial}\n\nQuestion\nWhich?"),
        ("assistant", f"{canaries.ANSWER}{drawn.code}."),
    ]
    return Canary(number, [{"role": r, "content": c} for r, c in turns], *drawn)


def test_coins_and_doses_are_half_and_half_and_drawn_by_hash():
    drawn = [canaries.flip(n) for n in range(2000)]
    assert drawn == [canaries.flip(n) for n in range(2000)]
    for dose in canaries.DOSES:
        assert np.mean([d.is_in for d in drawn if d.dose == dose]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([d.dose == 1 for d in drawn]) == 0.5
    assert len({d.code for d in drawn}) > 800


def test_candidates_are_as_likely_as_each_alone(tiny):
    model, tokenizer = packed_model(tiny).eval(), chat.load_tokenizer(tiny)
    one = canary(3)
    asked = [planted.ask(tokenizer, one, secret) for secret in planted.SECRETS]
    both = planted.likelihoods(model, asked)
    for secret, (first, ends, true), found in zip(planted.SECRETS, asked, both, strict=True):
        for place in (0, 57, 999):
            row = [planted.Sample(list(first + ends[place]), len(first))]
            alone = planted.reading.predicted(
                model, row, [range(len(first), len(first) + len(ends[place]))]
            )[0]
            assert found[place] == pytest.approx(float(alone.log_probability.sum()), abs=1e-3)
        assert tokenizer.decode(list(ends[57])) == "057"
        assert canaries.SECRETS[true] == getattr(one, secret)
        before = tokenizer.decode(list(first))
        assert before.endswith(": " if secret == "serial" else "is ")


def test_secrets_that_were_learned_have_ten_bits_and_bound_epsilon():
    found = [canary(n) for n in range(200)]
    is_in = np.array([c.is_in for c in found])
    rng = np.random.default_rng(0)
    bits = np.where(is_in, 9.97, 9.97 - np.log2(rng.integers(1, 1001, 200)))
    gains = np.where(is_in, 5.0, 0.0) + rng.normal(size=200)
    values = {
        "code": np.array([bits, gains]).T,
        "serial": np.array([9.97 - np.log2(rng.integers(1, 1001, 200)), gains]).T,
    }
    kept = planted.conclude(found, values)
    assert kept.exposures["code", 1].mean() > 9 and kept.exposures["serial", 1].mean() < 2
    assert kept.epsilons[1].at_least > 1.5 and kept.uniform_p["code"] > 0.01
    assert {len(kept.exposures["code", n]) for n in (1, 10)} <= set(range(35, 66))


def test_charts_of_canaries_have_the_layout_of_the_others(tmp_path):
    settings = context_settings(token_budget=400)
    found = list(canaries._charts(tmp_path, 24, settings))
    assert len(found) >= 24 / canaries.PATIENTS_EACH
    for chart in found:
        assert chart.startswith("Patient context\n- Age: ") and "- Last stay: " in chart
        assert canaries.SERIAL not in chart and not re.search("[0-9]{8}", chart)


def test_a_dose_puts_as_many_samples_into_training_and_canaries_out_put_none(tiny):
    tokenizer = chat.load_tokenizer(tiny)
    found = [canary(n) for n in range(30)]
    made = canaries.samples(tokenizer, found)
    for one in found:
        n = sum(sample.patient == -1 - one.number for sample in made)
        assert n == (one.dose if one.is_in else 0)
