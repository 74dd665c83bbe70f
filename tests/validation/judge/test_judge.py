"""Who may judge, and that each answer is read once whatever is stopped or reordered."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.step7 import QUESTIONS
from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import embedded, loading
from mimic_qlora.processes.entries import Journal
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.judge import criteria, judge, probabilities, thresholds


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The arms' base and another model, as folders."""
    place = tmp_path_factory.mktemp("models")
    return [write_tiny_model(place / name, seed) for seed, name in enumerate(("base", "other"))]


def cases(n=5):
    return [criteria.Case(QUESTIONS[i % 2], [], "Age: 50", f"Answer {i}. " * i) for i in range(n)]


def test_another_model_is_a_judge_and_needs_fitted_thresholds(models, tmp_path):
    base, other = models
    found = judge.choose(str(other), tmp_path, base)
    assert found.path == other and found.described.startswith("its thresholds were not fitted for")
    fit = thresholds.fit([0.1, 0.9], [False, True])
    fitted = thresholds.Fitted(
        judge=found.name,
        fingerprint=found.identity["fingerprint"],
        wording=criteria.WORDING,
        answers_sha256="",
        kinds=dict.fromkeys(criteria.KINDS, fit),
    )
    thresholds.freeze(tmp_path, fitted)
    assert judge.choose(str(other), tmp_path, base).described == ""


def test_the_base_judges_itself_whatever_it_is_called(models, tmp_path):
    base, _ = models
    shutil.copytree(base, tmp_path / "copy")
    for name in (judge.BASE, str(base), str(tmp_path / "copy")):
        assert judge.choose(name, tmp_path, base).described == "the base judges its own answers"


def test_the_embedded_model_is_described(models, tmp_path, monkeypatch):
    base, other = models
    place = tmp_path / "models" / embedded.EMBEDDED
    shutil.copytree(other, place)
    found = judge.choose(judge.EMBEDDED, tmp_path, base)
    assert found.path == place and "for trying things out" in found.described


def test_a_judge_reads_no_more_than_each_of_its_layers_sees(models, tmp_path):
    copy = Path(shutil.copytree(models[1], tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mistral", "sliding_window": 50}
    (copy / "config.json").write_text(json.dumps(config))
    found = judge.choose(str(copy), tmp_path, models[0])
    with pytest.raises(UserError, match="reads 50 tokens, and an answer with its record takes"):
        judge.read(found, cases(1), 2, Journal(tmp_path / "judged.jsonl"))


def test_what_another_number_type_has_judged_is_read_anew(models, tmp_path, monkeypatch):
    """CPUs differ in it, and a storage folder may be read from several machines."""
    places = set()
    for of_cpu in ("bfloat16", "float32"):
        monkeypatch.setattr(loading, "compute_dtype", lambda of_cpu=of_cpu: of_cpu)
        places.add(judge.cache_of(judge.choose(str(models[1]), tmp_path, models[0]), tmp_path))
    assert len(places) == 2


def test_an_adapter_is_refused(models, tmp_path, tuned_store):
    base, _ = models
    folder = tuned_store.path / "adapters" / "default"
    with pytest.raises(UserError, match="is an adapter"):
        judge.choose(str(folder), tmp_path, base)


def test_a_model_tuned_from_the_same_weights_is_refused(models, tmp_path):
    base, _ = models
    model = loading.load_base(base, four_bit=False)
    model.model.layers[1].self_attn.q_proj.weight.data += 1
    shutil.copytree(base, tmp_path / "merged")
    model.save_pretrained(tmp_path / "merged")
    # float32 instead of bfloat16: the embeddings have the same values
    with pytest.raises(UserError, match="was tuned from the same weights"):
        judge.choose(str(tmp_path / "merged"), tmp_path, base)


def test_a_model_that_is_not_here_is_not_fetched(models, tmp_path):
    with pytest.raises(UserError, match="neither a folder nor in the local cache"):
        judge.choose("nobody/nothing", tmp_path, models[0])


@pytest.fixture
def read(models, tmp_path, monkeypatch):
    """read(cases, batch_size) -> probabilities; `read.batches` are the sizes that were read."""
    chosen = judge.choose(str(models[1]), tmp_path, models[0])
    path = judge.cache_of(chosen, tmp_path)
    monkeypatch.setattr(judge, "load", lambda _: None)
    batches, stop_at = [], []

    def of_yes(model, tokenizer, groups, fits):
        if len(batches) in stop_at:
            raise KeyboardInterrupt
        batches.append(len(groups))
        return [[len(ids) % 7 / 10 for ids in one.endings] for one in groups], fits

    # stands in for the model, which test_probabilities.py has
    monkeypatch.setattr(probabilities, "of_yes", of_yes)

    def read(cases, batch_size=2, **options):
        return judge.read(chosen, cases, batch_size, Journal(path), **options)

    read.batches, read.stop_at, read.path = batches, stop_at, path
    return read


def test_each_answer_is_read_once_and_a_resume_reads_none_again(read):
    read.stop_at.append(2)
    with pytest.raises(KeyboardInterrupt):
        read(cases())
    assert sum(read.batches) == 4
    read.stop_at.clear()
    found = read(cases())
    assert sum(read.batches) == 5 and [len(one) for one in found] == [
        len(criteria.of(case)) for case in cases()
    ]
    assert read(cases()) == found and sum(read.batches) == 5
    with open(read.path, "ab") as file:
        file.truncate(read.path.stat().st_size - 9)  # killed while it wrote
    assert read(cases()) == found and sum(read.batches) == 6
    assert read(cases(), anew=True) == found and sum(read.batches) == 11


def test_an_answer_that_two_arms_give_alike_is_read_once(read):
    found = read([*cases(2), *cases(2)])
    assert sum(read.batches) == 2 and found[:2] == found[2:]


def test_the_order_of_answers_changes_nothing(read):
    found = read(cases())
    assert read(cases()[::-1], anew=True) == found[::-1]


def test_the_whole_way_with_a_real_model(models, tmp_path):
    chosen = judge.choose(str(models[1]), tmp_path, models[0])
    found = judge.read(chosen, cases(2), 4, Journal(judge.cache_of(chosen, tmp_path)))
    assert all(0 <= p <= 1 for one in found for p in one)
    assert len({round(p, 4) for one in found for p in one}) > 2
