import csv
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import audited_store
from helpers.audited_store import IDS, SPLIT
from helpers.scripts import run_here
from helpers.shared import made_once
from mimic_qlora.llm import loading
from mimic_qlora.privacy import audit as attacked
from mimic_qlora.privacy import controls, limits, membership, page, separation
from mimic_qlora.privacy.extraction import extract
from mimic_qlora.processes import entries
from mimic_qlora.step import errors, manifests
from mimic_qlora.training.memorisation import audited, canaries, selection
from mimic_qlora.validation import ledger

AUDIT = "run_files/audit_adapter.py"


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A `storage` folder, the same after an audit with controls, and what that `told`."""

    def make(folder):
        audited_store.write(folder)
        shutil.copytree(folder / "storage", folder / "after", symlinks=True)
        options = ("--model", folder / "tiny", "--texts", 10, "--controls")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(separation, "SHUFFLES", 1000)
            done = run_here(AUDIT, *options, storage=folder / "after")
        assert done.returncode == 0, done.stderr
        (folder / "told").write_text(done.stdout, encoding="utf-8")

    return made_once(tmp_path_factory, "audited", make)


@pytest.fixture
def store(whole, tmp_path):
    shutil.copytree(whole / "storage", tmp_path / "storage", symlinks=True)
    return tmp_path / "storage"


@pytest.fixture
def audit(run, whole, store):
    always = ("--model", whole / "tiny", "--texts", 10)
    return lambda *options: run(AUDIT, *always, *options)


@pytest.fixture
def no_extraction(monkeypatch):
    """Leave out what costs most, where the point is another."""
    monkeypatch.setattr(extract, "read", lambda *_: extract.Extracted({}, {}, 0))


def figures(store, run="default"):
    with open(store / "privacy" / run / page.FIGURES, encoding="utf-8") as file:
        return {row["figure"]: row for row in csv.DictReader(file)}


def test_an_adapter_that_learned_nothing_is_not_called_and_one_trained_long_is_found(whole):
    told, store = (whole / "told").read_text(encoding="utf-8"), whole / "after"
    assert told.index(page.QUOTE[:40]) < told.index("Memorisation: cannot")
    told = " ".join(told.split())
    assert "32 patients trained on against 14 never seen" in told
    assert "An adapter trained 20 epochs on 32 patients is found" in told
    assert "Controls passed" in told
    assert "TPR at 1% FPR cannot be measured with 14 patients" in told
    assert "safe to" not in told
    found = figures(store)
    assert float(found["loss, answers: AUC"]["upper"]) > 0.5
    assert "Told of 0 of 10 patients trained on and of 0 of 10 never seen: 30 tokens of" in told
    assert "Not measured" in told and extract.TRIPLES in told
    (long,) = (row for figure, row in found.items() if figure.startswith("control, trained long"))
    assert float(long["low"]) > 0.6
    gap = found[extract.GAP]
    assert float(gap["low"]) < float(gap["value"]) < float(gap["high"]) and gap["limit"] == "0.08"
    assert found[f"{extract.VERBATIM}: excess"]["limit"] == "0.01"
    shown = {found[f"sex: {name}"]["never seen"] for name in ("female", "not female")}
    assert shown <= {"<10", "hidden"}  # one of 14 less the other would tell
    html = (store / "privacy/default/audit.html").read_text(encoding="utf-8")
    assert html.index("PhysioNet") < html.index("Memorisation: cannot tell")
    assert not any(str(s) in html + json.dumps(found) for s in IDS)
    modes = {path.stat().st_mode & 0o777 for path in (store / "privacy").rglob("*.*")}
    assert modes <= {0o600, 0o700, 0o400}
    last = ledger.ledger(store)[-1]
    assert (last["event"], last["verdict"]) == ("audited", "cannot tell")


def test_the_control_is_trained_anew_on_other_prompts(tmp_path, monkeypatch):
    opened, works = SimpleNamespace(store=tmp_path, path=tmp_path, tokenizer=None), []

    def train(settings, path, name, samples, work, minutes):
        works.append(work)
        return SimpleNamespace(state=SimpleNamespace(best_global_step=1))

    monkeypatch.setattr(controls.loop, "train", train)
    monkeypatch.setattr(controls.data, "read_samples", lambda wanted: {"train": []})
    monkeypatch.setattr(controls.new_lines, "mark", lambda samples, tokenizer: samples)
    monkeypatch.setattr(controls.finding, "fingerprint", lambda path: "the same")
    for prompts in ("one", "other", "other"):
        manifest = {"settings": audited_store.TRAINING, "inputs": {"prompts": prompts}}
        controls._trained(opened, manifest, {1, 2})
    assert works[0] != works[1] == works[2]


@pytest.mark.soak
def test_the_control_is_found_on_the_embedded_model(embedded_model, run, tmp_path):
    plan = audited_store.Plan(n_train=50, token_budget=120, lr=2e-3, base=embedded_model)
    audited_store.write(tmp_path, plan)
    done = run(AUDIT, "--model", embedded_model, "--texts", 10, "--controls")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "An adapter trained 20 epochs on 50 patients is found" in told
    assert "Controls passed" in told and "Memorisation: exceeded" not in told


def test_card_status_and_report_tell_of_it_until_the_adapter_changes(whole, store, run):
    assert audited.sentence(store, "default").startswith(f"Adapter default: {audited.NOT_AUDITED}")
    shutil.rmtree(store)
    shutil.copytree(whole / "after", store, symlinks=True)
    card = store / "adapters/default/README.md"
    text = card.read_text(encoding="utf-8")
    between = text.split(audited.BEGIN)[1].split(audited.END)[0].strip().splitlines()
    assert len(between) == 4 and between[0].startswith("Memorisation: cannot tell")
    link = re.search('<a href="(file:[^"]*)"', audited.sentence(store, "default")).group(1)
    assert link == (store / "privacy/default/audit.html").as_uri()
    assert "cannot tell" in run("run_files/status.py").stdout
    card.write_bytes(card.read_bytes() + b"tr\xe8s bien\n")  # edited in Latin-1
    audited.tell_card(card, ("Audited again.",))
    text = card.read_bytes().removesuffix(b"tr\xe8s bien\n").decode("utf-8")
    assert text.count(audited.BEGIN) == 1 and "cannot tell" not in text
    weights = store / "adapters/default/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert audited.read(store, "default") is None


@pytest.mark.usefixtures("no_extraction")
def test_the_audit_of_an_adapter_that_is_trained_again_meanwhile_is_not_the_new_ones(
    audit, store, monkeypatch
):
    """Its card said that the new one was audited; and what was read of it counted for the other."""
    place = store / "adapters/default"

    def replaced():
        weights = place / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes() + b" ")

    kept, load, of = place.with_name("kept"), loading.load_adapter, membership.table
    shutil.copytree(place, kept)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_adapter", lambda *given: [load(*given), replaced()][0])
        refused = audit()
    assert refused.returncode == 2 and "was replaced meanwhile" in refused.stderr
    readings = (store / "privacy/.readings").glob("*.jsonl")
    assert not any("key" in path.read_text() for path in readings)
    shutil.rmtree(place)
    kept.rename(place)
    before = (place / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(membership, "table", lambda *given: [of(*given), replaced()][0])
    done = audit()
    assert done.returncode == 0 and "this is the audit of the one before" in done.stdout
    assert (place / "README.md").read_text(encoding="utf-8") == before
    assert audited.read(store, "default") is None


@pytest.mark.usefixtures("no_extraction")
def test_a_finished_audit_of_other_settings_is_not_replaced_without_a_word(whole, capsys):
    found = manifests.read(whole / "after" / "privacy" / "default")
    attacked.say_replaced(whole / "after", found)
    attacked.say_replaced(whole, found)  # there is none
    assert capsys.readouterr().out == ""
    asked = {**found, "settings": found["settings"] | {"controls": False, "most": 20}}
    attacked.say_replaced(whole / "after", asked)
    assert "had another most, controls: this one takes its place" in capsys.readouterr().out


def test_what_was_read_before_a_kill_is_not_read_again(audit, store, monkeypatch):
    add, kept = entries.add, []

    def killed(path, entry):
        if len(kept) == 5:
            raise KeyboardInterrupt
        kept.append(entry["key"])
        return add(path, entry)

    monkeypatch.setattr(entries, "add", killed)
    stopped = audit()
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr
    assert not (store / "privacy/default").exists()
    later = []
    monkeypatch.setattr(entries, "add", lambda p, e: later.append(e["key"]) or add(p, e))
    assert audit().returncode == 0
    assert later and not {*kept} & {*later}
    later.clear()
    assert "up to date" in audit().stdout and not later


@pytest.mark.usefixtures("no_extraction")
def test_limits_that_were_edited_are_refused_and_others_can_be_frozen(audit, store, tmp_path):
    assert audit("--freeze", limits.TEMPLATE).returncode == 0
    frozen = store / "privacy/limits.yaml"
    frozen.chmod(0o600)
    others = {
        "auc: 0.60": "auc: 0.90",
        "extraction: 0.01": "extraction: 0.3",
        "gap: 0.08": "gap: 9",
    }
    for old, new in others.items():
        frozen.write_text(frozen.read_text().replace(old, new))
    refused = audit()
    assert refused.returncode == 2 and "not hold the limits that were frozen last" in refused.stderr
    assert audit("--freeze", frozen).returncode == 0
    done = audit()
    assert done.returncode == 0 and "Memorisation: held" in done.stdout
    (tmp_path / "wrong.yaml").write_text("auc: 0.4\n")
    refused = audit("--freeze", tmp_path / "wrong.yaml")
    assert refused.returncode == 2 and "the field 'auc'" in refused.stderr


def test_a_limit_that_is_misspelt_is_named_and_not_the_one_that_is_missing(tmp_path):
    (tmp_path / "own.yaml").write_text(limits.TEMPLATE.read_text().replace("\nauc:", "\nacu:"))
    with pytest.raises(errors.UserError, match="the field 'acu'"):
        limits.load(tmp_path / "own.yaml")


def test_limits_that_were_frozen_before_stay_beside_the_new_ones(tmp_path):
    """The ledger names them, and the verdicts by them, and their text was gone."""
    first = limits.freeze(tmp_path, limits.TEMPLATE)
    other = tmp_path / "other.yaml"
    other.write_text(limits.TEMPLATE.read_text() + "\n# another\n")
    limits.freeze(tmp_path, other)
    kept = tmp_path / "privacy" / f"limits-{first[:12]}.yaml"
    assert kept.read_bytes() == limits.TEMPLATE.read_bytes()


def test_a_kill_while_limits_are_frozen_leaves_none_that_look_edited(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    def freeze_and_die(file):
        with monkeypatch.context() as patch:
            patch.setattr(limits.files, "atomic_write", killed)
            with pytest.raises(KeyboardInterrupt):
                limits.freeze(tmp_path, file)

    freeze_and_die(limits.TEMPLATE)
    assert limits.frozen(tmp_path).times == 1
    limits.keep(tmp_path)
    assert limits.frozen(tmp_path).times == 1
    (tmp_path / "own.yaml").write_text(limits.TEMPLATE.read_text() + "# mine\n")
    freeze_and_die(tmp_path / "own.yaml")
    with pytest.raises(errors.UserError, match="or their freezing was stopped"):
        limits.frozen(tmp_path)
    (tmp_path / "privacy/limits.yaml").unlink()
    with pytest.raises(errors.UserError, match="not hold the limits that were frozen last"):
        limits.frozen(tmp_path)
    limits.freeze(tmp_path, tmp_path / "own.yaml")
    assert limits.frozen(tmp_path).times == 2


def test_prompts_that_changed_since_and_few_patients_are_one_sentence(audit, store):
    manifest = manifests.read(store / "prompts")
    changed = {**manifest, "id": "other"}
    (store / "prompts/manifest.json").write_text(json.dumps(changed))
    refused = audit()
    assert refused.returncode == 2 and "was made from an older version of prompts" in refused.stderr
    (store / "prompts/manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(store / "prompts")
    refused = audit()
    assert refused.returncode == 2 and refused.stderr.count("\n") <= 2, refused.stderr
    assert "prompts is missing" in refused.stderr


def test_fewer_than_ten_patients_are_refused(audit, store):
    adapter = store / "adapters/default/manifest.json"
    manifest = json.loads(adapter.read_text())
    manifest["settings"]["limit"] = 9
    adapter.write_text(json.dumps(manifest))
    refused = audit()
    assert refused.returncode == 2
    assert "9 patients for the side 'trained on'" in refused.stderr
    assert "train with a larger --limit" in refused.stderr
    assert not (store / "privacy").exists() and not ledger.path_of(store).exists()


@pytest.mark.usefixtures("no_extraction")
def test_canaries_are_trained_into_a_run_of_their_own_and_found_there(audit, store, whole, run):
    """Their charts are short here; that of the generator is in test_canaries.py."""
    options = "--epochs 4 --batch-tokens 600 --accumulate 1 --lr 0.01 --compute fp32 --limit 12"
    done = run(
        "train_qlora.py",
        *("--model", whole / "tiny", "--canaries", 20, "--run", "a", "--validations", 1),
        *options.split(),
    )
    assert done.returncode == 0, done.stderr
    assert "20 made-up patients, 7 of them put into training" in done.stdout
    assert not (store / "adapters/a").exists()
    done = audit("--run", "a-canaries")
    assert done.returncode == 0, done.stderr
    found = figures(store, "a-canaries")
    assert found["exposure of the secret in the answer, bits"]["limit"] == "2.0"
    bits = [
        float(found[f"exposure of the secret in the answer, {n} records, bits"]["value"])
        for n in (0, 1, 10)
    ]
    assert bits[0] < 2.5 and min(bits[1:]) > 4  # 1.44 where nothing leaks, 9.97 at most
    html = (store / "privacy/a-canaries/audit.html").read_text(encoding="utf-8")
    assert "Epsilon is at least" in html and "records in training" in html
    assert "Extraction" not in html


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(separation, "SHUFFLES", 1000)
    monkeypatch.setattr(
        canaries,
        "_charts",
        lambda folder, n, settings: (f"Patient context\n- Age: {20 + i}" for i in range(n)),
    )


def test_half_of_the_validation_patients_choose_and_the_others_are_not_seen():
    held_out = [s for s in IDS if SPLIT[s] == "validation"]
    chose = selection.choosing(held_out)
    assert len(chose) == 14 and chose < {*held_out}
    assert selection.choosing(reversed(held_out)) == chose
    assert len(selection.choosing(held_out[:3])) == 2


def test_a_task_that_all_but_few_patients_have_tells_of_no_few(monkeypatch):
    """Less the number of patients, which the page begins with, it told how many have no record."""
    groups = {
        ("task", "guidance"): (np.zeros(50), np.zeros(50)),
        ("rarity", "rare"): (np.zeros(30), np.zeros(12)),
    }
    monkeypatch.setattr(membership, "groups", lambda *_: groups)
    found = SimpleNamespace(table=None, worst=("", ""), n={page.MEMBER: 54, page.OTHER: 70}.get)
    guidance, rare = page._groups(found, 10)
    assert (guidance["trained on"], guidance["never seen"]) == ("hidden", 50)
    assert (rare["trained on"], rare["never seen"]) == (30, 12)
    assert page._groups(found, 0)[0]["trained on"] == 50
