"""Values, names and paths as DuckDB's SQL has them: whatever the user's are, they are data."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mimic_qlora.mimic import cells
from mimic_qlora.step.errors import UserError

# all that Arrow and Python take for a blank; DuckDB's own trim leaves tabs and line ends
BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))
# what stands within words in the place of a blank; to look for few is quick on dictionaries
_WITHIN = ("  ", "\t", "\xa0")


def literal(value: str | Path) -> str:
    """Return a text between quotation marks."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name of a table or column between quotation marks."""
    return '"' + name.replace('"', '""') + '"'


def said(text: str) -> str:
    """Return SQL for a text as later steps read it: null where it stands for nothing.

    Blanks around it are left out, and several within it are one.
    """
    trimmed = _trimmed(text)
    return (
        f"CASE WHEN {trimmed} NOT IN ({', '.join(map(literal, cells.NOTHING))}) THEN {trimmed} END"
    )


def word(text: str, words: Sequence[str], other: str) -> str:
    """Return SQL for the word that a text is, whatever its capitals and its blanks.

    `other` is SQL for what is none of the words. Lists are searched for the few words that stand
    otherwise alone: it takes 1 microsecond a cell, and of labevents there are 100 million.
    """
    capitals = [w.upper() for w in words]
    known, upper = (", ".join(map(literal, listed)) for listed in (words, capitals))
    as_upper = f"upper({_trimmed(text)})"
    return (
        f"CASE WHEN {text} IN ({known}) THEN {text} WHEN {as_upper} IN ({upper}) "
        f"THEN list_extract([{known}], list_position([{upper}], {as_upper})) ELSE {other} END"
    )


def _trimmed(text: str) -> str:
    is_wide = " OR ".join(f"contains({text}, {literal(blank)})" for blank in _WITHIN)
    as_one = f"trim(regexp_replace({text}, {literal(f'[{BLANKS}]+')}, ' ', 'g'))"
    return f"CASE WHEN {is_wide} THEN {as_one} ELSE trim({text}, {literal(BLANKS)}) END"


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
