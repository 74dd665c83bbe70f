"""The rows that a chart is made of, as types."""

from typing import Any

Row = dict[str, Any]  # column -> int, float, datetime or text; nulls are left out
Record = dict[str, Any]  # "subject_id" -> int; each table -> list[Row]
TableRow = tuple[str, Row]  # a row with the name of its table
