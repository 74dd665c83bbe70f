"""Fixtures that tests share: the real demo where it is there, a small hand-made MIMIC-IV, a way to
run a script as users do, and storage folders as the steps leave them."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.forking import stop_forking
from helpers.mimic_tables import write_tiny_mimic
from helpers.paths import DEMO
from helpers.prompt_records import SPLITS, folder_over, read_jsonl
from helpers.scripts import run_here, run_script
from helpers.shared import made_once
from mimic_qlora.step import step_commands

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # another worker has the other cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # a worker has 80, and a user's terminal any number
# a shell starts `make test &` with Ctrl-C ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # nohup ignores a hangup for all that it starts; a handler does so for this process alone
    signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.fixture(autouse=True)
def _no_storage_is_open(monkeypatch) -> None:
    """Each test begins as a process does; messages name the folder that was opened last."""
    monkeypatch.setattr(step_commands, "_OPENED", [])


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    """The open MIMIC-IV demo."""
    if not DEMO.is_dir():
        pytest.skip(f"the open MIMIC-IV demo is not at {DEMO} (set MIMIC_DEMO_DIR)")
    return DEMO


@pytest.fixture(scope="session")
def demo_converted(demo_dir, tmp_path_factory) -> SimpleNamespace:
    """The real demo as step 1 leaves it, its `storage`, and what step 1 `printed`.

    It is converted once for all tests: read it, write elsewhere.
    """

    def convert(folder: Path) -> None:
        done = run_script(
            "convert_to_jsonl.py", "--mimic-dir", demo_dir, storage=folder / "storage"
        )
        assert done.returncode == 0, done.stderr
        (folder / "printed").write_text(done.stdout, encoding="utf-8")

    folder = made_once(tmp_path_factory, "demo", convert)
    printed = (folder / "printed").read_text(encoding="utf-8")
    return SimpleNamespace(storage=folder / "storage", printed=printed)


@pytest.fixture(scope="session")
def demo_storage(demo_converted) -> Path:
    """The storage folder of `demo_converted`."""
    return demo_converted.storage


@pytest.fixture(scope="session")
def demo_prompts(demo_storage, embedded_model, tmp_path_factory) -> SimpleNamespace:
    """Step 4's output on the real demo: storage folder, records of all splits, what it printed."""

    def make(folder: Path) -> None:
        (folder / "storage").mkdir()
        store = folder_over(demo_storage, folder / "storage")
        options = ("--model", embedded_model, "--preview", "2")
        done = run_script("make_symptom_prompts_ctx_dxpx.py", *options, storage=store)
        assert done.returncode == 0, done.stderr
        (folder / "printed").write_text(done.stdout, encoding="utf-8")

    folder = made_once(tmp_path_factory, "demo_prompts", make)
    store, printed = folder / "storage", (folder / "printed").read_text(encoding="utf-8")
    records = [one for name in SPLITS for one in read_jsonl(store / "prompts" / f"{name}.jsonl")]
    return SimpleNamespace(store=store, records=records, printed=printed, model=embedded_model)


@pytest.fixture(scope="session")
def emergency_store(tmp_path_factory) -> Path:
    """Steps 1 and 4 of a synthetic hospital with an emergency department: read it only."""
    from helpers import emergency_store  # imports the steps, for which most tests wait

    return made_once(tmp_path_factory, "emergency", emergency_store.write) / "storage"


@pytest.fixture(scope="module")
def forking():
    """Fork from a process that has imported what a module's tests need, and end it after them."""
    stop_forking()
    yield
    stop_forking()


@pytest.fixture
def run(tmp_path):
    """run("convert_to_jsonl.py", "--force"): `run_here` with a storage folder of the test."""
    return lambda script, *args, **environment: run_here(
        script, *args, storage=tmp_path / "storage", **environment
    )


@pytest.fixture(scope="session")
def embedded_model(tmp_path_factory) -> Path:
    """The real embedded model, converted once for all tests; skipped without its package."""
    from mimic_qlora.llm import embedded, finding
    from mimic_qlora.step.errors import UserError

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:  # not the cache of who runs the tests
            patch.setenv("XDG_CACHE_HOME", str(folder))
            finding.model_path(None, folder)

    try:
        folder = made_once(tmp_path_factory, "embedded", make)
    except UserError as error:
        pytest.skip(str(error))
    return folder / "mimic_qlora" / "models" / embedded.EMBEDDED


@pytest.fixture(scope="session")
def llama_3(request, tmp_path_factory) -> Path:
    """A tiny Llama with the real tokenizer of Llama 3 8B Instruct; skipped without npm."""
    from helpers import llama_3  # imports torch, for which most tests wait

    name = "Meta-Llama-3-8B-Instruct"

    def make(folder: Path) -> None:
        kept = getattr(request.config, "cache", None)  # none under -p no:cacheprovider
        own = kept.mkdir("llama_3") if kept else tmp_path_factory.mktemp("llama_3")
        tokenizer = llama_3.fetch(Path(own))
        if tokenizer is None:
            pytest.skip("npm, which fetches Llama 3's tokenizer, is not here or not connected")
        llama_3.write_model(folder / name, tokenizer)

    return made_once(tmp_path_factory, "hub", make) / name


@pytest.fixture(scope="session")
def tuned_store(tmp_path_factory):
    """What steps 1, 4 and 5 leave for sixty patients, with a tiny model: a `TunedStore`."""
    from helpers import tuned_store  # imports torch, for which most tests wait

    return tuned_store.at(made_once(tmp_path_factory, "tuned", tuned_store.write_tuned_store))


@pytest.fixture
def tiny_mimic(tmp_path) -> Path:
    """A small hand-made MIMIC-IV of the test."""
    return write_tiny_mimic(tmp_path / "mimic")
