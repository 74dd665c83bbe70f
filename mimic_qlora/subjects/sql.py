"""Values, names and paths as DuckDB's SQL has them: whatever the user's are, they are data."""

import re
from collections.abc import Iterable
from pathlib import Path

from mimic_qlora.mimic import cells
from mimic_qlora.step.errors import UserError

# all that Arrow and Python take for a blank; DuckDB's own trim leaves tabs and line ends
_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))


def literal(value: str | Path) -> str:
    """Return a text between quotation marks."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name of a table or column between quotation marks."""
    return '"' + name.replace('"', '""') + '"'


def said(text: str) -> str:
    """Return SQL for a text as later steps read it: null where it stands for nothing.

    Blanks around it are left out.
    """
    trimmed = f"trim({text}, {literal(_BLANKS)})"
    return (
        f"CASE WHEN {trimmed} NOT IN ({', '.join(map(literal, cells.NOTHING))}) THEN {trimmed} END"
    )


def files(paths: Iterable[Path]) -> str:
    """Return a list of files that holds these and no others, though DuckDB takes each as a glob.

    Raises UserError for the one kind of path that DuckDB cannot be told literally.
    """
    return f"[{', '.join(literal(_no_glob(path)) for path in paths)}]"


def _no_glob(path: Path) -> str:
    text = str(path)
    if "\\" in text and re.search(r"[*?[]", text):
        raise UserError(
            f"{path} has both a backslash and one of * ? [ in its path: "
            "give a --storage without backslashes"
        )
    return re.sub(r"[*?[]", r"[\g<0>]", text)


def parquet(paths: Iterable[Path]) -> str:
    """Return SQL for the rows of Parquet files: a folder `a=b` above them adds no column."""
    return f"read_parquet({files(paths)}, union_by_name = true, hive_partitioning = false)"
