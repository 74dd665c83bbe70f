"""The file `prompts/context.json`: the settings by which steps 4 to 7 build the same contexts."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mimic_qlora.step import files, step_commands, storage
from mimic_qlora.step.errors import UserError

FILE = "context.json"


@dataclass(frozen=True)
class ContextSettings:
    """The settings of contexts and prompts, in the order in which the file holds them."""

    system_prompt: str  # of guidance, which step 6 uses too
    system_prompts: dict[str, str]  # by task
    token_budget: int  # tokens of a context
    landmark_hours: float  # hours after arrival at which diagnoses are asked for
    dropped_columns: list[str]  # "table.column" of what step 3 found least important
    seed: int
    tokenizer: str  # name of the model that counted the tokens
    model: str
    template_sha256: str  # of the model's chat template

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        files.write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, store: Path) -> "ContextSettings":
        """Read what step 4 left in the storage folder.

        Raises UserError when step 4 has not run, rests on older data, or left a file that lacks a
        setting.
        """
        storage.verified_manifest(store, "prompts")
        path = store / "prompts" / FILE
        try:
            found = files.read_json(path)
            return cls(**{field.name: found[field.name] for field in fields(cls)})
        except (OSError, ValueError, LookupError, TypeError):
            raise UserError(
                f"{path} cannot be read: run `{step_commands.command_for('prompts')} --force`"
            ) from None
