"""The rows that a chart is made of, as types.

`subjects.reader` gives them: each row has the cells that it cannot do without (`reader.NEEDED`),
and each stay has one row. All other cells may be missing.
"""

from typing import Any

Row = dict[str, Any]  # column -> int, float, datetime or text; nulls are left out
Record = dict[str, Any]  # "subject_id" -> int; each table -> list[Row]
TableRow = tuple[str, Row]  # a row with the name of its table
