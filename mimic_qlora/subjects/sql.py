"""Values and names as DuckDB's SQL has them."""

from pathlib import Path


def literal(value: str | Path) -> str:
    """Return a text between quotation marks."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name of a table or column between quotation marks."""
    return '"' + name.replace('"', '""') + '"'
