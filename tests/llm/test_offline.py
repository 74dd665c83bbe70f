"""transformers and datasets: cut off from the network, and named when they are missing."""

import ast
import errno
import io
import json
import os
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import chat, loading, offline
from mimic_qlora.step.errors import UserError


def test_the_libraries_are_cut_off_before_they_are_imported(monkeypatch):
    for name in offline.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    offline.cut_off()
    assert {name: os.environ[name] for name in offline.ENVIRONMENT} == offline.ENVIRONMENT


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("transformers", offline.quiet_transformers),
        ("datasets", offline.quiet_datasets),
    ],
)
def test_a_package_that_is_missing_is_named(package, use, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(UserError, match=f"package {package} is not installed for .*: run `pip"):
        use()


def test_too_few_addresses_are_refused_before_a_library_aborts(monkeypatch):
    monkeypatch.setattr(offline.limits, "address_limit", lambda: 1_000_000_000)
    with pytest.raises(UserError, match="`ulimit -v` allows 1.0 GB of addresses, .* need 3,"):
        offline.quiet_transformers()


def test_a_python_without_docstrings_is_refused():
    code = "from mimic_qlora.llm import offline\noffline.quiet_transformers()"
    command = [sys.executable, "-OO", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "UserError: transformers reads docstrings, which `python -OO`" in done.stderr


def test_a_missing_package_is_not_taken_for_a_damaged_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="package transformers is not installed"):
        chat.load_tokenizer(tmp_path)


def test_prompts_are_cached_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    """No such file system is at hand: `flock` fails as it does there."""
    fcntl = pytest.importorskip("fcntl", reason="Windows locks otherwise")

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    rows = offline.quiet_datasets().Dataset.from_generator(
        lambda: iter([{"a": 1}]), cache_dir=str(tmp_path)
    )
    assert rows.to_list() == [{"a": 1}]


def tokenizer_with_code(folder):
    path = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.T", "own.T"]}, "tokenizer_class": "T"}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))


def model_with_code(folder):
    path = folder / "config.json"
    own = {"AutoConfig": "own.T", "AutoModelForCausalLM": "own.T", "AutoTokenizer": "own.T"}
    config = json.loads(path.read_text()) | {"auto_map": own, "model_type": "own"}
    path.write_text(json.dumps(config))


def known_model_with_code(folder):
    path = folder / "config.json"
    own = {"AutoModelForCausalLM": "own.T"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": own}))


def generation_with_code(folder):
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text((folder / "own.py").read_text())


@pytest.mark.parametrize(
    "give", [tokenizer_with_code, model_with_code, known_model_with_code, generation_with_code]
)
@pytest.mark.parametrize("use", [chat.load_tokenizer, loading.load_base])
def test_code_that_comes_with_a_model_is_never_run_whatever_is_typed(
    tmp_path, monkeypatch, give, use
):
    model = write_tiny_model(tmp_path / "model")
    (model / "own.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')\nclass T: pass\n")
    give(model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\n"))
    try:
        use(model)
    except UserError as refused:
        assert "\n" not in str(refused)
    assert sys.stdin.tell() == 0, "nothing was asked"
    assert not (tmp_path / "PWNED").exists()


def test_a_tokenizer_that_needs_its_own_code_is_refused_in_one_sentence(tmp_path):
    model = write_tiny_model(tmp_path / "model")
    model_with_code(model)
    with pytest.raises(UserError, match="comes with code of its own, which is never run"):
        loading.load_base(model)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model_type": "llama9"}, "does not know this model_type: update it, or use a model"),
        ({"model_type": 7}, "does not know this model_type: update it, or use a model"),
        ({"model_type": "t5"}, r"model that does not go on with a text \(t5\): use a model"),
        ({"model_type": None}, "Unrecognized model .*`model_type` key .*: fetch or copy"),
        ({"hidden_size": "64"}, "field 'hidden_size'.*: fetch or copy the model anew"),
        ({"num_attention_heads": 0}, "modulo by zero: fetch or copy the model anew"),
    ],
)
def test_a_config_that_cannot_be_used_is_not_taken_for_a_damaged_tokenizer(tmp_path, wrong, says):
    model = write_tiny_model(tmp_path / "model")
    path = model / "config.json"
    config = {k: v for k, v in (json.loads(path.read_text()) | wrong).items() if v is not None}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json (cannot be used: |is of ).*" + says) as told:
        chat.load_tokenizer(model)
    assert "tokenizer" not in str(told.value) and "\n" not in str(told.value)


def test_every_model_is_opened_from_here_and_without_its_code():
    """PEFT's class runs no code of a folder, and knows no such option."""
    openers = {"from_pretrained", "SentenceTransformer", "from_config", "pipeline"}
    calls = [
        (path.name, node)
        for path in (ROOT / "mimic_qlora").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in openers
        and "PeftModel" not in ast.unparse(node.func)
    ]
    assert len(calls) >= 4
    for name, call in calls:
        given = {ast.unparse(word.value) for word in call.keywords if word.arg is None}
        assert given & {"FROM_HERE", "source"}, name
