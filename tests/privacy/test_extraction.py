from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import small_chart
from helpers.packed_model import packed_model
from helpers.prompt_records import context_settings, count_words, prompt_record
from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import chat
from mimic_qlora.privacy import page, rule
from mimic_qlora.privacy.cohort import MEMBER, OTHER, Cohort, Patient
from mimic_qlora.privacy.extraction import charts, continuing, excess, extract, naming
from mimic_qlora.privacy.extraction.charts import Known, Probe, Triple
from mimic_qlora.privacy.extraction.excess import Share
from mimic_qlora.processes import entries
from mimic_qlora.prompts.record_files import PromptRecord

CREATININE = Triple("Creatinine", "1.9 mg/dL", "1 day ago")
CODED = ("F329", 10, "Major depressive disorder"), ("I4891", 10, "Atrial fibrillation")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def cache(tmp_path):
    entries.begin(tmp_path / "kept.jsonl", {}, False)
    return tmp_path / "kept.jsonl"


def record(chart: str, subject_id: int = 1) -> PromptRecord:
    turns = [("system", "Help."), ("user", f"{chart}\n\nQuestion\nWhat?"), ("assistant", "Rest.")]
    return PromptRecord.of(prompt_record([{"role": r, "content": c} for r, c in turns], subject_id))


def test_triples_are_the_dated_values_of_a_chart_and_are_stated_as_whole_words():
    built = small_chart.built(small_chart.chart(), "2150-01-05 13:00")
    assert CREATININE in charts.triples_of(built)
    assert all(charts.states(built.text, triple) for triple in charts.triples_of(built))
    assert charts.states("Urea 9; Creatinine 1.9 mg/dL (high), 1 day ago", CREATININE)
    for other in (
        "Creatinine 11.9 mg/dL, 1 day ago",
        "Creatinine 1.9 mg/dL, 21 day ago",
        "Creatinine 1.9 mg/dL; 1 day ago",
        "Creatinine 1.9 mg/dL, 1 day agog",
    ):
        assert not charts.states(other, CREATININE)


def test_a_sensitive_condition_is_left_out_with_all_its_codes_and_the_others_stay():
    rows = [
        {"hadm_id": 10, "seq_num": n, "icd_code": c, "icd_version": v, "long_title": title}
        for n, (c, v, title) in enumerate([*CODED, ("F411", 10, "Generalized anxiety disorder")])
    ]
    opened = SimpleNamespace(
        settings=context_settings(), labels=small_chart.LABELS, count_tokens=count_words
    )
    whole = small_chart.chart(diagnoses_icd_labeled=rows)
    built = small_chart.built(whole, "2150-01-06")
    probe = charts.probe_of(opened, whole, built)
    assert probe.name in built.text and probe.name not in probe.chart
    assert "nxiety" in built.text and "nxiety" not in probe.chart
    assert "fibrillation" in probe.chart and "Creatinine" in probe.chart
    plain = small_chart.chart(diagnoses_icd_labeled=rows[1:2])
    assert charts.probe_of(opened, plain, small_chart.built(plain, "2150-01-06")) is None


def test_a_chart_is_cut_in_its_middle_at_the_end_of_an_entry(tiny):
    tokenizer = chat.load_tokenizer(tiny)
    chart = "Patient context\n- Latest labs: Urea 9, 2 days ago; Sodium 137, 3 days ago"
    found = continuing.half(tokenizer, record(chart))
    assert found.shown + found.rest == chart
    assert found.rest == "\n- Latest labs: Urea 9, 2 days ago; Sodium 137, 3 days ago"
    assert tokenizer.decode(found.ids).endswith("\n\nPatient context")
    for ids, section in zip(
        continuing.headings(tokenizer, "Help."), continuing.SECTIONS, strict=True
    ):
        assert tokenizer.decode(ids).endswith(
            f"Help.<|eot_id|><|start_header_id|>user"
            f"<|end_header_id|>\n\nPatient context\n- {section}:"
        )


