"""Arguments and recipes: completed, and refused where they cannot be."""

import json
import sys

import pytest

import train_qlora
from mimic_qlora.step.errors import UserError


def test_a_recipe_gives_what_the_command_line_leaves_open(train, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "epochs: 1\nlr: 0.05\nbatch_tokens: 300\naccumulate: 3\ncheckpointing: 2\n"
        "optimizer: adamw_torch_fused\nvalidations: 1\n"
    )
    folder = train("--recipe", recipe, "--max-steps", 1)
    settings = json.loads((folder / "manifest.json").read_text())["settings"]
    assert (settings["checkpointing"], settings["validations"]) == ("2", 1), "the recipe's"
    assert (settings["batch_tokens"], settings["lr"]) == (400, 0.01), "the command line's"
    assert "Checkpointed: one of 2 layers" in capsys.readouterr().out


RECIPES = sorted(
    path.stem for path in train_qlora.RECIPES.glob("*.yaml") if "accelerate" not in path.stem
)


def test_there_are_recipes():
    assert {"cpu", "gpu_24gb", "gpu_80gb", "multi_gpu", "fsdp"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_qlora.py", "--recipe", name])
    job = train_qlora.read_job(train_qlora.arguments())
    open_by_default = {"max_steps", "limit"}
    given = job.settings.identity()
    assert {key for key, value in given.items() if value is None} == open_by_default
    assert job.recipe == name


def test_a_manifest_holds_numbers_as_the_command_line_or_the_recipe_gave_them(monkeypatch):
    """Its id is a hash of JSON, in which 1 and 1.0 differ."""
    monkeypatch.setattr(sys, "argv", ["train_qlora.py", "--recipe", "cpu"])
    settings = train_qlora.read_job(train_qlora.arguments()).settings.identity()
    assert json.dumps(settings) == (
        '{"epochs": 1, "max_steps": null, "lr": 0.001, "rank": 16, "alpha": 32, "rslora": false, '
        '"dropout": 0.0, "max_length": 2048, "batch_tokens": 1536, "accumulate": 2, '
        '"checkpointing": "none", "compute": "auto", "optimizer": "adamw_torch_fused", '
        '"validations": 3, "patience": 2, "seed": 42, "limit": null}'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 0", "epochs must be a positive number, not 0"),
        ("epochs: 1.0e+308", "epochs must be a number above 0 and up to 1,000,000,000,000"),
        ("checkpointing: ²", "checkpointing must be none, all, auto, or a number of layers"),
        ("lr: 1e-3", "lr must be a positive number, not '1e-3'"),
        ("lr: 10", "lr must be a number from 1e-08 to 0.1, not 10"),
        ("lr: 1.0e-12", "lr must be a number from 1e-08 to 0.1, not 1e-12"),
        ("epochs: " + "[" * 1000, "more than 100 lists or records stand in one another"),
        ("limit: " + "9" * 5000, "a number has more than 100 digits"),
        ("accumulate: 1.5", "accumulate must be a positive whole number, not 1.5"),
        ("limit: 99999999999999999999", "limit must be a whole number from 1 to 1,000,000,000,000"),
        ("limit: true", "limit must be a positive whole number, not True"),
        ("checkpointing: 0", "checkpointing must be none, all, auto, or a number of layers"),
        ("compute: int1", "compute must be one of auto, bf16, fp16, fp32, not 'int1'"),
        ("optimizer: sgd", "optimizer must be one of adamw_torch_fused"),
        ("model: 7", "model must be text, not 7"),
        ("rank: 64", "rank is not a setting of recipes, which are model, epochs"),
        ("- epochs", "is not a recipe"),
        ("epochs: [", "is not valid YAML"),
        ("epochs: 1", "neither the recipe .* nor the command line gives lr, batch_tokens"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_sentence_with_file_and_setting(
    tmp_path, monkeypatch, text, message
):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    monkeypatch.setattr(sys, "argv", ["train_qlora.py", "--recipe", str(recipe)])
    with pytest.raises(UserError, match=f"{recipe}.*{message}|{message}") as refused:
        train_qlora.read_job(train_qlora.arguments())
    assert str(recipe) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "nan"], "--lr must be a number from 1e-08 to 0.1, not nan"),
        (["--lr", "10"], "--lr must be a number from 1e-08 to 0.1, not 10"),
        (["--lr", "0"], "--lr must be a number from 1e-08 to 0.1, not 0"),
        (["--lr=-1e-4"], "--lr must be a number from 1e-08 to 0.1, not -1e-4"),
        (["--rank", "0"], "--rank must be a whole number from 1 to 4,096, not 0"),
        (["--rank", "1000000"], "--rank must be a whole number from 1 to 4,096, not 1000000"),
        (["--run", "../up"], "--run must be a name of letters"),
        (["--epochs", "0"], "--epochs must be a positive number, not 0"),
        (["--recipe", "none such"], "give one of cpu, fsdp, gpu_24gb"),
        (["--compute", "fp16"], "a CPU does not train in float16"),
        (["--compute", "int1"], "--compute.*invalid choice: 'int1'"),
        (["--optimizer", "sgd"], "--optimizer.*invalid choice: 'sgd'"),
        (["--checkpointing", "0"], "--checkpointing must be none, all, auto"),
        (["--dropout", "1"], "--dropout must be a number from 0"),
        (["--seeds", "0,x"], "--seeds must be"),
    ],
)
def test_arguments_that_cannot_be_are_refused(train, store, options, message):
    with pytest.raises(UserError, match=message):
        train(*options)
    assert not (store / "adapters" / "default").exists()


def test_the_fsdp_recipe_has_keys_that_accelerate_knows():
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(train_qlora.RECIPES / "fsdp_accelerate.yaml"))
    fields = FullyShardedDataParallelPlugin.__dataclass_fields__
    known = {name.removeprefix("fsdp_") for name in fields} | {
        "offload_params"
    }  # cpu_offload there
    assert {key.removeprefix("fsdp_") for key in config.fsdp_config} <= known
    # the Trainer saves an adapter only then
    assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
