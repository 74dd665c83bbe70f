"""Two runs of lm-evaluation-harness, paired by document: what may be said, and what may not."""

import errno
import io
import json
from pathlib import Path

import pytest

from helpers.scripts import run_here
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.samples import pairing, sample_files, verdict

SCRIPT = "run_files/compare_samples.py"
DATE = "2026-11-29T06-35-45.256389"


def write_run(folder: Path, tasks: dict, model: str = "base-nf4", date: str = DATE, **changes):
    """Write what lm_eval 0.4.13 leaves: tasks maps a name to (metric, documents, values).

    The folder "adapter" is of a run with one.
    """
    place = folder / "__model__"
    place.mkdir(parents=True, exist_ok=True)
    peft = {"peft": "adapters/default"} if folder.name == "adapter" else {}
    better = {name: {metric: metric != "bits_per_byte"} for name, (metric, _, _) in tasks.items()}
    results = {
        "config": {"model_args": {"pretrained": model, **peft}, "model_dtype": "torch.bfloat16"},
        "higher_is_better": better,
        "n-shot": dict.fromkeys(tasks, 0),
        "chat_template_sha": "t",
        "lm_eval_version": "0.4.13",
    }
    config = results["config"] | changes.pop("config", {})
    results |= changes | {"config": config}
    (place / f"results_{date}.json").write_text(json.dumps(results))
    for name, (metric, documents, values) in tasks.items():
        lines = []
        for number, (doc, value) in enumerate(zip(documents, values, strict=True)):
            row = {"doc_id": number, "doc": doc, "filter": "none", "metrics": [metric]}
            hashes = {"doc_hash": f"d{name}{number}", "prompt_hash": f"p{name}{number}"}
            lines.append(json.dumps(row | hashes | {metric: value}))
        (place / f"samples_{name}_{date}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def public(n: int) -> list[dict]:
    return [{"question": f"SECRET {i}"} for i in range(n)]


def right(n: int, wrong: int) -> list[float]:
    return [0.0] * wrong + [1.0] * (n - wrong)


def said(base: Path, adapter: Path) -> str:
    done = run_here(SCRIPT, base, adapter, storage=base)
    assert done.returncode == 0, done.stderr
    assert "SECRET" not in done.stdout
    return " ".join(done.stdout.split())


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "base", tmp_path / "adapter"


def test_nothing_is_forgotten_only_where_every_task_is_within_its_margin(folders):
    base, adapter = folders
    data = {"medqa": (2000, 400), "medmcqa": (4000, 900)}
    write_run(base, {k: ("acc", public(n), right(n, w)) for k, (n, w) in data.items()})
    write_run(adapter, {k: ("acc", public(n), right(n, w + 10)) for k, (n, w) in data.items()})
    assert "It forgot nothing beyond the margins: 3 of 3 scores" in said(base, adapter)
    data["medqa"] = (2000, 450)  # 2.5 points lower: 3 are not excluded
    write_run(adapter, {k: ("acc", public(n), right(n, w)) for k, (n, w) in data.items()})
    text = said(base, adapter)
    assert "That it forgot nothing is not shown: medqa may be lower" in text
    assert "The adapter is worse at medqa by 0.025 (Holm over the tasks)" in text
    narrow = [c.margin for c in pairing.compare(*compared(base, adapter))]
    assert narrow == [pairing.NARROW, pairing.MARGIN, pairing.NARROW]  # medmcqa, medqa, pooled


def test_folders_that_were_swapped_or_are_of_one_model_are_told(folders, tmp_path):
    """What was said of the adapter was the other way round, or of nothing."""
    base, adapter, again = *folders, tmp_path / "again"
    for folder in (base, adapter, again):
        write_run(folder, {"medqa": ("acc", public(100), right(100, 20))})
    assert "no adapter (peft=FOLDER) beside one model. So nothing is claimed" in said(base, again)
    says = {(adapter, base): "give the base's folder first", (base, base): "is given twice"}
    for given, told in says.items():
        done = run_here(SCRIPT, *given, storage=base)
        assert done.returncode == 2 and told in done.stderr and not done.stdout


def compared(base: Path, adapter: Path):
    one, other = sample_files.read(base), sample_files.read(adapter)
    return one, pairing.pair(one, other)


def test_tasks_of_earlier_runs_in_a_folder_are_named(folders):
    """Two tasks run one after the other into one folder: the first one was passed over silently."""
    for folder in folders:
        for name, date in (("medqa", "2026-01-01T10-00-00.5"), ("pubmedqa", DATE)):
            write_run(folder, {name: ("acc", public(50), right(50, 10))}, date=date)
    text = said(*folders)
    assert text.count("holds earlier runs of them alone: medqa;") == 2
    for folder in folders:
        write_run(folder, {"medqa": ("acc", public(50), right(50, 10))}, date="2099" + DATE[4:])
    assert "alone: pubmedqa;" in said(*folders)


def test_a_metric_that_some_documents_lack_is_named(folders):
    base, adapter = folders
    for folder in folders:
        write_run(folder, {"medqa": ("acc", public(4), right(4, 0))})
    path = base / "__model__" / f"samples_medqa_{DATE}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for place, row in enumerate(rows):
        row |= {"metrics": ["f1", "acc"] if place < 3 else ["acc"], "f1": 1.0}
    path.write_text("\n".join(map(json.dumps, rows)))
    text = said(base, adapter)
    told = f"not every document in {path.parent} has a score: f1 of medqa (1 of 4 lack it)"
    assert told in text and text.count("not every document") == 1
    (only,) = pairing.compare(*compared(base, adapter))
    assert only.metric == "acc"
    lacks = adapter / "__model__" / path.name
    lines = lacks.read_text().splitlines()
    lines[0] = lines[0].replace('["acc"]', "[]")
    lacks.write_text("\n".join(lines))
    assert "acc of medqa (1 of 4 lack it)" in said(base, adapter)
    assert pairing.compare(*compared(base, adapter)) == []


def test_documents_that_both_copies_lack_are_missed(folders):
    """A lost file, or one cut at the end of a line, left a comparison of the rest."""
    for folder in folders:
        tasks = {name: ("acc", public(50), right(50, 10)) for name in ("medqa", "pubmedqa", "mmlu")}
        write_run(folder, tasks, **{"n-samples": {n: {"effective": 50} for n in tasks}})
        assert sample_files.read(folder).lost == ()
        place = folder / "__model__"
        (place / f"samples_mmlu_{DATE}.jsonl").unlink()
        cut = place / f"samples_medqa_{DATE}.jsonl"
        cut.write_text("\n".join(cut.read_text().splitlines()[:40]))
    text = said(*folders)
    assert text.count("medqa (40 of 50)") == text.count("mmlu (0 of 50)") == 2
    assert "pubmedqa (" not in text


def test_our_own_tasks_are_clustered_by_question_and_patient(folders):
    base, adapter = folders
    documents = [{"question_id": f"q{i % 8}", "patient": i // 8} for i in range(64)]
    before = [0.0] * 64
    after = [float(i % 8 < 4) for i in range(64)]  # half of the questions, for every patient
    write_run(base, {"mimic_chart_qa": ("acc", documents, before)})
    write_run(adapter, {"mimic_chart_qa": ("acc", documents, after)})
    (found,) = pairing.compare(*compared(base, adapter))
    d = found.difference
    assert (d.questions, d.patients, d.mean) == (8, 8, 0.5)
    assert d.high - d.low > 0.6  # eight questions, not 64 documents


def test_bits_have_no_margin_and_less_of_them_is_better(folders):
    base, adapter = folders
    documents = [{"question_id": f"q{i}", "patient": i} for i in range(12)]
    for folder, nats in ((base, 200.0), (adapter, 100.0)):
        values = [[-nats - i, 100] for i in range(12)]
        write_run(folder, {"mimic_guidance": ("bits_per_byte", documents, values)})
    text = said(base, adapter)
    assert "is not asked" in text and "The adapter is better at mimic_guidance by 1.443" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"chat_template_sha": "u"}, "The arms differ in the chat template"),
        ({"config": {"model_dtype": "torch.float32"}}, "The arms differ in precision"),
        ({"n-shot": {"medqa": 5}}, "The arms differ in the few-shot examples"),
        ({"config": {"model_args": "pretrained=base-nf4,load_in_4bit=True"}}, "in precision"),
    ],
)
def test_arms_that_were_not_run_alike_are_told_and_nothing_is_claimed(folders, changes, told):
    base, adapter = folders
    write_run(base, {"medqa": ("acc", public(50), right(50, 0))})
    write_run(adapter, {"medqa": ("acc", public(50), right(50, 50))}, **changes)
    text = said(base, adapter)
    assert told in text and "nothing is claimed" in text and "worse at" not in text