def test_what_other_charts_or_the_given_half_hold_is_no_memory(tiny):
    tokenizer = chat.load_tokenizer(tiny)
    own, shared = "Vancomycin trough 17.3 measured twice", "Medicines ordered during the last stay"
    halves = {
        1: continuing.Half([], "Given: aspirin, one tablet each morning", f"{own}; {shared}"),
        2: continuing.Half([], "", shared),
    }
    for text, found in (
        (own, {1}),
        (shared, set()),
        ("Given: aspirin, one tablet each morning", set()),
        (own[: extract.STRETCH - 1], set()),
    ):
        assert extract.verbatim(tokenizer, halves, {1: text, 2: ""}) == found
    assert extract.verbatim(tokenizer, halves, {1: "", 2: own}) == set()


def test_a_value_that_one_patient_alone_has_is_that_patients():
    common = Triple("Sodium", "137 mEq/L", "2 days ago")
    rare = extract.alone({1: {CREATININE, common}, 2: {common}})
    assert rare == {CREATININE: 1}
    texts = ["Sodium 137 mEq/L, 2 days ago; Creatinine 1.9 mg/dL, 1 day ago", "Urea"]
    assert extract.stated(texts, rare) == {1} and extract.stated(texts[1:], rare) == set()


def test_nothing_found_of_300_is_one_percent_at_most_and_an_excess_is_called():
    nothing = excess.share("", Share(0, 300), Share(0, 300), 0.01)
    assert nothing.value == 0 and nothing.upper == pytest.approx(0.00994, abs=1e-5)
    assert nothing.is_held and nothing.p == 1
    assert not excess.share("", Share(0, 297), Share(0, 300), 0.01).is_held
    some = excess.share("", Share(12, 300), Share(2, 300), 0.01)
    assert some.low < some.value < some.upper < some.high
    assert some.value == pytest.approx(10 / 300)
    assert some.p == pytest.approx(0.006, abs=0.002)
    assert excess.share("", Share(2, 300), Share(12, 300), 0.01).p > 0.99


def test_the_gap_is_welchs_t_where_nothing_is_skewed():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.3, 1, 20), rng.normal(0, 2, 15)
    one, other = np.r_[one, 0.6 - one], np.r_[other, -other]
    found = excess.mean("", one, other, 0.08)
    expected = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
    assert found.p == pytest.approx(expected.pvalue)
    both = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((both.low, both.high))


def test_a_gap_that_few_patients_have_has_a_higher_bound_and_of_few_patients_none():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 0.1, 300), rng.normal(0, 0.1, 300)
    assert excess.mean("", one, other, 0.08).is_held
    few = excess.FEWEST_OF_A_TENTH - 1
    assert not excess.mean("", one[:few], other[:few], 0.08).is_held
    one[:20] += 0.8
    found = excess.mean("", one, other, 0.08)
    sides = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert found.high > sides.high + 0.002 and found.low > sides.low
    for t in (-2.0, 0.5, 3.0):
        assert excess._symmetric(excess._skewed(t, 0.2), 0.2) == pytest.approx(t)


def test_the_gain_is_the_difference_in_log_odds_of_the_name(tiny, cache):
    model, tokenizer = packed_model(tiny).eval(), chat.load_tokenizer(tiny)
    probe = Probe("Patient context\n- Age: 40", "HIV infection")
    gains = naming.gains(lambda: model, tokenizer, "Expect.", {7: probe}, cache)
    sample, name = naming._asked(tokenizer, "Expect.", probe)
    assert tokenizer.decode(list(sample.ids)[name.start : name.stop]) == probe.name

    def log_odds() -> float:
        with torch.no_grad(), continuing._generating(model):
            logits = model(input_ids=torch.tensor([list(sample.ids)])).logits[0]
        steps = logits.log_softmax(-1)
        p = np.exp(sum(float(steps[i - 1, sample.ids[i]]) for i in name))
        return float(np.log(p / (1 - p)))

    adapter = log_odds()
    with model.disable_adapter():
        expected = adapter - log_odds()
    assert gains == {7: pytest.approx(expected, abs=1e-3)} and abs(expected) > 0.01
    again = naming.gains(pytest.fail, tokenizer, "Expect.", {7: probe}, cache)
    assert again == gains


