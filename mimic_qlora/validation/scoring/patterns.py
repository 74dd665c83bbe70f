"""The words that the scorer looks for: words/*.yaml, lists of regular expressions by name."""

import re
from functools import lru_cache
from pathlib import Path

from mimic_qlora.clinical import content
from mimic_qlora.step import yaml_files

FOLDER = Path(__file__).parent / "words"


@lru_cache
def lists(file: str) -> dict[str, list[str]]:
    """Return the patterns of a file by name, in file order.

    In them <name> stands for any pattern of the list of that name; <drug> for any ingredient.
    """
    found = yaml_files.loads((FOLDER / f"{file}.yaml").read_text("utf-8"), f"{file}.yaml")
    ingredients = {name for drug in content.load().drugs.values() for name in drug.ingredients}
    parts = found | {"drug": sorted(map(re.escape, ingredients))}

    def whole(match: re.Match) -> str:
        return f"(?:{'|'.join(parts[match[1]])})"

    return {
        name: [re.sub(r"(?<!\?P)<(\w+)>", whole, p) for p in patterns]
        for name, patterns in found.items()
    }


@lru_cache
def pattern(file: str, name: str) -> re.Pattern[str]:
    """Return one pattern that matches what any of a list does, whatever the case."""
    return re.compile("|".join(lists(file)[name]), re.IGNORECASE)