def test_precision_is_read_from_the_folder_of_the_model(tmp_path, folders):
    base, adapter = folders
    (tmp_path / "nf4").mkdir()
    config = {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}
    (tmp_path / "nf4" / "config.json").write_text(json.dumps(config))
    task = {"medqa": ("acc", public(5), right(5, 0))}
    write_run(base, task, str(tmp_path / "nf4"))
    write_run(adapter, task, config={"model_args": {"pretrained": "meta/L", "peft": "a"}})
    differ = verdict.differences(sample_files.read(base), sample_files.read(adapter), _none())
    assert differ[0] == (
        "The arms differ in precision: base bfloat16, load_in_4bit, adapter bfloat16, "
        "quantisation unknown."
    )
    config = {"model_args": {"pretrained": "merged"}}
    write_run(base, task, "gone")
    write_run(adapter, task, config=config)
    (unseen,) = verdict.differences(sample_files.read(base), sample_files.read(adapter), _none())
    assert "the same precision cannot be seen" in unseen


def _none() -> pairing.Pairs:
    return pairing.Pairs({}, 0, 0)


def test_the_newest_run_counts_and_what_stands_alone_is_told(folders):
    base, adapter = folders
    old, new = "2026-11-01T00-00-00.1", "2026-11-02T00-00-00.1"
    write_run(base, {"medqa": ("acc", public(9), right(9, 9))}, date=old)
    write_run(base, {"medqa": ("acc", public(9), right(9, 0))}, date=new)
    write_run(adapter, {"medqa": ("acc", public(4), right(4, 0))})
    assert "5 documents are in one run alone" in said(base, adapter)
    one, pairs = compared(base, adapter)
    assert [len(rows) for rows in pairs.tasks.values()] == [4]
    assert all(a.scores["acc"] == 1 for rows in pairs.tasks.values() for a, _ in rows)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text + text.split("\n")[0] + "\n", "holds the document 0 twice"),
        (lambda text: text.replace("1.0", "NaN", 1), "cannot be read as samples"),
        (lambda text: text.replace("1.0", "[-Infinity, 3]", 1), "cannot be read as samples"),
        (lambda text: "[" * 5000 + text, "cannot be read as samples"),
    ],
    ids=["twice", "no number", "infinite", "nested"],
)
def test_no_document_is_lost_or_counted_without_a_score(folders, change, says):
    base, _ = folders
    write_run(base, {"medqa": ("acc", public(4), right(4, 0))})
    (samples,) = (base / "__model__").glob("samples_*")
    samples.write_text(change(samples.read_text()))
    with pytest.raises(UserError, match=says):
        sample_files.read(base)