def test_texts_are_the_adapters_greedy_ones_or_drawn_by_a_seed_and_kept(tiny, cache, monkeypatch):
    monkeypatch.setattr(continuing, "TOKENS", 12)
    model, tokenizer = packed_model(tiny).eval(), chat.load_tokenizer(tiny)
    prompts = continuing.headings(tokenizer, "Help.")
    told = continuing.continued(lambda: model, tokenizer, prompts, cache)
    ids = list(prompts[0])
    with torch.no_grad(), continuing._generating(model):
        for _ in range(12):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert told[0] == tokenizer.decode(ids[len(prompts[0]) :], skip_special_tokens=True).strip()
    drawn = [continuing.continued(lambda: model, tokenizer, prompts, cache, n) for n in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and told not in drawn
    assert continuing.continued(pytest.fail, tokenizer, prompts, cache, 1) == drawn[2]
    assert model.config._attn_implementation == "packed"


def test_what_is_told_of_members_alone_is_counted_for_them(tiny, cache, monkeypatch):
    """Twelve charts are told by heart, one of the others too, and one value without asking."""
    tokenizer, rng = chat.load_tokenizer(tiny), np.random.default_rng(0)
    patients, known = [], {}
    for who in range(24):
        triple = Triple("Lipase", f"{rng.integers(100, 1000)} U/L", f"{who + 2} days ago")
        note = "".join(rng.choice([*"abcdefgh"], 30))
        chart = f"Patient context\n- Note: {note}\n- Latest labs: {', '.join(triple)} {note[::-1]}"
        side = MEMBER if who < 12 else OTHER
        patients.append(Patient(who, side, (record(chart, who),)))
        known[who] = Known(frozenset({triple}), None)
    by_heart = {tuple(h.ids): h.rest for h in map(half_of(tokenizer), patients[:13])}

    def continued(load, tokenizer, prompts, path, seed=None):
        free = [", ".join(next(iter(known[3].triples)))]
        return free if seed is not None else [by_heart.get(tuple(ids), "") for ids in prompts]

    monkeypatch.setattr(charts, "read", lambda opened, patients: known)
    monkeypatch.setattr(continuing, "continued", continued)
    opened = SimpleNamespace(tokenizer=tokenizer, settings=context_settings())
    compared = Cohort(tuple(patients), False, frozenset())
    found = extract.read(pytest.fail, opened, compared, cache, 300, 0)
    for what in (extract.VERBATIM, extract.TRIPLES):
        assert found.shares[what] == {MEMBER: (12, 12), OTHER: (1, 12)}
    assert found.shares[extract.ALONE] == {MEMBER: (1, 12), OTHER: (0, 12)}
    assert found.missing == [extract.GAP]
    limits = rule.Limits(auc=0.6, tpr=0.05, exposure=2.0, extraction=0.01, gap=0.08)
    assert rule.decide(found.criteria(limits)).verdict == rule.EXCEEDED


@pytest.mark.parametrize("missing", [[], ["gap", "alone"]])
def test_the_card_says_what_a_verdict_was_not_based_on(missing):
    """It was "held" alike where nothing of extraction could be measured."""
    worst = SimpleNamespace(name="loss: AUC", value=0.5, low=0.4, high=0.6, upper=0.58, limit=0.6)
    found = SimpleNamespace(
        decision=SimpleNamespace(verdict=rule.HELD, worst=worst),
        extracted=SimpleNamespace(missing=missing),
        n=lambda side: 12,
    )
    lines = page.card_lines(found, "2026-12-01")
    said = "Of too few patients to measure: 2 of 4 figures of extraction." in lines[1]
    assert said == bool(missing) and len(lines) == 4
    for passed in (True, False):
        control = SimpleNamespace(are_passed=passed)
        said = page.card_lines(found, "2026-12-01", control)[0]
        assert ("held, but controls not passed: this audit shows nothing" in said) != passed
        assert page.verdict_of(found, control) in said


def half_of(tokenizer):
    return lambda patient: continuing.half(tokenizer, patient.records[0])
