"""Lengths of the patients' records in bytes and in a model's tokens, estimated on a sample."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mimic_qlora.step import seeded
from mimic_qlora.subjects import reader
from mimic_qlora.summary.disclosure import Rows, spread

SAMPLE = 200  # records
PIECE = 20_000  # bytes that are tokenized at each of PIECES places of a record of up to 500 MB
PIECES = 5


def per_record(storage: Path, count: Callable[[str], int], min_cell: int) -> Rows:
    """Return a row for bytes and one for tokens: quartiles and mean over a sample of records.

    `count` returns the tokens of a text. A long record's tokens are estimated from pieces of it,
    in proportion to its bytes. No rows if the sample has fewer than `min_cell` records.
    """
    ids = seeded.order(reader.split_of(storage), "tokens", 0)[:SAMPLE]
    if len(ids) < min_cell:
        return []
    lengths = [_lengths(reader.raw_line(storage, subject_id), count) for subject_id in ids]
    rows: Rows = []
    for what, values in zip(("bytes", "tokens"), np.array(lengths).T, strict=True):
        low, middle, high, _ = spread(pd.Series(values.round()), min_cell)
        rows.append(
            {
                "of_each_record": what,
                "records": len(ids),
                "mean": round(values.mean()),
                "lower_quartile": low,
                "median": middle,
                "upper_quartile": high,
            }
        )
    return rows


def _lengths(line: bytes, count: Callable[[str], int]) -> tuple[int, float]:
    """Return the bytes and the estimated tokens of one record."""
    pieces = [line]
    if len(line) > PIECE * PIECES:
        starts = np.linspace(0, len(line) - PIECE, PIECES).astype(int)
        pieces = [line[at : at + PIECE] for at in starts]
    tokens = sum(count(piece.decode("utf-8", errors="ignore")) for piece in pieces)
    return len(line), tokens * len(line) / sum(map(len, pieces))