@pytest.mark.parametrize("name", ["samples_*", "results_*"])
def test_a_file_that_the_machine_keeps_back_is_not_to_be_made_again(folders, monkeypatch, name):
    base, _ = folders
    write_run(base, {"medqa": ("acc", public(4), right(4, 0))})
    (kept_back,) = (base / "__model__").glob(name)
    real = io.open

    def denied(path, *args, **kwargs):
        if str(path) == str(kept_back):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(io, "open", denied)
    with pytest.raises(PermissionError):
        sample_files.read(base)


@pytest.mark.parametrize(
    ("odd", "says"),
    [(b'"\xe9"', "line 3: this is not UTF-8 text"), (b"{", "line 3 cannot be read as samples")],
)
def test_a_line_that_cannot_be_read_is_named(folders, odd, says):
    base, _ = folders
    write_run(base, {"medqa": ("acc", public(4), right(4, 0))})
    (samples,) = (base / "__model__").glob("samples_*")
    lines = samples.read_bytes().split(b"\n")
    samples.write_bytes(b"\n".join([*lines[:2], odd, *lines[3:]]))
    with pytest.raises(UserError, match=says):
        sample_files.read(base)


@pytest.mark.parametrize(
    "changes", [{"n-shot": None}, {"n-shot": ["medqa"]}, {"higher_is_better": 1}, {"config": None}]
)
def test_results_of_another_shape_are_one_sentence(folders, changes):
    base, _ = folders
    place = write_run(base, {"medqa": ("acc", public(4), right(4, 0))}) / "__model__"
    (results,) = place.glob("results_*")
    results.write_text(json.dumps(json.loads(results.read_text()) | changes))
    with pytest.raises(UserError, match="cannot be read as results"):
        sample_files.read(base)


def test_what_cannot_be_read_is_one_sentence(folders, tmp_path):
    base, adapter = folders
    done = run_here(SCRIPT, tmp_path, tmp_path, storage=tmp_path)
    assert done.returncode == 2 and "holds no results of lm-evaluation-harness" in done.stderr
    write_run(base, {})
    assert "--log_samples" in run_here(SCRIPT, base, base, storage=tmp_path).stderr
    write_run(base, {"medqa": ("acc", public(4), right(4, 0))})
    write_run(adapter, {"mmlu": ("acc", public(4), right(4, 0))})
    assert "share no task" in run_here(SCRIPT, base, adapter, storage=tmp_path).stderr
    (samples,) = (adapter / "__model__").glob("samples_*")
    samples.write_text('{"doc_id": 1')
    assert "cannot be read as samples" in run_here(SCRIPT, base, adapter, storage=tmp_path).stderr
    samples.unlink()
    write_run(adapter, {"medqa": ("acc", public(4), right(4, 0))})
    (samples,) = (adapter / "__model__").glob("samples_*")
    samples.write_text(samples.read_text().replace("dmedqa0", "other"))
    with pytest.raises(UserError, match="the documents of medqa are not the same"):
        compared(base, adapter)
